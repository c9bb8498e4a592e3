//! The table of all locks, in shards.
//!
//! A shard is found by a keyed hash of the name and holds everything about its names behind one short
//! mutex: which are locked, by whom, and for each holder a list of what it holds *in this shard*. So no
//! operation ever needs two mutexes, and what a connection held is found without searching when it
//! ends. The names come from strangers and their order can be listed, so the hash is SipHash with random
//! keys; a faster hash would let a client put all its names into one bucket.
//!
//! Turned down: one map with a lock each in it (an allocation a lock, and a second map to find what a
//! connection holds: four times the memory), and a task that owns the table (a channel round trip a
//! command costs more than the command).

mod arena;
mod exclusive;
mod quota;
mod shared;

use std::hash::{BuildHasher, RandomState};
use std::thread::available_parallelism;

use byteview::ByteView;
use glockd_protocol::LockKind;
use parking_lot::{Mutex, MutexGuard};
use siphasher::sip::SipHasher13;

use crate::registry::ClientId;
use exclusive::Exclusive;
use quota::Quota;
use shared::Shared;

/// Shards for each processor: enough that two threads seldom meet, few enough that visiting all when a
/// connection ends takes a microsecond.
const SHARDS_PER_CORE: usize = 16;

/// At least this many shards, so that growing one of a million locks is a short stall. Fewer stay in the cache
/// better, which gained little that could be measured; at four million locks, sixteen stalled three times as
/// long.
const MIN_SHARDS: usize = 64;

/// Going to a shard, in places looked at: what a visit to an empty one costs.
const SHARD_VISIT: usize = 8;

/// How many locks are released under one hold of a shard's mutex: some ten microseconds.
const RELEASE_SLICE: usize = 64;

/// All locks of a server.
#[derive(Debug)]
pub struct LockTable {
    shards: Box<[Shard]>,
    // std's, of the same strength, takes a name in pieces, and twice the time.
    hasher: SipHasher13,
    quota: Quota,
}

/// Two cache lines apart, because processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    exclusive: Exclusive,
    // Boxed, so that the mutex and all of `exclusive` are in two cache lines.
    shared: Box<Shared>,
}

/// How far the release of everything a connection held has come. See [`LockTable::release_all`].
#[derive(Debug, Default)]
pub struct Progress {
    shard: usize,
}

/// What one call of [`LockTable::release_all`] has released.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Exclusive locks.
    pub exclusive: usize,
    /// Shared locks.
    pub shared: usize,
}

/// A place in the table. See [`LockTable::scan`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    shard: usize,
    slot: usize,
}

impl LockTable {
    /// An empty table, with as many shards as this machine's processors can make use of, for any number of
    /// locks.
    pub fn new() -> LockTable {
        LockTable::with_quota(None, None)
    }

    /// An empty table for so many locks in all, and so many of one client; `None`: any number. An exclusive
    /// lock counts once, a shared one once for each of its holders.
    pub fn with_quota(in_all: Option<usize>, by_client: Option<usize>) -> LockTable {
        let cores = available_parallelism().map_or(1, usize::from);
        let shards = (cores * SHARDS_PER_CORE)
            .max(MIN_SHARDS)
            .next_power_of_two();
        let random = RandomState::new();
        LockTable {
            shards: (0..shards).map(|_| Shard::default()).collect(),
            hasher: SipHasher13::new_with_keys(random.hash_one(0), random.hash_one(1)),
            quota: Quota::new(in_all, by_client),
        }
    }

    /// Gets an exclusive lock. Whether the client holds it now; not if another does, or if that would be one
    /// too many.
    pub fn get(&self, client: ClientId, name: &[u8]) -> bool {
        let hash = self.hash(name);
        self.shard(hash).exclusive.get(
            hash,
            name,
            client,
            |name| self.hash(name),
            || self.quota.take(client),
        )
    }

    /// Releases an exclusive lock. Whether the client held it.
    pub fn release(&self, client: ClientId, name: &[u8]) -> bool {
        let hash = self.hash(name);
        let mut shard = self.shard(hash);
        let released = shard.exclusive.release(hash, name, client);
        if released {
            // Under the mutex: whoever sees that the lock is free may count on it.
            self.quota.give_back(client, 1);
        }
        released
    }

    /// Who holds an exclusive lock.
    pub fn holder(&self, name: &[u8]) -> Option<ClientId> {
        self.look_at_holder(name, |client| client)
    }

    /// Looks at who holds an exclusive lock, while it is certain to be held.
    pub fn look_at_holder<T>(&self, name: &[u8], look: impl FnOnce(ClientId) -> T) -> Option<T> {
        let hash = self.hash(name);
        let shard = self.shard(hash);
        shard.exclusive.holder(hash, name).map(look)
    }

    /// Gets a shared lock. How many hold it now; 0 if this client does not, since that would be one too many.
    pub fn shared_get(&self, client: ClientId, name: &[u8]) -> u32 {
        let hash = self.hash(name);
        self.shard(hash).shared.get(
            hash,
            name,
            client,
            |name| self.hash(name),
            || self.quota.take(client),
        )
    }

    /// Releases a shared lock. Whether the client held it.
    pub fn shared_release(&self, client: ClientId, name: &[u8]) -> bool {
        let hash = self.hash(name);
        let mut shard = self.shard(hash);
        let released = shard.shared.release(hash, name, client);
        if released {
            self.quota.give_back(client, 1);
        }
        released
    }

    /// How many hold a shared lock.
    pub fn holders(&self, name: &[u8]) -> u32 {
        let hash = self.hash(name);
        self.shard(hash).shared.holders(hash, name)
    }

    /// Who holds a shared lock, in the order in which they came.
    pub fn list_holders(&self, name: &[u8]) -> Vec<ClientId> {
        let hash = self.hash(name);
        self.shard(hash).shared.list_holders(hash, name)
    }

    /// Looks at one holder of a shared lock, while it is certain to hold it.
    pub fn look_at_shared_holder<T>(
        &self,
        name: &[u8],
        client: ClientId,
        look: impl FnOnce() -> T,
    ) -> Option<T> {
        let hash = self.hash(name);
        let shard = self.shard(hash);
        shard.shared.holds(hash, name, client).then(look)
    }

    /// How often a client got no lock because that would have been one too many.
    pub fn refused(&self) -> u64 {
        self.quota.refused()
    }

    /// How many names are locked.
    pub fn count(&self, kind: LockKind) -> usize {
        let count = |shard: &Shard| match kind {
            LockKind::Exclusive => shard.0.lock().exclusive.len(),
            LockKind::Shared => shard.0.lock().shared.len(),
        };
        self.shards.iter().map(count).sum()
    }

    /// Visits the names in (about) `count` places from `place` on, in no order that means anything.
    /// Returns the place to go on from; `None` at the end. A lock that is held throughout a series of
    /// calls is visited; one that is released and taken again may be visited twice.
    pub fn scan(
        &self,
        kind: LockKind,
        mut place: Place,
        count: usize,
        mut visit: impl FnMut(&ByteView),
    ) -> Option<Place> {
        let mut left = count;
        while let Some(shard) = self.shards.get(place.shard) {
            if left == 0 {
                return Some(place);
            }
            let state = shard.0.lock();
            let end = match kind {
                LockKind::Exclusive => state.exclusive.scan(place.slot, left, &mut visit),
                LockKind::Shared => state.shared.scan(place.slot, left, &mut visit),
            };
            match end {
                Some(slot) => return Some(Place { slot, ..place }),
                None => {
                    place = Place {
                        shard: place.shard + 1,
                        slot: 0,
                    }
                }
            }
            left = left.saturating_sub(SHARD_VISIT);
        }
        None
    }

    /// Releases up to (about) `budget` of the locks that a client holds; the rest in further calls with
    /// the same `progress`. The second part of the result says whether it now holds none, provided that it
    /// got none meanwhile.
    pub fn release_all(
        &self,
        client: ClientId,
        progress: &mut Progress,
        budget: usize,
    ) -> (Released, bool) {
        let mut released = Released::default();
        while let Some(shard) = self.shards.get(progress.shard) {
            let left = budget.saturating_sub(released.exclusive + released.shared);
            if left == 0 {
                return (released, false);
            }
            let slice = left.min(RELEASE_SLICE);
            let mut state = shard.0.lock();
            let exclusive = state
                .exclusive
                .release_some(client, slice, |name| self.hash(name));
            let shared = state
                .shared
                .release_some(client, slice - exclusive, |name| self.hash(name));
            released.exclusive += exclusive;
            released.shared += shared;
            self.quota.give_back(client, exclusive + shared);
            if exclusive + shared < slice {
                progress.shard += 1;
            }
        }
        (released, true)
    }

    fn hash(&self, name: &[u8]) -> u64 {
        self.hasher.hash(name)
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, State> {
        // The lowest and the highest bits choose the bucket within the shard.
        let index = (hash >> 32) as usize & (self.shards.len() - 1);
        self.shards[index].0.lock()
    }
}

impl Default for LockTable {
    fn default() -> LockTable {
        LockTable::new()
    }
}

#[cfg(test)]
mod tests;
