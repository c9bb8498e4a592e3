//! The exclusive locks of one shard.

use byteview::ByteView;
use hashbrown::hash_table::Entry;
use hashbrown::{HashMap, HashTable};

use super::arena::{Arena, KEEP, NONE, Node};
use super::{Denied, Stamp};
use crate::core::registry::ClientId;

/// A held lock is a node, found by its name through `index` and by its holder through `heads`, which
/// starts the list that runs through the nodes of one holder.
#[derive(Debug, Default)]
pub(super) struct Exclusive {
    index: HashTable<u32>,
    nodes: Arena<Lock>,
    /// The name of each node, apart from it: together they would be padded by four bytes.
    names: Vec<ByteView>,
    heads: HashMap<ClientId, u32>,
}

#[derive(Clone, Copy, Debug)]
#[repr(C, packed(4))]
struct Lock {
    stamp: Stamp,
    /// `None`: a free slot, whose `next` is the next free one.
    holder: Option<ClientId>,
    previous: u32,
    next: u32,
}

impl Default for Lock {
    fn default() -> Lock {
        Lock {
            stamp: Stamp::default(),
            holder: None,
            previous: NONE,
            next: NONE,
        }
    }
}

impl Node for Lock {
    fn next_free(&mut self) -> &mut u32 {
        &mut self.next
    }
}

impl Exclusive {
    /// Gets a lock for a client, if it is free and `grant` gives it a stamp.
    pub(super) fn get(
        &mut self,
        hash: u64,
        name: &[u8],
        client: ClientId,
        rehash: impl Fn(&[u8]) -> u64,
        grant: impl FnOnce() -> Option<Stamp>,
    ) -> Result<(), Denied> {
        let names = &self.names;
        let entry = self.index.entry(
            hash,
            |&lock| *names[lock as usize] == *name,
            |&lock| rehash(&names[lock as usize]),
        );
        let vacant = match entry {
            Entry::Occupied(entry) if self.nodes[*entry.get()].holder == Some(client) => {
                return Ok(());
            }
            Entry::Occupied(_) => return Err(Denied::Held),
            Entry::Vacant(vacant) => vacant,
        };
        let stamp = grant().ok_or(Denied::TooMany)?;
        let name = ByteView::from(name);
        let lock = self.nodes.insert(Lock {
            stamp,
            holder: Some(client),
            ..Lock::default()
        });
        vacant.insert(lock);
        self.link(lock, client);
        match self.names.get_mut(lock as usize) {
            Some(place) => *place = name,
            None => self.names.push(name),
        }
        Ok(())
    }

    /// Takes a lock from a client, if it holds it. If there is an heir, it holds it now.
    pub(super) fn release(
        &mut self,
        hash: u64,
        name: &[u8],
        client: ClientId,
        heir: impl FnOnce() -> Option<(ClientId, Stamp)>,
    ) -> bool {
        let names = &self.names;
        let Ok(entry) = self
            .index
            .find_entry(hash, |&lock| *names[lock as usize] == *name)
        else {
            return false;
        };
        let lock = *entry.get();
        if self.nodes[lock].holder != Some(client) {
            return false;
        }
        match heir() {
            Some(heir) => self.pass(lock, client, heir),
            None => {
                entry.remove();
                self.remove(lock, client);
            }
        }
        true
    }

    pub(super) fn holder(&self, hash: u64, name: &[u8]) -> Option<ClientId> {
        self.nodes[self.find(hash, name)?].holder
    }

    /// Who holds a lock, and since when.
    pub(super) fn holding(&self, hash: u64, name: &[u8]) -> Option<(ClientId, Stamp)> {
        let lock = self.nodes[self.find(hash, name)?];
        Some((lock.holder?, lock.stamp))
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
        let slots = self.nodes.slots();
        let end = (slot + count).min(slots.len());
        let found = slots.get(slot..end).unwrap_or_default();
        found
            .iter()
            .zip(self.names.get(slot..).unwrap_or_default())
            .filter(|(lock, _)| lock.holder.is_some())
            .for_each(|(_, name)| visit(name));
        (end < slots.len()).then_some(end)
    }

    /// Takes up to `budget` locks from a client; fewer means that it holds no more. `heir` is asked for each,
    /// by its hash and its name.
    pub(super) fn release_some(
        &mut self,
        client: ClientId,
        budget: usize,
        hash: impl Fn(&[u8]) -> u64,
        mut heir: impl FnMut(u64, &[u8]) -> Option<(ClientId, Stamp)>,
    ) -> usize {
        let mut released = 0;
        while released < budget
            && let Some(&lock) = self.heads.get(&client)
        {
            let name = &self.names[lock as usize];
            let hash = hash(name);
            match heir(hash, name) {
                Some(heir) => self.pass(lock, client, heir),
                None => {
                    if let Ok(entry) = self.index.find_entry(hash, |&other| other == lock) {
                        entry.remove();
                    }
                    self.remove(lock, client);
                }
            }
            released += 1;
        }
        released
    }

    fn find(&self, hash: u64, name: &[u8]) -> Option<u32> {
        self.index
            .find(hash, |&lock| *self.names[lock as usize] == *name)
            .copied()
    }

    /// Makes a lock the heir's.
    fn pass(&mut self, lock: u32, from: ClientId, (heir, stamp): (ClientId, Stamp)) {
        self.unlink(lock, from);
        self.nodes[lock] = Lock {
            stamp,
            holder: Some(heir),
            ..Lock::default()
        };
        self.link(lock, heir);
    }

    /// Frees a lock that `index` no longer knows.
    #[inline(always)]
    fn remove(&mut self, lock: u32, client: ClientId) {
        self.unlink(lock, client);
        self.nodes.remove(lock);
        self.names[lock as usize] = ByteView::default();
        if self.index.is_empty() && self.index.capacity() > KEEP {
            self.index = HashTable::new();
            self.names = Vec::new();
            self.heads = HashMap::default();
        }
    }

    /// Puts a lock at the head of what its holder holds.
    #[inline(always)]
    fn link(&mut self, lock: u32, client: ClientId) {
        let head = self.heads.entry(client).or_insert(NONE);
        self.nodes[lock].next = *head;
        if *head != NONE {
            self.nodes[*head].previous = lock;
        }
        *head = lock;
    }

    /// Takes a lock out of what its holder holds.
    fn unlink(&mut self, lock: u32, client: ClientId) {
        let Lock { previous, next, .. } = self.nodes[lock];
        if next != NONE {
            self.nodes[next].previous = previous;
        }
        match (previous, next) {
            (NONE, NONE) => {
                self.heads.remove(&client);
            }
            (NONE, _) => {
                self.heads.insert(client, next);
            }
            _ => self.nodes[previous].next = next,
        }
    }
}
