//! The signals that glock receives.
//!
//! | signals | |
//! | --- | --- |
//! | SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2 | [caught](Signals), and forwarded to the command |
//! | SIGTSTP | caught while a command runs, and stops both glock and the command |
//! | all others that end a process, except SIGKILL | [held back](FatalSignals) until the command has ended |
//!
//! A signal that was ignored when glock started stays ignored. A signal that was blocked is
//! [unblocked](Inherited::take) if glock needs it. The command starts with the settings that glock was started with: see
//! [`start`](crate::start).

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

use crate::exit_code;
use crate::failure::Failure;

/// Signals that request something of a process, and that it can catch.
const FORWARDED: [Signal; 6] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Signals that stop or continue a process: glock and its command stop and continue together.
const STOPS: [Signal; 4] = [
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGCONT,
];

/// Signals that do nothing to a process that does not handle them.
const HARMLESS: [Signal; 3] = [Signal::SIGCHLD, Signal::SIGURG, Signal::SIGWINCH];

/// Signal settings that glock was started with.
pub(crate) struct Inherited {
    /// Ignored signals. Bit n - 1 stands for signal n, as in proc(5): a [`SigSet`] has no real-time signals.
    ignored: u64,
    /// Blocked signals, as `ignored`.
    blocked: u64,
    /// The signal mask.
    mask: SigSet,
}

impl Inherited {
    /// Reads the settings, and unblocks the signals that glock needs.
    ///
    /// The parent process may have blocked any of them. Without SIGCHLD, glock would never learn that the command has
    /// ended; without SIGTERM, nobody could end glock. Threads inherit the mask, so this must be called before there
    /// are any.
    pub(crate) fn take() -> io::Result<Inherited> {
        let [ignored, blocked] = read_sets(["SigIgn", "SigBlk"]);
        let needed = FORWARDED.into_iter().chain(STOPS);
        let needed = SigSet::from_iter(needed.chain([Signal::SIGCHLD]));
        let mask = needed.thread_swap_mask(SigmaskHow::SIG_UNBLOCK)?;
        Ok(Inherited {
            ignored,
            blocked,
            mask,
        })
    }

    /// Returns whether a signal was ignored.
    pub(crate) fn is_ignored(&self, signal: Signal) -> bool {
        self.ignored & bit(signal as i32) != 0
    }

    /// Returns the signal mask.
    pub(crate) fn mask(&self) -> &SigSet {
        &self.mask
    }
}

/// The signals that this process catches.
pub(crate) struct Signals<'a> {
    streams: Vec<(Signal, unix::Signal)>,
    inherited: &'a Inherited,
}

impl Signals<'_> {
    /// Catches the signals that are forwarded. Those that were ignored when glock started, as by nohup(1), stay
    /// ignored, here and in the command.
    pub(crate) fn catch_forwarded(inherited: &Inherited) -> Result<Signals<'_>, Failure> {
        let mut signals = Signals {
            streams: Vec::with_capacity(FORWARDED.len() + 1),
            inherited,
        };
        for signal in FORWARDED {
            signals.catch(signal)?;
        }
        Ok(signals)
    }

    /// Catches Ctrl-Z as well. Until then it stops this process, like any other.
    pub(crate) fn catch_stops(&mut self) -> Result<(), Failure> {
        self.catch(Signal::SIGTSTP)
    }

    fn catch(&mut self, signal: Signal) -> Result<(), Failure> {
        if !self.inherited.is_ignored(signal) {
            let stream = unix::signal(SignalKind::from_raw(signal as i32));
            let stream = stream.map_err(Failure::of_system)?;
            self.streams.push((signal, stream));
        }
        Ok(())
    }

    /// Waits for the next signal. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Signal {
        poll_fn(|context| {
            for (signal, stream) in &mut self.streams {
                if stream.poll_recv(context).is_ready() {
                    return Poll::Ready(*signal);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Signals that end this process, held back until it has ended its command.
///
/// They are blocked, so the first one stays pending. When it is unblocked, it is delivered, and ends this process as if
/// it had arrived only then. To catch them instead is not possible for all: tokio refuses to catch SIGSEGV, SIGILL and
/// SIGFPE, which kill(1) can send like any other.
///
/// Not held back are signals that were ignored or blocked from the start, since they would not end this process; and
/// faults of this process itself, since the kernel does not wait for them to be unblocked.
pub(crate) struct FatalSignals {
    /// Readable while any of them is pending.
    pending: AsyncFd<SignalFd>,
    /// The signals. Bit n - 1 stands for signal n.
    numbers: u64,
    /// The mask before they were blocked.
    mask: SigSet,
}

impl FatalSignals {
    /// Blocks the signals.
    ///
    /// Threads inherit the mask, so this must be called before there are any: if one thread does not block a signal,
    /// the kernel ends the process by that thread.
    pub(crate) fn hold_back(inherited: &Inherited) -> Result<FatalSignals, Failure> {
        let spared = inherited.ignored | inherited.blocked;
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

    /// Waits until one of the signals is pending, and returns its number. Cancel-safe.
    pub(crate) async fn next(&self) -> i32 {
        loop {
            let Ok(mut ready) = self.pending.readable().await else {
                // The runtime is shutting down, and this future with it.
                return future::pending().await;
            };
            let [of_thread, of_process] = read_sets(["SigPnd", "ShdPnd"]);
            let pending = (of_thread | of_process) & self.numbers;
            if pending != 0 {
                return pending.trailing_zeros() as i32 + 1;
            }
            // A real-time signal that is ignored or blocked, which no `SigSet` can leave out; or one that has arrived
            // since the sets were read.
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

    /// Ends this process by the pending signal `number`. If that fails, returns the exit code that says the same.
    pub(crate) fn end_by(self, number: i32) -> u8 {
        let _ = self.mask.thread_set_mask();
        // The standard library catches the first SIGSEGV or SIGBUS, to detect stack overflows.
        if let Ok(signal) = Signal::try_from(number) {
            let _ = kill(getpid(), signal);
        }
        exit_code::of_signal(number)
    }
}

/// Watches for blocked signals to become pending.
///
/// Turned down: a thread that waits for them. A process counts as stopped only when all of its threads are. If its
/// shell ended just before that, nobody would continue glock, and it would keep the lock.
#[expect(
    deprecated,
    reason = "The replacement is unsafe: the descriptor must stay open, and a SignalFd keeps it open."
)]
fn watch(set: &SigSet) -> io::Result<AsyncFd<SignalFd>> {
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    AsyncFd::with_interest(SignalFd::with_flags(set, flags)?, Interest::READABLE)
}

/// Returns whether a key of the terminal sends this signal to end a process.
pub(crate) fn is_from_key(signal: Signal) -> bool {
    matches!(signal, Signal::SIGINT | Signal::SIGQUIT)
}

/// Reads sets of signals of this process from proc(5). Bit n - 1 stands for signal n. A set that cannot be read is
/// empty.
fn read_sets<const N: usize>(names: [&str; N]) -> [u64; N] {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    names.map(|name| {
        let mut fields = status.lines().filter_map(|line| line.split_once(':'));
        let set = fields.find(|(found, _)| *found == name);
        set.and_then(|(_, set)| u64::from_str_radix(set.trim(), 16).ok())
            .unwrap_or(0)
    })
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}
