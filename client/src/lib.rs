//! A client of glockd, a network lock daemon. A lock lasts exactly as long as a connection, and its guard reports when
//! it is lost.
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
//!     lost = guard.lost() => eprintln!("another client may write the report now: {lost}"),
//! }
//!
//! // At most three holders:
//! let gpu = client.shared("gpu").limit(3).acquire().await?;
//! assert_eq!(gpu.holders(), 1);
//! gpu.release().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # A lock lasts as long as its connection
//!
//! The server frees a lock the moment its connection is lost. So while you work under a lock, watch
//! [`LockGuard::lost`]. A process that is stopped for long (by a debugger, by swapping, by its virtual machine) cannot
//! watch anything, and may continue as if it still held the lock. Fencing tokens protect against that: see
//! [`LockGuard::fence`].
//!
//! # Release before you ask again
//!
//! Dropping a guard or a client is not synchronous: the server learns of it a moment later, and until then refuses the
//! lock to other connections. If you or another client of yours asks for the same lock again, await
//! [`LockGuard::release`] first.
//!
//! # Do not pool connections yourself
//!
//! A second get of a lock succeeds on the connection that already holds it. A pool that passes a connection on to
//! another task passes its locks on as well: then two tasks hold one lock, and the first that is done releases it for
//! both. That is the classic trap of locks that belong to connections, and the reason why a [`Client`] gives each guard
//! of a name a connection to itself. Share one `Client` by cloning it, and leave the connections to it.
//!
//! # Other servers
//!
//! The original glockd, and this one with `-extensions=false`, have no queues, no limits and no fencing tokens. The
//! client finds that out when it connects ([`Client::features`]). It then sends one command at a time, since the
//! original loses pipelined commands, and replaces the extensions as well as it can: it tries again and again instead
//! of waiting in a queue, and releases a shared lock that has too many holders.
//!
//! # Cargo features
//!
//! - `blocking` (default): the module [`blocking`], for programs that are not asynchronous.
//! - `websocket` (default): endpoints that begin with `ws://`.

#![forbid(unsafe_code)]

// The modules. Each uses only modules below it. `error`, `features`, `key` and `heartbeat` use none of these and are used
// throughout.
//
//       blocking          the same client, with calls that block
//           |
//        queries          listings, counters, ping
//           |
//        client           settings, and the handle that tasks share
//           |
//         lock            acquires a lock: at once, in the server's queue, or by trying again and again
//        /    \
//     pool    guard       opens connections as needed  |  a held lock
//        \    /
//         lease           which locks use which connection
//           |
//      connection         one connection: requests in, replies out
//           |
//         task            owns the wire: sends requests, completes expected replies
//        /    \
//     wire    request     the byte stream: TCP, Unix socket, WebSocket  |  lines to send
//      |        |
//  endpoint  expected     the address of a server  |  replies that the server owes

#[cfg(feature = "blocking")]
pub mod blocking;
mod client;
mod connection;
mod endpoint;
mod error;
mod expected;
mod features;
mod guard;
mod heartbeat;
mod key;
mod lease;
mod lock;
mod pool;
mod queries;
mod request;
mod task;
mod wire;

pub use client::{Builder, Client};
pub use endpoint::{Endpoint, EndpointError};
pub use error::{Error, Lost, Refusal};
pub use features::Features;
pub use glockd_protocol::{LockKind, Verb};
pub use guard::LockGuard;
pub use lock::LockRequest;
pub use queries::{Claim, HeldLock, NamedClient};
