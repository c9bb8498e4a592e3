//! Acquires a lock as the flags say, and releases it.

use std::time::Duration;

use glockd_client::{Client, Error, LockGuard, Refusal};
use tokio::time::{Instant, timeout};

use crate::exit_code::LOST;
use crate::failure::Failure;
use crate::flags::{LockFlags, bytes};
use crate::show::{complain, text};

/// Time that the server has to confirm the release of a lock. If it does not, the end of the connection releases the
/// lock.
const RELEASED_WITHIN: Duration = Duration::from_secs(2);

/// Time by which a server that does not answer may exceed the maximum time of a wait.
const OVERTIME: Duration = Duration::from_millis(700);

/// Minimum time allowed for connecting and waiting: to recognise the original takes one second.
const SHORTEST_LIMIT: Duration = Duration::from_millis(1500);

/// Rest of a wait if connecting took all of its time: the lock is then tried once.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// Acquires the lock `name` as the flags say. `connected` is called with the client before it asks for the lock.
pub(crate) async fn acquire(
    server: &str,
    flags: &LockFlags,
    name: &[u8],
    connected: impl FnOnce(&Client),
) -> Result<LockGuard, Failure> {
    let acquired = connect_and_acquire(server, flags, name, connected);
    let Some(wait) = flags.limited_wait() else {
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
    flags: &LockFlags,
    name: &[u8],
    connected: impl FnOnce(&Client),
) -> Result<LockGuard, Failure> {
    let builder = Client::builder(server);
    let builder = match &flags.me {
        Some(me) => builder.name(bytes(me)),
        None => builder,
    };
    let started = Instant::now();
    let client = builder.connect().await.map_err(Failure::of_connect)?;
    if flags.require_fence && !client.features().fence {
        return Err(no_fence());
    }
    connected(&client);
    let request = match (flags.shared, flags.limit) {
        (false, None) => client.lock(name),
        (true, None) => client.shared(name),
        (_, Some(limit)) => client.shared(name).limit(limit),
    };
    let request = match (flags.limited_wait(), flags.waits()) {
        // The time spent connecting counts towards the wait.
        (Some(wait), _) => request.wait(wait.saturating_sub(started.elapsed()).max(SHORTEST_WAIT)),
        (None, true) => request.wait_forever(),
        (None, false) => request,
    };
    let guard = match request.acquire().await {
        Err(error @ Error::Refused { refusal, .. }) => {
            // As for flock(1), the exit code is enough, and a crontab that skips a run sends no mail. But a refusal to
            // let glock wait is unexpected, so it is always reported.
            let is_said = flags.verbose || refusal == Refusal::QueueFull;
            return Err(Failure {
                code: flags.conflict_exit_code,
                message: is_said.then(|| error.to_string()),
            });
        }
        acquired => acquired?,
    };
    report(flags, &format!("acquired the lock {}", text(guard.name())));
    // A server whose disk fails grants locks, but gives no tokens.
    if flags.require_fence && guard.fence().is_none() {
        release(flags, guard).await?;
        return Err(no_fence());
    }
    Ok(guard)
}

fn no_fence() -> Failure {
    Failure::unavailable("the server gives no fencing token (--require-fence)")
}

/// Releases the lock. Fails if it was lost before.
pub(crate) async fn release(flags: &LockFlags, guard: LockGuard) -> Result<(), Failure> {
    let name = text(guard.name());
    match timeout(RELEASED_WITHIN, guard.release()).await {
        Ok(Ok(())) => report(flags, &format!("released the lock {name}")),
        Ok(Err(error)) => {
            let message = format!("the lock {name} was lost before it was released: {error}");
            return Err(Failure::new(LOST, message));
        }
        Err(_) => {}
    }
    Ok(())
}

/// Prints what happens to the lock, under `--verbose`.
fn report(flags: &LockFlags, what: &str) {
    if flags.verbose {
        complain(what);
    }
}

/// Warns if a command that may take `grace` to end can outlive the lock.
pub(crate) fn warn_of_grace(grace: Duration, client: &Client) {
    if let Some(left) = client.time_to_stop()
        && grace > left
    {
        complain(&format!(
            "warning: --grace {} is too long: if the network fails, the server may grant the lock to another client \
             {} s after glock has noticed, while the command may still be running; shorten --grace, or give the server \
             a longer -keepalive",
            grace.as_secs_f64(),
            left.as_secs_f64()
        ));
    }
}
