//! A command that runs while a lock is held.

use std::time::Duration;

use glockd_client::{Client, Error, LockGuard};
use tokio::time::timeout;

use crate::args::{Lock, Run, bytes};
use crate::failure::{Failure, LOST};
use crate::group::Group;
use crate::show::{complain, text};
use crate::signals::{Signals, exit_code};

/// How long the server may take to say that the lock is released, when all is done. If it does not, the end of the
/// connection releases it.
const RELEASED_WITHIN: Duration = Duration::from_secs(2);

pub(crate) async fn run(server: &str, args: Run) -> Result<u8, Failure> {
    let mut signals = Signals::new()?;
    let guard = tokio::select! {
        guard = acquire(server, &args.lock, bytes(&args.lock_name)) => guard?,
        signal = signals.next() => return Ok(exit_code(signal as i32)),
    };
    let lost = guard.lost();
    tokio::pin!(lost);
    let mut group = Group::start(args.command(), guard.fence())?;
    let outcome = loop {
        tokio::select! {
            code = group.ended() => break Ok(code),
            signal = signals.next() => group.forward(signal),
            lost = &mut lost => {
                let name = text(guard.name());
                let message = format!("the lock {name} is lost, so the command was ended: {lost}");
                break Err(Failure::new(LOST, message));
            }
        }
    };
    group.end(args.grace).await;
    if outcome.is_ok() {
        let _ = timeout(RELEASED_WITHIN, guard.release()).await;
        say(&args.lock, "released it");
    }
    outcome
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
