//! The way to a lock.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use glockd_protocol::{Command, LockKind, Reply};
use tokio::time::{Instant, sleep, timeout_at};

use crate::client::check;
use crate::connection::{Connection, Key, refusal_or};
use crate::guard::Held;
use crate::pool::{Lease, Pool, Use};
use crate::{Error, LockGuard, Lost, Refusal};

/// How long is paused before a server that lets nobody wait is asked again: at first, and at most. Between half and
/// all of that, at random, so that not all who wait ask at once.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Time that a server has to say that a wait is over, beyond its end.
const OVERTIME: Duration = Duration::from_millis(700);

/// A lock to be acquired: by [`Client::lock`](crate::Client::lock) or [`Client::shared`](crate::Client::shared).
#[derive(Clone)]
#[must_use = "a lock is held only once it is acquired"]
pub struct LockRequest {
    pool: Arc<Pool>,
    kind: LockKind,
    name: Vec<u8>,
    limit: Option<u32>,
    wait: Wait,
}

#[derive(Clone, Copy)]
enum Wait {
    Not,
    For(Duration),
    Forever,
}

impl LockRequest {
    pub(crate) fn new(pool: Arc<Pool>, kind: LockKind, name: &[u8]) -> LockRequest {
        LockRequest {
            pool,
            kind,
            name: name.to_vec(),
            limit: None,
            wait: Wait::Not,
        }
    }

    /// How many may hold the shared lock, this guard included; 1 for an exclusive lock, whatever is said here. All who
    /// share it should say the same.
    ///
    /// A server that knows no limits (the original) gives the lock, and says how many hold it; if they are too many,
    /// it is given back. So there are too many for a moment, and of several who try at once none may get it.
    pub fn limit(mut self, limit: u32) -> LockRequest {
        self.limit = Some(limit);
        self
    }

    /// Waits for the lock, so long at most, in a line that is first come, first served. By default it is only tried.
    ///
    /// The limit holds whatever the server does: [`acquire`](LockRequest::acquire) returns within a second of it.
    ///
    /// A server that lets nobody wait (the original) is asked again and again, which knows of no line.
    pub fn wait(mut self, at_most: Duration) -> LockRequest {
        self.wait = match at_most.is_zero() {
            true => Wait::Not,
            false => Wait::For(at_most),
        };
        self
    }

    /// Waits for the lock, however long that takes.
    pub fn wait_forever(mut self) -> LockRequest {
        self.wait = Wait::Forever;
        self
    }

    /// Gets the lock.
    ///
    /// Cancel-safe: dropped before it is done, it waits no more; and if the lock was given in that moment, it is
    /// released.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if others have it; [`Error::Overdue`] if the server has not even said that by the end of a
    /// [`wait`](LockRequest::wait); [`Error::BadName`], [`Error::TooLong`], [`Error::ZeroLimit`]; and whatever
    /// ends a connection.
    pub async fn acquire(self) -> Result<LockGuard, Error> {
        let key = (self.kind, check(&self.name)?);
        if self.limit == Some(0) {
            return Err(Error::ZeroLimit);
        }
        let limit = self.limit.filter(|_| self.kind == LockKind::Shared);
        let deadline = match self.wait {
            Wait::Not => Some(Instant::now()),
            Wait::Forever => None,
            // What is too far off to be told is never.
            Wait::For(duration) => Instant::now().checked_add(duration),
        };
        let acquired = self.acquire_by(&key, limit, deadline);
        let overdue = deadline.and_then(|deadline| deadline.checked_add(OVERTIME));
        match (self.wait, overdue) {
            (Wait::For(limit), Some(overdue)) => timeout_at(overdue, acquired)
                .await
                .unwrap_or(Err(Error::Overdue(limit))),
            _ => acquired.await,
        }
    }

    async fn acquire_by(
        &self,
        key: &Key,
        limit: Option<u32>,
        deadline: Option<Instant>,
    ) -> Result<LockGuard, Error> {
        let waits = !matches!(self.wait, Wait::Not);
        let how = match waits && self.pool.features().wait {
            true => Use::Alone,
            false => self.pool.use_for(self.name.len()),
        };
        let lease = self.pool.lease(Some(key), how).await?;
        let mut held = match waits && lease.is_alone() && lease.connection.features.wait {
            true => wait(lease, key, limit, deadline).await?,
            false if waits => poll(&self.pool, lease, key, limit, deadline).await?,
            false => match attempt(&self.pool, lease, key, limit).await? {
                Ok(held) => held,
                Err((refusal, _)) => return Err(refused(key, refusal)),
            },
        };
        held.lease.share();
        Ok(LockGuard::new(held))
    }
}

fn refused(key: &Key, refusal: Refusal) -> Error {
    Error::Refused {
        refusal,
        kind: key.0,
        name: key.1.clone(),
    }
}

/// Waits in the server's line.
async fn wait(
    mut lease: Lease,
    key: &Key,
    limit: Option<u32>,
    deadline: Option<Instant>,
) -> Result<Held, Error> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // Rounded up, so that a wait is never shorter than it was to be.
        let ms = left.map(|left| left.as_nanos().div_ceil(1_000_000));
        let ms = ms.and_then(|ms| u32::try_from(ms).ok()).unwrap_or(u32::MAX);
        let name = key.1.as_slice().into();
        let command = match key.0 {
            LockKind::Exclusive => Command::GetWait { ms, name },
            LockKind::Shared => Command::SharedGetWait {
                ms,
                limit: limit.unwrap_or(u32::MAX),
                name,
            },
        };
        // Who is dropped here stops to wait, and closing is how that is said: before the lease ends, or the next one
        // would have the connection closed under its hands. So this is made later, to be dropped earlier.
        let connection = Arc::clone(&lease.connection);
        let answer = pin!(Connection::get(lease, &command, true));
        let waiter = Waiter(Some(connection));
        let answer = answer.await;
        waiter.disarm();
        let answer = answer?;
        match answer {
            Ok(held) => return Ok(held),
            Err((line, back)) => match read_refusal(&command, &line)? {
                Refusal::Timeout if deadline.is_none_or(|deadline| deadline > Instant::now()) => {
                    lease = back;
                }
                refusal => return Err(refused(key, refusal)),
            },
        }
    }
}

/// Closes a connection whose wait nobody awaits.
struct Waiter(Option<Arc<Connection>>);

impl Waiter {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Some(connection) = &self.0 {
            connection.abandon();
        }
    }
}

/// Asks again and again.
async fn poll(
    pool: &Arc<Pool>,
    mut lease: Lease,
    key: &Key,
    limit: Option<u32>,
    deadline: Option<Instant>,
) -> Result<Held, Error> {
    let (mut pause, most) = PAUSE;
    loop {
        match attempt(pool, lease, key, limit).await? {
            Ok(held) => return Ok(held),
            Err((_, back)) => lease = back,
        }
        let paused = sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0));
        match deadline {
            None => paused.await,
            Some(deadline) if deadline <= Instant::now() => {
                return Err(refused(key, Refusal::Timeout));
            }
            // Once more at the very end.
            Some(deadline) => drop(timeout_at(deadline, paused).await),
        }
        pause = most.min(pause.mul_f64(1.5));
    }
}

/// Tries once: the lock, or why not, with what may be used to try again.
async fn attempt(
    pool: &Arc<Pool>,
    lease: Lease,
    key: &Key,
    limit: Option<u32>,
) -> Result<Result<Held, (Refusal, Lease)>, Error> {
    let name = key.1.as_slice().into();
    let has_limits = lease.connection.features.limit;
    let command = match (key.0, limit) {
        (LockKind::Exclusive, _) => Command::Get(name),
        (LockKind::Shared, Some(limit)) if has_limits => Command::SharedGetLimited { limit, name },
        (LockKind::Shared, _) => Command::SharedGet(name),
    };
    match Connection::get(lease, &command, false).await? {
        Ok(held) if limit.is_some_and(|limit| held.holders > limit) => {
            held.give_back().await?;
            let lease = pool.lease(Some(key), pool.use_for(key.1.len())).await?;
            Ok(Err((Refusal::Full, lease)))
        }
        Ok(held) => Ok(Ok(held)),
        Err((line, lease)) => Ok(Err((read_refusal(&command, &line)?, lease))),
    }
}

fn read_refusal(command: &Command<'_>, line: &[u8]) -> Result<Refusal, Error> {
    let verb = command.verb();
    let reply = Reply::decode(verb, line).map(|reply| refusal_or(reply, verb));
    match reply.transpose()? {
        Some(Reply::Get { .. } | Reply::SharedGet { .. }) => Ok(Refusal::Held),
        Some(Reply::SharedGetFull { .. }) => Ok(Refusal::Full),
        Some(Reply::GetRefused { refusal, .. } | Reply::SharedGetRefused { refusal, .. }) => {
            Ok(refusal.into())
        }
        _ => Err(Lost::Unexpected(line.to_vec()).into()),
    }
}

impl From<glockd_protocol::Refusal> for Refusal {
    fn from(refusal: glockd_protocol::Refusal) -> Refusal {
        match refusal {
            glockd_protocol::Refusal::Timeout => Refusal::Timeout,
            glockd_protocol::Refusal::QueueFull => Refusal::QueueFull,
            glockd_protocol::Refusal::Cancelled => Refusal::Cancelled,
        }
    }
}

impl fmt::Debug for LockRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("LockRequest")
            .field("kind", &self.kind)
            .field("name", &self.name.escape_ascii().to_string())
            .field("limit", &self.limit)
            .finish()
    }
}
