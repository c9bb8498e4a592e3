//! The entries of a table that a listing shows in one pass: all, or the smallest ones that fit.
//!
//! A page takes 16 bytes an entry, and so holds the whole table if it may take 4 MiB and 16 bytes for each entry of the table.
//! Only a few listings at a time may have such a page: clients that do not read must not take that memory many times over.
//! The pages of the others are small, and these listings make several passes over the table.

use std::sync::Arc;

use super::order::Order;
use super::table::{Key, Parts, Slot, Table};
use crate::core::slots::Slots;
use crate::core::state::State;

/// Entries of a small page: 256 KiB.
const SMALL: usize = 16 * 1024;

/// Entries of a large page beyond those that the table has at first: 4 MiB.
const MARGIN: usize = 4 * 1024 * 1024 / Order::ENTRY_BYTES;

/// Entries that one step of [`Page::shrink`] reads: ten microseconds.
const READ: usize = 128;

/// Entries in a sample of a page.
const SAMPLE: usize = 63;

/// Bytes of a text that cost as much to compare as a plain command.
const TEXT_BYTES: usize = 1024;

/// A page that is being filled.
#[derive(Debug)]
pub(super) struct Page {
    order: Order,
    /// The smallest key that is wanted.
    from: Option<Key>,
    /// The smallest key that is left to the next page.
    next: Option<Key>,
    capacity: usize,
    shrinking: Option<Shrinking>,
    permit: Option<Permit>,
}

/// The removal of entries that are left to the next page.
#[derive(Debug)]
struct Shrinking {
    kept: usize,
    next: usize,
}

/// A page that is full, or holds all that is left.
#[derive(Debug)]
pub(super) struct FullPage {
    pub(super) order: Order,
    /// The first key of the next page, if there may be one.
    pub(super) next: Option<Key>,
    /// Held until the page has been shown.
    _permit: Option<Permit>,
}

/// The right to a large page.
#[derive(Debug)]
struct Permit(Arc<Slots>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.release(1);
    }
}

/// Returns the number of entries that a table of this length may gain while it is listed, before the page has to be moved
/// to a larger place. Moving 16 MiB takes some ten milliseconds, and twice the memory. Room that is not used costs none.
fn room_to_grow(len: usize) -> usize {
    1024 + len / 8
}

impl Page {
    /// Makes an empty page for the entries from this key on.
    pub(super) fn new(from: Option<Key>, table: &Table, state: &State) -> Page {
        let len = table.len(state);
        let permit = (len > SMALL && state.large_pages.try_acquire())
            .then(|| Permit(Arc::clone(&state.large_pages)));
        let capacity = match permit {
            Some(_) => len + MARGIN,
            None => SMALL,
        };
        Page {
            order: Order::with_capacity((len + room_to_grow(len)).min(capacity)),
            from,
            next: None,
            capacity,
            shrinking: None,
            permit,
        }
    }

    /// Adds an entry, unless it belongs to another page.
    pub(super) fn offer(&mut self, slot: Slot, entry: Parts<'_>) {
        if self.is_wanted(entry) {
            debug_assert!(self.order.len() < self.capacity);
            self.order.push(slot, entry);
        }
    }

    /// Returns true if this many entries may not fit. Then [`shrink`](Page::shrink) must make room first.
    pub(super) fn lacks_room_for(&self, count: usize) -> bool {
        self.shrinking.is_some() || self.order.len() + count > self.capacity
    }

    /// Leaves about half of the entries to the next page, in steps of some ten microseconds. Returns the cost of the step in
    /// plain commands.
    pub(super) fn shrink(&mut self, table: &Table, state: &State) -> usize {
        let Some(Shrinking { mut kept, mut next }) = self.shrinking.take() else {
            self.next = self.median(table, state).or(self.next.take());
            self.shrinking = Some(Shrinking { kept: 0, next: 0 });
            return 2 * SAMPLE;
        };
        let (mut left, mut work) = (READ, 1);
        while next < self.order.len() && left > 0 {
            let slot = self.order.slot(next);
            let read = |entry: Parts<'_>| (self.is_wanted(entry), 1 + entry.0.len() / TEXT_BYTES);
            let (is_kept, cost) = table.with_entry(state, slot, read).unwrap_or((false, 1));
            if is_kept {
                self.order.copy(next, kept);
                kept += 1;
            }
            next += 1;
            work += cost;
            left = left.saturating_sub(cost);
        }
        match next < self.order.len() {
            true => self.shrinking = Some(Shrinking { kept, next }),
            false => self.order.truncate(kept),
        }
        work
    }

    /// Ends the page after the whole table was offered.
    pub(super) fn finish(&mut self) -> FullPage {
        let mut order = std::mem::take(&mut self.order);
        order.begin();
        FullPage {
            order,
            next: self.next.take(),
            _permit: self.permit.take(),
        }
    }

    /// Returns the median of a sample of the page. It is larger than at least one entry.
    fn median(&self, table: &Table, state: &State) -> Option<Key> {
        // Entries are in the order of their slots, which says nothing about their keys.
        let slots = (0..SAMPLE).map(|index| self.order.slot(index * self.order.len() / SAMPLE));
        let mut keys: Vec<Key> = slots
            .filter_map(|slot| table.key(state, slot, |entry| self.is_wanted(entry)))
            .collect();
        keys.sort_unstable_by(|one, other| one.parts().cmp(&other.parts()));
        keys.dedup_by(|one, other| one.parts() == other.parts());
        (keys.len() > 1).then(|| keys.swap_remove(keys.len() / 2))
    }

    fn is_wanted(&self, (text, tie): Parts<'_>) -> bool {
        self.from
            .as_ref()
            .is_none_or(|from| (text, tie) >= from.parts())
            && self
                .next
                .as_ref()
                .is_none_or(|next| (text, tie) < next.parts())
    }
}

#[cfg(test)]
mod tests {
    use glockd_protocol::LockKind;

    use super::*;
    use crate::core::dispatcher::Dispatcher;

    /// Moving a page stalls all other clients of its thread.
    #[test]
    fn page_has_room_for_locks_that_come_while_it_is_filled() {
        const LOCKS: usize = 2 * SMALL;
        let dispatcher = Dispatcher::default();
        let client = dispatcher.connect(b"a");
        for number in 0..LOCKS {
            assert!(dispatcher.locks().get(client, &number.to_be_bytes()));
        }
        let table = Table::Locks(LockKind::Exclusive);
        let page = Page::new(None, &table, dispatcher.state());
        let capacity = page.order.capacity();
        assert!(capacity >= LOCKS + LOCKS / 10, "{capacity}");
        assert!(capacity <= LOCKS + MARGIN, "{capacity}");
    }
}
