//! How a lock is got as the flags say, and given back.

use std::time::Duration;

use glockd_client::{Client, Error, LockGuard, Refusal};
use tokio::time::{Instant, timeout};

use crate::args::{Lock, bytes};
use crate::failure::{Failure, LOST};
use crate::show::{complain, text};

/// How long the server may take to say that the lock is released, when all is done. If it does not, the end of the
/// connection releases it.
const RELEASED_WITHIN: Duration = Duration::from_secs(2);

/// Time by which a server that does not answer may exceed the limit of a wait.
const OVERTIME: Duration = Duration::from_millis(700);

/// Shortest time that connecting and waiting may take: recognising the original takes one second.
const SHORTEST_LIMIT: Duration = Duration::from_millis(1500);

/// What is left of a wait if connecting took all of its time: then the lock is tried once.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

fn late(grace: Duration, left: Duration) -> String {
    format!(
        "warning: --grace {} is too long: if the network fails, the server may give the lock to somebody else {} s \
         after glock has noticed, and the command may still be running; shorten --grace, or give the server a longer \
         -keepalive",
        grace.as_secs_f64(),
        left.as_secs_f64()
    )
}

/// Gets the lock as the flags say. Warns if a command that is given `grace` to end may outlive the lock.
pub(crate) async fn acquire(
    server: &str,
    lock: &Lock,
    name: &[u8],
    grace: Option<Duration>,
) -> Result<LockGuard, Failure> {
    let acquired = connect_and_acquire(server, lock, name, grace);
    let Some(wait) = lock.limited_wait() else {
        return acquired.await;
    };
    let limit = wait.saturating_add(OVERTIME).max(SHORTEST_LIMIT);
    timeout(limit, acquired).await.unwrap_or_else(|_| {
        let wait = wait.as_secs_f64();
        Err(Failure::unavailable(format!(
            "the server has not answered within the {wait} s of --wait"
        )))
    })
}

async fn connect_and_acquire(
    server: &str,
    lock: &Lock,
    name: &[u8],
    grace: Option<Duration>,
) -> Result<LockGuard, Failure> {
    let builder = Client::builder(server);
    let builder = match &lock.me {
        Some(me) => builder.name(bytes(me)),
        None => builder,
    };
    let started = Instant::now();
    let client = builder.connect().await.map_err(Failure::of_connect)?;
    if lock.require_fence && !client.features().fence {
        return Err(no_fence());
    }
    if let (Some(grace), Some(left)) = (grace, client.time_to_stop())
        && grace > left
    {
        complain(&late(grace, left));
    }
    let request = match (lock.shared, lock.limit) {
        (false, None) => client.lock(name),
        (true, None) => client.shared(name),
        (_, Some(limit)) => client.shared(name).limit(limit),
    };
    let request = match (lock.limited_wait(), lock.waits()) {
        // The time spent connecting counts towards the wait.
        (Some(wait), _) => request.wait(wait.saturating_sub(started.elapsed()).max(SHORTEST_WAIT)),
        (None, true) => request.wait_forever(),
        (None, false) => request,
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
    // A server whose disk fails gives locks, but no tokens.
    if lock.require_fence && guard.fence().is_none() {
        release(lock, guard).await?;
        return Err(no_fence());
    }
    Ok(guard)
}

fn no_fence() -> Failure {
    Failure::unavailable("the server gives no fencing token (--require-fence)")
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
