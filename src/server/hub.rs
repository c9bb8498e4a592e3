//! What the connections of a running server share.

use std::sync::Arc;

use glockd_transports::{Limits, Peer};
use parking_lot::Mutex;
use slab::Slab;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::warn;

use crate::core::dispatcher::Dispatcher;
use crate::core::registry::ClientId;
use crate::server::admission::{Admission, Admitted, Capacity, Permit};
use crate::server::connection::{Connection, address};
use crate::server::log_throttle::LogThrottle;
use crate::server::reaper::Orphan;

/// Lives as long as the server runs or one of its connections does. The reaper, which outlives it, knows
/// by that when its work is done.
pub(crate) struct Hub {
    dispatcher: Arc<Dispatcher>,
    limits: Limits,
    admission: Admission,
    orphans: mpsc::UnboundedSender<Orphan>,
    /// Keeps the log short where connections speak HTTP.
    refused_http: Mutex<LogThrottle>,
    /// The task of each connection; `None` once the server has begun to end, when no more may start.
    ///
    /// A table of handles costs a connection 16 bytes. A signal that each awaits beside its input would
    /// cost it a place in a list, to be entered and left with every batch.
    tasks: Mutex<Option<Slab<Task>>>,
}

/// A connection's task, as its [`Hub`] sees it.
enum Task {
    /// About to be spawned.
    Starting,
    /// Spawned; this ends it.
    Running(AbortHandle),
    /// Over before it was seen to run.
    Over,
}

/// What a connection's task is known by. Memory for 2³² connections is nowhere, so 32 bits hold it.
#[derive(Clone, Copy)]
pub(crate) struct TaskId(u32);

impl TaskId {
    fn index(self) -> usize {
        self.0 as usize
    }
}

impl Hub {
    pub(crate) fn new(
        dispatcher: Arc<Dispatcher>,
        limits: Limits,
        capacity: Capacity,
        orphans: mpsc::UnboundedSender<Orphan>,
    ) -> Hub {
        Hub {
            dispatcher,
            limits,
            admission: Admission::new(capacity),
            orphans,
            refused_http: Mutex::default(),
            tasks: Mutex::new(Some(Slab::new())),
        }
    }

    pub(crate) fn dispatcher(&self) -> &Dispatcher {
        &self.dispatcher
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// Lets a connection in, or counts that it was refused.
    pub(crate) fn admit(&self, peer: &Peer) -> Option<Permit> {
        let permit = self.admission.admit(peer);
        if permit.is_none() {
            self.dispatcher.refuse();
        }
        permit
    }

    /// Counts a connection that is closed because it spoke HTTP, and says so in the log, unless that was said a
    /// moment ago.
    pub(crate) fn refuse_http(&self, client: ClientId) {
        self.dispatcher.refuse_http();
        if let Some(refused) = self.refused_http.lock().happened() {
            let peer = address(&self.dispatcher, client);
            warn!(
                %peer,
                refused,
                "HTTP request on a port for commands, perhaps by a web page: connection closed"
            );
        }
    }

    /// Serves the session of a connection that was let in, in a task of its own.
    pub(crate) fn serve(self: &Arc<Hub>, peer: &Peer, session: Admitted) {
        let Some(task) = self
            .tasks
            .lock()
            .as_mut()
            .map(|tasks| TaskId(tasks.insert(Task::Starting) as u32))
        else {
            return;
        };
        let connection = Connection::new(peer, session, Arc::clone(self), task);
        // Not under the mutex: a runtime that is going drops the task at once, which then is over.
        // Boxed, because tokio aligns what it spawns to 128 bytes, and an allocator pads that.
        let handle = tokio::spawn(Box::pin(connection.serve())).abort_handle();
        match self.tasks.lock().as_mut() {
            None => handle.abort(),
            Some(tasks) => match &mut tasks[task.index()] {
                Task::Over => {
                    tasks.remove(task.index());
                }
                place => *place = Task::Running(handle),
            },
        }
    }

    /// Forgets the task of a connection, which is over.
    pub(crate) fn forget(&self, task: TaskId) {
        if let Some(tasks) = self.tasks.lock().as_mut() {
            match &mut tasks[task.index()] {
                // Whoever started it will look at this place once more.
                place @ Task::Starting => *place = Task::Over,
                _ => {
                    tasks.remove(task.index());
                }
            }
        }
    }

    /// Leaves the end of a connection to the reaper.
    pub(crate) fn leave_to_reaper(&self, orphan: Orphan) {
        // There is no reaper only if the runtime itself is going, and all state with it.
        let _ = self.orphans.send(orphan);
    }

    /// Ends all connections, and starts no more.
    pub(crate) fn end(&self) {
        // First, or who waits would get the lock of whoever ends before, and say so.
        self.dispatcher.locks().close();
        let tasks = self.tasks.lock().take();
        for (_, task) in tasks.into_iter().flatten() {
            if let Task::Running(handle) = task {
                handle.abort();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};
    use std::thread;

    use super::*;
    use crate::core::dispatcher::Departure;
    use crate::core::locks::Attempt;
    use crate::testing::spawn_until_blocked;

    /// The table is closed before the first connection ends.
    #[test]
    fn a_lock_that_is_freed_by_the_end_is_granted_to_no_waiter() {
        let dispatcher = Arc::new(Dispatcher::default());
        let (orphans, _arrivals) = mpsc::unbounded_channel();
        let hub = Hub::new(
            Arc::clone(&dispatcher),
            Limits::default(),
            Capacity::default(),
            orphans,
        );
        let locks = dispatcher.locks();
        let [holder, waiter] = ["a", "b"].map(|peer| dispatcher.connect(&Peer::new(peer)));
        assert!(locks.get(holder, b"x"));
        let Attempt::Waits(ticket) = locks.get_or_wait(waiter, b"x", true) else {
            panic!("it is held by another");
        };
        let mut ticket = Some(ticket);
        thread::scope(|scope| {
            let tasks = hub.tasks.lock();
            // It is about to end the connections.
            let end = spawn_until_blocked(scope, || hub.end());
            assert!(dispatcher.disconnect(&mut Departure::new(holder), usize::MAX));
            let context = Context::from_waker(Waker::noop());
            assert!(locks.poll(&mut ticket, &context).is_pending());
            drop(tasks);
            end.join().unwrap();
        });
        assert_eq!(locks.give_up(ticket.unwrap()), None);
        assert_eq!(locks.holder(b"x"), None);
    }
}
