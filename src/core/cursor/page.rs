//! The smallest keys of a table beyond a given one, as many as a bounded memory holds.

use std::collections::BinaryHeap;

use byteview::ByteView;

use crate::core::registry::Registration;

/// A window holds at least this many keys, if they are short…
const MIN_KEYS: usize = 16 * 1024;

/// …or at least this many bytes of names. A name costs nothing as long as its lock is held, since the
/// two share it; but the lock may go.
const MIN_BYTES: usize = 1024 * 1024;

/// A listing makes no more than about this many passes, however large the table: its memory is that of a
/// few bytes an entry.
const PASSES: usize = 64;

/// What a listing is sorted by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// A lock, by its name.
    Lock(ByteView),
    /// A registered name, by the address it belongs to.
    Registration(Registration),
}

impl Key {
    fn bytes(&self) -> usize {
        match self {
            Key::Lock(name) => name.len(),
            Key::Registration(found) => found.address.len(),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Page {
    /// Only keys beyond this one are wanted.
    after: Option<Key>,
    /// Only keys before this one are: the smallest that found no room.
    before: Option<Key>,
    keys: BinaryHeap<Key>,
    bytes: usize,
    max_keys: usize,
    max_bytes: usize,
}

impl Page {
    /// A window that starts behind `after`, on a table of about so many entries.
    pub(super) fn new(after: Option<Key>, entries: usize) -> Page {
        Page {
            after,
            before: None,
            keys: BinaryHeap::new(),
            bytes: 0,
            max_keys: MIN_KEYS.max(entries / PASSES),
            max_bytes: MIN_BYTES.max(8 * entries),
        }
    }

    /// Offers a lock, whose name is only copied if it is taken.
    pub(super) fn offer_lock(&mut self, name: &ByteView) {
        let beyond = |limit: &Key| matches!(limit, Key::Lock(limit) if **name > **limit);
        let reached = |limit: &Key| matches!(limit, Key::Lock(limit) if **name >= **limit);
        let wanted = self.after.as_ref().is_none_or(beyond);
        if wanted && !self.before.as_ref().is_some_and(reached) {
            self.take(Key::Lock(name.clone()));
        }
    }

    /// Offers a key.
    pub(super) fn offer(&mut self, key: Key) {
        let wanted = self.after.as_ref().is_none_or(|after| key > *after);
        if wanted && self.before.as_ref().is_none_or(|before| key < *before) {
            self.take(key);
        }
    }

    /// Where the next window is to start, if there may be more.
    pub(super) fn next(&self) -> Option<Key> {
        self.before.as_ref().and(self.keys.peek()).cloned()
    }

    /// Moves up to `count` keys to `sorted`, the largest first, none twice. False once there are no more.
    pub(super) fn sort_some(&mut self, count: usize, sorted: &mut Vec<Key>) -> bool {
        sorted.reserve_exact(self.keys.len());
        for _ in 0..count {
            match self.keys.pop() {
                Some(key) if sorted.last() == Some(&key) => {}
                Some(key) => sorted.push(key),
                None => return false,
            }
        }
        true
    }

    fn take(&mut self, key: Key) {
        self.bytes += key.bytes();
        self.keys.push(key);
        // One key always finds room, or there would be no progress.
        while self.keys.len() > 1
            && (self.keys.len() > self.max_keys || self.bytes > self.max_bytes)
        {
            self.before = self.keys.pop();
            self.bytes -= self.before.as_ref().map_or(0, Key::bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> Key {
        Key::Lock(number.to_be_bytes().into())
    }

    fn window(after: Option<Key>, max_keys: usize, max_bytes: usize) -> Page {
        let window = Page::new(after, 0);
        Page {
            max_keys,
            max_bytes,
            ..window
        }
    }

    /// The keys of a window, in order.
    fn sorted(mut window: Page) -> Vec<Key> {
        let mut keys = Vec::new();
        while window.sort_some(3, &mut keys) {}
        keys.reverse();
        keys
    }

    /// All keys that a series of windows shows, when each is offered all numbers below `count`.
    #[track_caller]
    fn check(count: u32, max_keys: usize, max_bytes: usize) {
        let (mut shown, mut after) = (Vec::new(), None);
        loop {
            let mut window = window(after, max_keys, max_bytes);
            // 7 is coprime to the counts below, so this visits all, in a mixed order, and some twice.
            for step in 0..count + count / 2 {
                let Key::Lock(name) = key(step * 7 % count) else {
                    unreachable!()
                };
                window.offer_lock(&name);
            }
            assert!(window.keys.len() <= max_keys.max(1));
            let next = window.next();
            shown.extend(sorted(window));
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert_eq!(shown, (0..count).map(key).collect::<Vec<_>>());
    }

    #[test]
    fn windows_show_every_key_once_and_in_order() {
        check(0, 10, 1000);
        check(9, 10, 1000);
        check(10, 10, 1000);
        check(100, 10, 1000);
        check(100, 1, 1000);
        check(100, 10, 8);
        check(100, 10, 1);
    }

    #[test]
    fn a_long_key_that_found_no_room_keeps_later_ones_out() {
        let long = ByteView::from(vec![b'm'; 90]);
        let mut window = window(None, 10, 100);
        window.offer_lock(&b"a".into());
        window.offer_lock(&long);
        window.offer_lock(&ByteView::from(vec![b'b'; 20]));
        window.offer_lock(&b"z".into());
        let next = window.next();
        let keys = sorted(window);
        assert_eq!(keys.len(), 2);
        assert_eq!(next, keys.last().cloned());
    }
}
