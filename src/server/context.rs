//! The context that the connections of a running server share.

use std::sync::Arc;

use glockd_transports::{Limits, Peer};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tracing::warn;

use crate::core::dispatcher::Dispatcher;
use crate::core::registry::ClientId;
use crate::server::admission::{Admission, Capacity, Permit};
use crate::server::ended_connection::EndedConnection;
use crate::server::log_text::address;
use crate::server::log_throttle::LogThrottle;
use crate::server::tasks::Tasks;

/// Lives as long as the server runs or one of its connections does: the reaper ends when the last
/// reference to it, and with it the last sender of ended connections, is gone. So nothing that may outlive
/// the server may keep one.
pub(crate) struct Context {
    dispatcher: Arc<Dispatcher>,
    limits: Limits,
    admission: Admission,
    tasks: Arc<Tasks>,
    reaper: mpsc::UnboundedSender<EndedConnection>,
    /// Keeps the log short when many connections speak HTTP.
    refused_http: Mutex<LogThrottle>,
}

impl Context {
    /// Returns a context without connections. `reaper` is the queue of the connections that the reaper
    /// has to finish.
    pub(crate) fn new(
        dispatcher: Arc<Dispatcher>,
        limits: Limits,
        capacity: Capacity,
        reaper: mpsc::UnboundedSender<EndedConnection>,
    ) -> Context {
        Context {
            dispatcher,
            limits,
            admission: Admission::new(capacity),
            tasks: Arc::new(Tasks::new()),
            reaper,
            refused_http: Mutex::default(),
        }
    }

    pub(crate) fn dispatcher(&self) -> &Dispatcher {
        &self.dispatcher
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// Returns the tasks of the connections. Unlike the context, they may be kept by a handle that outlives the
    /// server.
    pub(crate) fn tasks(&self) -> &Arc<Tasks> {
        &self.tasks
    }

    /// Admits a connection, or counts that it was refused.
    pub(crate) fn admit(&self, peer: &Peer) -> Option<Permit> {
        let permit = self.admission.admit(peer);
        if permit.is_none() {
            self.dispatcher
                .count_refused_connection(peer.as_str().as_bytes());
        }
        permit
    }

    /// Counts a connection that is closed because it spoke HTTP, and logs that, rate-limited.
    pub(crate) fn refuse_http(&self, client: ClientId) {
        self.dispatcher.count_refused_http();
        if let Some(refused) = self.refused_http.lock().record() {
            let peer = address(&self.dispatcher, client);
            warn!(
                %peer,
                refused,
                "HTTP request on a port for commands, perhaps by a web page: connection closed"
            );
        }
    }

    /// Hands an ended connection to the reaper, which releases the rest of its locks.
    pub(crate) fn hand_to_reaper(&self, ended: EndedConnection) {
        // The reaper is gone only if the runtime itself shuts down, and all state with it.
        let _ = self.reaper.send(ended);
    }

    /// Ends all connections, and lets no more start.
    pub(crate) fn end_connections(&self) {
        // First: at shutdown, connections end one by one, and a lock freed by one must not be granted to
        // a waiter that is about to end.
        self.dispatcher.locks().stop_granting();
        self.tasks.abort_all();
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context as TaskContext, Waker};
    use std::thread;

    use super::*;
    use crate::core::locks::{Attempt, Disconnection, IfBusy};
    use crate::testing::spawn_until_blocked;

    /// The table of locks is closed before the first connection ends.
    #[test]
    fn lock_freed_at_shutdown_is_not_granted_to_a_waiter() {
        let dispatcher = Arc::new(Dispatcher::default());
        let (reaper, _ended) = mpsc::unbounded_channel();
        let context = Context::new(
            Arc::clone(&dispatcher),
            Limits::default(),
            Capacity::default(),
            reaper,
        );
        let locks = dispatcher.locks();
        let [holder, waiter] = ["a", "b"].map(|peer| dispatcher.connect(peer.as_bytes()));
        assert!(locks.get(holder, b"x"));
        let Attempt::Waits(ticket) = locks.get_or_wait(waiter, b"x", IfBusy::Wait) else {
            panic!("another client holds it");
        };
        let mut ticket = Some(ticket);
        thread::scope(|scope| {
            let end = context.tasks.while_locked(|| {
                // Blocked when it is about to abort the tasks.
                let end = spawn_until_blocked(scope, || context.end_connections());
                assert!(dispatcher.disconnect(&mut Disconnection::new(holder), usize::MAX));
                let waker = TaskContext::from_waker(Waker::noop());
                assert!(locks.poll_wait(&mut ticket, &waker).is_pending());
                end
            });
            end.join().unwrap();
        });
        assert_eq!(locks.end_wait(ticket.unwrap()), None);
        assert_eq!(locks.holder(b"x"), None);
    }
}
