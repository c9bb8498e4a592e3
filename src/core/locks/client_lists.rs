//! For each client, a list of its locks in one shard.

use hashbrown::HashMap;

use super::arena::{Arena, Linked, Links, List, NONE};
use crate::core::registry::ClientId;

/// Lists of nodes, by client. A client without nodes takes no memory.
#[derive(Debug)]
pub(super) struct ClientLists<L> {
    lists: HashMap<ClientId, List<L>>,
}

impl<L> ClientLists<L> {
    /// Adds a node, which must not be in a list, at the start of a client's list.
    #[inline(always)]
    pub(super) fn push<T: Linked<L>>(&mut self, nodes: &mut Arena<T>, node: u32, client: ClientId) {
        let list = self.lists.entry(client).or_default();
        list.push_front(nodes, node);
    }

    /// Takes a node out of its client's list. The map is searched only if the node is the first.
    #[inline(always)]
    pub(super) fn remove<T: Linked<L>>(
        &mut self,
        nodes: &mut Arena<T>,
        node: u32,
        client: ClientId,
    ) {
        match List::unlink(nodes, node) {
            Links {
                previous: NONE,
                next: NONE,
            } => {
                self.lists.remove(&client);
            }
            Links {
                previous: NONE,
                next,
            } => {
                self.lists.insert(client, List::starting_at(next));
            }
            _ => {}
        }
    }

    /// Returns the first node of a client.
    pub(super) fn first(&self, client: ClientId) -> Option<u32> {
        self.lists.get(&client)?.first()
    }

    /// Returns the clients that have a node, each once.
    pub(super) fn clients(&self) -> impl Iterator<Item = ClientId> {
        self.lists.keys().copied()
    }

    /// Returns whether a client has a node.
    pub(super) fn contains(&self, client: ClientId) -> bool {
        self.lists.contains_key(&client)
    }

    /// Gives the memory of the map back, which must be empty.
    pub(super) fn shrink(&mut self) {
        self.lists = HashMap::default();
    }
}

impl<L> Default for ClientLists<L> {
    fn default() -> ClientLists<L> {
        ClientLists {
            lists: HashMap::default(),
        }
    }
}
