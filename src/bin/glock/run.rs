//! A command that runs while a lock is held.

use std::pin::pin;
use std::time::Duration;

use glockd_client::{Client, Error, LockGuard};
use nix::sys::signal::Signal;
use tokio::time::timeout;

use crate::args::{Lock, Run, bytes};
use crate::failure::{Failure, LOST};
use crate::group::Group;
use crate::show::{complain, text};
use crate::signals::{Signals, exit_code};
use crate::start;

/// How long the server may take to say that the lock is released, when all is done. If it does not, the end of the
/// connection releases it.
pub(crate) const RELEASED_WITHIN: Duration = Duration::from_secs(2);

pub(crate) async fn run(server: &str, args: Run) -> Result<u8, Failure> {
    let mut signals = Signals::new()?;
    let guard = tokio::select! {
        guard = acquire(server, &args.lock, bytes(&args.lock_name)) => guard?,
        signal = signals.next() => return Ok(exit_code(signal as i32)),
    };
    let mut lost = pin!(guard.lost());
    let mut group = Group::start(args.command(), guard.fence())?;
    signals.catch_stops()?;
    let mut outcome = loop {
        tokio::select! {
            end = group.ended() => break Ok(end),
            signal = signals.next() => group.forward(signal),
            lost = &mut lost => break Err(lost),
        }
    };
    let members = group.members();
    {
        let mut ended = pin!(group.end(args.grace));
        loop {
            tokio::select! {
                () = &mut ended => break,
                // There is no command any more to be stopped together with.
                signal = signals.next() => if signal != Signal::SIGTSTP {
                    members.forward(signal);
                },
                lost = &mut lost, if outcome.is_ok() => outcome = Err(lost),
            }
        }
    }
    let name = text(guard.name());
    let end = outcome.map_err(|lost| {
        let message = format!("the lock {name} is lost, so the command was ended: {lost}");
        Failure::new(LOST, message)
    })?;
    match timeout(RELEASED_WITHIN, guard.release()).await {
        Ok(Ok(())) => say(&args.lock, &format!("released the lock {name}")),
        Ok(Err(error)) => {
            let message = format!("the lock {name} was lost before it was released: {error}");
            return Err(Failure::new(LOST, message));
        }
        Err(_) => {}
    }
    if let Some(signal) = end.by_key {
        start::end_all_by(signal);
    }
    Ok(end.code)
}

/// Gets the lock as the flags say.
pub(crate) async fn acquire(server: &str, lock: &Lock, name: &[u8]) -> Result<LockGuard, Failure> {
    let builder = Client::builder(server);
    let builder = match &lock.name {
        Some(me) => builder.name(bytes(me)),
        None => builder,
    };
    let client = builder.connect().await?;
    let request = match (lock.shared, lock.limit) {
        (false, None) => client.lock(name),
        (true, None) => client.shared(name),
        (_, Some(limit)) => client.shared(name).limit(limit),
    };
    let request = match (lock.nonblock, lock.wait) {
        (true, _) => request,
        (false, Some(wait)) => request.wait(wait),
        (false, None) => request.wait_forever(),
    };
    let guard = match request.acquire().await {
        // As flock(1): the exit code says it all, and a crontab that skips a run sends no mail.
        Err(error @ Error::Refused { .. }) => {
            return Err(Failure {
                code: lock.conflict_exit_code,
                message: lock.verbose.then(|| error.to_string()),
            });
        }
        acquired => acquired?,
    };
    say(lock, &format!("has the lock {}", text(guard.name())));
    Ok(guard)
}

fn say(lock: &Lock, what: &str) {
    if lock.verbose {
        complain(what);
    }
}
