//! The processes of a command, and the terminal that they may have.
//!
//! A command runs in a process group of its own, so that glock can end it together with everything that it has started.
//! A process of the group that loses its parent becomes a child of glock, which therefore sees its end.

use std::ffi::OsString;
use std::io::{IsTerminal, stdin, stdout};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgrp, getpid};
use rustix::process::{WaitOptions, wait};
use tokio::signal::unix::{self, SignalKind};
use tokio::time::{Instant, sleep, sleep_until};

use crate::exit_code;
use crate::failure::Failure;
use crate::show::complain;
use crate::signals::{Inherited, is_from_key};
use crate::start::Start;
use crate::terminal::{Terminal, is_orphaned};

/// Time between two looks at whether a group has ended. Some of its processes may not be children of glock, which then
/// does not see their ends.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Number of polls of the group, one every 20 ms, before glock ends what the command has left in it: 0.3 seconds.
///
/// A daemon that a command starts leaves the group by itself, by setsid(2), but it runs at the same time as the command
/// ends. The pause makes that no race: `setsid -f` and a double fork always survive, what stays in the group
/// (`nohup … &`) never does. It is far more than a child takes to call setsid(2), and is spent only if something is
/// left. Polls are counted instead of time: on a busy machine both glock and the child are delayed.
const LEAVE_POLLS: u32 = 15;

/// Time that glock waits for killed processes to be gone. They can do nothing about it any more.
const KILLED_WITHIN: Duration = Duration::from_secs(2);

/// A command that runs.
pub(crate) struct Group {
    /// The command itself, which leads the group.
    leader: Pid,
    /// How the command has ended, once it has.
    ended: Option<End>,
    /// Number of polls left, of [`LEAVE_POLLS`].
    polls_left: u32,
    /// When the next of them is due.
    next_poll: Option<Instant>,
    /// True once no process of the group is left. Its id may then be reused for another group.
    is_gone: bool,
    /// Reports that a child of glock has ended or stopped.
    changes: unix::Signal,
    /// The controlling terminal, if there is one.
    terminal: Option<Terminal>,
    /// Whether the command has the terminal whenever glock could have it.
    has_foreground: bool,
}

/// The way in which a command has ended.
#[derive(Clone, Copy)]
pub(crate) struct End {
    /// Exit code, as a shell reports it.
    pub(crate) code: u8,
    /// The signal that ended the command, if a key of the terminal sends it.
    pub(crate) by_key: Option<Signal>,
    /// Whether the command was in the foreground then, and so received the key's signal in place of glock.
    pub(crate) had_terminal: bool,
}

/// All processes of a group.
#[derive(Clone, Copy)]
pub(crate) struct Members(Pid);

impl Group {
    /// Starts the command, with `fence` for the lock's fencing token, if it has one.
    pub(crate) fn start(
        command: &[OsString],
        fence: Option<u64>,
        inherited: &Inherited,
    ) -> Result<Group, Failure> {
        set_child_subreaper(true).map_err(Failure::of_system)?;
        let terminal = Terminal::open();
        // In a pipeline, another process may have more use for the terminal.
        let is_interactive = stdin().is_terminal() && stdout().is_terminal();
        let has_foreground = is_interactive && terminal.as_ref().is_some_and(Terminal::is_ours);
        if fence.is_none() {
            complain("the server gives no fencing token, so $GLOCK_FENCE is not set");
        }
        let changes = unix::signal(SignalKind::child()).map_err(Failure::of_system)?;
        let start = Start {
            command,
            fence,
            terminal: terminal.as_ref().filter(|_| has_foreground),
            inherited,
        };
        let leader = start.spawn().map_err(Failure::of_system)?;
        Ok(Group {
            leader,
            ended: None,
            polls_left: LEAVE_POLLS,
            next_poll: None,
            is_gone: false,
            changes,
            terminal,
            has_foreground,
        })
    }

    /// Returns the processes of the group.
    pub(crate) fn members(&self) -> Members {
        Members(self.leader)
    }

    /// Forwards a signal that glock has received.
    pub(crate) fn forward(&mut self, signal: Signal) {
        match signal {
            Signal::SIGTSTP if self.terminal.is_some() => self.stop_together(),
            signal => self.members().forward(signal),
        }
    }

    /// Waits until the command has ended, and until everything that it has left in its group had [time to
    /// leave](LEAVE_POLLS). Cancel-safe.
    pub(crate) async fn ended(&mut self) -> End {
        loop {
            self.reap(Stops::Followed);
            match self.ended {
                Some(end) if self.polls_left == 0 || !self.members().are_alive() => return end,
                Some(_) => {
                    let next = *self
                        .next_poll
                        .get_or_insert_with(|| Instant::now() + POLL_INTERVAL);
                    // Orphans that end one after the other must not delay the next poll for ever.
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

    /// Collects what has happened to the children of glock: the command, and orphans of the group.
    ///
    /// By rustix, because nix does not report which real-time signal has ended a process.
    fn reap(&mut self, stops: Stops) {
        let options = WaitOptions::NOHANG | WaitOptions::UNTRACED;
        while let Ok(Some((pid, status))) = wait(options) {
            if pid.as_raw_pid() != self.leader.as_raw() {
                continue;
            }
            if let Some(signal) = status.stopping_signal() {
                if stops == Stops::Followed {
                    self.command_stopped(signal);
                }
                continue;
            }
            let (code, by_key) = if let Some(signal) = status.terminating_signal() {
                let by_key = Signal::try_from(signal).ok();
                (
                    exit_code::of_signal(signal),
                    by_key.filter(|signal| is_from_key(*signal)),
                )
            } else if let Some(code) = status.exit_status() {
                (code.to_le_bytes()[0], None)
            } else {
                continue;
            };
            let terminal = self.terminal.as_ref();
            self.ended = Some(End {
                code,
                by_key,
                had_terminal: terminal.is_some_and(|terminal| terminal.has_foreground(self.leader)),
            });
        }
    }

    /// Follows the command, which was stopped: by Ctrl-Z, or because it uses the terminal and is not in the foreground.
    /// To the shell, glock and the command are one job: both stop, and both continue.
    fn command_stopped(&mut self, signal: i32) {
        let Some(terminal) = &self.terminal else {
            return;
        };
        let wanted = [Signal::SIGTTIN, Signal::SIGTTOU];
        match wanted.into_iter().find(|wanted| *wanted as i32 == signal) {
            Some(_) if terminal.is_ours() => {
                self.has_foreground = true;
                self.continue_command();
            }
            // The shell that could continue the command is gone. The kernel hangs up such groups, and so does glock.
            Some(_) if is_orphaned() => self.members().forward(Signal::SIGHUP),
            // In the background, where the whole job of the shell is stopped in this case.
            Some(wanted) => {
                let _ = killpg(getpgrp(), wanted);
                self.has_foreground |= terminal.is_ours();
                self.continue_command();
            }
            // Stops the whole job of the shell. That includes glock, which then stops as for any Ctrl-Z.
            None if terminal.has_foreground(self.leader) => {
                terminal.give(getpgrp());
                let _ = killpg(getpgrp(), Signal::SIGTSTP);
            }
            // Stopped by another process, which will continue it.
            None => {}
        }
    }

    /// Stops the command, and glock, until the shell continues them.
    fn stop_together(&mut self) {
        self.members().signal(Signal::SIGTSTP);
        // SIGTTIN is not caught, and the kernel discards it where there is no shell to continue this process.
        let _ = kill(getpid(), Signal::SIGTTIN);
        // glock itself has stopped the command, so there is nothing to follow.
        self.reap(Stops::Disregarded);
        self.continue_command();
    }

    /// Continues the command, in the foreground if it was there.
    fn continue_command(&self) {
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
        self.reap(Stops::Followed);
        let members = self.members();
        if members.are_alive() {
            members.forward(Signal::SIGTERM);
        }
        while members.are_alive() {
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
                () = sleep(POLL_INTERVAL) => {}
            }
            self.reap(Stops::Followed);
        }
        self.is_gone = true;
    }
}

/// The reaction of glock to a command that was stopped.
#[derive(PartialEq, Eq)]
enum Stops {
    /// Stops as well, or gives the command the terminal that it needs.
    Followed,
    /// Nothing.
    Disregarded,
}

impl Members {
    fn signal(self, signal: Signal) {
        // An error says that no process is left.
        let _ = killpg(self.0, signal);
    }

    /// Sends a signal that another process has sent to glock. Continues stopped processes if the signal is to end them:
    /// they would receive it only later.
    pub(crate) fn forward(self, signal: Signal) {
        self.signal(signal);
        if matches!(signal, Signal::SIGHUP | Signal::SIGTERM) {
            self.signal(Signal::SIGCONT);
        }
    }

    fn are_alive(self) -> bool {
        killpg(self.0, None) != Err(Errno::ESRCH)
    }
}

/// Kills a group that was not [ended](Group::end): something has failed, and the lock is about to be free.
impl Drop for Group {
    fn drop(&mut self) {
        if !self.is_gone {
            self.members().signal(Signal::SIGKILL);
        }
        if let Some(terminal) = &self.terminal
            && terminal.has_foreground(self.leader)
        {
            terminal.give(getpgrp());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Command, Stdio};

    use super::*;

    /// This happens if something fails, or panics, while the command runs.
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
        // The child of the leader is dead as well: nobody has the other end of the pipe.
        assert_eq!(output.read(&mut [0]).unwrap(), 0);
    }
}
