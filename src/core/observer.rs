//! The events of a server, and their observer.
//!
//! A grant or a release is observed where it is decided, under the mutex of the lock's shard. That gives the events of a
//! lock the order in which they happened, and lets none come after the reply that tells a client of it. Turned down: a
//! queue of events, in which another thread's grant could stand before the release that made it possible, and which
//! grows without bound if the observer is slow.

use std::fmt::{self, Debug};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use glockd_protocol::{LockKind, Verb};
use parking_lot::RwLock;

use crate::core::registry::{ClientId, ConnectionId};

/// An observer of what happens in a server. Set by [`Builder::observer`](crate::Builder::observer).
///
/// # Order
///
/// - The events of one lock come in the order in which they happened: a [`Released`](Event::Released) comes before the
///   [`Granted`](Event::Granted) that it makes possible.
/// - The events of one connection come in the order in which they happened. [`Connected`](Event::Connected) is the
///   first, and [`Disconnected`](Event::Disconnected) the last, after an [`Orphaned`](Event::Orphaned) for each lock that
///   the connection held.
/// - An event comes before the reply that tells a client of it.
/// - Events of different locks and connections may come at the same time, on several threads.
///
/// # Cost
///
/// [`event`](Observer::event) runs on the thread that serves the connection. For events of locks, the lock's shard is
/// locked meanwhile: all other commands on the names of that shard, at most one name in 64, wait until it returns.
/// So an observer must be quick. If it has more to do than count, let it send a message to a thread or task of its own.
///
/// It must not call the [`Handle`](crate::Handle) of its server, which would wait for the shard for ever. A panic of an
/// observer is caught and has no effect.
pub trait Observer: Send + Sync {
    /// Observes one event.
    fn event(&self, event: &Event<'_>);
}

/// Something that happened in a server. Names of locks are the bytes that clients send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A connection was made, and its handshake is done.
    #[non_exhaustive]
    Connected {
        /// The connection.
        connection: ConnectionId,
        /// Address that clients are shown.
        address: &'a [u8],
    },
    /// A connection has ended, and all its locks are released.
    #[non_exhaustive]
    Disconnected {
        /// The connection.
        connection: ConnectionId,
    },
    /// A connection was refused, because there are as many as the server may have.
    #[non_exhaustive]
    ConnectionRefused {
        /// Address of the peer.
        address: &'a [u8],
    },
    /// A client was granted a lock. If it held the lock already, a get is no event.
    #[non_exhaustive]
    Granted {
        /// The client's connection.
        connection: ConnectionId,
        /// The kind of lock.
        kind: LockKind,
        /// The name of the lock.
        name: &'a [u8],
        /// Whether the client waited for it.
        delay: GrantDelay,
    },
    /// A client began to wait for a lock. Then it is granted the lock, or the wait ends by
    /// [`WaitEnded`](Event::WaitEnded). A wait only to see a lock free (`iw`, `siw`) is no event.
    #[non_exhaustive]
    WaitBegun {
        /// The client's connection.
        connection: ConnectionId,
        /// The kind of lock.
        kind: LockKind,
        /// The name of the lock.
        name: &'a [u8],
    },
    /// A client waits for a lock no more, and was not granted it: its time was over, or it cancelled the wait or closed
    /// the connection.
    #[non_exhaustive]
    WaitEnded {
        /// The client's connection.
        connection: ConnectionId,
        /// The kind of lock.
        kind: LockKind,
        /// The name of the lock.
        name: &'a [u8],
    },
    /// A client released a lock.
    #[non_exhaustive]
    Released {
        /// The client's connection.
        connection: ConnectionId,
        /// The kind of lock.
        kind: LockKind,
        /// The name of the lock.
        name: &'a [u8],
    },
    /// A lock was released because its client's connection had ended.
    #[non_exhaustive]
    Orphaned {
        /// The client's connection.
        connection: ConnectionId,
        /// The kind of lock.
        kind: LockKind,
        /// The name of the lock.
        name: &'a [u8],
    },
    /// A client was refused a lock because of a limit. A lock that another client holds is no event.
    #[non_exhaustive]
    LockRefused {
        /// The client's connection.
        connection: ConnectionId,
        /// The kind of lock.
        kind: LockKind,
        /// The name of the lock.
        name: &'a [u8],
        /// The limit that was reached.
        limit: LockLimit,
    },
    /// A client sent a command that is disabled.
    #[non_exhaustive]
    CommandRefused {
        /// The client's connection.
        connection: ConnectionId,
        /// The command.
        verb: Verb,
    },
}

/// Whether a client waited for a lock that it was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantDelay {
    /// It did not wait.
    Immediate,
    /// It waited.
    Waited,
}

/// A limit for which a lock was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockLimit {
    /// The maximum number of locks, of the server or of the connection.
    Locks,
    /// The maximum number of waiters for one lock.
    Waiters,
}

/// The destination of events: an observer, or none.
#[derive(Clone, Default)]
pub struct Events(Option<Arc<Observed>>);

struct Observed {
    observer: Box<dyn Observer>,
    /// Numbers of the live connections, by the index of the client.
    connections: RwLock<Vec<Option<ConnectionId>>>,
}

impl Events {
    /// Events that go to this observer.
    pub fn to(observer: Box<dyn Observer>) -> Events {
        Events(Some(Arc::new(Observed {
            observer,
            connections: RwLock::default(),
        })))
    }

    /// Returns whether there is an observer.
    pub(crate) fn are_observed(&self) -> bool {
        self.0.is_some()
    }

    /// Emits the first event of a connection.
    pub(crate) fn emit_connected(
        &self,
        client: ClientId,
        connection: ConnectionId,
        address: &[u8],
    ) {
        if let Some(observed) = &self.0 {
            let mut connections = observed.connections.write();
            if connections.len() <= client.index() {
                connections.resize(client.index() + 1, None);
            }
            connections[client.index()] = Some(connection);
            drop(connections);
            observed.emit(&Event::Connected {
                connection,
                address,
            });
        }
    }

    /// Emits an event of a connection, if there is an observer.
    #[inline(always)]
    pub(crate) fn emit<'a>(&self, client: ClientId, event: impl FnOnce(ConnectionId) -> Event<'a>) {
        if let Some(observed) = &self.0 {
            observed.emit_of(client, event);
        }
    }

    /// Emits the refusal of a connection.
    pub(crate) fn emit_connection_refused(&self, address: &[u8]) {
        if let Some(observed) = &self.0 {
            observed.emit(&Event::ConnectionRefused { address });
        }
    }
}

impl Observed {
    #[cold]
    fn emit_of<'a>(&self, client: ClientId, event: impl FnOnce(ConnectionId) -> Event<'a>) {
        let connection = self.connections.read().get(client.index()).copied();
        // The clients of a server have connections; those of a table of locks in a test may have none.
        if let Some(connection) = connection.flatten() {
            self.emit(&event(connection));
        }
    }

    fn emit(&self, event: &Event<'_>) {
        // A panic would leave the lock half granted or half released. It has been reported by the panic hook.
        let _ = catch_unwind(AssertUnwindSafe(|| self.observer.event(event)));
    }
}

impl Debug for Events {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tuple = formatter.debug_tuple("Events");
        tuple.field(&self.are_observed()).finish()
    }
}
