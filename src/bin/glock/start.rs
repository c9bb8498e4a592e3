//! How a command is started. What has to be done in the child between fork and exec is done by another glock there,
//! which then becomes the command: so it takes no `unsafe`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, id};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{getpgrp, getppid};

use crate::group::Terminal;
use crate::show::{complain, text};

/// What says that this process is to become a command. Nobody types that by accident.
const BECOME: &str = "--become-the-command-of";

/// The program, as whoever started it has it, even if its file has been replaced.
const SELF: &str = "/proc/self/exe";

/// A command to be started in a process group of its own; in the terminal's foreground, if it is to have that.
pub(crate) fn command(command: &[OsString], has_foreground: bool) -> Command {
    let mut started = Command::new(SELF);
    started
        .arg(BECOME)
        .arg(id().to_string())
        .arg(if has_foreground {
            "foreground"
        } else {
            "background"
        })
        .args(command)
        .process_group(0);
    started
}

/// Becomes the command, if this process is the child of a glock that wants it to. Returns only if it does not, or
/// cannot: then the exit code is as a shell's.
pub(crate) fn in_child() -> Option<u8> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != BECOME {
        return None;
    }
    let (parent, place, program) = (arguments.next()?, arguments.next()?, arguments.next()?);
    // A lock that is gone must not be used: if glock is killed, so is the command.
    let bound = set_pdeathsig(Signal::SIGKILL);
    if bound.is_err() || getppid().to_string() != *parent.to_string_lossy() {
        complain("the lock was lost before the command could start");
        return Some(crate::failure::LOST);
    }
    if place == "foreground"
        && let Some(terminal) = Terminal::open()
    {
        terminal.give(getpgrp());
    }
    let error = Command::new(&program).args(arguments).exec();
    Some(not_run(&program, &error))
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
