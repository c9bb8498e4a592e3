//! A command that runs while a lock is held.

use std::pin::pin;

use nix::sys::signal::{SigSet, Signal};
use tokio::task::yield_now;

use crate::args::{Run, bytes};
use crate::failure::{Failure, LOST};
use crate::group::Group;
use crate::lock::{acquire, release};
use crate::show::text;
use crate::signals::Signals;
use crate::start::{Whom, end_as_asked, end_by};

/// `mask` holds the signals that the command blocks, which are those that glock was started with.
pub(crate) async fn run(server: &str, args: Run, mask: &SigSet) -> Result<u8, Failure> {
    let mut signals = Signals::new()?;
    let guard = tokio::select! {
        guard = acquire(server, &args.lock, bytes(&args.lock_name), Some(args.grace)) => guard?,
        signal = signals.next() => return Ok(end_as_asked(signal)),
    };
    let mut lost = pin!(guard.lost());
    let mut group = Group::start(args.command(), guard.fence(), mask)?;
    signals.catch_stops()?;
    // The signals that glock itself got.
    let mut asked = Vec::new();
    let mut outcome = loop {
        tokio::select! {
            end = group.ended() => break Ok(end),
            signal = signals.next() => {
                asked.push(signal);
                group.forward(signal);
            }
            lost = &mut lost => break Err(lost),
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
                lost = &mut lost, if outcome.is_ok() => outcome = Err(lost),
            }
        }
    }
    let name = text(guard.name());
    let end = outcome.map_err(|lost| {
        let message = format!("the lock {name} is lost, so the command was ended: {lost}");
        Failure::new(LOST, message)
    })?;
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
