//! The shared locks of one shard.

use std::hash::BuildHasher;

use byteview::ByteView;
use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};

use super::arena::{Arena, Fifo, KEPT_CAPACITY, Linked, Links, NONE, Node};
use super::client_lists::ClientLists;
use super::grant::{Denied, Grant};
use super::key::{HashedName, NameHasher};
use super::stamp::Stamp;
use crate::core::registry::ClientId;

/// The held locks. Each is found by its name through `index`.
///
/// Each holder of a lock is a node in two lists: that of the lock, in the order of the grants, and that of the client. It is
/// found through `holder_index` by lock and client, so a lock with ten thousand holders costs no more time than one with two.
#[derive(Debug, Default)]
pub(super) struct Shared {
    index: HashTable<u32>,
    locks: Arena<Lock>,
    holder_index: HashTable<u32>,
    holders: Arena<Holder>,
    by_client: ClientLists<ByClient>,
    // Clients do not choose positions and ids, so a fast hash suffices.
    hasher: DefaultHashBuilder,
}

/// The kind of the lists in `by_client`.
#[derive(Debug)]
enum ByClient {}

/// The kind of the list of a lock's holders.
#[derive(Debug)]
enum ByLock {}

#[derive(Debug, Default)]
struct Lock {
    name: ByteView,
    /// Empty in a free slot.
    holders: Fifo<ByLock>,
}

#[derive(Debug)]
struct Holder {
    stamp: Stamp,
    lock: u32,
    /// `None` in a free slot.
    client: Option<ClientId>,
    by_lock: Links,
    by_client: Links,
}

impl Default for Holder {
    fn default() -> Holder {
        Holder {
            stamp: Stamp::default(),
            lock: NONE,
            client: None,
            by_lock: Links::default(),
            by_client: Links::default(),
        }
    }
}

impl Node for Lock {
    fn next_free(&mut self) -> &mut u32 {
        self.holders.spare_field()
    }
}

impl Node for Holder {
    fn next_free(&mut self) -> &mut u32 {
        &mut self.by_client.next
    }
}

impl Linked<ByLock> for Holder {
    fn links(&self) -> Links {
        self.by_lock
    }

    fn links_mut(&mut self) -> &mut Links {
        &mut self.by_lock
    }
}

impl Linked<ByClient> for Holder {
    fn links(&self) -> Links {
        self.by_client
    }

    fn links_mut(&mut self) -> &mut Links {
        &mut self.by_client
    }
}

impl Shared {
    /// Gets a lock for a client if fewer than `limit` clients hold it and `grant` returns a stamp. Returns the number of
    /// holders. Succeeds without calling `grant` if the client already holds the lock.
    pub(super) fn get(
        &mut self,
        name: HashedName<'_>,
        client: ClientId,
        limit: u32,
        hasher: &NameHasher,
        grant: impl FnOnce() -> Option<Stamp>,
    ) -> Result<u32, Denied> {
        let locks = &mut self.locks;
        let entry = self.index.entry(
            name.hash,
            |&lock| *locks[lock].name == *name.bytes,
            |&lock| hasher.hash(&locks[lock].name),
        );
        match entry {
            Entry::Occupied(entry) => {
                let lock = *entry.get();
                let holders = self.locks[lock].holders.len();
                if self.find_holder(lock, client).is_some() {
                    return Ok(holders);
                }
                if holders >= limit {
                    return Err(Denied::Held);
                }
                let stamp = grant().ok_or(Denied::OverLimit)?;
                Ok(self.add_holder(lock, client, stamp))
            }
            Entry::Vacant(_) if limit == 0 => Err(Denied::Held),
            Entry::Vacant(vacant) => {
                // Asked first: a lock without holders must not be left behind.
                let stamp = grant().ok_or(Denied::OverLimit)?;
                let lock = self.locks.insert(Lock {
                    name: ByteView::from(name.bytes),
                    holders: Fifo::default(),
                });
                vacant.insert(lock);
                Ok(self.add_holder(lock, client, stamp))
            }
        }
    }

    /// Adds a client that does not yet hold the lock. Returns the number of holders.
    fn add_holder(&mut self, lock: u32, client: ClientId, stamp: Stamp) -> u32 {
        let holder = self.holders.insert(Holder {
            stamp,
            lock,
            client: Some(client),
            by_lock: Links::default(),
            by_client: Links::default(),
        });
        self.by_client.push(&mut self.holders, holder, client);
        let of_lock = &mut self.locks[lock].holders;
        of_lock.push_back(&mut self.holders, holder);
        let count = of_lock.len();
        let (holders, hasher) = (&self.holders, &self.hasher);
        let hash = |lock, client| hasher.hash_one((lock, client));
        self.holder_index
            .insert_unique(hash(lock, Some(client)), holder, |&holder| {
                hash(holders[holder].lock, holders[holder].client)
            });
        count
    }

    /// Releases a lock. Returns the number of holders left, or `None` if the client does not hold the lock.
    pub(super) fn release(&mut self, name: HashedName<'_>, client: ClientId) -> Option<u32> {
        let lock = self.find(name)?;
        let holder = self.find_holder(lock, client)?;
        Some(self.remove_holder(holder, client, name.hash))
    }

    /// Returns the number of holders of a lock.
    pub(super) fn holder_count(&self, name: HashedName<'_>) -> u32 {
        self.find(name)
            .map_or(0, |lock| self.locks[lock].holders.len())
    }

    /// Returns true if a client holds a lock.
    pub(super) fn is_held_by(&self, name: HashedName<'_>, client: ClientId) -> bool {
        self.find(name)
            .is_some_and(|lock| self.find_holder(lock, client).is_some())
    }

    /// Returns when a client was granted a lock that it holds.
    pub(super) fn held_since(&self, name: HashedName<'_>, client: ClientId) -> Option<Stamp> {
        let holder = self.find_holder(self.find(name)?, client)?;
        Some(self.holders[holder].stamp)
    }

    /// Returns the holders of a lock in the order of their grants: those behind `after`, or all if there is no `after` or
    /// that client no longer holds the lock by that grant.
    pub(super) fn grants(
        &self,
        name: HashedName<'_>,
        after: Option<Grant>,
    ) -> impl Iterator<Item = Grant> {
        let lock = self.find(name);
        let behind = lock.zip(after).and_then(|(lock, after)| {
            let holder = &self.holders[self.find_holder(lock, after.client)?];
            (holder.stamp == after.stamp).then_some(holder.by_lock.next)
        });
        let first = || lock.and_then(|lock| self.locks[lock].holders.first());
        let start = behind.or_else(first).unwrap_or(NONE);
        let holders = Arena::walk::<ByLock>(&self.holders, start);
        holders.filter_map(|(_, holder)| {
            Some(Grant {
                client: holder.client?,
                stamp: holder.stamp,
            })
        })
    }

    /// Returns the clients that hold a lock here, each once.
    pub(super) fn clients(&self) -> impl Iterator<Item = ClientId> {
        self.by_client.clients()
    }

    /// Returns whether a client holds a lock here.
    pub(super) fn has_client(&self, client: ClientId) -> bool {
        self.by_client.contains(client)
    }

    /// Returns the number of locks.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// Visits the names in `count` slots from this one on. Returns the next slot, or `None` at the end.
    pub(super) fn scan(
        &self,
        slot: usize,
        count: usize,
        mut visit: impl FnMut(usize, &ByteView),
    ) -> Option<usize> {
        let slots = self.locks.slots();
        let end = (slot + count).min(slots.len());
        let found = slots.get(slot..end).unwrap_or_default();
        for (index, lock) in found.iter().enumerate() {
            if lock.holders.len() > 0 {
                visit(slot + index, &lock.name);
            }
        }
        (end < slots.len()).then_some(end)
    }

    /// Returns the holder of the lock in a slot if that has this name, and no other holder.
    pub(super) fn only_holder_in(&self, slot: usize, name: &[u8]) -> Option<ClientId> {
        let lock = self.locks.slots().get(slot)?;
        if lock.holders.len() != 1 || *lock.name != *name {
            return None;
        }
        self.holders[lock.holders.first()?].client
    }

    /// Returns the name in a slot.
    pub(super) fn name_in(&self, slot: usize) -> Option<&ByteView> {
        let lock = self.locks.slots().get(slot)?;
        (lock.holders.len() > 0).then_some(&lock.name)
    }

    /// Releases at most `budget` locks of a client. Returns how many: fewer than `budget` only if the client holds no more.
    /// Calls `released` with each lock and the number of its holders left.
    pub(super) fn release_some(
        &mut self,
        client: ClientId,
        budget: usize,
        hasher: &NameHasher,
        mut released: impl FnMut(HashedName<'_>, u32),
    ) -> usize {
        let mut count = 0;
        while count < budget
            && let Some(holder) = self.by_client.first(client)
        {
            // A cheap clone, because the lock may be removed with its last holder.
            let bytes = self.locks[self.holders[holder].lock].name.clone();
            let name = hasher.hash_name(&bytes);
            let holders = self.remove_holder(holder, client, name.hash);
            released(name, holders);
            count += 1;
        }
        count
    }

    #[inline(always)]
    fn find(&self, name: HashedName<'_>) -> Option<u32> {
        self.index
            .find(name.hash, |&lock| *self.locks[lock].name == *name.bytes)
            .copied()
    }

    fn find_holder(&self, lock: u32, client: ClientId) -> Option<u32> {
        let hash = self.hasher.hash_one((lock, Some(client)));
        let is_it = |&holder: &u32| {
            self.holders[holder].lock == lock && self.holders[holder].client == Some(client)
        };
        self.holder_index.find(hash, is_it).copied()
    }

    /// Removes a holder, and the lock, which has this hash, if it was the last one. Returns the number of holders left.
    fn remove_holder(&mut self, holder: u32, client: ClientId, hash: u64) -> u32 {
        let lock = self.holders[holder].lock;
        let holder_hash = self.hasher.hash_one((lock, Some(client)));
        if let Ok(entry) = self
            .holder_index
            .find_entry(holder_hash, |&other| other == holder)
        {
            entry.remove();
        }
        let of_lock = &mut self.locks[lock].holders;
        of_lock.remove(&mut self.holders, holder);
        let count = of_lock.len();
        self.by_client.remove(&mut self.holders, holder, client);
        self.holders.remove(holder);
        if count == 0 {
            self.remove_lock(lock, hash);
        }
        if self.holder_index.is_empty() && self.holder_index.capacity() > KEPT_CAPACITY {
            self.holder_index = HashTable::new();
            self.by_client.shrink();
        }
        count
    }

    fn remove_lock(&mut self, lock: u32, hash: u64) {
        if let Ok(entry) = self.index.find_entry(hash, |&other| other == lock) {
            entry.remove();
        }
        self.locks.remove(lock);
        if self.index.is_empty() && self.index.capacity() > KEPT_CAPACITY {
            self.index = HashTable::new();
        }
    }
}
