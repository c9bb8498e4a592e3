//! The shared locks of one shard.

use std::hash::BuildHasher;

use byteview::ByteView;
use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

use super::arena::{Arena, KEEP, NONE, Node};
use crate::registry::ClientId;

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
    pub(super) fn get(
        &mut self,
        hash: u64,
        name: &[u8],
        client: ClientId,
        rehash: impl Fn(&[u8]) -> u64,
        may_hold_more: impl Fn() -> bool,
    ) -> u32 {
        let locks = &mut self.locks;
        let entry = self.index.entry(
            hash,
            |&lock| *locks[lock].name == *name,
            |&lock| rehash(&locks[lock].name),
        );
        let mut may_hold = false;
        let lock = match entry {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(vacant) => {
                // Before there is a lock that nobody holds.
                may_hold = may_hold_more();
                if !may_hold {
                    return 0;
                }
                let name = ByteView::from(name);
                let lock = self.locks.insert(Lock {
                    name,
                    ..Lock::default()
                });
                vacant.insert(lock);
                lock
            }
        };
        let (holders, hasher) = (&mut self.holders, &self.hasher);
        let place = self.held.entry(
            hasher.hash_one((lock, Some(client))),
            |&holder| holders[holder].lock == lock && holders[holder].client == Some(client),
            |&holder| hasher.hash_one((holders[holder].lock, holders[holder].client)),
        );
        if let Entry::Vacant(vacant) = place {
            if !may_hold && !may_hold_more() {
                return 0;
            }
            let head = self.heads.entry(client).or_insert(NONE);
            let last = self.locks[lock].last;
            let holder = self.holders.insert(Holder {
                lock,
                client: Some(client),
                previous: last,
                next: NONE,
                before: NONE,
                after: *head,
            });
            vacant.insert(holder);
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
        }
        self.locks[lock].holders
    }

    pub(super) fn release(&mut self, hash: u64, name: &[u8], client: ClientId) -> bool {
        let Some(holder) = self
            .find(hash, name)
            .and_then(|lock| self.find_holder(lock, client))
        else {
            return false;
        };
        self.remove(holder, client, |_| hash);
        true
    }

    pub(super) fn holders(&self, hash: u64, name: &[u8]) -> u32 {
        self.find(hash, name)
            .map_or(0, |lock| self.locks[lock].holders)
    }

    pub(super) fn holds(&self, hash: u64, name: &[u8], client: ClientId) -> bool {
        self.find(hash, name)
            .is_some_and(|lock| self.find_holder(lock, client).is_some())
    }

    pub(super) fn list_holders(&self, hash: u64, name: &[u8]) -> Vec<ClientId> {
        let Some(lock) = self.find(hash, name) else {
            return Vec::new();
        };
        let mut clients = Vec::with_capacity(self.locks[lock].holders as usize);
        let mut holder = self.locks[lock].first;
        while holder != NONE {
            clients.extend(self.holders[holder].client);
            holder = self.holders[holder].next;
        }
        clients
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

    /// Releases up to `budget` of what a client holds; less means that it holds no more.
    pub(super) fn release_some(
        &mut self,
        client: ClientId,
        budget: usize,
        hash: impl Fn(&[u8]) -> u64,
    ) -> usize {
        let mut released = 0;
        while released < budget
            && let Some(&holder) = self.heads.get(&client)
        {
            self.remove(holder, client, &hash);
            released += 1;
        }
        released
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

    /// Removes a holder, and its lock if it was the last one.
    fn remove(&mut self, holder: u32, client: ClientId, hash: impl Fn(&[u8]) -> u64) {
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
        if self.locks[lock].holders == 0 {
            self.remove_lock(lock, hash);
        }
        if self.held.is_empty() && self.held.capacity() > KEEP {
            self.held = HashTable::new();
            self.heads = HashMap::default();
        }
    }

    fn remove_lock(&mut self, lock: u32, hash: impl Fn(&[u8]) -> u64) {
        let hash = hash(&self.locks[lock].name);
        if let Ok(entry) = self.index.find_entry(hash, |&other| other == lock) {
            entry.remove();
        }
        self.locks.remove(lock);
        if self.index.is_empty() && self.index.capacity() > KEEP {
            self.index = HashTable::new();
        }
    }
}
