//! The processes of a command, and the terminal that they may have.
//!
//! A command runs in a process group of its own, so that it can be told to end with all that it has started. What of
//! that loses its parent becomes a child of glock's, and so its end is seen.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{IsTerminal, stdin, stdout};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, killpg};
use nix::unistd::{Pid, getpgid, getpgrp, getpid, getppid, getsid, tcgetpgrp, tcsetpgrp};
use rustix::process::{WaitOptions, wait};
use tokio::signal::unix::{self, SignalKind};
use tokio::time::{Instant, sleep, sleep_until};

use crate::failure::Failure;
use crate::show::complain;
use crate::signals::{exit_code, is_of_key};
use crate::start;

/// How often it is looked whether a group has ended: some of it may be nobody's child here, whose end is not seen.
const LOOK: Duration = Duration::from_millis(20);

/// Number of times that the group is looked at, every 20 ms, before whatever the command has left in it is ended: so that
/// takes 0.3 seconds.
///
/// A daemon that a command starts leaves the group by itself, by setsid(2), but it runs at the same time as the command
/// ends. The pause makes that no race: `setsid -f` and a double fork live on always, what stays in the group (`nohup … &`)
/// never does. It is far more than a child takes to call setsid(2), and is spent only if something is left. Polls are
/// counted instead of time: on a busy machine both glock and the child are delayed.
const LEAVE_POLLS: u32 = 15;

/// How long what was killed may take to be gone. It is not up to it any more.
const KILLED_WITHIN: Duration = Duration::from_secs(2);

/// A command that runs.
pub(crate) struct Group {
    /// The command itself, which leads the group.
    leader: Pid,
    ended: Option<End>,
    /// Of [`LEAVE_POLLS`], those that are left.
    polls_left: u32,
    /// When the next of them is due.
    next_poll: Option<Instant>,
    /// True once no process of the group is left. Its id may then be another group's.
    is_gone: bool,
    changes: unix::Signal,
    terminal: Option<Terminal>,
    /// Whether the command has the terminal whenever glock could have it.
    has_foreground: bool,
}

/// How a command has ended.
#[derive(Clone, Copy)]
pub(crate) struct End {
    /// As a shell says it.
    pub(crate) code: u8,
    /// The signal, if it was one that a key of the terminal sends.
    pub(crate) by_key: Option<Signal>,
    /// Whether the command was in the foreground then, and so got it rather than glock.
    pub(crate) had_terminal: bool,
}

/// All that are in the group.
#[derive(Clone, Copy)]
pub(crate) struct Members(Pid);

impl Group {
    /// Starts the command, with `mask` for the signals that it blocks.
    pub(crate) fn start(
        command: &[OsString],
        fence: Option<u64>,
        mask: &SigSet,
    ) -> Result<Group, Failure> {
        set_child_subreaper(true).map_err(Failure::of_system)?;
        let terminal = Terminal::open();
        // In a pipeline others may want it more.
        let is_interactive = stdin().is_terminal() && stdout().is_terminal();
        let has_foreground = is_interactive && terminal.as_ref().is_some_and(Terminal::is_ours);
        let mut started = start::command(command, has_foreground, mask);
        match fence {
            Some(token) => started.env("GLOCK_FENCE", token.to_string()),
            None => {
                complain("the server gives no fencing token, so $GLOCK_FENCE is not set");
                // That of another lock would be a lie.
                started.env_remove("GLOCK_FENCE")
            }
        };
        let leader = start::spawn(started, mask).map_err(Failure::of_system)?;
        let changes = unix::signal(SignalKind::child()).map_err(Failure::of_system)?;
        let group = Group {
            leader,
            ended: None,
            polls_left: LEAVE_POLLS,
            next_poll: None,
            is_gone: false,
            changes,
            terminal,
            has_foreground,
        };
        start::let_go(leader).map_err(Failure::of_system)?;
        Ok(group)
    }

    pub(crate) fn members(&self) -> Members {
        Members(self.leader)
    }

    /// Passes on a signal that glock got.
    pub(crate) fn forward(&mut self, signal: Signal) {
        match signal {
            Signal::SIGTSTP if self.terminal.is_some() => self.stop_together(),
            signal => self.members().forward(signal),
        }
    }

    /// Waits until the command has ended, and until whatever it has left in its group had [time to
    /// leave](LEAVE_POLLS). Cancel-safe.
    pub(crate) async fn ended(&mut self) -> End {
        loop {
            self.look(true);
            match self.ended {
                Some(end) if self.polls_left == 0 || !self.members().live() => return end,
                Some(_) => {
                    let next = *self.next_poll.get_or_insert_with(|| Instant::now() + LOOK);
                    // Orphans that end one after the other must not put the next poll off for ever.
                    tokio::select! {
                        _ = self.changes.recv() => {}
                        () = sleep_until(next) => {
                            self.polls_left -= 1;
                            self.next_poll = None;
                        }
                    }
                }
                None => drop(self.changes.recv().await),
            }
        }
    }

    /// Sees what has become of the command, and of whatever else has become a child of glock's. (By rustix: nix has no
    /// word for real-time signals, and forgets whom they have ended.)
    fn look(&mut self, heeds_stops: bool) {
        let options = WaitOptions::NOHANG | WaitOptions::UNTRACED;
        while let Ok(Some((pid, status))) = wait(options) {
            if pid.as_raw_pid() != self.leader.as_raw() {
                continue;
            }
            if let Some(signal) = status.stopping_signal() {
                if heeds_stops {
                    self.stopped(signal);
                }
            } else if let Some(signal) = status.terminating_signal() {
                let by_key = Signal::try_from(signal).ok();
                self.leader_ended(
                    exit_code(signal),
                    by_key.filter(|signal| is_of_key(*signal)),
                );
            } else if let Some(code) = status.exit_status() {
                self.leader_ended(code.to_le_bytes()[0], None);
            }
        }
    }

    fn leader_ended(&mut self, code: u8, by_key: Option<Signal>) {
        let end = End {
            code,
            by_key,
            had_terminal: self.has_terminal(),
        };
        self.ended = Some(end);
    }

    fn has_terminal(&self) -> bool {
        let terminal = self.terminal.as_ref();
        terminal.is_some_and(|terminal| terminal.is(self.leader))
    }

    /// The command was stopped: by Ctrl-Z, or because it wanted the terminal and did not have it. To the shell, glock
    /// and the command are one: both stop, and both go on.
    fn stopped(&mut self, signal: i32) {
        let Some(terminal) = &self.terminal else {
            return;
        };
        let wanted = [Signal::SIGTTIN, Signal::SIGTTOU];
        match wanted.into_iter().find(|wanted| *wanted as i32 == signal) {
            Some(_) if terminal.is_ours() => {
                self.has_foreground = true;
                self.go_on();
            }
            // The shell is gone that would have let it go on. As the kernel ends what it finds so.
            Some(_) if is_orphaned() => self.members().forward(Signal::SIGHUP),
            // In the background, where this happens to all that a shell has started together.
            Some(wanted) => {
                let _ = killpg(getpgrp(), wanted);
                self.has_foreground |= terminal.is_ours();
                self.go_on();
            }
            // To all that the shell has started together with this; and to this, which sees to the rest.
            None if terminal.is(self.leader) => {
                terminal.give(getpgrp());
                let _ = killpg(getpgrp(), Signal::SIGTSTP);
            }
            // By somebody who has a reason, and will let it go on.
            None => {}
        }
    }

    /// Stops the command, and glock, until the shell lets them go on.
    fn stop_together(&mut self) {
        self.members().signal(Signal::SIGTSTP);
        // One that is not caught, and that the kernel takes for nothing where no shell would let this go on.
        let _ = kill(getpid(), Signal::SIGTTIN);
        // That the command has stopped is no news.
        self.look(false);
        self.go_on();
    }

    /// Lets the command go on, with the terminal if it had that.
    fn go_on(&self) {
        if let Some(terminal) = &self.terminal
            && self.has_foreground
            && terminal.is_ours()
        {
            terminal.give(self.leader);
        }
        self.members().signal(Signal::SIGCONT);
    }

    /// Ends whatever is left in the group: by SIGTERM, and after `grace` by SIGKILL. Returns when it is gone.
    pub(crate) async fn end(mut self, grace: Duration) {
        let start = Instant::now();
        let (mut limit, mut is_killed) = (start.checked_add(grace), false);
        self.look(true);
        let members = self.members();
        if members.live() {
            members.forward(Signal::SIGTERM);
        }
        while members.live() {
            let now = Instant::now();
            if limit.is_some_and(|limit| limit <= now) {
                if is_killed {
                    break;
                }
                members.signal(Signal::SIGKILL);
                (limit, is_killed) = (Some(now + KILLED_WITHIN), true);
            }
            tokio::select! {
                _ = self.changes.recv() => {}
                () = sleep(LOOK) => {}
            }
            self.look(true);
        }
        self.is_gone = true;
    }
}

impl Members {
    fn signal(self, signal: Signal) {
        // If there is nobody left, there is nobody to tell.
        let _ = killpg(self.0, signal);
    }

    pub(crate) fn forward(self, signal: Signal) {
        self.signal(signal);
        // What is stopped would hear of it some other day, as who closes a terminal knows.
        if matches!(signal, Signal::SIGHUP | Signal::SIGTERM) {
            self.signal(Signal::SIGCONT);
        }
    }

    fn live(self) -> bool {
        killpg(self.0, None) != Err(Errno::ESRCH)
    }
}

/// A group that was not [ended](Group::end) is killed: something failed, and the lock is about to be free.
impl Drop for Group {
    fn drop(&mut self) {
        if !self.is_gone {
            self.members().signal(Signal::SIGKILL);
        }
        if let Some(terminal) = &self.terminal
            && terminal.is(self.leader)
        {
            terminal.give(getpgrp());
        }
    }
}

/// Whether there is no shell that would let this process go on if it were stopped: no process above it is of another
/// group, but of its session.
fn is_orphaned() -> bool {
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

/// As proc(5) shows it, behind the name of the program, in which there may be anything.
fn parent_of(process: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let parent = stat.rsplit(')').next()?.split(' ').nth(2)?.parse();
    parent.ok().map(Pid::from_raw)
}

/// The terminal that this process can be stopped from.
pub(crate) struct Terminal(File);

impl Terminal {
    pub(crate) fn open() -> Option<Terminal> {
        File::options()
            .read(true)
            .write(true)
            .open("/dev/tty")
            .ok()
            .map(Terminal)
    }

    /// Whether this group is in the foreground.
    fn is(&self, group: Pid) -> bool {
        tcgetpgrp(&self.0) == Ok(group)
    }

    fn is_ours(&self) -> bool {
        self.is(getpgrp())
    }

    /// Puts a group in the foreground.
    pub(crate) fn give(&self, group: Pid) {
        // Who is not in the foreground and does this is stopped, unless the signal is blocked.
        let stops = SigSet::from(Signal::SIGTTOU);
        if let Ok(mask) = stops.thread_swap_mask(SigmaskHow::SIG_BLOCK) {
            let _ = tcsetpgrp(&self.0, group);
            let _ = mask.thread_set_mask();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Command, Stdio};

    use super::*;

    /// As when something fails, or panics, while the command runs.
    #[tokio::test]
    async fn dropped_group_is_killed() {
        let mut leader = Command::new("sh")
            .args(["-c", "sleep 60 & echo up; wait"])
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut output = leader.stdout.take().unwrap();
        output.read_exact(&mut [0; 3]).unwrap();
        let group = Group {
            leader: Pid::from_raw(leader.id().try_into().unwrap()),
            ended: None,
            polls_left: LEAVE_POLLS,
            next_poll: None,
            is_gone: false,
            changes: unix::signal(SignalKind::child()).unwrap(),
            terminal: None,
            has_foreground: false,
        };
        drop(group);
        let status = leader.wait().unwrap();
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32));
        // Its child had this as well.
        assert_eq!(output.read(&mut [0]).unwrap(), 0);
    }
}
