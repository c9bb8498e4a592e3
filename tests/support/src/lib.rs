//! Parts that the tests of the workspace share: limits in time, child processes, daemons, and clients that speak lines.
//!
//! This is a crate and not a module of each test binary: it is compiled once, both the daemon's and the client's tests
//! can use it, and what one binary does not use is not dead code there.

// Everything here is called by tests, which fail by a panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod client;
mod daemon;
mod process;
mod time;

pub use client::{Client, WebSocketClient, connect_tcp, knock};
pub use daemon::{Daemon, SocketDaemon, free_ports, retry, run, run_after, run_arguments};
pub use process::{Finished, Process, binary, finish};
pub use time::{PATIENCE, wait_until, within};
