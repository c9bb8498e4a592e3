//! A command that runs while a lock is held.

use std::pin::pin;

use glockd_client::Lost;
use nix::sys::signal::{SigSet, Signal};
use tokio::task::yield_now;

use crate::args::{Run, bytes};
use crate::failure::{Failure, LOST};
use crate::group::{End, Group};
use crate::lock::{acquire, release};
use crate::show::text;
use crate::signals::{FatalSignals, Signals};
use crate::start::{Whom, end_as_asked, end_by};

/// Why the group is ended.
enum Outcome {
    /// The command has ended.
    Ended(End),
    /// The lock is lost.
    Lost(Lost),
    /// This signal is about to end glock.
    Signal(i32),
}

/// `mask` holds the signals that the command blocks, which are those that glock was started with.
pub(crate) async fn run(server: &str, args: Run, mask: &SigSet) -> Result<u8, Failure> {
    let fatal = FatalSignals::hold_back()?;
    let mut signals = Signals::new()?;
    let guard = tokio::select! {
        guard = acquire(server, &args.lock, bytes(&args.lock_name), Some(args.grace)) => guard?,
        signal = signals.next() => return Ok(end_as_asked(signal)),
        signal = fatal.next() => return Ok(fatal.end_by(signal)),
    };
    let mut lost = pin!(guard.lost());
    signals.catch_stops()?;
    let mut group = Group::start(args.command(), guard.fence(), mask)?;
    // The signals that glock itself got.
    let mut asked = Vec::new();
    let mut outcome = loop {
        tokio::select! {
            end = group.ended() => break Outcome::Ended(end),
            signal = signals.next() => {
                asked.push(signal);
                group.forward(signal);
            }
            signal = fatal.next() => break Outcome::Signal(signal),
            lost = &mut lost => break Outcome::Lost(lost),
        }
    };
    let members = group.members();
    // A command that was about to start got what glock got, and its end may be seen before that.
    yield_now().await;
    {
        let mut ended = pin!(group.end(args.grace));
        loop {
            tokio::select! {
                biased;
                signal = signals.next() => {
                    asked.push(signal);
                    // There is no command any more to be stopped together with.
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
            // If that fails, the end of the connection releases it.
            let _ = release(&args.lock, guard).await;
            return Ok(fatal.end_by(signal));
        }
    };
    release(&args.lock, guard).await?;
    if let Some(signal) = end.by_key {
        if end.had_terminal {
            end_by(signal, Whom::Job);
        } else if asked.contains(&signal) {
            // The others of the job have got it, too, if it came from a key.
            end_by(signal, Whom::This);
        }
    }
    Ok(end.code)
}
