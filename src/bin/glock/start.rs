//! Starts the command, and ends glock by a signal. The only `unsafe` code of this repository.
//!
//! # The problem
//!
//! A command that runs under a lock must be killed if glock is: the connection ends with glock, so the lock is free
//! from then on. The kernel does that for a process that has asked for it by `prctl(PR_SET_PDEATHSIG)`. Only the
//! process itself can ask, after fork(2), since a fork clears the request, and before execve(2), since the command does
//! not make it. The command shall also find the signals and the terminal as it would have without glock, which has
//! blocked some signals and caught others.
//!
//! # The steps
//!
//! 1. glock catches SIGCHLD, so that it sees the end even of a command that ends at once.
//! 2. glock blocks all signals, so that no handler of glock's runs in the child. It forks.
//! 3. The child leads a process group of its own. glock requests the same: whichever is first, the group exists before
//!    glock sends it a signal.
//! 4. The child asks to be killed when glock ends. Then it compares its parent with glock: if glock ended before the
//!    request, no signal comes, and the lock is free.
//! 5. The child takes the terminal, if the command is to have it. While SIGTTOU is blocked, that does not stop it.
//! 6. The child gives all signals their default action, except those that were ignored when glock started. For SIGCHLD,
//!    which glock catches in any case, that restores whether it is ignored.
//! 7. The child restores the signal mask that glock was started with. A signal that arrived since step 2 now does what
//!    it does to any process.
//! 8. The child executes the command. If it cannot, it says why, and exits as a shell would.
//!
//! glock does not wait for steps 3 to 8. Whatever they take, as on a file system that does not answer, it goes on to
//! watch the lock, and can kill the child.
//!
//! SIGPIPE cannot be restored: Rust's runtime ignores it before `main`. The command has its default action.
//!
//! # Alternatives
//!
//! - To start `/proc/self/exe` again, without `unsafe`, and to do steps 4 to 8 there. A second start of glock takes
//!   0.7 ms, which is half of what `glock run x -- true` then takes longer than `flock x true`.
//! - `std::process::Command::pre_exec`. It is `unsafe` as well, and `spawn` returns only when the command was executed,
//!   which breaks the promise above.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, exit};
use std::{io, panic};

use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, kill, killpg, sigaction,
};
use nix::unistd::{ForkResult, Pid, fork, getpgrp, getpid, getppid, setpgid};

use crate::exit_code::{self, LOST, NOT_EXECUTABLE, NOT_FOUND};
use crate::show::{complain, text};
use crate::signals::{Inherited, is_from_key};
use crate::terminal::Terminal;

/// How to start a command.
pub(crate) struct Start<'a> {
    /// The program and its arguments.
    pub(crate) command: &'a [OsString],
    /// Fencing token of the lock, for `$GLOCK_FENCE`.
    pub(crate) fence: Option<u64>,
    /// Terminal in whose foreground the command is put.
    pub(crate) terminal: Option<&'a Terminal>,
    /// Signal settings that the command starts with.
    pub(crate) inherited: &'a Inherited,
}

impl Start<'_> {
    /// Starts the command, and returns its process, which leads a process group.
    ///
    /// SIGCHLD must be caught before. Must be called on the main thread: the kernel kills the command when the thread
    /// that has started it ends.
    #[expect(
        unsafe_code,
        reason = "fork(2) is unsafe where there are other threads"
    )]
    pub(crate) fn spawn(&self) -> io::Result<Pid> {
        let glock = getpid();
        let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        // SAFETY: The child has only this thread, so a lock that another thread held stays locked. There may be threads
        // that look up names. None of them holds a lock that the child takes: the C library frees the allocator's for
        // the child, only the main thread writes to stderr, and nothing changes the environment. The child never
        // returns to the runtime of its parent. If it exits, there is nothing to flush: stdout is flushed after each
        // line.
        let forked = unsafe { fork() };
        if let Ok(ForkResult::Child) = forked {
            let code = panic::catch_unwind(|| self.become_command(glock));
            exit(code.unwrap_or(i32::from(NOT_EXECUTABLE)));
        }
        mask.thread_set_mask()?;
        match forked? {
            ForkResult::Parent { child } => {
                // Fails if the child has done it and has executed the command, or has ended.
                let _ = setpgid(child, child);
                Ok(child)
            }
            ForkResult::Child => Err(Errno::ECHILD.into()),
        }
    }

    /// Turns the child into the command. Returns only if that fails: the exit code.
    fn become_command(&self, glock: Pid) -> i32 {
        let _ = setpgid(getpid(), getpid());
        let is_bound = set_pdeathsig(Signal::SIGKILL).is_ok();
        // In a PID namespace of its own, the child sees 0 for its parent.
        if !is_bound || ![glock, Pid::from_raw(0)].contains(&getppid()) {
            complain("the lock was lost before the command could start");
            return i32::from(LOST);
        }
        if let Some(terminal) = self.terminal {
            terminal.give(getpgrp());
        }
        for signal in Signal::iterator() {
            let action = match self.inherited.is_ignored(signal) {
                true => Action::Ignore,
                false => Action::Default,
            };
            set_action(signal, action);
        }
        let _ = self.inherited.mask().thread_set_mask();
        let [program, arguments @ ..] = self.command else {
            return i32::from(NOT_EXECUTABLE);
        };
        let mut command = Command::new(program);
        command.args(arguments);
        match self.fence {
            Some(token) => command.env("GLOCK_FENCE", token.to_string()),
            // The token of another lock would mislead the command.
            None => command.env_remove("GLOCK_FENCE"),
        };
        let error = command.exec();
        complain(&format!(
            "cannot run {}: {error}",
            text(program.as_encoded_bytes())
        ));
        i32::from(match error.kind() {
            io::ErrorKind::NotFound => NOT_FOUND,
            _ => NOT_EXECUTABLE,
        })
    }
}

/// Processes that a signal ends.
pub(crate) enum Target {
    /// This process.
    This,
    /// All processes that the shell has started together with this one.
    Job,
}

/// Ends this process by a signal that it catches, for its shell to see: a key that ended the command was meant for a
/// loop around it as well. If only the command received the signal, the rest of the job receives it now. Returns if that
/// fails.
pub(crate) fn end_by(signal: Signal, target: Target) {
    set_action(signal, Action::Default);
    let _ = match target {
        Target::This => kill(getpid(), signal),
        Target::Job => killpg(getpgrp(), signal),
    };
}

/// Ends this process as a signal has asked: by that signal, if a key sends it; otherwise by the exit code that is
/// returned.
pub(crate) fn end_as_asked(signal: Signal) -> u8 {
    if is_from_key(signal) {
        end_by(signal, Target::This);
    }
    exit_code::of_signal(signal as i32)
}

/// The action of a signal, other than running a function.
enum Action {
    Default,
    Ignore,
}

/// Sets what a signal does. For SIGKILL and SIGSTOP, it cannot be set.
#[expect(unsafe_code, reason = "sigaction(2) can install a function")]
fn set_action(signal: Signal, action: Action) {
    let handler = match action {
        Action::Default => SigHandler::SigDfl,
        Action::Ignore => SigHandler::SigIgn,
    };
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: No function is installed, so none is called that could do what a signal handler must not.
    let _ = unsafe { sigaction(signal, &action) };
}
