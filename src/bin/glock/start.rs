//! What takes another glock, in the child or in the place of this one: to start a command, for which something has to
//! be done between fork and exec, and to end by a signal that this one catches. So neither takes `unsafe`.
//!
//! A command inherits the signals that glock was started with, as if there were no glock:
//!
//! 1. [`spawn`] gives the child the mask that glock was started with, and SIGCHLD blocked.
//! 2. Only then glock catches SIGCHLD, since the child must inherit whether it is ignored. A child that ended before that
//!    would leave no exit code if it is: so the child waits until it gets SIGCHLD, which [`let_go`] sends.
//! 3. The child unblocks SIGCHLD, unless it was blocked from the start, and becomes the command.
//!
//! SIGPIPE alone cannot be told: Rust's runtime has ignored it before `main`. The command has it by default.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, id};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, killpg};
use nix::unistd::{Pid, getpgrp, getpid, getppid};

use crate::group::Terminal;
use crate::show::{complain, text};
use crate::signals::{exit_code, is_of_key};

/// What says that this process is to become a command. Nobody types that by accident.
const BECOME: &str = "--become-the-command-of";

/// What says that this process is to end by a signal.
const END: &str = "--end-by";
const JOB: &str = "job";

/// Whom a signal is to end.
pub(crate) enum Whom {
    /// This process.
    This,
    /// All that the shell has started together with it.
    Job,
}

/// The program, as whoever started it has it, even if its file has been replaced.
const SELF: &str = "/proc/self/exe";

/// A command to be [spawned](spawn) in a process group of its own; in the terminal's foreground, if it is to have that.
/// `mask` is that of the signals that it blocks.
pub(crate) fn command(command: &[OsString], has_foreground: bool, mask: &SigSet) -> Command {
    let mut started = Command::new(SELF);
    started
        .arg(BECOME)
        .arg(id().to_string())
        .arg(if has_foreground {
            "foreground"
        } else {
            "background"
        })
        .arg(if mask.contains(Signal::SIGCHLD) {
            "blocked"
        } else {
            "unblocked"
        })
        .args(command)
        .process_group(0);
    started
}

/// Starts a [`command`], which waits until it is [let go](let_go).
pub(crate) fn spawn(mut command: Command, mask: &SigSet) -> io::Result<Pid> {
    let mask = *mask | Signal::SIGCHLD;
    let ours = mask.thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let child = command.spawn();
    ours.thread_set_mask()?;
    let pid = i32::try_from(child?.id()).map_err(io::Error::other)?;
    Ok(Pid::from_raw(pid))
}

/// Lets a command go on that was [spawned](spawn): its end will be seen from now on.
pub(crate) fn let_go(command: Pid) -> io::Result<()> {
    Ok(kill(command, Signal::SIGCHLD)?)
}

/// Becomes the command, if this process is the child of a glock that wants it to. Returns only if it does not, or
/// cannot: then the exit code is as a shell's.
pub(crate) fn in_child() -> Option<u8> {
    let mut arguments = std::env::args_os().skip(1);
    let what = arguments.next()?;
    if what == END {
        let signal = arguments.next()?.to_str()?.parse().ok()?;
        let end = Signal::try_from(signal).ok()?;
        let _ = match arguments.next()? == JOB {
            true => killpg(getpgrp(), end),
            false => kill(getpid(), end),
        };
        return Some(exit_code(signal));
    }
    if what != BECOME {
        return None;
    }
    let (parent, place) = (arguments.next()?, arguments.next()?);
    let (child_signal, program) = (arguments.next()?, arguments.next()?);
    // A lock that is gone must not be used: if glock is killed, so is the command.
    let bound = set_pdeathsig(Signal::SIGKILL);
    // From within a namespace of processes its parent cannot be seen; that is 0.
    let is_orphan = ![
        Pid::from_raw(0).to_string(),
        parent.to_string_lossy().into_owned(),
    ]
    .contains(&getppid().to_string());
    if bound.is_err() || is_orphan {
        complain("the lock was lost before the command could start");
        return Some(crate::failure::LOST);
    }
    if place == "foreground"
        && let Some(terminal) = Terminal::open()
    {
        terminal.give(getpgrp());
    }
    // A signal that is blocked becomes pending even if it is ignored. If glock ends meanwhile, so does this.
    let let_go = SigSet::from(Signal::SIGCHLD);
    let _ = let_go.wait();
    if child_signal != "blocked" {
        let _ = let_go.thread_unblock();
    }
    let error = Command::new(&program).args(arguments).exec();
    Some(not_run(&program, &error))
}

/// Ends this process by a signal, as its shell is to see: a key that ended what this did was meant for a loop around it,
/// too. If only the command got that key, the rest of the job is told. Another glock does it in the place of this one,
/// because that catches no signals. Returns if it cannot be done.
pub(crate) fn end_by(signal: Signal, whom: Whom) {
    let signal = (signal as i32).to_string();
    let whom = match whom {
        Whom::This => "this",
        Whom::Job => JOB,
    };
    let _ = Command::new(SELF).args([END, &signal, whom]).exec();
}

/// How this process ends when a signal asks it to: by that, if it comes from a key; else by this code.
pub(crate) fn end_as_asked(signal: Signal) -> u8 {
    if is_of_key(signal) {
        end_by(signal, Whom::This);
    }
    exit_code(signal as i32)
}

fn not_run(program: &OsStr, error: &io::Error) -> u8 {
    complain(&format!(
        "cannot run {}: {error}",
        text(program.as_encoded_bytes())
    ));
    match error.kind() {
        io::ErrorKind::NotFound => 127,
        _ => 126,
    }
}
