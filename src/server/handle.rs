//! A handle to a server, by which an embedder inspects and ends it.

use std::sync::Arc;
use std::time::Duration;

use crate::core::dispatcher::Dispatcher;
use crate::core::registry::{Client, ConnectionId};
use crate::core::statistics::Statistics;
use crate::server::drain::Drain;
use crate::server::lifecycle::{Lifecycle, Phase};
use crate::server::tasks::Tasks;

/// Slots of the registry that are visited while it is locked.
const SLOTS: usize = 1024;

/// A handle to a [`Server`](crate::Server), made by [`Server::handle`](crate::Server::handle).
///
/// It is cheap to clone and can be used from any thread, before, while and after the server runs. It does not keep
/// the server running. Before the server runs, and after it has ended, it has no connections; its
/// statistics remain readable.
#[derive(Clone, Debug)]
pub struct Handle {
    dispatcher: Arc<Dispatcher>,
    tasks: Arc<Tasks>,
    lifecycle: Arc<Lifecycle>,
}

/// A connection of a server, as it was when [`Handle::connections`] saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// Number of the connection, for [`Handle::disconnect`].
    pub id: ConnectionId,
    /// Address that clients are shown: `127.0.0.1:57871`, `unix:3`.
    pub address: String,
    /// Name that the client registered by `iam`, in the bytes that it sent.
    pub name: Option<Vec<u8>>,
    /// Time since the connection was made, to the millisecond.
    pub age: Duration,
}

impl Handle {
    pub(super) fn new(
        dispatcher: Arc<Dispatcher>,
        tasks: Arc<Tasks>,
        lifecycle: Arc<Lifecycle>,
    ) -> Handle {
        Handle {
            dispatcher,
            tasks,
            lifecycle,
        }
    }

    /// Returns the counters of the server, as `q` shows them.
    ///
    /// It visits all shards of the table of locks and the counters of all threads, which takes some microseconds.
    pub fn statistics(&self) -> Statistics {
        self.dispatcher.statistics()
    }

    /// Returns all connections, in no particular order. A connection that is made or ends meanwhile may be missing.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        let registry = self.dispatcher.registry();
        let mut found = Vec::new();
        let mut next = Some(0);
        while let Some(slot) = next {
            next = registry.scan_connections(slot, SLOTS, |client, _| {
                found.push(ConnectionInfo {
                    id: client.id(),
                    address: String::from_utf8_lossy(client.address()).into_owned(),
                    name: client.name().map(|name| name.to_vec()),
                    age: registry.age(client.id()),
                });
            });
        }
        found
    }

    /// Ends a connection, as if its peer had closed it: its locks are released and counted as orphans, soon after this
    /// has returned. Returns false if there is no such connection, or if it has already ended.
    ///
    /// A command of the client that is being carried out may still be, but its reply may not be sent any more.
    pub fn disconnect(&self, id: ConnectionId) -> bool {
        let registry = self.dispatcher.registry();
        let mut abort = None;
        let mut next = Some(0);
        while abort.is_none()
            && let Some(slot) = next
        {
            next = registry.scan_connections(slot, SLOTS, |connection: &Client, client| {
                if connection.id() == id {
                    abort = self.tasks.prepare_abort(client);
                }
            });
        }
        // Not while the registry is locked, since ending a connection takes its mutex.
        abort.map(|abort| abort.carry_out()).is_some()
    }

    /// Drains the server, which ends it without cutting off a client that relies on a lock. It accepts no more
    /// connections, and stops listening. It ends each connection as soon as that holds no lock and waits for none; until
    /// then the connection is served as before, and may get other locks. When no connection is left, the future
    /// completes, and [`Server::run`](crate::Server::run) returns [`Drained`](crate::StopReason::Drained).
    ///
    /// How long that takes is up to the clients, so an embedder will set a limit, and then call
    /// [`shutdown`](Handle::shutdown). That ends a drain: the future then completes when the server has ended. Before the
    /// server runs there is nothing to wait for, and `run` will return at once. After it has ended, the future completes
    /// at once.
    ///
    /// The drain begins when the future is first polled, in a tokio runtime with timers. If the future is dropped, the
    /// server ends no more connections, but neither does it listen again; another call goes on with the drain.
    ///
    /// A connection is idle if it holds and waits for nothing at one moment. If its client sends a command at that very
    /// moment, the connection may end before the reply is sent, or in the midst of a listing.
    pub fn drain(&self) -> impl Future<Output = ()> + Send + use<> {
        let drain = Drain {
            dispatcher: Arc::clone(&self.dispatcher),
            tasks: Arc::clone(&self.tasks),
            lifecycle: Arc::clone(&self.lifecycle),
        };
        drain.run()
    }

    /// Tells the server to end, as the future given to [`Server::run`](crate::Server::run) does by completing. Returns
    /// at once; `run` returns once the server has ended.
    ///
    /// Before `run` is called, this makes it return without accepting a connection. After the server has ended, this
    /// does nothing.
    pub fn shutdown(&self) {
        self.lifecycle.advance(Phase::Stopping);
    }
}
