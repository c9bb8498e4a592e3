//! The two tables that a listing can sort: locks by their names, and registered connections by their addresses.

use byteview::ByteView;
use glockd_protocol::LockKind;

use crate::core::locks::ScanPosition;
use crate::core::registry::Client;
use crate::core::state::State;

/// A table to list.
#[derive(Debug)]
pub(super) enum Table {
    /// The locks of a kind.
    Locks(LockKind),
    /// The connections with a name: all, or those with this one.
    Names(Option<ByteView>),
}

/// An entry of a table.
#[derive(Clone, Debug)]
pub(super) struct Key {
    /// The name of the lock, or the address of the connection.
    pub(super) text: ByteView,
    /// Number that decides between equal texts: that of the connection.
    pub(super) tie: u64,
    /// Where the entry was found; `None` for a lock that the command names.
    pub(super) slot: Option<Slot>,
}

/// A key in parts: the text by which it is sorted, and a number that decides between equal texts.
pub(super) type Parts<'a> = (&'a ByteView, u64);

/// A position in a table.
#[derive(Clone, Copy, Debug)]
pub(super) enum Position {
    Locks(ScanPosition),
    Names(usize),
}

/// The position of an entry, in 64 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(u64);

impl Key {
    /// Returns the key of a lock that a command names.
    pub(super) fn named(name: ByteView) -> Key {
        Key {
            text: name,
            tie: 0,
            slot: None,
        }
    }

    pub(super) fn parts(&self) -> Parts<'_> {
        (&self.text, self.tie)
    }
}

impl Slot {
    /// Returns the position of a lock in its table.
    pub(super) fn lock(self) -> ScanPosition {
        ScanPosition::from_bits(self.0)
    }

    /// Returns the slot of a connection in the registry.
    pub(super) fn connection(self) -> usize {
        self.0 as usize
    }
}

impl Table {
    /// Returns the position where a scan starts.
    pub(super) fn start(&self) -> Position {
        match self {
            Table::Locks(_) => Position::Locks(ScanPosition::default()),
            Table::Names(_) => Position::Names(0),
        }
    }

    /// Returns the maximum number of entries.
    pub(super) fn len(&self, state: &State) -> usize {
        match self {
            Table::Locks(kind) => state.locks.count(*kind),
            Table::Names(_) => state.registry.connections(),
        }
    }

    /// Visits the entries in about `count` slots from a position on. Returns the next position, and `None` at the end.
    pub(super) fn scan(
        &self,
        state: &State,
        from: Position,
        count: usize,
        mut visit: impl FnMut(Slot, Parts<'_>),
    ) -> Option<Position> {
        match (self, from) {
            (Table::Locks(kind), Position::Locks(from)) => state
                .locks
                .scan(*kind, from, count, |position, name| {
                    visit(Slot(position.to_bits()), (name, 0));
                })
                .map(Position::Locks),
            (Table::Names(filter), Position::Names(from)) => state
                .registry
                .scan(from, count, |client, id| {
                    if filter.is_none() || client.name() == filter.as_ref() {
                        visit(Slot(id.index() as u64), parts(client));
                    }
                })
                .map(Position::Names),
            (Table::Locks(_), Position::Names(_)) | (Table::Names(_), Position::Locks(_)) => None,
        }
    }

    /// Calls `read` with the entry that is in a slot now; `None` if the slot is free. The entry cannot go meanwhile.
    pub(super) fn with_entry<T>(
        &self,
        state: &State,
        slot: Slot,
        read: impl FnOnce(Parts<'_>) -> T,
    ) -> Option<T> {
        let State {
            locks, registry, ..
        } = state;
        match self {
            Table::Locks(kind) => locks.with_name_at(*kind, slot.lock(), |name| read((name, 0))),
            Table::Names(_) => {
                registry.with_registered(slot.connection(), |client| read(parts(client)))
            }
        }
    }

    /// Returns the key of the entry that is in a slot now if it satisfies a condition.
    pub(super) fn key(
        &self,
        state: &State,
        slot: Slot,
        is_wanted: impl FnOnce(Parts<'_>) -> bool,
    ) -> Option<Key> {
        let key = self.with_entry(state, slot, |(text, tie)| {
            is_wanted((text, tie)).then(|| Key {
                text: text.clone(),
                tie,
                slot: Some(slot),
            })
        });
        key.flatten()
    }
}

fn parts(client: &Client) -> Parts<'_> {
    (client.address(), client.id().number())
}
