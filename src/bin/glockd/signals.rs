//! Signals: three stop the daemon, and all others leave it alone, except those that report a fault.
//!
//! By default most signals end a process, and all locks would end with the daemon. A log rotation that sends SIGUSR1 must
//! not do that. So the daemon blocks every signal that is not listed here. A blocked signal stays pending, which is as
//! good as ignored. (The standard library has no safe way to ignore a signal, and tokio cannot handle the last real-time
//! signal.)
//!
//! The mask is set rather than added to. The process that started the daemon may have blocked or ignored SIGTERM, and must
//! still be able to stop it. The same goes for SIGINT, which a shell without job control ignores for background jobs: a
//! later SIGINT is meant for the daemon.

use std::io;

use nix::sys::signal::{SigSet, Signal};
use tokio::signal::unix::{SignalKind, signal};

/// Signals that stop the daemon.
const STOP: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];

/// Signals by which the kernel, or the program itself, reports a fault. If they were blocked, a fault would end the process
/// without running the handler that reports a stack overflow.
const FAULTS: [Signal; 7] = [
    Signal::SIGABRT,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGSEGV,
    Signal::SIGSYS,
    Signal::SIGTRAP,
];

/// Blocks all signals for this thread and for threads that it starts later, except for faults and for Ctrl-Z on a terminal.
/// Signals that stop the daemon are blocked only until [`stop`] is ready for them.
pub(crate) fn block() -> io::Result<()> {
    let mut blocked = SigSet::all();
    for signal in FAULTS.into_iter().chain([Signal::SIGTSTP]) {
        blocked.remove(signal);
    }
    Ok(blocked.thread_set_mask()?)
}

/// Returns a future that resolves when a signal tells the daemon to stop, even if the signal arrives before the future is
/// first polled. Must be called on the thread that called [`block`].
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
