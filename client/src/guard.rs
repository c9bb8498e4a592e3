//! A held lock.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};

use glockd_protocol::{LockKind, Reply};
use tokio::sync::oneshot;

use crate::error::{Error, Lost};
use crate::key::LockKey;
use crate::lease::Lease;

/// A lock that this client holds. Dropping the guard releases the lock.
///
/// The lock lasts as long as the guard's connection: if that is lost, the server frees the lock at once, and another
/// client may get it. So watch [`lost`](LockGuard::lost) while you work under the lock. If your whole process is
/// stopped for a while, nothing in it can notice the loss in time. So send the [fencing token](LockGuard::fence) with
/// each write, if the resource that you write to can compare tokens.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("sock");
/// # let server = glockd::Server::builder().transport(glockd::Unix::path(&path)).bind().await?;
/// # tokio::spawn(server.run(std::future::pending()));
/// # let url = format!("unix:{}", path.display());
/// # async fn work() {}
/// let client = glockd_client::Client::connect(&url).await?;
/// let guard = client.lock("nightly report").acquire().await?;
/// tokio::select! {
///     () = work() => guard.release().await?,
///     lost = guard.lost() => return Err(lost.into()), // `work` is dropped
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "a lock is released when its guard is dropped"]
pub struct LockGuard {
    lease: Lease,
    key: LockKey,
    holders: u32,
    token: Option<u64>,
    /// Shared with the futures of [`lost`](LockGuard::lost).
    is_released: Arc<AtomicBool>,
}

impl LockGuard {
    pub(crate) fn new(lease: Lease, key: LockKey, holders: u32, token: Option<u64>) -> LockGuard {
        lease.mark_held();
        LockGuard {
            lease,
            key,
            holders,
            token,
            is_released: Arc::default(),
        }
    }

    /// Lets other locks use the connection as well.
    pub(crate) fn share_connection(&mut self) {
        self.lease.share();
    }

    /// Queues the release, without waiting.
    fn send_release(&mut self) -> Result<oneshot::Receiver<Vec<u8>>, Error> {
        self.is_released.store(true, Release);
        self.lease.connection().send(&self.key.release())
    }

    /// Returns the name of the lock, with its white space folded as the server does.
    pub fn name(&self) -> &[u8] {
        &self.key.name
    }

    /// Returns the kind of the lock.
    pub fn kind(&self) -> LockKind {
        self.key.kind
    }

    /// Returns the fencing token: a number below 2⁶³ that is larger than that of every earlier grant of this name and
    /// kind. `None` if the server does not issue one: it is the original, or cannot guarantee the order.
    ///
    /// Send it with each write to a resource that remembers the largest token that it has seen and refuses smaller
    /// ones.
    pub fn fence(&self) -> Option<u64> {
        self.token
    }

    /// Returns the number of holders at the time of the grant, this guard included. For an exclusive lock, 1.
    pub fn holders(&self) -> u32 {
        self.holders
    }

    /// Waits until the connection, and with it the lock, is lost, and returns the reason. Never returns if the lock is
    /// released first.
    ///
    /// Cancel-safe. The future is independent of the guard, and any number of tasks can have one.
    ///
    /// A network that fails silently, in one direction or both, is noticed within half of the server's peer timeout (15
    /// seconds with default flags). That leaves at least [`Client::time_to_stop`](crate::Client::time_to_stop) before
    /// the server grants the lock to another client. The connection stays open until the guard is dropped: so
    /// first stop the work under the lock, and then drop the guard. A server that was restarted does not know the
    /// lock, and grants it to any client at once.
    pub fn lost(&self) -> impl Future<Output = Lost> + Send + 'static {
        let lost = self.lease.connection().when_lost();
        let is_released = Arc::clone(&self.is_released);
        async move {
            let lost = lost.await;
            // A released lock cannot be lost.
            if is_released.load(Acquire) {
                std::future::pending::<()>().await;
            }
            lost
        }
    }

    /// Returns true if the connection is known to be lost.
    pub fn is_lost(&self) -> bool {
        self.lease.connection().lost().is_some()
    }

    /// Releases the lock, and waits until the server confirms it. Dropping the guard also releases the lock, a moment
    /// later and without a report of errors.
    ///
    /// If the future is dropped before it is ready, the lock is released all the same.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] if the connection is lost, before or during this call: the server frees the lock when it notices, at
    /// the latest after its peer timeout.
    /// [`Error::NotHeld`] if the server says that this connection did not hold the lock.
    pub async fn release(mut self) -> Result<(), Error> {
        let line = self.send_release()?;
        let connection = self.lease.connection();
        let line = line.await.map_err(|_| connection.loss_error())?;
        match Reply::decode(self.key.release().verb(), &line) {
            Some(
                Reply::Release { released: true, .. } | Reply::SharedRelease { released: true, .. },
            ) => Ok(()),
            _ => Err(Error::NotHeld {
                name: std::mem::take(&mut self.key.name),
            }),
        }
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        if !self.is_released.load(Acquire) {
            // Sent before the lease ends, so that the next get of this lock on the same connection comes after it.
            drop(self.send_release());
        }
    }
}

impl std::fmt::Debug for LockGuard {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("LockGuard")
            .field("kind", &self.kind())
            .field("name", &self.name().escape_ascii().to_string())
            .field("fence", &self.fence())
            .field("is_lost", &self.is_lost())
            .finish()
    }
}
