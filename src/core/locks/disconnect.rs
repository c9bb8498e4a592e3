//! The disconnect of a client, which releases all its locks.

use glockd_protocol::LockKind;

use super::key::Key;
use super::queue::Wakes;
use super::shard::ShardState;
use super::table::LockTable;
use crate::core::observer::Event;
use crate::core::registry::ClientId;

/// Maximum number of locks that are released under one hold of a shard's mutex: some ten microseconds.
const RELEASE_SLICE: usize = 64;

/// The disconnect of a client, which takes several steps. See [`LockTable::release_some`].
#[derive(Debug)]
pub struct Disconnection {
    client: ClientId,
    /// The shard to go on with; `None` once all are done.
    next_shard: Option<usize>,
    orphans: OrphanCounts,
}

/// Numbers of orphans: locks that a client still held when its connection ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrphanCounts {
    /// Exclusive locks.
    pub exclusive: usize,
    /// Shared locks.
    pub shared: usize,
}

impl Disconnection {
    /// Makes the disconnect of a client, before its first step.
    pub fn new(client: ClientId) -> Disconnection {
        Disconnection {
            client,
            next_shard: Some(0),
            orphans: OrphanCounts::default(),
        }
    }

    /// Returns the client.
    pub fn client(&self) -> ClientId {
        self.client
    }

    /// Returns the numbers of locks released so far.
    pub fn orphans(&self) -> OrphanCounts {
        self.orphans
    }

    /// Returns true once all locks are released. The id of the client may then be reused.
    pub fn is_complete(&self) -> bool {
        self.next_shard.is_none()
    }
}

impl LockTable {
    /// Takes the next step of a disconnect: releases about `budget` locks of the client, or all that are left. Returns how
    /// many it released.
    ///
    /// Call it until the disconnect is [complete](Disconnection::is_complete). Meanwhile, the client must not get locks.
    pub fn release_some(&self, disconnection: &mut Disconnection, budget: usize) -> OrphanCounts {
        let client = disconnection.client;
        let mut released = OrphanCounts::default();
        while let Some(shard) = disconnection.next_shard {
            let left = budget.saturating_sub(released.exclusive + released.shared);
            if left == 0 {
                break;
            }
            let slice = left.min(RELEASE_SLICE);
            let in_shard = self.release_in_shard(shard, client, slice);
            released.exclusive += in_shard.exclusive;
            released.shared += in_shard.shared;
            if in_shard.exclusive + in_shard.shared < slice {
                let next = shard + 1;
                disconnection.next_shard = (next < self.shards.len()).then_some(next);
            }
        }
        disconnection.orphans.exclusive += released.exclusive;
        disconnection.orphans.shared += released.shared;
        released
    }

    /// Releases at most `budget` locks of a client in one shard. Returns how many: fewer than `budget` only if the client
    /// holds no more there.
    fn release_in_shard(&self, shard: usize, client: ClientId, budget: usize) -> OrphanCounts {
        let mut guard = self.shards[shard].lock();
        let mut wakes = Wakes::default();
        let ShardState {
            exclusive,
            shared,
            last_stamp,
            queues,
        } = &mut *guard;
        let kind = LockKind::Exclusive;
        let exclusive = exclusive.release_some(client, budget, &self.hasher, |name| {
            let key = Key { kind, name };
            self.emit_orphaned(client, key);
            self.hand_over(queues, last_stamp, key, &mut wakes)
        });
        let kind = LockKind::Shared;
        let left = budget - exclusive;
        let shared = shared.release_some(client, left, &self.hasher, |name, holders| {
            let key = Key { kind, name };
            self.emit_orphaned(client, key);
            self.note_fewer_holders(queues, key, holders);
        });
        self.quota.release(client, exclusive + shared);
        self.serve_waiters(shard, guard, wakes);
        OrphanCounts { exclusive, shared }
    }

    fn emit_orphaned(&self, client: ClientId, key: Key<'_>) {
        self.events.emit(client, |connection| Event::Orphaned {
            connection,
            kind: key.kind,
            name: key.name.bytes,
        });
    }
}
