//! The errors of this crate.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use glockd_protocol::{LockKind, Verb};

use crate::endpoint::{Endpoint, EndpointError};

/// The reason why a call failed.
///
/// `Debug` prints the same text as `Display`, so that a `main` that returns this error prints a readable message.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text given to [`Client::connect`](crate::Client::connect) is not an [`Endpoint`].
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The client could not connect.
    #[error("cannot connect to {endpoint}: {source}")]
    Connect {
        /// The server's address.
        endpoint: Endpoint,
        /// The cause.
        source: io::Error,
    },
    /// The connection is lost.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// The connection is lost, and guards of locks that it held are still alive. The client does not reconnect before
    /// they are dropped, so that no task goes on working as if it still held its lock.
    #[error("the connection was lost while lock guards are still alive: {0}")]
    LocksLost(Lost),
    /// The server refused the lock. See [`Error::is_refusal`].
    #[error("{}", refused(*refusal, *kind, name))]
    Refused {
        /// The reason.
        refusal: Refusal,
        /// The kind of lock.
        kind: LockKind,
        /// The name of the lock.
        name: Vec<u8>,
    },
    /// The server had not answered within a [`wait`](crate::LockRequest::wait) and its grace period: it may hang.
    /// Unlike a refusal, this does not say that the lock is held.
    #[error("the server has not answered within the limit of the wait, {0:?}")]
    Overdue(Duration),
    /// The server says that this connection did not hold the lock that it was told to release.
    #[error("the server says that this connection did not hold the lock {}", .name.escape_ascii())]
    NotHeld {
        /// The name of the lock.
        name: Vec<u8>,
    },
    /// The name contains a line end.
    #[error("a name must not contain a line end: {}", .0.escape_ascii())]
    BadName(Vec<u8>),
    /// The command, including the name, is too long for the server. (Over a WebSocket, the server closes the connection
    /// instead: see [`Lost::TooLong`].) The original accepts lines of 4095 bytes, so this is also the limit for a
    /// server that announces no features.
    #[error("the command is too long: the server accepts lines of at most {limit} bytes")]
    TooLong {
        /// The longest line that the server accepts, in bytes.
        limit: usize,
    },
    /// The [limit](crate::LockRequest::limit) of a shared lock is 0, so that no client could hold it.
    #[error("the limit of holders must be at least 1")]
    ZeroLimit,
    /// The server is configured to refuse this command (`-dump=false`, `-registry=false`).
    #[error("the server does not allow `{}`", .0.as_str())]
    Disabled(Verb),
    /// The server does not have this command: it is the original, or runs with `-extensions=false`.
    #[error("the server does not know `{}`", .0.as_str())]
    Unsupported(Verb),
    /// The blocking client could not start its thread.
    #[error("cannot start a thread: {0}")]
    Runtime(io::Error),
}

/// The reason why the server refused a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// Another connection holds the lock, or a limit of the server is reached (`-max-locks`).
    Held,
    /// The shared lock has as many holders as the [limit](crate::LockRequest::limit) allows, or other clients are
    /// waiting for it.
    Full,
    /// The lock was not free within the [wait](crate::LockRequest::wait).
    Timeout,
    /// The lock has as many waiters as the server allows (`-max-waiters`), or a limit of the server is reached
    /// (`-max-locks`).
    QueueFull,
    /// The server ended the wait.
    Cancelled,
}

fn refused(refusal: Refusal, kind: LockKind, name: &[u8]) -> String {
    let kind = match kind {
        LockKind::Exclusive => "lock",
        LockKind::Shared => "shared lock",
    };
    let why = match refusal {
        Refusal::Held => "is held",
        Refusal::Full => "has as many holders as its limit allows",
        Refusal::Timeout => "was not free in time",
        Refusal::QueueFull => {
            "cannot be waited for: it has too many waiters, or a limit of the server is reached"
        }
        Refusal::Cancelled => "was not acquired: the server cancelled the wait",
    };
    format!("the {kind} {} {why}", name.escape_ascii())
}

impl Error {
    /// Returns true if the server refused the lock because of other clients, and the connection still works.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Error::Refused { .. })
    }
}

/// The reason why a connection is lost, and with it each lock that it held.
///
/// `Debug` prints the same text as `Display`.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Lost {
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// The network failed.
    #[error("the connection broke: {0}")]
    Io(Arc<io::Error>),
    /// The server did not answer for this long: see [`Builder::reply_timeout`](crate::Builder::reply_timeout) and
    /// [`LockRequest::wait`](crate::LockRequest::wait).
    #[error("the server has not answered for {0:?}")]
    Silent(Duration),
    /// The server sent a line that is not a glockd reply, or not the reply to the request.
    #[error("the server sent a line that is not a glockd reply: {}", excerpt(.0))]
    Unexpected(Vec<u8>),
    /// The server closed the connection because the command was too long. No other guard has lost its lock: over a
    /// WebSocket, the client sends long commands on a connection of their own.
    #[error("the command is too long for the server, which closed the connection")]
    TooLong,
    /// This client closed the connection: a task stopped waiting for a lock on it, or nothing used it any more.
    #[error("the client closed the connection")]
    Abandoned,
}

impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl fmt::Debug for Lost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Returns the beginning of a line, escaped.
fn excerpt(line: &[u8]) -> String {
    line[..line.len().min(100)].escape_ascii().to_string()
}

impl From<io::Error> for Lost {
    fn from(error: io::Error) -> Lost {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Lost::Closed,
            _ => Lost::Io(Arc::new(error)),
        }
    }
}
