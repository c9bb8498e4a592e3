//! Writes the entries of a sorted listing, one line or item at a time.

use byteview::ByteView;
use glockd_protocol::LockKind;
use glockd_protocol::rows::{self, Listing};

use super::step::FOUND;
use super::table::{Key, Table};
use crate::core::registry::ClientId;
use crate::core::state::State;

/// Appends a line about a lock's name and its holder, or about an address and a registered name.
pub(super) type WriteLine = fn(&mut Vec<u8>, &[u8], &[u8]);

/// The text around the entries of a listing.
#[derive(Debug)]
pub(super) enum Format {
    /// A line for each lock and holder, or for each connection.
    Lines(WriteLine),
    /// One line with all locks, as Go prints a map.
    Map(rows::Map),
}

/// Writes entries, each read anew from the table. An entry that is gone by then is left out.
#[derive(Debug)]
pub(super) struct Writer {
    format: Format,
    /// The holders of a shared lock that is being written.
    holders: Option<Holders>,
}

/// A shared lock whose holders are being written.
#[derive(Debug)]
struct Holders {
    name: ByteView,
    clients: std::vec::IntoIter<ClientId>,
    /// True if a holder has been written.
    is_open: bool,
}

/// The headers of a counted listing.
#[derive(Debug)]
pub(super) struct Blocks {
    pub(super) listing: Listing,
    /// The argument of the command.
    pub(super) argument: ByteView,
}

impl Writer {
    pub(super) fn new(format: Format) -> Writer {
        Writer {
            format,
            holders: None,
        }
    }

    /// Writes what stands before the first entry.
    pub(super) fn open(&mut self, out: &mut Vec<u8>) {
        if let Format::Map(map) = &mut self.format {
            map.open(out);
        }
    }

    /// Writes what stands behind the last entry.
    pub(super) fn close(&mut self, out: &mut Vec<u8>) {
        if let Format::Map(map) = &mut self.format {
            map.close(out);
        }
    }

    /// Writes the next entry, at most one line, and removes it from the end of `keys` once it is complete. Returns its cost in
    /// plain commands; `None` if no entry is left.
    pub(super) fn write_next(
        &mut self,
        keys: &mut Vec<Key>,
        table: &Table,
        state: &State,
        out: &mut Vec<u8>,
    ) -> Option<usize> {
        if let Some(holders) = &mut self.holders {
            if holders.write_next(&mut self.format, state, out) {
                return Some(1);
            }
            self.holders = None;
        }
        let key = keys.pop()?;
        let kind = match table {
            Table::Locks(kind) => *kind,
            Table::Names(filter) => {
                self.write_registration(&key, filter.as_deref(), state, out);
                return Some(1);
            }
        };
        let Key { text: name, .. } = &key;
        if let Some(slot) = key.slot {
            let write = |client| {
                self.format
                    .write_only_holder(kind, name, client, state, out)
            };
            let written = state
                .locks
                .with_only_holder_at(kind, slot.lock(), name, write);
            if written.is_some() || kind == LockKind::Exclusive {
                return Some(1);
            }
        } else if kind == LockKind::Exclusive {
            let write = |client| {
                self.format
                    .write_only_holder(kind, name, client, state, out)
            };
            state.locks.with_holder(name, write);
            return Some(1);
        }
        let clients = state.locks.shared_holders(name);
        let work = 1 + clients.len() / FOUND;
        self.holders = Some(Holders {
            name: key.text,
            clients: clients.into_iter(),
            is_open: false,
        });
        Some(work)
    }

    fn write_registration(
        &self,
        key: &Key,
        filter: Option<&[u8]>,
        state: &State,
        out: &mut Vec<u8>,
    ) {
        let (Some(slot), Format::Lines(write)) = (key.slot, &self.format) else {
            return;
        };
        state.registry.with_registered(slot.connection(), |client| {
            let is_same = client.id().number() == key.tie;
            if let Some(name) = client.name()
                && is_same
                && filter.is_none_or(|filter| filter == &**name)
            {
                write(out, &key.text, name);
            }
        });
    }
}

impl Format {
    /// Writes a lock with one holder.
    fn write_only_holder(
        &mut self,
        kind: LockKind,
        name: &[u8],
        client: ClientId,
        state: &State,
        out: &mut Vec<u8>,
    ) {
        state
            .registry
            .with_client(client, |client| match (self, kind) {
                (Format::Lines(write), _) => write(out, name, client.shown_as()),
                (Format::Map(map), LockKind::Exclusive) => map.entry(out, name, client.address()),
                (Format::Map(map), LockKind::Shared) => {
                    map.list_open(out, name);
                    map.item(out, client.address());
                    map.list_close(out);
                }
            });
    }
}

impl Holders {
    /// Writes the next holder if it still holds the lock. Returns false at the end.
    fn write_next(&mut self, format: &mut Format, state: &State, out: &mut Vec<u8>) -> bool {
        let Some(client) = self.clients.next() else {
            if let Format::Map(map) = format
                && self.is_open
            {
                map.list_close(out);
            }
            return false;
        };
        state.locks.with_shared_holder(&self.name, client, || {
            state.registry.with_client(client, |client| match format {
                Format::Map(map) => {
                    if !self.is_open {
                        map.list_open(out, &self.name);
                    }
                    self.is_open = true;
                    map.item(out, client.address());
                }
                Format::Lines(write) => write(out, &self.name, client.shown_as()),
            })
        });
        true
    }
}

impl Blocks {
    /// Inserts the header of a block of this many lines, which are all that `out` holds from `start` on.
    pub(super) fn open(&self, out: &mut Vec<u8>, start: usize, lines: usize) {
        // The header of an empty block would be the end mark.
        if lines > 0 {
            let end = out.len();
            rows::header(out, lines, self.listing, &self.argument);
            let header = out.len() - end;
            out[start..].rotate_right(header);
        }
    }

    /// Appends the end mark.
    pub(super) fn close(&self, out: &mut Vec<u8>) {
        rows::header(out, 0, self.listing, &self.argument);
    }
}
