//! What can go wrong.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use glockd_protocol::{LockKind, Verb};

use crate::Endpoint;
use crate::endpoint::EndpointError;

/// Why something could not be done.
///
/// `Debug` prints what `Display` does, so that a `main` that returns this error says it in plain words.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What was to be connected to is no [`Endpoint`].
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// There is no connection to be had.
    #[error("cannot connect to {endpoint}: {source}")]
    Connect {
        /// Where to.
        endpoint: Endpoint,
        /// Why not.
        source: io::Error,
    },
    /// The connection is gone.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// The connection is gone, and guards of locks that went with it are still there: drop them before there is
    /// a new one, so that nobody goes on as if nothing had happened.
    #[error("the connection was lost with locks that somebody still believes to hold: {0}")]
    LocksLost(Lost),
    /// The server did not give the lock. See [`Error::is_refusal`].
    #[error("{}", refused(*refusal, *kind, name))]
    Refused {
        /// Why.
        refusal: Refusal,
        /// Of which kind it is.
        kind: LockKind,
        /// Its name.
        name: Vec<u8>,
    },
    /// The server has not answered within the limit of a [`wait`](crate::LockRequest::wait), and some more: it may stand
    /// still. Nobody has said that the lock is held.
    #[error("the server has not answered within the limit of the wait, {0:?}")]
    Overdue(Duration),
    /// The server says that this connection did not hold the lock that was to be released.
    #[error("the server says that the lock {} was not held here", .name.escape_ascii())]
    NotHeld {
        /// Its name.
        name: Vec<u8>,
    },
    /// The name holds a line end.
    #[error("a name has no line end in it: {}", .0.escape_ascii())]
    BadName(Vec<u8>),
    /// The name is too long for the server. (Over a WebSocket it can only hang up: see [`Lost::TooLong`].) The original
    /// takes 4095 bytes, and so does, for all that is known, whatever may be the original.
    #[error("that is too long for the server, which takes lines of {limit} bytes")]
    TooLong {
        /// What the server takes, in bytes, the command included.
        limit: usize,
    },
    /// A shared lock that nobody may hold.
    #[error("a limit of 0 lets nobody hold the lock")]
    ZeroLimit,
    /// The server was told not to answer this (`-dump=false`, `-registry=false`).
    #[error("the server does not allow `{}`", .0.as_str())]
    Disabled(Verb),
    /// The server has no such command: it is the original, or runs with `-extensions=false`.
    #[error("the server does not know `{}`", .0.as_str())]
    Unsupported(Verb),
    /// The blocking client could not start its thread.
    #[error("cannot start a thread: {0}")]
    Runtime(io::Error),
}

/// Why the server did not give a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// Another connection holds it, or a limit of the server's is reached (`-max-locks`).
    Held,
    /// As many hold the shared lock as were to, or somebody waits for it.
    Full,
    /// It was not to be had in time.
    Timeout,
    /// As many wait as may (`-max-waiters`), or a limit of the server's is reached (`-max-locks`).
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
        Refusal::Full => "is held by as many as may",
        Refusal::Timeout => "was not free in time",
        Refusal::QueueFull => {
            "cannot be waited for: as many wait as may, or a limit of the server's is reached"
        }
        Refusal::Cancelled => "is waited for no more: the server cancelled it",
    };
    format!("the {kind} {} {why}", name.escape_ascii())
}

impl Error {
    /// Whether all is well, but for the lock, which others have.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Error::Refused { .. })
    }
}

/// Why a connection, and each lock that was held through it, is gone.
///
/// `Debug` prints what `Display` does.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Lost {
    /// The server closed it.
    #[error("the server closed the connection")]
    Closed,
    /// The network failed.
    #[error("the connection broke: {0}")]
    Io(Arc<io::Error>),
    /// The server did not answer for so long: see [`Builder::reply_timeout`](crate::Builder::reply_timeout) and
    /// [`LockRequest::wait`](crate::LockRequest::wait).
    #[error("the server has not answered for {0:?}")]
    Silent(Duration),
    /// What came is no answer of glockd's.
    #[error("that is no answer of glockd's: {}", shown(.0))]
    Unexpected(Vec<u8>),
    /// The server closed it because what was sent is too long for it. No other guard has lost its lock: what is long is
    /// sent, over a WebSocket, on a connection of its own.
    #[error("that is too long for the server, which closed the connection")]
    TooLong,
    /// It was closed here: somebody waited for a lock on it and does no more, or nobody wanted it any more.
    #[error("the connection was closed here")]
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

/// As much of a line as helps.
fn shown(line: &[u8]) -> String {
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
