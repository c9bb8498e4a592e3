//! The trait [`Transport`], and what passes from a transport to the server.

use std::future::ready;
use std::io;
use std::pin::Pin;

use async_trait::async_trait;
use tokio_stream::{Stream, StreamExt};

use crate::address::{Address, Peer};
use crate::limits::Limits;
use crate::session::Session;

/// A way to connect to a server: listens, and yields connections that are about to become sessions.
///
/// Object-safe, so that a server takes any number of `Box<dyn Transport>` of any kind.
#[async_trait]
pub trait Transport: Send {
    /// Returns the kind of the transport for the log, such as `tcp` or `unix`.
    fn name(&self) -> &str;

    /// Starts to listen. When this returns, clients can connect.
    ///
    /// Called once, within a tokio runtime with I/O and time enabled. Dropping the [`Incoming`] stream, or this
    /// future before it is ready, releases what the transport has claimed, such as a port or a socket file.
    ///
    /// # Errors
    ///
    /// A [`BindError`] ends the start of the server. The transport must leave nothing behind.
    async fn listen(self: Box<Self>, limits: Limits) -> Result<Listener, BindError>;
}

/// A transport that has started to listen.
///
/// A transport yields [`Pending`] connections; other items are steps on the way there, such as byte streams.
pub struct Listener<T = Pending> {
    /// The actual address: with the port that the system chose for port 0.
    pub address: Address,
    /// Connections that arrive.
    pub incoming: Incoming<T>,
}

impl<T: 'static> Listener<T> {
    /// Converts each item that arrives.
    pub fn map<U>(self, map: impl FnMut(T) -> U + Send + 'static) -> Listener<U> {
        let mut map = map;
        Listener {
            address: self.address,
            incoming: Box::pin(self.incoming.map(move |item| item.map(&mut map))),
        }
    }
}

/// Connections that arrive.
///
/// An error is one failed accept (out of descriptors, or a peer that reset the connection before it was accepted).
/// The server logs it, pauses and polls again, so a transport must not retry, log, or end its stream for it. The end
/// of the stream means that no more connections will arrive; the server then continues with its other transports.
pub type Incoming<T = Pending> = Pin<Box<dyn Stream<Item = io::Result<T>> + Send>>;

/// An accepted connection before its handshake.
///
/// Dropping it closes the connection without telling the peer why.
pub struct Pending {
    /// Where it comes from.
    pub peer: Peer,
    /// The handshake that makes it a session.
    pub handshake: Box<dyn Handshake>,
}

impl Pending {
    /// Returns a connection that needs a handshake.
    pub fn new(peer: Peer, handshake: impl Handshake + 'static) -> Pending {
        Pending {
            peer,
            handshake: Box::new(handshake),
        }
    }

    /// Returns a connection that needs no handshake. A refusal just closes it.
    pub fn ready(peer: Peer, session: impl Session + 'static) -> Pending {
        Pending::new(peer, ready(Ok(Some(Established::new(session)))))
    }

    /// Refuses the connection because a limit is reached: see [`Handshake::refuse`].
    pub fn refuse(self) {
        self.handshake.refuse();
    }
}

/// The step that makes an accepted connection a session, or refuses it.
#[async_trait]
pub trait Handshake: Send {
    /// Makes the connection a session. `None` means that the peer asked for something else and was answered, as a
    /// plain HTTP request on a WebSocket port is.
    ///
    /// The server runs it apart from accepting, and under a time limit, so it may be dropped at any point. A
    /// handshake that is ready at the first poll costs no task.
    ///
    /// # Errors
    ///
    /// The server logs the error and drops the connection.
    async fn establish(self: Box<Self>) -> io::Result<Option<Established>>;

    /// Closes the connection because the server has reached a limit. A transport that can tell its peer the reason
    /// (a WebSocket by status 503) does so here. Must not block: the server calls this between two accepts.
    fn refuse(self: Box<Self>) {}
}

/// Result of a handshake: the session, and the peer's identity.
pub struct Established {
    /// The session.
    pub session: Box<dyn Session>,
    /// The peer's identity.
    pub identity: Identity,
}

impl Established {
    /// Returns a session whose peer has not identified itself.
    pub fn new(session: impl Session + 'static) -> Established {
        Established {
            session: Box::new(session),
            identity: Identity::default(),
        }
    }

    /// Sets the peer's identity.
    pub fn with_identity(self, identity: Identity) -> Established {
        Established { identity, ..self }
    }
}

/// A future is a handshake that tells a refused peer nothing.
#[async_trait]
impl<F: Future<Output = io::Result<Option<Established>>> + Send> Handshake for F {
    async fn establish(self: Box<Self>) -> io::Result<Option<Established>> {
        (*self).await
    }
}

/// Who a peer is, as far as its handshake has settled it.
///
/// Empty for now: no handshake authenticates a peer yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {}

/// The reason why a transport could not listen. The text names the address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The operating system refused.
    #[error("cannot listen on {address}: {source}")]
    Refused {
        /// Where the transport was to listen.
        address: Address,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Another process answers on this Unix socket.
    #[error("cannot listen on {address}: another process listens there")]
    InUse {
        /// Where the transport was to listen.
        address: Address,
    },
    /// The path of the Unix socket is a file that is not a socket. The file was left alone.
    #[error("cannot listen on {address}: the file there is not a socket")]
    NotASocket {
        /// Where the transport was to listen.
        address: Address,
    },
    /// The path or the abstract name of a Unix socket is longer than the kernel accepts.
    #[error(
        "cannot listen on {address}: it has {length} bytes, and a Unix socket takes at most {limit}"
    )]
    TooLong {
        /// Where the transport was to listen.
        address: Address,
        /// Length of the path or name in bytes.
        length: usize,
        /// Maximum length in bytes.
        limit: usize,
    },
    /// A socket from the standard library is of another kind than its type says.
    #[error("cannot listen on {address}: it is not a {expected} socket")]
    WrongSocket {
        /// The socket's descriptor.
        address: Address,
        /// The kind of socket that it should be.
        expected: &'static str,
    },
    /// A socket from the standard library does not listen.
    #[error("cannot listen on {address}: the socket does not listen")]
    NotListening {
        /// The socket's descriptor.
        address: Address,
    },
}
