//! For programs that are not asynchronous: the same, and calls block. From within a task they would keep others from
//! running, so use the asynchronous client there.
//!
//! ```
//! use std::time::Duration;
//! use glockd_client::blocking::Client;
//!
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("sock");
//! # let runtime = tokio::runtime::Runtime::new()?;
//! # let server = glockd::Server::builder().transport(glockd::Unix::path(&path));
//! # let server = runtime.block_on(server.bind())?;
//! # runtime.spawn(server.run(std::future::pending()));
//! # let url = format!("unix:{}", path.display());
//! let client = Client::connect(&url)?;
//! let guard = client.lock("nightly report").wait(Duration::from_secs(5)).acquire()?;
//! for chapter in 1..=7 {
//!     if guard.is_lost() {
//!         break; // somebody else may write it now
//!     }
//!     println!("chapter {chapter}");
//! }
//! guard.release()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::{Claim, Error, HeldLock, LockKind, Lost, NamedClient};

/// A [client](crate::Client) whose calls block. It has a thread that watches its connections. Clones share both.
#[derive(Clone, Debug)]
pub struct Client {
    client: crate::Client,
    thread: Arc<Thread>,
}

/// A [lock to be acquired](crate::LockRequest).
#[derive(Clone, Debug)]
#[must_use = "a lock is held only once it is acquired"]
pub struct LockRequest {
    request: crate::LockRequest,
    thread: Arc<Thread>,
}

/// A [lock that is held](crate::LockGuard). Dropped, it is released.
#[derive(Debug)]
#[must_use = "a lock is released when its guard is dropped"]
pub struct LockGuard {
    guard: crate::LockGuard,
    thread: Arc<Thread>,
}

/// Ends without a wait, so that it may be dropped anywhere.
#[derive(Debug)]
struct Thread(Option<Runtime>);

impl Thread {
    fn new() -> Result<Thread, Error> {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder
            .worker_threads(1)
            .thread_name("glockd-client")
            .enable_all()
            .build();
        Ok(Thread(Some(runtime.map_err(Error::Runtime)?)))
    }

    /// Runs a future on the thread, and waits here. (To run it here would panic within any other runtime, even where
    /// it is allowed to block.)
    fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let (sender, receiver) = mpsc::sync_channel(1);
        if let Some(runtime) = &self.0 {
            runtime.spawn(async move { sender.send(future.await) });
        }
        // The thread lives as long as this, and only a panic of ours could keep it from answering.
        receiver.recv().unwrap_or(Err(Error::Lost(Lost::Closed)))
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Client {
    /// As [`Client::connect`](crate::Client::connect).
    ///
    /// # Errors
    ///
    /// As there; and [`Error::Runtime`].
    pub fn connect(endpoint: &str) -> Result<Client, Error> {
        Client::build(crate::Client::builder(endpoint))
    }

    /// As [`Builder::connect`](crate::Builder::connect).
    ///
    /// # Errors
    ///
    /// As [`connect`](Client::connect).
    pub fn build(builder: crate::Builder) -> Result<Client, Error> {
        let thread = Arc::new(Thread::new()?);
        let client = thread.run(builder.connect())?;
        Ok(Client { client, thread })
    }

    /// The asynchronous client, for what does not block.
    pub fn inner(&self) -> &crate::Client {
        &self.client
    }

    /// The exclusive lock of this name, to be acquired.
    pub fn lock(&self, name: impl AsRef<[u8]>) -> LockRequest {
        LockRequest {
            request: self.client.lock(name),
            thread: Arc::clone(&self.thread),
        }
    }

    /// The shared lock of this name, to be acquired. It has nothing to do with the exclusive one.
    pub fn shared(&self, name: impl AsRef<[u8]>) -> LockRequest {
        LockRequest {
            request: self.client.shared(name),
            thread: Arc::clone(&self.thread),
        }
    }

    /// As [`Client::reconnect`](crate::Client::reconnect).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn reconnect(&self) -> Result<(), Error> {
        let client = self.client.clone();
        self.thread.run(async move { client.reconnect().await })
    }

    /// As [`Client::is_locked`](crate::Client::is_locked).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn is_locked(&self, name: impl AsRef<[u8]>) -> Result<bool, Error> {
        let client = self.client.clone();
        let name = name.as_ref().to_vec();
        self.thread.run(async move { client.is_locked(name).await })
    }

    /// As [`Client::holders`](crate::Client::holders).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn holders(&self, name: impl AsRef<[u8]>) -> Result<u32, Error> {
        let client = self.client.clone();
        let name = name.as_ref().to_vec();
        self.thread.run(async move { client.holders(name).await })
    }

    /// As [`Client::locks`](crate::Client::locks).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn locks(&self, kind: LockKind, name: Option<&[u8]>) -> Result<Vec<HeldLock>, Error> {
        let client = self.client.clone();
        let name = name.map(<[u8]>::to_vec);
        self.thread
            .run(async move { client.locks(kind, name.as_deref()).await })
    }

    /// As [`Client::owners`](crate::Client::claims).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn claims(&self, name: impl AsRef<[u8]>) -> Result<Vec<Claim>, Error> {
        let client = self.client.clone();
        let name = name.as_ref().to_vec();
        self.thread.run(async move { client.claims(name).await })
    }

    /// As [`Client::clients`](crate::Client::clients).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn clients(&self, name: Option<&[u8]>) -> Result<Vec<NamedClient>, Error> {
        let client = self.client.clone();
        let name = name.map(<[u8]>::to_vec);
        self.thread
            .run(async move { client.clients(name.as_deref()).await })
    }

    /// As [`Client::statistics`](crate::Client::statistics).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn statistics(&self) -> Result<Vec<(String, u64)>, Error> {
        let client = self.client.clone();
        self.thread.run(async move { client.statistics().await })
    }

    /// As [`Client::ping`](crate::Client::ping).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn ping(&self) -> Result<Duration, Error> {
        let client = self.client.clone();
        self.thread.run(async move { client.ping().await })
    }
}

impl LockRequest {
    /// As [`LockRequest::limit`](crate::LockRequest::limit).
    pub fn limit(mut self, limit: u32) -> LockRequest {
        self.request = self.request.limit(limit);
        self
    }

    /// As [`LockRequest::wait`](crate::LockRequest::wait).
    pub fn wait(mut self, at_most: Duration) -> LockRequest {
        self.request = self.request.wait(at_most);
        self
    }

    /// As [`LockRequest::wait_forever`](crate::LockRequest::wait_forever).
    pub fn wait_forever(mut self) -> LockRequest {
        self.request = self.request.wait_forever();
        self
    }

    /// As [`LockRequest::acquire`](crate::LockRequest::acquire).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn acquire(self) -> Result<LockGuard, Error> {
        let guard = self.thread.run(self.request.acquire())?;
        Ok(LockGuard {
            guard,
            thread: self.thread,
        })
    }
}

impl LockGuard {
    /// As [`LockGuard::name`](crate::LockGuard::name).
    pub fn name(&self) -> &[u8] {
        self.guard.name()
    }

    /// As [`LockGuard::fence`](crate::LockGuard::fence).
    pub fn fence(&self) -> Option<u64> {
        self.guard.fence()
    }

    /// As [`LockGuard::holders`](crate::LockGuard::holders).
    pub fn holders(&self) -> u32 {
        self.guard.holders()
    }

    /// As [`LockGuard::is_lost`](crate::LockGuard::is_lost).
    pub fn is_lost(&self) -> bool {
        self.guard.is_lost()
    }

    /// Waits for the loss of the lock: why, or `None` if it was still held after so long.
    pub fn wait_lost(&self, at_most: Duration) -> Option<Lost> {
        let lost = self.guard.lost();
        let waited = self
            .thread
            .run(async move { Ok(timeout(at_most, lost).await.ok()) });
        waited.unwrap_or(Some(Lost::Closed))
    }

    /// As [`LockGuard::release`](crate::LockGuard::release).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn release(self) -> Result<(), Error> {
        self.thread.run(self.guard.release())
    }
}
