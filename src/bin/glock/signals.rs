//! The signals that glock gets, and what a command inherits of them.
//!
//! | signals | |
//! | --- | --- |
//! | SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2 | [caught](Signals), and forwarded to the command |
//! | SIGTSTP | caught while a command runs, and stops both |
//!
//! A signal that was ignored when glock started stays ignored. One that was blocked is [unblocked](unblock) if glock
//! needs it. The command starts with what glock was given: see [`start`](crate::start).

use std::fs;
use std::future::poll_fn;
use std::io;
use std::task::Poll;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use tokio::signal::unix::{self, SignalKind};

use crate::failure::Failure;

/// Signals that ask a process for something, and that it may catch.
const FORWARDED: [Signal; 6] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Signals that stop a process, or let it go on: glock and its command do so together.
const STOPS: [Signal; 4] = [
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGCONT,
];

/// Unblocks the signals that glock needs, and returns the mask that it was started with.
///
/// A parent may have blocked any of them. Without SIGCHLD, glock would never learn that the command has ended; without
/// SIGTERM, it could not be told to end. Threads inherit the mask, so this comes before there are any.
pub(crate) fn unblock() -> io::Result<SigSet> {
    let needed = FORWARDED.into_iter().chain(STOPS);
    let needed = SigSet::from_iter(needed.chain([Signal::SIGCHLD]));
    Ok(needed.thread_swap_mask(SigmaskHow::SIG_UNBLOCK)?)
}

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
        if status(&["SigIgn"]) & bit(number) == 0 {
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

/// Union of sets of signals that proc(5) shows of this process: bit n - 1 stands for signal n.
fn status(sets: &[&str]) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let fields = status.lines().filter_map(|line| line.split_once(':'));
    fields
        .filter(|(name, _)| sets.contains(name))
        .filter_map(|(_, set)| u64::from_str_radix(set.trim(), 16).ok())
        .fold(0, |union, set| union | set)
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}
