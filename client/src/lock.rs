//! Acquiring a lock: at once, by a wait in the server's queue, or by trying again and again.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use glockd_protocol::{Command, LockKind, Reply};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use crate::connection::refusal_or;
use crate::error::{Error, Lost, Refusal};
use crate::expected::GetOutcome;
use crate::guard::LockGuard;
use crate::key::{LockKey, fold_name};
use crate::lease::{Lease, PooledConnection, Use};
use crate::pool::Pool;

/// Pause between two attempts on a server without a queue: the first, and the longest. The actual pause is a random
/// time between half and all of that, so that waiting clients do not try at the same moment.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Additional time for the server to reply after the end of a wait.
const GRACE: Duration = Duration::from_millis(700);

/// A lock to be acquired, from [`Client::lock`](crate::Client::lock) or [`Client::shared`](crate::Client::shared).
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
    None,
    AtMost(Duration),
    Forever,
}

impl LockRequest {
    pub(crate) fn new(pool: Arc<Pool>, kind: LockKind, name: &[u8]) -> LockRequest {
        LockRequest {
            pool,
            kind,
            name: name.to_vec(),
            limit: None,
            wait: Wait::None,
        }
    }

    /// Sets the maximum number of holders of a shared lock, this guard included. Has no effect on an exclusive lock,
    /// which has one holder. All clients that share the lock should use the same limit.
    ///
    /// A server without [`Features::limit`](crate::Features::limit) (the original) grants the lock and reports the
    /// number of holders; if there are too many, the client releases it again. So for a moment there may be too many
    /// holders, and of several clients that try at the same time, possibly none gets the lock.
    pub fn limit(mut self, limit: u32) -> LockRequest {
        self.limit = Some(limit);
        self
    }

    /// Waits for the lock for at most this time, in the order of arrival. By default, [`acquire`](LockRequest::acquire)
    /// does not wait.
    ///
    /// The limit holds whatever the server does: [`acquire`](LockRequest::acquire) returns at most a second after it.
    ///
    /// On a server without [`Features::wait`](crate::Features::wait) (the original), the client tries again and again,
    /// and the order of arrival does not count.
    pub fn wait(mut self, at_most: Duration) -> LockRequest {
        self.wait = match at_most.is_zero() {
            true => Wait::None,
            false => Wait::AtMost(at_most),
        };
        self
    }

    /// Waits for the lock without a limit in time. See [`wait`](LockRequest::wait).
    pub fn wait_forever(mut self) -> LockRequest {
        self.wait = Wait::Forever;
        self
    }

    /// Acquires the lock.
    ///
    /// Cancel-safe: if the future is dropped before it is ready, the client stops waiting; if the lock was granted at
    /// that moment, it is released.
    ///
    /// # Errors
    ///
    /// - [`Error::Refused`] if the lock is held by others.
    /// - [`Error::Overdue`] if the server has not replied by the end of a [`wait`](LockRequest::wait).
    /// - [`Error::BadName`], [`Error::TooLong`] and [`Error::ZeroLimit`] if the request is invalid.
    /// - [`Error::Lost`], [`Error::LocksLost`] and [`Error::Connect`] if there is no connection.
    pub async fn acquire(self) -> Result<LockGuard, Error> {
        let key = LockKey {
            kind: self.kind,
            name: fold_name(&self.name)?,
        };
        if self.limit == Some(0) {
            return Err(Error::ZeroLimit);
        }
        let deadline = match self.wait {
            Wait::None => Some(Instant::now()),
            Wait::Forever => None,
            // A sum that overflows means never.
            Wait::AtMost(duration) => Instant::now().checked_add(duration),
        };
        let acquisition = Acquisition {
            pool: &self.pool,
            limit: self.limit.filter(|_| self.kind == LockKind::Shared),
            key,
            deadline,
        };
        let acquired = acquisition.run(self.wait);
        let overdue = deadline.and_then(|deadline| deadline.checked_add(GRACE));
        match (self.wait, overdue) {
            (Wait::AtMost(limit), Some(overdue)) => timeout_at(overdue, acquired)
                .await
                .unwrap_or(Err(Error::Overdue(limit))),
            _ => acquired.await,
        }
    }
}

/// One call of [`LockRequest::acquire`].
struct Acquisition<'a> {
    pool: &'a Pool,
    key: LockKey,
    limit: Option<u32>,
    /// End of the wait; `None` for never.
    deadline: Option<Instant>,
}

/// The outcome of a get.
enum Attempt<R> {
    Granted(LockGuard),
    /// The refusal, and the lease, on which the client may try again.
    Refused(R, Lease),
}

impl Acquisition<'_> {
    async fn run(&self, wait: Wait) -> Result<LockGuard, Error> {
        let waits = !matches!(wait, Wait::None);
        let how = match waits && self.pool.features().wait {
            true => Use::Exclusive,
            false => self.pool.use_for(self.key.name.len()),
        };
        let lease = self.pool.lease(Some(&self.key), how).await?;
        let can_queue = lease.is_exclusive() && lease.connection().features.wait;
        let mut guard = match waits {
            true if can_queue => self.wait_in_queue(lease).await?,
            true => self.try_repeatedly(lease).await?,
            false => match self.try_once(lease).await? {
                Attempt::Granted(guard) => guard,
                Attempt::Refused(refusal, _) => return Err(self.refused(refusal)),
            },
        };
        guard.share_connection();
        Ok(guard)
    }

    fn refused(&self, refusal: Refusal) -> Error {
        Error::Refused {
            refusal,
            kind: self.key.kind,
            name: self.key.name.clone(),
        }
    }

    /// Waits in the server's queue.
    async fn wait_in_queue(&self, mut lease: Lease) -> Result<LockGuard, Error> {
        let deadline = self.deadline;
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            // Rounded up, so that a wait is never too short.
            let ms = left.map(|left| left.as_nanos().div_ceil(1_000_000));
            let ms = ms.and_then(|ms| u32::try_from(ms).ok()).unwrap_or(u32::MAX);
            let name = self.key.name.as_slice().into();
            let command = match self.key.kind {
                LockKind::Exclusive => Command::GetWait { ms, name },
                LockKind::Shared => Command::SharedGetWait {
                    ms,
                    limit: self.limit.unwrap_or(u32::MAX),
                    name,
                },
            };
            // If this future is dropped, the connection must be abandoned before its lease ends, or another task could
            // lease a connection that is about to close. So `waiter` is declared after `attempt`, and dropped before
            // it.
            let connection = Arc::clone(lease.connection());
            let attempt = pin!(self.get(lease, &command));
            let waiter = Waiter(Some(connection));
            let attempt = attempt.await;
            waiter.disarm();
            let (line, refused_lease) = match attempt? {
                Attempt::Granted(guard) => return Ok(guard),
                Attempt::Refused(line, lease) => (line, lease),
            };
            match read_refusal(&command, &line)? {
                Refusal::Timeout if deadline.is_none_or(|deadline| deadline > Instant::now()) => {
                    lease = refused_lease;
                }
                refusal => return Err(self.refused(refusal)),
            }
        }
    }

    /// Tries again and again, for a server without a queue.
    async fn try_repeatedly(&self, mut lease: Lease) -> Result<LockGuard, Error> {
        let (mut pause, longest) = PAUSE;
        loop {
            match self.try_once(lease).await? {
                Attempt::Granted(guard) => return Ok(guard),
                Attempt::Refused(_, refused_lease) => lease = refused_lease,
            }
            let paused = sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0));
            match self.deadline {
                None => paused.await,
                Some(deadline) if deadline <= Instant::now() => {
                    return Err(self.refused(Refusal::Timeout));
                }
                // The last attempt is made at the deadline.
                Some(deadline) => drop(timeout_at(deadline, paused).await),
            }
            pause = longest.min(pause.mul_f64(1.5));
        }
    }

    /// Tries once.
    async fn try_once(&self, lease: Lease) -> Result<Attempt<Refusal>, Error> {
        let (key, limit) = (&self.key, self.limit);
        let name = key.name.as_slice().into();
        let has_limits = lease.connection().features.limit;
        let command = match (key.kind, limit) {
            (LockKind::Exclusive, _) => Command::Get(name),
            (LockKind::Shared, Some(limit)) if has_limits => {
                Command::SharedGetLimited { limit, name }
            }
            (LockKind::Shared, _) => Command::SharedGet(name),
        };
        match self.get(lease, &command).await? {
            Attempt::Granted(guard) if limit.is_some_and(|limit| guard.holders() > limit) => {
                guard.release().await?;
                let how = self.pool.use_for(key.name.len());
                let lease = self.pool.lease(Some(key), how).await?;
                Ok(Attempt::Refused(Refusal::Full, lease))
            }
            Attempt::Granted(guard) => Ok(Attempt::Granted(guard)),
            Attempt::Refused(line, lease) => {
                Ok(Attempt::Refused(read_refusal(&command, &line)?, lease))
            }
        }
    }

    /// Sends a get, and waits for the outcome: a guard, or the line of the refusal.
    ///
    /// The guard is made as soon as the reply is read. If this future has been dropped by then, so is the guard, which
    /// releases the lock.
    async fn get(&self, lease: Lease, command: &Command<'_>) -> Result<Attempt<Vec<u8>>, Error> {
        let connection = Arc::clone(lease.connection());
        let key = self.key.clone();
        let (sender, receiver) = oneshot::channel();
        let done = Box::new(move |outcome| {
            let _ = sender.send(match outcome {
                GetOutcome::Granted { holders, token } => {
                    Attempt::Granted(LockGuard::new(lease, key, holders, token))
                }
                GetOutcome::Refused(line) => Attempt::Refused(line, lease),
            });
        });
        connection.send_get(command, &self.key, done)?;
        receiver.await.map_err(|_| connection.loss_error())
    }
}

/// Abandons a connection when dropped, unless disarmed: closing the connection is the only way to end its wait.
struct Waiter(Option<Arc<PooledConnection>>);

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
