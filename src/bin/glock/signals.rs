//! The signals that a command would have had, had it been run without glock.

use std::fs;
use std::future::poll_fn;
use std::task::Poll;

use nix::sys::signal::Signal;
use tokio::signal::unix::{self, SignalKind};

use crate::failure::Failure;

/// Those that ask a process for something, and that it may catch.
const FORWARDED: [Signal; 6] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// The signals that this process gets, from now on.
pub(crate) struct Signals(Vec<(Signal, unix::Signal)>);

impl Signals {
    /// Catches them; but those that whoever started this process wanted to be ignored, as nohup(1) does, are, here and
    /// by the command.
    pub(crate) fn new() -> Result<Signals, Failure> {
        let mut signals = Signals(Vec::new());
        for signal in FORWARDED {
            signals.catch(signal)?;
        }
        Ok(signals)
    }

    /// Catches Ctrl-Z, too, which until then stops this process, as any other.
    pub(crate) fn catch_stops(&mut self) -> Result<(), Failure> {
        self.catch(Signal::SIGTSTP)
    }

    fn catch(&mut self, signal: Signal) -> Result<(), Failure> {
        let number = signal as i32;
        if ignored() & (1 << (number - 1)) == 0 {
            let stream = unix::signal(SignalKind::from_raw(number));
            self.0.push((signal, stream.map_err(Failure::of_system)?));
        }
        Ok(())
    }

    /// The next one. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Signal {
        poll_fn(|context| {
            for (signal, stream) in &mut self.0 {
                if stream.poll_recv(context).is_ready() {
                    return Poll::Ready(*signal);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Whether a key of the terminal sends it, to whom it is to end.
pub(crate) fn is_of_key(signal: Signal) -> bool {
    matches!(signal, Signal::SIGINT | Signal::SIGQUIT)
}

/// How a shell says that a signal ended something.
pub(crate) fn exit_code(signal: i32) -> u8 {
    128 | signal.to_le_bytes()[0]
}

/// The set of signals that are ignored, as proc(5) shows it.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut lines = status.lines();
    let set = lines.find_map(|line| line.strip_prefix("SigIgn:"));
    set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .unwrap_or(0)
}
