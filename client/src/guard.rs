//! A lock that is held.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};

use glockd_protocol::{Command, LockKind, Reply, Verb};
use tokio::sync::oneshot;

use crate::connection::Key;
use crate::pool::Lease;
use crate::{Error, Lost};

/// A lock that this guard's connection holds. Dropped, it is released.
///
/// A guard is as good as its connection: if that goes, so does the lock, at once, and somebody else may have it. So
/// watch [`lost`](LockGuard::lost) while you do what the lock is for. And since nothing that runs on your side can
/// notice in time that your side was stopped, give each write the [fencing token](LockGuard::fence), where what you
/// write to can compare it.
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
    held: Held,
}

/// What releases a lock when it is dropped.
pub(crate) struct Held {
    pub(crate) lease: Lease,
    key: Key,
    pub(crate) holders: u32,
    token: Option<u64>,
    /// Known to whoever watches for the loss, too.
    is_released: Arc<AtomicBool>,
}

impl Held {
    pub(crate) fn new(lease: Lease, key: Key, holders: u32, token: Option<u64>) -> Held {
        lease.mark_held();
        Held {
            lease,
            key,
            holders,
            token,
            is_released: Arc::default(),
        }
    }

    /// Sends the release, now.
    fn release(&mut self) -> Result<oneshot::Receiver<Vec<u8>>, Error> {
        self.is_released.store(true, Release);
        let name = self.key.1.as_slice().into();
        self.lease.connection.send(&match self.key.0 {
            LockKind::Exclusive => Command::Release(name),
            LockKind::Shared => Command::SharedRelease(name),
        })
    }

    /// Gives the lock back, and waits until it is.
    pub(crate) async fn give_back(mut self) -> Result<(), Error> {
        let line = self.release()?.await.map_err(|_| self.why_lost())?;
        let verb = match self.key.0 {
            LockKind::Exclusive => Verb::R,
            LockKind::Shared => Verb::Sr,
        };
        match Reply::decode(verb, &line) {
            Some(
                Reply::Release { released: true, .. } | Reply::SharedRelease { released: true, .. },
            ) => Ok(()),
            _ => Err(Error::NotHeld {
                name: std::mem::take(&mut self.key.1),
            }),
        }
    }

    fn why_lost(&self) -> Error {
        Error::Lost(self.lease.connection.lost().unwrap_or(Lost::Closed))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.is_released.load(Acquire) {
            // Sent before the lease ends, so whoever gets this lock on the same connection comes later.
            drop(self.release());
        }
    }
}

impl LockGuard {
    pub(crate) fn new(held: Held) -> LockGuard {
        LockGuard { held }
    }

    /// The name of the lock, with its white space folded as the server does.
    pub fn name(&self) -> &[u8] {
        &self.held.key.1
    }

    /// Of which kind it is.
    pub fn kind(&self) -> LockKind {
        self.held.key.0
    }

    /// The fencing token: larger than that of every earlier grant of this name and kind. `None` if the server gives
    /// none: it is the original, or cannot vouch for them.
    ///
    /// Send it along with each write, to a resource that remembers the largest one that it has seen and refuses
    /// smaller ones. It is below 2⁶³.
    pub fn fence(&self) -> Option<u64> {
        self.held.token
    }

    /// How many held it when it was given, this guard included; of an exclusive lock, 1.
    pub fn holders(&self) -> u32 {
        self.held.holders
    }

    /// Resolves when the connection is gone, and so the lock, with the reason; never if it is released first.
    ///
    /// The future is independent of the guard, and any number of tasks can have one. Cancel-safe.
    ///
    /// A network that fails silently, in one direction or both, is noticed after half the server's peer timeout (15
    /// seconds with default flags) at the latest, and at least [`Client::time_to_stop`](crate::Client::time_to_stop) before the server gives the lock to somebody else. The
    /// connection stays open until the guard is dropped: so stop what you do under the lock first, and then drop the
    /// guard. A server that was started anew knows of no lock, and gives it to anybody at once.
    pub fn lost(&self) -> impl Future<Output = Lost> + Send + 'static {
        let lost = self.held.lease.connection.when_lost();
        let is_released = Arc::clone(&self.held.is_released);
        async move {
            let lost = lost.await;
            // What is released cannot be lost.
            if is_released.load(Acquire) {
                std::future::pending::<()>().await;
            }
            lost
        }
    }

    /// Whether the connection is known to be gone.
    pub fn is_lost(&self) -> bool {
        self.held.lease.connection.lost().is_some()
    }

    /// Releases the lock, and waits until the server says so. To drop the guard releases it, too, a little later,
    /// and nobody learns whether it was still held.
    ///
    /// Dropped before it is done, it has released the lock all the same.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] if the connection is gone (so the lock is free, but it was free too early), and
    /// [`Error::NotHeld`] if the server knows nothing of it.
    pub async fn release(self) -> Result<(), Error> {
        self.held.give_back().await
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
