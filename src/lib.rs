//! glockd, a network lock daemon, as a library: a [`Server`] to embed, and the pieces it is made of.
//!
//! ```text
//!    TCP   Unix   memory   (your own)        glockd-transports   accept byte streams
//!      \     |      |        /
//!     lines   WebSocket   (your own)         glockd-transports   handshake, framing
//!                    |  Session: a batch of frames at a time
//!             connection loop                the only place that waits for a peer, both ways
//!                    |  one frame
//!             protocol::parse                glockd-protocol     bytes -> Command
//!                    |  Command
//!             Dispatcher  <- Policy          Command -> Reply, no I/O
//!               |      |      |
//!          LockTable Registry Stats          plain data structures
//!                    |  Reply
//!             Reply::encode                  glockd-protocol     the only home of reply text
//! ```
//!
//! The other side is `glockd-client`, and the command `glock` is made of it.
//!
//! A server takes any number of transports, its own or yours:
//!
//! ```
//! use glockd::{Memory, Server};
//! use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (memory, connector) = Memory::new();
//! let server = Server::builder().transport(memory).bind().await?;
//! let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
//! let running = tokio::spawn(server.run(async { drop(stopped.await) }));
//!
//! let mut client = BufReader::new(connector.connect()?);
//! client.write_all(b"g foo\n").await?;
//! let mut reply = String::new();
//! client.read_line(&mut reply).await?;
//! assert_eq!(reply, "1 Lock Get Success: foo\n");
//!
//! drop(stop);
//! running.await?;
//! # Ok(())
//! # }
//! ```

pub mod core;
mod server;
#[cfg(test)]
mod testing;

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
