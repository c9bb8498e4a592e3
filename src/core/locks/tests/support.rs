//! Helpers of the tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};

use glockd_protocol::LockKind;

use crate::core::locks::{Attempt, Disconnection, LockTable, OrphanCounts, WaitHandle};
use crate::core::registry::{ClientId, Registry};

/// Makes the ids of this many clients.
pub(super) fn clients(count: usize) -> Vec<ClientId> {
    let registry = Registry::default();
    (0..count).map(|_| registry.add(b"x")).collect()
}

/// A task that records whether it was woken.
#[derive(Default)]
pub(super) struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

impl Woken {
    /// Returns true if the task was woken.
    pub(super) fn get(&self) -> bool {
        self.0.load(SeqCst)
    }

    /// Returns true if the task was woken since the last call.
    pub(super) fn take(&self) -> bool {
        self.0.swap(false, SeqCst)
    }
}

/// Polls a wait for this task.
pub(super) fn poll(
    table: &LockTable,
    handle: &mut Option<WaitHandle>,
    task: &Arc<Woken>,
) -> Poll<u32> {
    let waker = Waker::from(Arc::clone(task));
    table.poll_wait(handle, &Context::from_waker(&waker))
}

/// Returns the handle of a wait that has begun.
#[track_caller]
pub(super) fn wait_handle(attempt: Attempt) -> Option<WaitHandle> {
    match attempt {
        Attempt::Waits(handle) => Some(handle),
        other => panic!("the client does not wait: {other:?}"),
    }
}

/// Releases all locks of a client.
pub(super) fn disconnect(table: &LockTable, client: ClientId) -> OrphanCounts {
    let mut disconnection = Disconnection::new(client);
    table.release_some(&mut disconnection, usize::MAX);
    assert!(disconnection.is_complete());
    disconnection.orphans()
}

/// Asserts that nobody holds a lock or waits for one, and that the quota of this many locks is unused.
#[track_caller]
pub(super) fn assert_as_new(table: &LockTable, client: ClientId, max_locks: usize) {
    for kind in [LockKind::Exclusive, LockKind::Shared] {
        assert_eq!(table.count(kind), 0);
    }
    assert!(
        table
            .shards
            .iter()
            .all(|shard| shard.lock().queues.is_none())
    );
    let got = (0..=max_locks).filter(|number| table.get(client, number.to_string().as_bytes()));
    assert_eq!(got.count(), max_locks);
}
