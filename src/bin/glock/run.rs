//! `glock run`: a command that runs while a lock is held.

use std::ffi::OsString;
use std::pin::pin;
use std::time::Duration;

use glockd_client::Lost;
use nix::sys::signal::Signal;
use tokio::task::yield_now;

use crate::exit_code::LOST;
use crate::failure::Failure;
use crate::flags::{LockFlags, bytes, lock_name, seconds};
use crate::group::{End, Group};
use crate::lock::{acquire, release, warn_of_grace};
use crate::show::text;
use crate::signals::{FatalSignals, Inherited, Signals};
use crate::start::{Target, end_as_asked, end_by};

/// Run a command while holding a lock
#[derive(clap::Args)]
#[command(after_help = "\
Waits for the lock, runs the command, and exits with its exit code. The lock is released when the command and \
everything that it has started in its process group have ended, or as soon as this process is killed.

Examples:
  glock run -n backup -- rsync -a /srv db2:/srv
      For a crontab: does nothing if a backup runs already
  glock run -w 30 deploy ./deploy.sh
      Waits for at most 30 seconds; exits with 1 if that is not enough
  glock run --limit 3 gpu -- train
      At most three run at a time
  glock run -n -E 75 nightly -- job || ...
      75 is EX_TEMPFAIL of sysexits.h: try again later
  glock run leader -- sh -c 'serve --fence $GLOCK_FENCE'
      The first runs; the next one stands by until it has ended

The command finds the fencing token of the lock in $GLOCK_FENCE. If the server gives none, glock warns and does not \
set the variable; with --require-fence, it does not start the command. If the connection to the server is lost, the \
lock is lost too: glock sends SIGTERM to the process group, SIGKILL after --grace, and exits with 3. If a \
signal ends glock, glock first ends the process group in the same way. If glock itself is killed by SIGKILL, the \
kernel kills the command, but neither its child processes nor a set-user-ID command.

When the command has ended, glock ends each process that has not left the process group within 0.3 seconds, including \
those started by nohup. A daemon that leaves the group by setsid lives on.")]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) lock: LockFlags,
    /// Time between SIGTERM and SIGKILL when glock ends the command, in seconds
    #[arg(long, value_name = "SECS", value_parser = seconds, allow_negative_numbers = true, default_value = "5")]
    pub(crate) grace: Duration,
    /// Name of the lock
    #[arg(value_name = "NAME", value_parser = lock_name())]
    pub(crate) lock_name: OsString,
    /// Command to run, and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<OsString>,
}

impl Run {
    /// Returns the command and its arguments, without the `--` before it. clap leaves that in place if there is another
    /// one before the name, as there must be if the name begins with `-`.
    pub(crate) fn command(&self) -> &[OsString] {
        match self.command.as_slice() {
            [dashes, command @ ..] if dashes == "--" && !command.is_empty() => command,
            command => command,
        }
    }
}

/// The reason why the group is ended.
enum Outcome {
    /// The command has ended.
    Ended(End),
    /// The lock is lost.
    Lost(Lost),
    /// This signal is about to end glock.
    Signal(i32),
}

pub(crate) async fn run(server: &str, args: Run, inherited: &Inherited) -> Result<u8, Failure> {
    let fatal = FatalSignals::hold_back(inherited)?;
    let mut signals = Signals::catch_forwarded(inherited)?;
    let acquired = acquire(server, &args.lock, bytes(&args.lock_name), |client| {
        warn_of_grace(args.grace, client);
    });
    let guard = tokio::select! {
        guard = acquired => guard?,
        signal = signals.next() => return Ok(end_as_asked(signal)),
        signal = fatal.next() => return Ok(fatal.end_by(signal)),
    };
    let mut lost = pin!(guard.lost());
    signals.catch_stops()?;
    let mut group = Group::start(args.command(), guard.fence(), inherited)?;
    // Signals that glock itself has received.
    let mut received = Vec::new();
    let mut outcome = loop {
        tokio::select! {
            end = group.ended() => break Outcome::Ended(end),
            signal = signals.next() => {
                received.push(signal);
                group.forward(signal);
            }
            signal = fatal.next() => break Outcome::Signal(signal),
            lost = &mut lost => break Outcome::Lost(lost),
        }
    };
    let members = group.members();
    // A command that is still starting may be in glock's own process group, where a signal to that group ends it as well.
    // glock may see that end before it sees the signal.
    yield_now().await;
    {
        let mut ended = pin!(group.end(args.grace));
        loop {
            tokio::select! {
                biased;
                signal = signals.next() => {
                    received.push(signal);
                    // The command has ended, so glock has nothing to stop together with.
                    if signal != Signal::SIGTSTP {
                        members.forward(signal);
                    }
                }
                () = &mut ended => break,
                signal = fatal.next(), if !matches!(outcome, Outcome::Signal(_)) => {
                    outcome = Outcome::Signal(signal);
                }
                lost = &mut lost, if matches!(outcome, Outcome::Ended(_)) => {
                    outcome = Outcome::Lost(lost);
                }
            }
        }
    }
    let end = match outcome {
        Outcome::Ended(end) => end,
        Outcome::Lost(lost) => {
            let name = text(guard.name());
            let message = format!("the lock {name} is lost, so the command was ended: {lost}");
            return Err(Failure::new(LOST, message));
        }
        Outcome::Signal(signal) => {
            // If that fails, the end of the connection releases the lock.
            let _ = release(&args.lock, guard).await;
            return Ok(fatal.end_by(signal));
        }
    };
    release(&args.lock, guard).await?;
    if let Some(signal) = end.by_key {
        if end.had_terminal {
            end_by(signal, Target::Job);
        } else if received.contains(&signal) {
            // If a key has sent it, the rest of the job has received it as well.
            end_by(signal, Target::This);
        }
    }
    Ok(end.code)
}
