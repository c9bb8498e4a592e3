//! The live connections: the identity, address and registered name of each.
//!
//! All other modules know a connection by its [`ClientId`] alone. Addresses and names are shown and never
//! compared, so two connections may share either.

use std::fmt::{self, Display};
use std::num::{NonZeroU32, NonZeroU64};
use std::time::{Duration, Instant};

use byteview::ByteView;
use parking_lot::Mutex;
use slab::Slab;

/// The identity of a connection. It is reused only after [`Registry::remove`].
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

    /// Returns a small number, for tables that are indexed by the live connections.
    pub fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// How many arrivals a millisecond has room for, as a power of two.
const ARRIVALS_SHIFT: u32 = 12;

/// The number of a connection, which is never reused: each connection of a server has a larger one than those before.
///
/// It fits into 53 bits for 69 years, so that JSON and JavaScript keep it exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(NonZeroU64);

impl ConnectionId {
    /// Returns the id with this number, which may be no connection's.
    pub fn from_number(number: u64) -> Option<ConnectionId> {
        NonZeroU64::new(number).map(ConnectionId)
    }

    /// Returns the number.
    pub fn number(self) -> u64 {
        self.0.get()
    }

    /// The smallest id of a connection that comes so long after the registry was made.
    fn at(age: Duration) -> u64 {
        u64::try_from(age.as_millis()).unwrap_or(u64::MAX) << ARRIVALS_SHIFT
    }

    /// When the connection came, counted from when the registry was made. Exact to the millisecond, unless thousands
    /// of connections come in one.
    fn came_at(self) -> Duration {
        Duration::from_millis(self.number() >> ARRIVALS_SHIFT)
    }
}

impl Display for ConnectionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The live connections of a server.
#[derive(Debug)]
pub struct Registry {
    clients: Mutex<Clients>,
    /// When the registry was made.
    start: Instant,
}

impl Default for Registry {
    fn default() -> Registry {
        Registry {
            clients: Mutex::default(),
            start: Instant::now(),
        }
    }
}

#[derive(Debug, Default)]
struct Clients {
    slots: Slab<Client>,
    /// Id of the latest connection, or 0.
    latest: u64,
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    // A `ByteView` keeps up to 20 bytes in place: most addresses and names.
    address: ByteView,
    // Boxed, because most connections register no name.
    name: Option<Box<ByteView>>,
    // Never 0, so that a free slot of the slab takes no more room than a client.
    id: ConnectionId,
}

impl Client {
    /// Returns the address that the connection comes from.
    pub fn address(&self) -> &ByteView {
        &self.address
    }

    /// Returns the registered name, or else the address.
    pub fn shown_as(&self) -> &ByteView {
        self.name().unwrap_or(&self.address)
    }

    /// Returns the registered name.
    pub fn name(&self) -> Option<&ByteView> {
        self.name.as_deref()
    }

    /// Returns the number of the connection.
    pub fn id(&self) -> ConnectionId {
        self.id
    }
}

impl Registry {
    /// Adds a connection from this address.
    pub fn add(&self, address: &[u8]) -> ClientId {
        self.add_prepared(address, |_| {})
    }

    /// Adds a connection from this address. Calls `prepare` before anyone can find it. The registry is locked meanwhile,
    /// so `prepare` must be short.
    pub fn add_prepared(&self, address: &[u8], prepare: impl FnOnce(ClientId)) -> ClientId {
        let mut clients = self.clients.lock();
        let number = ConnectionId::at(self.start.elapsed()).max(clients.latest + 1);
        clients.latest = number;
        let client = Client {
            address: address.into(),
            name: None,
            id: ConnectionId(NonZeroU64::MIN.saturating_add(number - 1)),
        };
        let client = ClientId::new(clients.slots.insert(client));
        prepare(client);
        client
    }

    /// Removes a connection and its name. The client must hold no lock: the next connection may get its identity.
    pub fn remove(&self, client: ClientId) {
        self.clients.lock().slots.try_remove(client.index());
    }

    /// Returns the number of connections.
    pub fn connections(&self) -> usize {
        self.clients.lock().slots.len()
    }

    /// Returns how long ago the connection of an id came.
    pub fn age(&self, id: ConnectionId) -> Duration {
        self.start.elapsed().saturating_sub(id.came_at())
    }

    /// Sets or removes the name of a connection.
    pub fn rename(&self, client: ClientId, name: Option<&[u8]>) {
        if let Some(client) = self.clients.lock().slots.get_mut(client.index()) {
            client.name = name.map(|name| Box::new(name.into()));
        }
    }

    /// Calls `read` with a connection; `None` if it has been removed. The registry is locked meanwhile, so `read`
    /// must be short.
    pub fn with_client<T>(&self, client: ClientId, read: impl FnOnce(&Client) -> T) -> Option<T> {
        self.clients.lock().slots.get(client.index()).map(read)
    }

    /// Visits the connections with a name among `count` slots from slot `from` on, in no particular order. Returns the
    /// slot to go on from, and `None` at the end.
    ///
    /// A series of calls visits a connection once if it has a name throughout.
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

    /// Calls `read` with the connection in a slot if it has a name. The registry is locked meanwhile.
    pub fn with_registered<T>(&self, slot: usize, read: impl FnOnce(&Client) -> T) -> Option<T> {
        let clients = self.clients.lock();
        let client = clients.slots.get(slot)?;
        client.name.as_ref()?;
        Some(read(client))
    }

    /// Visits the connections in `count` slots, with or without a name, as [`scan`](Registry::scan) does.
    pub fn scan_connections(
        &self,
        from: usize,
        count: usize,
        mut visit: impl FnMut(&Client, ClientId),
    ) -> Option<usize> {
        let clients = self.clients.lock();
        let slots = &clients.slots;
        let end = (from + count).min(slots.capacity());
        for index in from..end {
            if let Some(client) = slots.get(index) {
                visit(client, ClientId::new(index));
            }
        }
        (end < slots.capacity()).then_some(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(registry: &Registry) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut found = Vec::new();
        let mut next = Some(0);
        while let Some(from) = next {
            next = registry.scan(from, 3, |client, _| {
                found.push((text(client.address()), text(client.shown_as())));
            });
        }
        found
    }

    #[test]
    fn identity_is_reused_only_after_removal() {
        let registry = Registry::default();
        let (a, b) = (registry.add(b"a"), registry.add(b"a"));
        assert_ne!(a, b);
        assert_eq!(registry.connections(), 2);
        registry.remove(a);
        assert_eq!(registry.connections(), 1);
        assert_eq!(registry.with_client(a, |_| ()), None);
        assert_eq!(registry.add(b"c"), a);
    }

    #[test]
    fn scan_finds_connections_while_they_have_names() {
        let registry = Registry::default();
        let clients: Vec<ClientId> = (0..10)
            .map(|index| registry.add(format!("p{index}").as_bytes()))
            .collect();
        assert_eq!(names(&registry), []);
        registry.rename(clients[7], Some(b"seven"));
        registry.rename(clients[2], Some(b"two"));
        let expect = [("p2", "two"), ("p7", "seven")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(names(&registry), expect);
        registry.rename(clients[7], None);
        registry.remove(clients[2]);
        assert_eq!(names(&registry), []);
    }

    #[test]
    fn slot_of_a_registered_connection_shows_its_id() {
        let registry = Registry::default();
        let client = registry.add(b"a");
        let id = || registry.with_registered(client.index(), Client::id);
        assert_eq!(id(), None);
        registry.rename(client, Some(b"x"));
        let first = id().unwrap();
        registry.remove(client);
        assert_eq!(registry.add(b"a"), client);
        assert_eq!(id(), None);
        registry.rename(client, Some(b"y"));
        assert!(id().unwrap() > first);
    }
}
