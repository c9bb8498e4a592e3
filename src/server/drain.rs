//! Ends a server without ending a connection that holds or waits for a lock.
//!
//! Nothing on the path of commands knows of it: while a server drains, this task searches for idle connections
//! repeatedly.
//! Turned down: a count of the locks that each client holds, which every get and release would have to keep.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::yield_now;
use tokio::time::sleep;

use crate::core::dispatcher::Dispatcher;
use crate::core::registry::{ClientId, ConnectionId};
use crate::server::lifecycle::{Lifecycle, Phase};
use crate::server::tasks::Tasks;

/// Shortest pause between two searches for idle connections.
const PAUSE: Duration = Duration::from_millis(20);

/// A pause is at least this many times as long as the search before it, so that searches take little of a core.
const REST: u32 = 10;

/// Slots of the registry that are visited while it is locked.
const SLOTS: usize = 1024;

/// The parts of a server that a drain needs.
pub(super) struct Drain {
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) tasks: Arc<Tasks>,
    pub(super) lifecycle: Arc<Lifecycle>,
}

impl Drain {
    /// Drains the server. Returns when it has no connection any more, or when it has ended for another reason.
    pub(super) async fn run(self) {
        self.lifecycle.begin_drain();
        self.lifecycle.reached(Phase::Draining).await;
        tokio::select! {
            () = self.end_idle_connections() => self.lifecycle.advance(Phase::Drained),
            _ = self.lifecycle.reached(Phase::Drained) => {}
        }
        if self.lifecycle.phase() > Phase::Drained {
            self.lifecycle.reached(Phase::Ended).await;
        }
    }

    /// Ends connections as they become idle, until none is left.
    async fn end_idle_connections(&self) {
        let registry = self.dispatcher.registry();
        while registry.connections() > 0 {
            let start = Instant::now();
            let busy = self.clients_with_claims().await;
            self.end_connections_except(&busy).await;
            sleep(PAUSE.max(start.elapsed() * REST)).await;
        }
    }

    /// Returns the clients that hold or wait for a lock. A client that gets a lock during the search may be missing.
    async fn clients_with_claims(&self) -> HashSet<ClientId> {
        let locks = self.dispatcher.locks();
        let mut found = HashSet::new();
        let mut shard = 0;
        while locks.visit_clients(shard, |client| found.extend([client])) {
            shard += 1;
            yield_now().await;
        }
        found
    }

    /// Ends the connections of all other clients, unless they hold a lock.
    async fn end_connections_except(&self, busy: &HashSet<ClientId>) {
        let mut next = Some(0);
        while let Some(slot) = next {
            let mut idle = Vec::new();
            next =
                self.dispatcher
                    .registry()
                    .scan_connections(slot, SLOTS, |connection, client| {
                        if !busy.contains(&client) {
                            idle.push((client, connection.id()));
                        }
                    });
            for batch in idle.chunks(self.dispatcher.locks().idle_batch()) {
                self.end_if_idle(batch);
                yield_now().await;
            }
        }
    }

    /// Ends those of the connections that hold no lock.
    fn end_if_idle(&self, connections: &[(ClientId, ConnectionId)]) {
        let clients: Vec<ClientId> = connections.iter().map(|&(client, _)| client).collect();
        let mut aborts = Vec::new();
        self.dispatcher.locks().visit_idle(&clients, |client| {
            // Its id may be another connection's by now, which has had no time to ask for a lock.
            aborts.extend(
                self.dispatcher
                    .registry()
                    .with_client(client, |connection| {
                        connections
                            .contains(&(client, connection.id()))
                            .then(|| self.tasks.prepare_abort(client))
                            .flatten()
                    }),
            );
        });
        // Not before the locks and the registry are unlocked, since ending a connection takes their mutexes.
        for abort in aborts.into_iter().flatten() {
            abort.carry_out();
        }
    }
}
