//! A client of glockd, a network lock daemon: locks that last exactly as long as a connection, with guards that say
//! when that is over.
//!
//! ```
//! use std::time::Duration;
//! use glockd_client::Client;
//!
//! # async fn serve() -> Result<(tempfile::TempDir, String), Box<dyn std::error::Error>> {
//! #     let dir = tempfile::tempdir()?;
//! #     let path = dir.path().join("sock");
//! #     let server = glockd::Server::builder().transport(glockd::Unix::path(&path)).bind().await?;
//! #     tokio::spawn(server.run(std::future::pending()));
//! #     Ok((dir, format!("unix:{}", path.display())))
//! # }
//! # async fn write_report(_fence: Option<u64>) {}
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (_dir, url) = serve().await?;
//! # let url = &url;
//! // let url = "tcp://localhost:9999";
//! let client = Client::connect(url).await?;
//! let guard = client.lock("nightly report").wait(Duration::from_secs(5)).acquire().await?;
//! tokio::select! {
//!     () = write_report(guard.fence()) => guard.release().await?,
//!     lost = guard.lost() => eprintln!("somebody else may write it now: {lost}"),
//! }
//!
//! // Three at a time:
//! let gpu = client.shared("gpu").limit(3).acquire().await?;
//! assert_eq!(gpu.holders(), 1);
//! gpu.release().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # A lock is as good as its connection
//!
//! The server frees a lock the moment its connection is gone. So the one thing to watch while a lock is held is
//! [`LockGuard::lost`]. And a process that was stopped for long (by a debugger, by swapping, by its virtual machine)
//! cannot watch anything, and may go on as if it still held the lock: against that there are fencing tokens, see
//! [`LockGuard::fence`].
//!
//! # Release, then ask again
//!
//! To drop a guard, or a client, is not synchronous: the server learns of it a moment later, and until then refuses the
//! lock to other connections. Where you or another client of yours asks for the lock again, await
//! [`LockGuard::release`] first.
//!
//! # Do not pool connections yourself
//!
//! On one connection a second get of the same lock succeeds. A pool that hands a connection on to another task hands
//! on its locks with it: two tasks hold one lock, and the first that is done releases it for both. That is the classic
//! trap of locks that belong to connections, and the reason why a [`Client`] gives each guard of a name a connection
//! to itself. Share one `Client`, by cloning it, and leave the connections to it.
//!
//! # Other servers
//!
//! The original glockd, and one under `-extensions=false`, let nobody wait, know no limits and no tokens. This crate
//! notices that when it connects ([`Client::features`]), sends one command at a time, since the original loses what
//! comes behind, and does the rest itself as well as that goes: it asks again after a while instead of waiting in
//! line, and gives a shared lock back when too many hold it.
//!
//! # Cargo features
//!
//! - `blocking` (default): [`blocking`], for programs that are not asynchronous.
//! - `websocket` (default): endpoints that begin with `ws://`.

#[cfg(feature = "blocking")]
pub mod blocking;
mod client;
mod connection;
mod endpoint;
mod error;
mod expect;
mod features;
mod guard;
mod heartbeat;
mod lock;
mod pool;
mod task;
mod wire;

pub use client::{Builder, Claim, Client, HeldLock, NamedClient};
pub use endpoint::{Endpoint, EndpointError};
pub use error::{Error, Lost, Refusal};
pub use features::Features;
pub use glockd_protocol::LockKind;
pub use guard::LockGuard;
pub use lock::LockRequest;
