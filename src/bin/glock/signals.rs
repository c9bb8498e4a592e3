//! The signals that glock gets, and what a command inherits of them.
//!
//! | signals | |
//! | --- | --- |
//! | SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2 | [caught](Signals), and forwarded to the command |
//! | SIGTSTP | caught while a command runs, and stops both |
//! | all others that end a process, except SIGKILL | [held back](FatalSignals) until the command has ended |
//!
//! A signal that was ignored when glock started stays ignored. One that was blocked is [unblocked](unblock) if glock
//! needs it. The command starts with what glock was given: see [`start`](crate::start).

use std::fs;
use std::future::{self, poll_fn};
use std::io;
use std::task::Poll;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::getpid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
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

/// Signals that do nothing to a process that does not handle them.
const HARMLESS: [Signal; 3] = [Signal::SIGCHLD, Signal::SIGURG, Signal::SIGWINCH];

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

/// Signals that end this process, held back while it has something to do before.
///
/// They are blocked, so the first one stays pending, and is delivered as soon as it is unblocked: then it ends this
/// process as if it had come only now. To catch them instead would not do for all, since tokio refuses to catch
/// SIGSEGV, SIGILL and SIGFPE, which kill(1) can send like any other.
///
/// Not held back are signals that were ignored or blocked from the start, since they would not end this process; and
/// the faults of this process itself, since the kernel does not wait then.
pub(crate) struct FatalSignals {
    /// Readable while any of them is pending.
    pending: AsyncFd<SignalFd>,
    /// Bit n - 1 stands for signal n.
    numbers: u64,
    /// The mask before.
    mask: SigSet,
}

impl FatalSignals {
    /// Threads inherit the mask, so this comes before there are any: if a thread does not block the signal, the kernel
    /// ends the process by that one.
    pub(crate) fn hold_back() -> Result<FatalSignals, Failure> {
        let spared = status(&["SigIgn", "SigBlk"]);
        let (mut set, mut numbers) = (SigSet::all(), !spared);
        for signal in FORWARDED.into_iter().chain(STOPS).chain(HARMLESS) {
            set.remove(signal);
            numbers &= !bit(signal as i32);
        }
        for signal in Signal::iterator().filter(|signal| spared & bit(*signal as i32) != 0) {
            set.remove(signal);
        }
        let mask = set.thread_swap_mask(SigmaskHow::SIG_BLOCK);
        Ok(FatalSignals {
            pending: watch(&set).map_err(Failure::of_system)?,
            numbers,
            mask: mask.map_err(Failure::of_system)?,
        })
    }

    /// Waits until one is pending, and returns its number. Cancel-safe.
    pub(crate) async fn next(&self) -> i32 {
        loop {
            let Ok(mut ready) = self.pending.readable().await else {
                // The runtime ends, and so does whoever awaits this.
                return future::pending().await;
            };
            let pending = status(&["SigPnd", "ShdPnd"]) & self.numbers;
            if pending != 0 {
                return pending.trailing_zeros() as i32 + 1;
            }
            // A real-time signal that is ignored or blocked, which no `SigSet` can leave out; or one that came just now.
            match self.pending.get_ref().read_signal() {
                Ok(Some(signal)) => {
                    let number = signal.ssi_signo as i32;
                    if self.numbers & bit(number) != 0 {
                        return number;
                    }
                }
                _ => ready.clear_ready(),
            }
        }
    }

    /// Ends this process by the signal `number`, which is pending. If that fails, returns the exit code that says the
    /// same.
    pub(crate) fn end_by(self, number: i32) -> u8 {
        let _ = self.mask.thread_set_mask();
        // The standard library catches the first SIGSEGV or SIGBUS, to find overflows of the stack.
        if let Ok(signal) = Signal::try_from(number) {
            let _ = kill(getpid(), signal);
        }
        exit_code(number)
    }
}

/// Watches for blocked signals to become pending.
///
/// A thread that waits for them would do as well, but for stops: a process counts as stopped only when all of its threads
/// are. If its shell ended just before that, nobody would let glock go on, and it would keep the lock.
#[expect(
    deprecated,
    reason = "The replacement is unsafe: the descriptor must stay open, and a SignalFd sees to that."
)]
fn watch(set: &SigSet) -> io::Result<AsyncFd<SignalFd>> {
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    AsyncFd::with_interest(SignalFd::with_flags(set, flags)?, Interest::READABLE)
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
