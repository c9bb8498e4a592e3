//! The terminal that glock may have been started from, and the process group in its foreground.

use std::fs::{self, File};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::unistd::{Pid, getpgid, getpgrp, getppid, getsid, tcgetpgrp, tcsetpgrp};

/// The controlling terminal of this process: its keys stop and end processes.
pub(crate) struct Terminal(File);

impl Terminal {
    /// Opens the controlling terminal, if there is one.
    pub(crate) fn open() -> Option<Terminal> {
        let file = File::options().read(true).write(true).open("/dev/tty");
        file.ok().map(Terminal)
    }

    /// Returns whether a process group is in the foreground.
    pub(crate) fn has_foreground(&self, group: Pid) -> bool {
        tcgetpgrp(&self.0) == Ok(group)
    }

    /// Returns whether the process group of glock is in the foreground.
    pub(crate) fn is_ours(&self) -> bool {
        self.has_foreground(getpgrp())
    }

    /// Puts a process group in the foreground.
    pub(crate) fn give(&self, group: Pid) {
        // A process in the background that does this is stopped, unless it blocks the signal.
        let stops = SigSet::from(Signal::SIGTTOU);
        if let Ok(mask) = stops.thread_swap_mask(SigmaskHow::SIG_BLOCK) {
            let _ = tcsetpgrp(&self.0, group);
            let _ = mask.thread_set_mask();
        }
    }
}

/// Returns whether no shell would continue this process if it were stopped: no process above it is in another group of
/// its session.
pub(crate) fn is_orphaned() -> bool {
    let mut above = getppid();
    while getsid(Some(above)) == getsid(None) {
        if getpgid(Some(above)) != getpgid(None) {
            return false;
        }
        match parent_of(above) {
            Some(parent) => above = parent,
            None => break,
        }
    }
    true
}

/// Reads the parent of a process from proc(5). It stands behind the program's name, which may contain anything.
fn parent_of(process: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let parent = stat.rsplit(')').next()?.split(' ').nth(2)?.parse();
    parent.ok().map(Pid::from_raw)
}
