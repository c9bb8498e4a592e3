//! The exclusive locks of one shard.

use byteview::ByteView;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::arena::{Arena, KEPT_CAPACITY, Linked, Links, Node};
use super::client_lists::ClientLists;
use super::grant::{Denied, Grant};
use super::key::{HashedName, NameHasher};
use super::stamp::Stamp;
use crate::core::registry::ClientId;

/// The held locks. Each is a node, found by its name through `index`, and by its holder through `by_holder`.
#[derive(Debug, Default)]
pub(super) struct Exclusive {
    index: HashTable<u32>,
    nodes: Arena<Lock>,
    /// The name of each node. It is not part of the node, which would then be padded by four bytes.
    names: Vec<ByteView>,
    by_holder: ClientLists<ByHolder>,
}

/// The kind of the lists in `by_holder`.
#[derive(Debug)]
enum ByHolder {}

// 20 bytes instead of 24.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, packed(4))]
struct Lock {
    stamp: Stamp,
    /// `None` in a free slot.
    holder: Option<ClientId>,
    links: Links,
}

impl Node for Lock {
    fn next_free(&mut self) -> &mut u32 {
        &mut self.links.next
    }
}

impl Linked<ByHolder> for Lock {
    fn links(&self) -> Links {
        self.links
    }

    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

impl Exclusive {
    /// Gets a lock for a client if it is free and `grant` returns a stamp. Succeeds without calling `grant` if the client
    /// already holds the lock.
    pub(super) fn get(
        &mut self,
        name: HashedName<'_>,
        client: ClientId,
        hasher: &NameHasher,
        grant: impl FnOnce() -> Option<Stamp>,
    ) -> Result<(), Denied> {
        let names = &self.names;
        let entry = self.index.entry(
            name.hash,
            |&lock| *names[lock as usize] == *name.bytes,
            |&lock| hasher.hash(&names[lock as usize]),
        );
        let vacant = match entry {
            Entry::Occupied(entry) if self.nodes[*entry.get()].holder == Some(client) => {
                return Ok(());
            }
            Entry::Occupied(_) => return Err(Denied::Held),
            Entry::Vacant(vacant) => vacant,
        };
        let stamp = grant().ok_or(Denied::OverLimit)?;
        let name = ByteView::from(name.bytes);
        let lock = self.nodes.insert(Lock {
            stamp,
            holder: Some(client),
            links: Links::default(),
        });
        vacant.insert(lock);
        self.by_holder.push(&mut self.nodes, lock, client);
        match self.names.get_mut(lock as usize) {
            Some(slot) => *slot = name,
            None => self.names.push(name),
        }
        Ok(())
    }

    /// Releases a lock, or hands it over to the next holder if there is one. Returns false if the client does not hold it.
    pub(super) fn release(
        &mut self,
        name: HashedName<'_>,
        client: ClientId,
        next_holder: impl FnOnce() -> Option<Grant>,
    ) -> bool {
        let names = &self.names;
        let Ok(entry) = self
            .index
            .find_entry(name.hash, |&lock| *names[lock as usize] == *name.bytes)
        else {
            return false;
        };
        let lock = *entry.get();
        if self.nodes[lock].holder != Some(client) {
            return false;
        }
        match next_holder() {
            Some(next) => self.hand_over(lock, client, next),
            None => {
                entry.remove();
                self.remove(lock, client);
            }
        }
        true
    }

    /// Returns the holder of a lock.
    pub(super) fn holder(&self, name: HashedName<'_>) -> Option<ClientId> {
        self.nodes[self.find(name)?].holder
    }

    /// Returns the holder of a lock and the moment of the grant.
    pub(super) fn grant(&self, name: HashedName<'_>) -> Option<Grant> {
        let Lock { holder, stamp, .. } = self.nodes[self.find(name)?];
        Some(Grant {
            client: holder?,
            stamp,
        })
    }

    /// Returns the clients that hold a lock here, each once.
    pub(super) fn clients(&self) -> impl Iterator<Item = ClientId> {
        self.by_holder.clients()
    }

    /// Returns whether a client holds a lock here.
    pub(super) fn has_client(&self, client: ClientId) -> bool {
        self.by_holder.contains(client)
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
        let slots = self.nodes.slots();
        let end = (slot + count).min(slots.len());
        let found = slots.get(slot..end).unwrap_or_default();
        let names = self.names.get(slot..).unwrap_or_default();
        for (index, (lock, name)) in found.iter().zip(names).enumerate() {
            if lock.holder.is_some() {
                visit(slot + index, name);
            }
        }
        (end < slots.len()).then_some(end)
    }

    /// Returns the holder of the lock in a slot if that has this name.
    pub(super) fn holder_in(&self, slot: usize, name: &[u8]) -> Option<ClientId> {
        let holder = self.nodes.slots().get(slot)?.holder?;
        (**self.names.get(slot)? == *name).then_some(holder)
    }

    /// Returns the name in a slot.
    pub(super) fn name_in(&self, slot: usize) -> Option<&ByteView> {
        self.nodes.slots().get(slot)?.holder?;
        self.names.get(slot)
    }

    /// Releases at most `budget` locks of a client, or hands them over. Returns how many: fewer than `budget` only if the
    /// client holds no more.
    pub(super) fn release_some(
        &mut self,
        client: ClientId,
        budget: usize,
        hasher: &NameHasher,
        mut next_holder: impl FnMut(HashedName<'_>) -> Option<Grant>,
    ) -> usize {
        let mut released = 0;
        while released < budget
            && let Some(lock) = self.by_holder.first(client)
        {
            let name = hasher.hash_name(&self.names[lock as usize]);
            match next_holder(name) {
                Some(next) => self.hand_over(lock, client, next),
                None => {
                    if let Ok(entry) = self.index.find_entry(name.hash, |&other| other == lock) {
                        entry.remove();
                    }
                    self.remove(lock, client);
                }
            }
            released += 1;
        }
        released
    }

    fn find(&self, name: HashedName<'_>) -> Option<u32> {
        self.index
            .find(name.hash, |&lock| *self.names[lock as usize] == *name.bytes)
            .copied()
    }

    fn hand_over(&mut self, lock: u32, from: ClientId, Grant { client, stamp }: Grant) {
        self.by_holder.remove(&mut self.nodes, lock, from);
        self.nodes[lock] = Lock {
            stamp,
            holder: Some(client),
            links: Links::default(),
        };
        self.by_holder.push(&mut self.nodes, lock, client);
    }

    /// Removes a lock that `index` no longer contains.
    #[inline(always)]
    fn remove(&mut self, lock: u32, client: ClientId) {
        self.by_holder.remove(&mut self.nodes, lock, client);
        self.nodes.remove(lock);
        self.names[lock as usize] = ByteView::default();
        if self.index.is_empty() && self.index.capacity() > KEPT_CAPACITY {
            self.index = HashTable::new();
            // Together: a free node that is reused must find the slot of its name.
            self.nodes = Arena::default();
            self.names = Vec::new();
            self.by_holder.shrink();
        }
    }
}
