//! How a lock is got as the flags say, and given back.

use std::time::Duration;

use glockd_client::{Client, Error, LockGuard, Refusal};
use tokio::time::timeout;

use crate::args::{Lock, bytes};
use crate::failure::{Failure, LOST};
use crate::show::{complain, text};

/// How long the server may take to say that the lock is released, when all is done. If it does not, the end of the
/// connection releases it.
const RELEASED_WITHIN: Duration = Duration::from_secs(2);

/// Gets the lock as the flags say.
pub(crate) async fn acquire(server: &str, lock: &Lock, name: &[u8]) -> Result<LockGuard, Failure> {
    let builder = Client::builder(server);
    let builder = match &lock.me {
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
        Err(error @ Error::Refused { refusal, .. }) => {
            // As flock(1): the exit code says it all, and a crontab that skips a run sends no mail. But nobody who was
            // ready to wait reckons with not being let.
            let is_said = lock.verbose || refusal == Refusal::QueueFull;
            return Err(Failure {
                code: lock.conflict_exit_code,
                message: is_said.then(|| error.to_string()),
            });
        }
        acquired => acquired?,
    };
    say(lock, &format!("has the lock {}", text(guard.name())));
    Ok(guard)
}

/// Releases the lock. It fails if that was gone before.
pub(crate) async fn release(lock: &Lock, guard: LockGuard) -> Result<(), Failure> {
    let name = text(guard.name());
    match timeout(RELEASED_WITHIN, guard.release()).await {
        Ok(Ok(())) => say(lock, &format!("released the lock {name}")),
        Ok(Err(error)) => {
            let message = format!("the lock {name} was lost before it was released: {error}");
            return Err(Failure::new(LOST, message));
        }
        Err(_) => {}
    }
    Ok(())
}

fn say(lock: &Lock, what: &str) {
    if lock.verbose {
        complain(what);
    }
}
