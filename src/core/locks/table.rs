//! The table itself: its shards, and the way to them.

use std::sync::atomic::AtomicBool;
use std::thread::available_parallelism;

use glockd_protocol::LockKind;
use parking_lot::MutexGuard;

use super::due::DueShards;
use super::key::{Key, NameHasher};
use super::limits::LockLimits;
use super::quota::Quota;
use super::shard::{Shard, ShardState};
use super::stamp::{Clock, Stamp};
use crate::core::observer::Events;

/// Number of shards for each processor: enough that two threads seldom need the same one, and few enough that visiting all
/// of them, when a connection ends, takes a microsecond.
const SHARDS_PER_CORE: usize = 16;

/// Minimum number of shards. A shard with a part of a million locks then grows in a short stall. Fewer shards use the cache
/// better, but the gain could hardly be measured, and with four million locks sixteen shards stalled three times as long.
const MIN_SHARDS: usize = 64;

/// All locks of a server, and the clients that wait for them.
#[derive(Debug)]
pub struct LockTable {
    pub(super) shards: Box<[Shard]>,
    pub(super) hasher: NameHasher,
    pub(super) quota: Quota,
    /// True if a grant or a release has nothing to do but itself: no limit counts it, and there is no observer. One test of
    /// this is all that commands pay for both.
    pub(super) is_plain: bool,
    pub(super) events: Events,
    pub(super) max_waiters: u32,
    pub(super) clock: Clock,
    pub(super) due: DueShards,
    pub(super) has_stopped_granting: AtomicBool,
}

impl LockTable {
    /// Makes an empty table without limits.
    pub fn new() -> LockTable {
        LockTable::with_limits(LockLimits::default())
    }

    /// Makes an empty table with limits.
    pub fn with_limits(limits: LockLimits) -> LockTable {
        LockTable::observed(limits, Events::default())
    }

    /// Makes an empty table with limits, whose events go there. The number of shards depends on the number of processors.
    pub fn observed(limits: LockLimits, events: Events) -> LockTable {
        let cores = available_parallelism().map_or(1, usize::from);
        let shards = (cores * SHARDS_PER_CORE)
            .max(MIN_SHARDS)
            .next_power_of_two();
        let max_waiters = limits.max_waiters.map(u32::try_from);
        LockTable {
            shards: (0..shards).map(|_| Shard::default()).collect(),
            hasher: NameHasher::new(),
            is_plain: limits.max_locks.is_none()
                && limits.max_locks_per_connection.is_none()
                && !events.are_observed(),
            events,
            quota: Quota::new(limits),
            max_waiters: max_waiters.map_or(u32::MAX, |max| max.unwrap_or(u32::MAX)),
            clock: Clock::new(),
            due: DueShards::default(),
            has_stopped_granting: AtomicBool::new(false),
        }
    }

    /// Returns the key of a lock.
    #[inline(always)]
    pub(super) fn key<'a>(&self, kind: LockKind, name: &'a [u8]) -> Key<'a> {
        Key {
            kind,
            name: self.hasher.hash_name(name),
        }
    }

    /// Locks the shard of all names with this hash.
    #[inline(always)]
    pub(super) fn lock_shard(&self, hash: u64) -> MutexGuard<'_, ShardState> {
        self.shards[self.shard_index(hash)].lock()
    }

    /// Returns the index of the shard of all names with this hash.
    #[inline(always)]
    pub(super) fn shard_index(&self, hash: u64) -> usize {
        // The lowest and the highest bits are taken: they choose the bucket within the shard.
        (hash >> 32) as usize & (self.shards.len() - 1)
    }

    /// Makes the next stamp of a shard, whose last one is given.
    #[inline(always)]
    pub(super) fn next_stamp(&self, last: &mut Stamp) -> Stamp {
        *last = last.next(self.clock.age_ms());
        *last
    }
}

impl Default for LockTable {
    fn default() -> LockTable {
        LockTable::new()
    }
}
