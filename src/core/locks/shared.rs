//! The shared locks of one shard.

use std::hash::BuildHasher;

use byteview::ByteView;
use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

use super::arena::{Arena, KEEP, NONE, Node};
use super::{Denied, Stamp};
use crate::core::registry::ClientId;

/// A lock is found by its name through `index`; each of its holders is a node in two lists, that of the
/// lock (in the order in which they came) and that of the client, and is found through `held` by both, so
/// that a lock of ten thousand holders costs no more than one of two.
#[derive(Debug, Default)]
pub(super) struct Shared {
    index: HashTable<u32>,
    locks: Arena<Lock>,
    held: HashTable<u32>,
    holders: Arena<Holder>,
    heads: HashMap<ClientId, u32>,
    // Positions and identities are ours, so a fast hash will do.
    hasher: DefaultHashBuilder,
}

#[derive(Debug)]
struct Lock {
    name: ByteView,
    /// 0: a free slot, whose `first` is the next free one.
    holders: u32,
    first: u32,
    last: u32,
}

#[derive(Debug)]
struct Holder {
    stamp: Stamp,
    lock: u32,
    client: Option<ClientId>,
    /// Neighbours among the holders of the lock.
    previous: u32,
    next: u32,
    /// Neighbours among what the client holds. Of a free slot, `after` is the next free one.
    before: u32,
    after: u32,
}

impl Default for Lock {
    fn default() -> Lock {
        Lock {
            name: ByteView::default(),
            holders: 0,
            first: NONE,
            last: NONE,
        }
    }
}

impl Default for Holder {
    fn default() -> Holder {
        Holder {
            stamp: Stamp::default(),
            lock: NONE,
            client: None,
            previous: NONE,
            next: NONE,
            before: NONE,
            after: NONE,
        }
    }
}

impl Node for Lock {
    fn next_free(&mut self) -> &mut u32 {
        &mut self.first
    }
}

impl Node for Holder {
    fn next_free(&mut self) -> &mut u32 {
        &mut self.after
    }
}

impl Shared {
    /// Gets a lock for a client, if fewer than `limit` hold it and `grant` gives it a stamp. How many hold it
    /// now. One that holds it already goes on to.
    pub(super) fn get(
        &mut self,
        hash: u64,
        name: &[u8],
        client: ClientId,
        limit: u32,
        rehash: impl Fn(&[u8]) -> u64,
        grant: impl FnOnce() -> Option<Stamp>,
    ) -> Result<u32, Denied> {
        let locks = &mut self.locks;
        let entry = self.index.entry(
            hash,
            |&lock| *locks[lock].name == *name,
            |&lock| rehash(&locks[lock].name),
        );
        match entry {
            Entry::Occupied(entry) => {
                let lock = *entry.get();
                let holders = self.locks[lock].holders;
                if self.find_holder(lock, client).is_some() {
                    return Ok(holders);
                }
                if holders >= limit {
                    return Err(Denied::Held);
                }
                let stamp = grant().ok_or(Denied::TooMany)?;
                Ok(self.add(lock, client, stamp))
            }
            Entry::Vacant(_) if limit == 0 => Err(Denied::Held),
            Entry::Vacant(vacant) => {
                // Before there is a lock that nobody holds.
                let stamp = grant().ok_or(Denied::TooMany)?;
                let lock = self.locks.insert(Lock {
                    name: ByteView::from(name),
                    ..Lock::default()
                });
                vacant.insert(lock);
                Ok(self.add(lock, client, stamp))
            }
        }
    }

    /// Adds a holder, who is none yet. How many there are now.
    fn add(&mut self, lock: u32, client: ClientId, stamp: Stamp) -> u32 {
        let head = self.heads.entry(client).or_insert(NONE);
        let last = self.locks[lock].last;
        let holder = self.holders.insert(Holder {
            stamp,
            lock,
            client: Some(client),
            previous: last,
            next: NONE,
            before: NONE,
            after: *head,
        });
        if *head != NONE {
            self.holders[*head].before = holder;
        }
        *head = holder;
        match last {
            NONE => self.locks[lock].first = holder,
            _ => self.holders[last].next = holder,
        }
        self.locks[lock].last = holder;
        self.locks[lock].holders += 1;
        let (holders, hasher) = (&self.holders, &self.hasher);
        let place = |lock, client| hasher.hash_one((lock, client));
        self.held
            .insert_unique(place(lock, Some(client)), holder, |&holder| {
                place(holders[holder].lock, holders[holder].client)
            });
        self.locks[lock].holders
    }

    /// Takes a lock from a client, if it holds it. How many still do.
    pub(super) fn release(&mut self, hash: u64, name: &[u8], client: ClientId) -> Option<u32> {
        let lock = self.find(hash, name)?;
        let holder = self.find_holder(lock, client)?;
        Some(self.remove(holder, client, hash))
    }
    pub(super) fn holders(&self, hash: u64, name: &[u8]) -> u32 {
        self.find(hash, name)
            .map_or(0, |lock| self.locks[lock].holders)
    }

    pub(super) fn holds(&self, hash: u64, name: &[u8], client: ClientId) -> bool {
        self.find(hash, name)
            .is_some_and(|lock| self.find_holder(lock, client).is_some())
    }

    /// Since when a client holds a lock.
    pub(super) fn held_since(&self, hash: u64, name: &[u8], client: ClientId) -> Option<Stamp> {
        let holder = self.find_holder(self.find(hash, name)?, client)?;
        Some(self.holders[holder].stamp)
    }

    /// Who holds a lock, and since when, in the order in which they came: all, or those behind `after`, if that one
    /// still holds it.
    pub(super) fn holdings(
        &self,
        hash: u64,
        name: &[u8],
        after: Option<(ClientId, Stamp)>,
    ) -> impl Iterator<Item = (ClientId, Stamp)> {
        let lock = self.find(hash, name);
        let behind = lock.zip(after).and_then(|(lock, (client, stamp))| {
            let holder = &self.holders[self.find_holder(lock, client)?];
            (holder.stamp == stamp).then_some(holder.next)
        });
        let first = || lock.map_or(NONE, |lock| self.locks[lock].first);
        let mut next = behind.unwrap_or_else(first);
        std::iter::from_fn(move || {
            let holder = (next != NONE).then(|| &self.holders[next])?;
            next = holder.next;
            Some((holder.client?, holder.stamp))
        })
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    pub(super) fn scan(
        &self,
        slot: usize,
        count: usize,
        mut visit: impl FnMut(&ByteView),
    ) -> Option<usize> {
        let slots = self.locks.slots();
        let end = (slot + count).min(slots.len());
        let found = slots.get(slot..end).unwrap_or_default();
        found
            .iter()
            .filter(|lock| lock.holders > 0)
            .for_each(|lock| visit(&lock.name));
        (end < slots.len()).then_some(end)
    }

    /// Takes up to `budget` of what a client holds; less means that it holds no more. `released` is told of
    /// each, by its hash and its name, and how many still hold it.
    pub(super) fn release_some(
        &mut self,
        client: ClientId,
        budget: usize,
        hash: impl Fn(&[u8]) -> u64,
        mut released: impl FnMut(u64, &[u8], u32),
    ) -> usize {
        let mut number = 0;
        while number < budget
            && let Some(&holder) = self.heads.get(&client)
        {
            // It may go with its last holder; its name is shared.
            let name = self.locks[self.holders[holder].lock].name.clone();
            let hash = hash(&name);
            let holders = self.remove(holder, client, hash);
            released(hash, &name, holders);
            number += 1;
        }
        number
    }

    fn find(&self, hash: u64, name: &[u8]) -> Option<u32> {
        self.index
            .find(hash, |&lock| *self.locks[lock].name == *name)
            .copied()
    }

    fn find_holder(&self, lock: u32, client: ClientId) -> Option<u32> {
        let hash = self.hasher.hash_one((lock, Some(client)));
        let is_it = |&holder: &u32| {
            self.holders[holder].lock == lock && self.holders[holder].client == Some(client)
        };
        self.held.find(hash, is_it).copied()
    }

    /// Removes a holder, and its lock if it was the last one. How many there are now.
    fn remove(&mut self, holder: u32, client: ClientId, hash: u64) -> u32 {
        let lock = self.holders[holder].lock;
        let place = self.hasher.hash_one((lock, Some(client)));
        if let Ok(entry) = self.held.find_entry(place, |&other| other == holder) {
            entry.remove();
        }
        let Holder {
            previous,
            next,
            before,
            after,
            ..
        } = self.holders.remove(holder);
        match previous {
            NONE => self.locks[lock].first = next,
            _ => self.holders[previous].next = next,
        }
        match next {
            NONE => self.locks[lock].last = previous,
            _ => self.holders[next].previous = previous,
        }
        if after != NONE {
            self.holders[after].before = before;
        }
        match (before, after) {
            (NONE, NONE) => {
                self.heads.remove(&client);
            }
            (NONE, _) => {
                self.heads.insert(client, after);
            }
            _ => self.holders[before].after = after,
        }
        self.locks[lock].holders -= 1;
        let holders = self.locks[lock].holders;
        if holders == 0 {
            self.remove_lock(lock, hash);
        }
        if self.held.is_empty() && self.held.capacity() > KEEP {
            self.held = HashTable::new();
            self.heads = HashMap::default();
        }
        holders
    }

    fn remove_lock(&mut self, lock: u32, hash: u64) {
        if let Ok(entry) = self.index.find_entry(hash, |&other| other == lock) {
            entry.remove();
        }
        self.locks.remove(lock);
        if self.index.is_empty() && self.index.capacity() > KEEP {
            self.index = HashTable::new();
        }
    }
}
