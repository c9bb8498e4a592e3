//! glockd, a network lock daemon, as a library: a [`Server`] to embed.
//!
//! ```text
//!  listeners     Tcp   Unix   Memory   (your own)           glockd-transports    accept
//!                  \    |      |      /
//!  framing           Lines     WebSocket    (your own)       glockd-transports    byte stream -> Session
//!                       \     /
//!  accept loop           accept  <- Admission                limits, handshakes
//!                          |
//!  connection          Connection                            the only place that awaits a peer
//!                          |  one frame
//!  protocol              parse                               glockd-protocol      bytes -> Command, no I/O
//!                          |  Command
//!  core                 Dispatcher  <- Policy                Command -> Outcome, no I/O
//!                      /    |     \
//!             LockTable  Registry  Counters  -> Observer     plain data
//!                          |  Reply
//!  protocol           Reply::encode                          glockd-protocol      the only home of reply text
//! ```
//!
//! The client library is `glockd-client`; the command `glock` is made of it. Without the default features, this crate is
//! the server alone, and builds nothing that only the two commands need.
//!
//! # A server in a program
//!
//! [`Server::builder`] takes any number of [transports](Transport), those of this crate or others, and
//! [`bind`](Builder::bind) makes the server. [`Server::run`] runs it. A [`Handle`] gives statistics and connections,
//! disconnects a client, and drains or shuts down the server. An [`Observer`] gets its events.
//!
//! ```
//! use glockd::{Memory, Server};
//! use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (memory, connector) = Memory::new();
//! let server = Server::builder().transport(memory).bind().await?;
//! let handle = server.handle();
//! let running = tokio::spawn(server.run(std::future::pending()));
//!
//! let mut client = BufReader::new(connector.connect()?);
//! client.write_all(b"g foo\n").await?;
//! let mut reply = String::new();
//! client.read_line(&mut reply).await?;
//! assert_eq!(reply, "1 Lock Get Success: foo\n");
//! assert_eq!(handle.statistics().locks, 1);
//!
//! handle.shutdown();
//! running.await?;
//! # Ok(())
//! # }
//! ```
//!
//! The directory `examples/` has a program for each task: statistics, events, a graceful stop, a transport and a framing
//! of one's own.

#![forbid(unsafe_code)]

mod core;
mod server;
#[cfg(test)]
mod testing;

/// Not a part of the interface: the core, public for the benchmarks, fuzz targets and tests of this repository, and changed
/// without notice. What an embedder needs of it is re-exported.
#[doc(hidden)]
pub mod internals {
    pub use crate::core::{cursor, dispatcher, locks, registry, state, ticket};
}

pub use core::locks::LockLimits;
pub use core::observer::{Event, GrantDelay, LockLimit, Observer};
pub use core::policy::{Permission, Policy};
pub use core::registry::ConnectionId;
pub use core::statistics::Statistics;
pub use glockd_protocol as protocol;
pub use glockd_transports as transports;
pub use glockd_transports::{
    Address, BindError, Connector, Limits, LineSession, Memory, Tcp, Transport, Unix, WebSocket,
};
pub use server::{Builder, ConnectionInfo, FenceError, FenceFile, Handle, Server, StopReason};

/// The Rust of the pages in `docs/` is compiled with the tests.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../docs/embed.md")]
    struct Embed;
    #[doc = include_str!("../docs/rust-client.md")]
    struct RustClient;
}
