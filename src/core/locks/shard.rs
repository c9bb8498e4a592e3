//! One shard of the table: its held locks and its waiters.

use parking_lot::{Mutex, MutexGuard};

use super::exclusive::Exclusive;
use super::key::Key;
use super::queue::WaitQueues;
use super::shared::Shared;
use super::stamp::Stamp;

/// A shard. It is aligned to two cache lines, because processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Shard(Mutex<ShardState>);

/// The locks of a shard. One kind of lock is one field.
#[derive(Debug, Default)]
pub(super) struct ShardState {
    pub(super) exclusive: Exclusive,
    // Boxed, so that the mutex and all of `exclusive` are close together.
    pub(super) shared: Box<Shared>,
    /// The last stamp that was given out.
    pub(super) last_stamp: Stamp,
    /// `None` while nobody waits.
    pub(super) queues: Option<Box<WaitQueues>>,
}

impl Shard {
    /// Locks the mutex of the shard. A caller must not have another shard locked, except for
    /// [`visit_idle`](super::LockTable::visit_idle), which locks all of them in their order.
    #[inline(always)]
    pub(super) fn lock(&self) -> MutexGuard<'_, ShardState> {
        self.0.lock()
    }
}

impl ShardState {
    /// Returns the queues, which may be empty and new.
    pub(super) fn queues_mut(&mut self) -> &mut WaitQueues {
        self.queues.get_or_insert_default()
    }

    /// Returns the number of clients that wait to hold a lock.
    pub(super) fn line_len(&self, key: Key<'_>) -> u32 {
        let queues = self.queues.as_ref();
        queues.map_or(0, |queues| queues.line_len(key))
    }
}
