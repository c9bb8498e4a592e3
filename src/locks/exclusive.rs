//! The exclusive locks of one shard.

use byteview::ByteView;
use hashbrown::hash_table::Entry;
use hashbrown::{HashMap, HashTable};

use super::arena::{Arena, KEEP, NONE, Node};
use crate::registry::ClientId;

/// A held lock is a node, found by its name through `index` and by its holder through `heads`, which
/// starts the list that runs through the nodes of one holder.
#[derive(Debug, Default)]
pub(super) struct Exclusive {
    index: HashTable<u32>,
    nodes: Arena<Lock>,
    heads: HashMap<ClientId, u32>,
}

#[derive(Debug)]
struct Lock {
    name: ByteView,
    /// `None`: a free slot, whose `next` is the next free one.
    holder: Option<ClientId>,
    previous: u32,
    next: u32,
}

impl Default for Lock {
    fn default() -> Lock {
        Lock {
            name: ByteView::default(),
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
    pub(super) fn get(
        &mut self,
        hash: u64,
        name: &[u8],
        client: ClientId,
        rehash: impl Fn(&[u8]) -> u64,
        may_hold_more: impl FnOnce() -> bool,
    ) -> bool {
        let nodes = &self.nodes;
        let entry = self.index.entry(
            hash,
            |&lock| *nodes[lock].name == *name,
            |&lock| rehash(&nodes[lock].name),
        );
        let vacant = match entry {
            Entry::Occupied(entry) => return nodes[*entry.get()].holder == Some(client),
            Entry::Vacant(vacant) => vacant,
        };
        if !may_hold_more() {
            return false;
        }
        let head = self.heads.entry(client).or_insert(NONE);
        let lock = self.nodes.insert(Lock {
            name: ByteView::from(name),
            holder: Some(client),
            previous: NONE,
            next: *head,
        });
        if *head != NONE {
            self.nodes[*head].previous = lock;
        }
        *head = lock;
        vacant.insert(lock);
        true
    }

    pub(super) fn release(&mut self, hash: u64, name: &[u8], client: ClientId) -> bool {
        let nodes = &self.nodes;
        let Ok(entry) = self
            .index
            .find_entry(hash, |&lock| *nodes[lock].name == *name)
        else {
            return false;
        };
        let lock = *entry.get();
        if nodes[lock].holder != Some(client) {
            return false;
        }
        entry.remove();
        self.unlink(lock, client);
        true
    }

    pub(super) fn holder(&self, hash: u64, name: &[u8]) -> Option<ClientId> {
        let lock = self
            .index
            .find(hash, |&lock| *self.nodes[lock].name == *name)?;
        self.nodes[*lock].holder
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
            .filter(|lock| lock.holder.is_some())
            .for_each(|lock| visit(&lock.name));
        (end < slots.len()).then_some(end)
    }

    /// Releases up to `budget` of a client's locks; fewer means that it holds no more.
    pub(super) fn release_some(
        &mut self,
        client: ClientId,
        budget: usize,
        hash: impl Fn(&[u8]) -> u64,
    ) -> usize {
        let mut released = 0;
        while released < budget
            && let Some(&lock) = self.heads.get(&client)
        {
            let hash = hash(&self.nodes[lock].name);
            if let Ok(entry) = self.index.find_entry(hash, |&other| other == lock) {
                entry.remove();
            }
            self.unlink(lock, client);
            released += 1;
        }
        released
    }

    /// Takes a lock that `index` no longer knows out of its holder's list, and frees it.
    fn unlink(&mut self, lock: u32, client: ClientId) {
        let Lock { previous, next, .. } = self.nodes.remove(lock);
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
        if self.index.is_empty() && self.index.capacity() > KEEP {
            self.index = HashTable::new();
            self.heads = HashMap::default();
        }
    }
}
