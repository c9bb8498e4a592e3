//! The client for programs that are not asynchronous: each call blocks its thread. Do not call it from an asynchronous
//! task, where it would keep other tasks from running; use the asynchronous client there.
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
//!         break; // another client may write the report now
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

use glockd_protocol::LockKind;

use crate::error::{Error, Lost};
use crate::queries::{Claim, HeldLock, NamedClient};

/// A [client](crate::Client) whose calls block. It has a thread that serves its connections. Clones share both.
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

/// A [held lock](crate::LockGuard). Dropping the guard releases the lock.
#[derive(Debug)]
#[must_use = "a lock is released when its guard is dropped"]
pub struct LockGuard {
    guard: crate::LockGuard,
    thread: Arc<Thread>,
}

/// The thread of a client. Dropping it does not wait for the thread, so it may be dropped anywhere, even in a runtime.
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

    /// Runs a future on the thread, and blocks the caller until it is ready. (`block_on` would panic within another
    /// runtime, even where that allows blocking.)
    fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let (sender, receiver) = mpsc::sync_channel(1);
        if let Some(runtime) = &self.0 {
            runtime.spawn(async move { sender.send(future.await) });
        }
        // The thread lives as long as `self`, so only a panic in the future can drop the sender.
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
    /// Connects to a server, as [`Client::connect`](crate::Client::connect).
    ///
    /// # Errors
    ///
    /// As there; and [`Error::Runtime`] if the thread cannot be started.
    pub fn connect(endpoint: &str) -> Result<Client, Error> {
        Client::build(crate::Client::builder(endpoint))
    }

    /// Connects with these settings, as [`Builder::connect`](crate::Builder::connect).
    ///
    /// # Errors
    ///
    /// As [`connect`](Client::connect).
    pub fn build(builder: crate::Builder) -> Result<Client, Error> {
        let thread = Arc::new(Thread::new()?);
        let client = thread.run(builder.connect())?;
        Ok(Client { client, thread })
    }

    /// Returns the asynchronous client, for example for [`features`](crate::Client::features).
    pub fn inner(&self) -> &crate::Client {
        &self.client
    }

    /// Returns a request for the exclusive lock of this name.
    pub fn lock(&self, name: impl AsRef<[u8]>) -> LockRequest {
        LockRequest {
            request: self.client.lock(name),
            thread: Arc::clone(&self.thread),
        }
    }

    /// Returns a request for the shared lock of this name. It is independent of the exclusive lock of the same name.
    pub fn shared(&self, name: impl AsRef<[u8]>) -> LockRequest {
        LockRequest {
            request: self.client.shared(name),
            thread: Arc::clone(&self.thread),
        }
    }

    /// Reconnects if all connections are lost, as [`Client::reconnect`](crate::Client::reconnect).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn reconnect(&self) -> Result<(), Error> {
        let client = self.client.clone();
        self.thread.run(async move { client.reconnect().await })
    }

    /// Asks whether the exclusive lock of this name is held, as [`Client::is_locked`](crate::Client::is_locked).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn is_locked(&self, name: impl AsRef<[u8]>) -> Result<bool, Error> {
        let client = self.client.clone();
        let name = name.as_ref().to_vec();
        self.thread.run(async move { client.is_locked(name).await })
    }

    /// Asks for the number of holders of the shared lock of this name, as
    /// [`Client::holders`](crate::Client::holders).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn holders(&self, name: impl AsRef<[u8]>) -> Result<u32, Error> {
        let client = self.client.clone();
        let name = name.as_ref().to_vec();
        self.thread.run(async move { client.holders(name).await })
    }

    /// Lists the held locks, as [`Client::locks`](crate::Client::locks).
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

    /// Lists the claims on the locks of this name, as [`Client::claims`](crate::Client::claims).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn claims(&self, name: impl AsRef<[u8]>) -> Result<Vec<Claim>, Error> {
        let client = self.client.clone();
        let name = name.as_ref().to_vec();
        self.thread.run(async move { client.claims(name).await })
    }

    /// Lists the connections that registered a name, as [`Client::clients`](crate::Client::clients).
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

    /// Reads the server's counters, as [`Client::statistics`](crate::Client::statistics).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn statistics(&self) -> Result<Vec<(String, u64)>, Error> {
        let client = self.client.clone();
        self.thread.run(async move { client.statistics().await })
    }

    /// Asks the server for a sign of life, as [`Client::ping`](crate::Client::ping).
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
    /// Sets the maximum number of holders, as [`LockRequest::limit`](crate::LockRequest::limit).
    pub fn limit(mut self, limit: u32) -> LockRequest {
        self.request = self.request.limit(limit);
        self
    }

    /// Waits for the lock for at most this time, as [`LockRequest::wait`](crate::LockRequest::wait).
    pub fn wait(mut self, at_most: Duration) -> LockRequest {
        self.request = self.request.wait(at_most);
        self
    }

    /// Waits for the lock without a limit in time, as [`LockRequest::wait_forever`](crate::LockRequest::wait_forever).
    pub fn wait_forever(mut self) -> LockRequest {
        self.request = self.request.wait_forever();
        self
    }

    /// Acquires the lock, as [`LockRequest::acquire`](crate::LockRequest::acquire).
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
    /// Returns the kind of the lock, as [`LockGuard::kind`](crate::LockGuard::kind).
    pub fn kind(&self) -> LockKind {
        self.guard.kind()
    }

    /// Returns the name of the lock, as [`LockGuard::name`](crate::LockGuard::name).
    pub fn name(&self) -> &[u8] {
        self.guard.name()
    }

    /// Returns the fencing token, as [`LockGuard::fence`](crate::LockGuard::fence).
    pub fn fence(&self) -> Option<u64> {
        self.guard.fence()
    }

    /// Returns the number of holders at the time of the grant, as [`LockGuard::holders`](crate::LockGuard::holders).
    pub fn holders(&self) -> u32 {
        self.guard.holders()
    }

    /// Returns true if the connection is known to be lost, as [`LockGuard::is_lost`](crate::LockGuard::is_lost).
    pub fn is_lost(&self) -> bool {
        self.guard.is_lost()
    }

    /// Waits until the lock is lost, for at most this time. Returns the reason, or `None` if the lock was not lost in
    /// that time. See [`LockGuard::lost`](crate::LockGuard::lost).
    pub fn wait_lost(&self, at_most: Duration) -> Option<Lost> {
        let lost = self.guard.lost();
        let waited = self
            .thread
            .run(async move { Ok(timeout(at_most, lost).await.ok()) });
        waited.unwrap_or(Some(Lost::Closed))
    }

    /// Releases the lock, and waits until the server confirms it, as [`LockGuard::release`](crate::LockGuard::release).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn release(self) -> Result<(), Error> {
        self.thread.run(self.guard.release())
    }
}
