//! Signals: three stop the daemon, and all others leave it alone, unless it has failed.
//!
//! By default most signals end a process, and a lock daemon takes all locks with it: a log rotation that
//! sends SIGUSR1 must not do that. So every signal is blocked, save those that are listed here. What is
//! blocked stays pending, which is as good as ignored. (The standard library has no safe way to ignore a
//! signal, and tokio's handlers cannot have the last real-time signal.)
//!
//! The mask is set rather than added to: whoever starts the daemon may have blocked or ignored SIGTERM, and
//! must be able to stop it all the same. That goes for SIGINT, too, which a shell without job control ignores
//! for what it starts by `&`: a later SIGINT is intended for the daemon.

use std::io;

use nix::sys::signal::{SigSet, Signal};
use tokio::signal::unix::{SignalKind, signal};

/// Signals that stop the daemon.
const STOP: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];

/// Signals by which the kernel, or the program itself, reports a fault. If they are blocked, a fault ends the
/// process without the handler that names a stack overflow.
const FAULTS: [Signal; 7] = [
    Signal::SIGABRT,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGSEGV,
    Signal::SIGSYS,
    Signal::SIGTRAP,
];

/// Blocks all signals for this thread and those that it will start, except for faults, and Ctrl-Z on a
/// terminal. Those that stop the daemon are blocked only until [`stop`] is ready for them.
pub(crate) fn defer() -> io::Result<()> {
    let mut blocked = SigSet::all();
    for signal in FAULTS.into_iter().chain([Signal::SIGTSTP]) {
        blocked.remove(signal);
    }
    Ok(blocked.thread_set_mask()?)
}

/// Returns a future that ends when the daemon is told to stop, even if that happens before it is first polled.
/// To be called on the thread that called [`defer`].
pub(crate) fn stop() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    SigSet::from_iter(STOP).thread_unblock()?;
    Ok(async move {
        let name = tokio::select! {
            _ = terminate.recv() => Signal::SIGTERM,
            _ = interrupt.recv() => Signal::SIGINT,
            _ = quit.recv() => Signal::SIGQUIT,
        };
        tracing::info!("{name}: stopping");
    })
}
