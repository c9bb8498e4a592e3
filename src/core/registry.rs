//! Who is connected: the identity, address and registered name of each connection.
//!
//! Everything else knows a connection by its [`ClientId`] alone. Addresses and names are shown, never
//! compared, so two connections may share either.

use std::num::{NonZeroU32, NonZeroU64};

use byteview::ByteView;
use glockd_transports::Peer;
use parking_lot::Mutex;
use slab::Slab;

/// The identity of a connection. Used again only after [`Registry::leave`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(NonZeroU32);

impl ClientId {
    fn new(index: usize) -> ClientId {
        let number = u32::try_from(index).map_or(u32::MAX, |index| index.saturating_add(1));
        debug_assert!(
            number < u32::MAX,
            "descriptors run out long before identities"
        );
        ClientId(NonZeroU32::MIN.saturating_add(number - 1))
    }

    /// A small number, for tables with a place for each live connection.
    pub fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// The live connections of a server.
#[derive(Debug, Default)]
pub struct Registry {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    clients: Slab<Client>,
    /// The last arrival.
    arrivals: Option<NonZeroU64>,
}

/// What is known of one connection.
#[derive(Debug)]
pub struct Client {
    // `ByteView` keeps up to 20 bytes in place: most addresses and names.
    address: ByteView,
    // Boxed, because most register none.
    name: Option<Box<ByteView>>,
    // Never 0, which lets a free place say so here.
    arrival: NonZeroU64,
}

/// A connection that registered a name, as `who` sorts them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Registration {
    /// Where it comes from.
    pub address: ByteView,
    /// A number that grows from connection to connection.
    pub arrival: u64,
    /// Its identity.
    pub client: ClientId,
}

impl Client {
    /// Where the connection comes from.
    pub fn address(&self) -> &ByteView {
        &self.address
    }

    /// The name it registered, or else its address.
    pub fn shown_as(&self) -> &ByteView {
        self.name().unwrap_or(&self.address)
    }

    /// The name it registered.
    pub fn name(&self) -> Option<&ByteView> {
        self.name.as_deref()
    }
}

impl Registry {
    /// Adds a connection.
    pub fn enter(&self, peer: &Peer) -> ClientId {
        let mut state = self.state.lock();
        let arrival = match state.arrivals {
            Some(last) => last.saturating_add(1),
            None => NonZeroU64::MIN,
        };
        state.arrivals = Some(arrival);
        let client = Client {
            address: peer.as_str().as_bytes().into(),
            name: None,
            arrival,
        };
        ClientId::new(state.clients.insert(client))
    }

    /// Removes a connection, with its name. To be called when it holds no lock any more: from now on its
    /// identity may be another's.
    pub fn leave(&self, client: ClientId) {
        self.state.lock().clients.try_remove(client.index());
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.state.lock().clients.len()
    }

    /// Registers a name for a connection, or takes it back.
    pub fn rename(&self, client: ClientId, name: Option<&[u8]>) {
        if let Some(client) = self.state.lock().clients.get_mut(client.index()) {
            client.name = name.map(|name| Box::new(name.into()));
        }
    }

    /// Looks at a connection, under the registry's mutex: keep it short. `None` if it has left.
    pub fn look<T>(&self, client: ClientId, look: impl FnOnce(&Client) -> T) -> Option<T> {
        self.state.lock().clients.get(client.index()).map(look)
    }

    /// Looks at a registration found by [`scan`](Registry::scan). `None` if that connection has left or
    /// has taken its name back.
    pub fn look_again<T>(&self, found: &Registration, look: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let state = self.state.lock();
        let client = state.clients.get(found.client.index())?;
        let same = client.arrival.get() == found.arrival;
        client.name().filter(|_| same).map(|name| look(name))
    }

    /// Visits the registrations among `count` entries from entry `from` on, in no meaningful order. Returns the entry to
    /// go on from; `None` at the end. A connection that is registered throughout a series of calls is visited once.
    pub fn scan(
        &self,
        from: usize,
        count: usize,
        mut visit: impl FnMut(&Client, ClientId),
    ) -> Option<usize> {
        self.scan_connections(from, count, |client, id| {
            if client.name.is_some() {
                visit(client, id);
            }
        })
    }

    /// Visits the connections among `count` entries, registered or not, as [`scan`](Registry::scan) does.
    pub fn scan_connections(
        &self,
        from: usize,
        count: usize,
        mut visit: impl FnMut(&Client, ClientId),
    ) -> Option<usize> {
        let state = self.state.lock();
        let end = (from + count).min(state.clients.capacity());
        for index in from..end {
            if let Some(client) = state.clients.get(index) {
                visit(client, ClientId::new(index));
            }
        }
        (end < state.clients.capacity()).then_some(end)
    }
}

impl Client {
    /// What `who` sorts this connection by.
    pub fn registration(&self, client: ClientId) -> Registration {
        Registration {
            address: self.address.clone(),
            arrival: self.arrival.get(),
            client,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(registry: &Registry) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut found = Vec::new();
        let mut place = Some(0);
        while let Some(from) = place {
            place = registry.scan(from, 3, |client, _| {
                found.push((text(client.address()), text(client.shown_as())));
            });
        }
        found
    }

    #[test]
    fn identities_are_used_again_only_after_leaving() {
        let registry = Registry::default();
        let (a, b) = (
            registry.enter(&Peer::new("a")),
            registry.enter(&Peer::new("a")),
        );
        assert_ne!(a, b);
        assert_eq!(registry.connections(), 2);
        registry.leave(a);
        assert_eq!(registry.connections(), 1);
        assert_eq!(registry.look(a, |_| ()), None);
        assert_eq!(registry.enter(&Peer::new("c")), a);
    }

    #[test]
    fn names_come_and_go() {
        let registry = Registry::default();
        let clients: Vec<ClientId> = (0..10)
            .map(|index| registry.enter(&Peer::new(&format!("p{index}"))))
            .collect();
        assert_eq!(names(&registry), []);
        registry.rename(clients[7], Some(b"seven"));
        registry.rename(clients[2], Some(b"two"));
        let expect = [("p2", "two"), ("p7", "seven")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(names(&registry), expect);
        registry.rename(clients[7], None);
        registry.leave(clients[2]);
        assert_eq!(names(&registry), []);
    }

    #[test]
    fn a_registration_is_not_taken_for_its_successor() {
        let registry = Registry::default();
        let client = registry.enter(&Peer::new("a"));
        registry.rename(client, Some(b"x"));
        let found = registry
            .look(client, |found| found.registration(client))
            .unwrap();
        assert_eq!(
            registry.look_again(&found, <[u8]>::to_vec),
            Some(b"x".to_vec())
        );
        registry.leave(client);
        assert_eq!(registry.enter(&Peer::new("a")), client);
        registry.rename(client, Some(b"y"));
        assert_eq!(registry.look_again(&found, <[u8]>::to_vec), None);
    }
}
