//! The parts that the wait queues of a shard are made of.

use std::collections::BTreeMap;
use std::task::Waker;

use byteview::ByteView;
use glockd_protocol::LockKind;

use crate::core::locks::arena::{Fifo, Linked, Links, NONE, Node};
use crate::core::locks::key::{HashedName, Key};
use crate::core::locks::stamp::Stamp;
use crate::core::registry::ClientId;

/// All waiters for one lock.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) hash: u64,
    pub(super) name: ByteView,
    pub(super) kind: LockKind,
    /// Clients that wait to hold the lock, in the order in which they came.
    pub(super) line: Fifo<Waiting>,
    /// For each number of holders, the group of the watchers that wait until fewer clients than that hold the lock.
    pub(super) watchers: BTreeMap<u32, u32>,
    /// True while the line is due.
    pub(super) is_line_due: bool,
}

/// Watchers that wait for the same number of holders.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// `NONE` once the wait of all members has succeeded. New watchers then join another group.
    pub(super) queue: u32,
    pub(super) below: u32,
    pub(super) members: Fifo<Waiting>,
}

/// A client that waits, until its connection has learned how the wait ended.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) state: WaiterState,
    /// `None` in a free slot.
    pub(super) client: Option<ClientId>,
    /// Maximum number of holders, this client included.
    pub(super) limit: u32,
    pub(super) links: Links,
    pub(super) since: Stamp,
    pub(super) waker: Option<Waker>,
}

/// Where a waiter is.
#[derive(Clone, Copy, Debug)]
pub(super) enum WaiterState {
    /// In the line of this queue.
    InLine(u32),
    /// In this group of watchers.
    InGroup(u32),
    /// In no list: the wait has succeeded, with this number of holders.
    Succeeded(u32),
}

/// The kind of the lists of waiters. A waiter is in one at a time, a line or a group.
#[derive(Debug)]
pub(super) enum Waiting {}

impl Queue {
    /// Makes an empty queue.
    pub(super) fn new(key: Key<'_>) -> Queue {
        Queue {
            hash: key.name.hash,
            name: ByteView::from(key.name.bytes),
            kind: key.kind,
            ..Queue::default()
        }
    }

    /// Returns the lock.
    pub(super) fn key(&self) -> Key<'_> {
        Key {
            kind: self.kind,
            name: HashedName {
                hash: self.hash,
                bytes: &self.name,
            },
        }
    }

    /// Returns true if nobody waits here and nothing is due.
    pub(super) fn is_idle(&self) -> bool {
        self.line.len() == 0 && self.watchers.is_empty() && !self.is_line_due
    }
}

impl Default for Queue {
    fn default() -> Queue {
        Queue {
            hash: 0,
            name: ByteView::default(),
            kind: LockKind::Exclusive,
            line: Fifo::default(),
            watchers: BTreeMap::new(),
            is_line_due: false,
        }
    }
}

impl Group {
    /// Returns true once the wait of all members has succeeded.
    pub(super) fn has_succeeded(&self) -> bool {
        self.queue == NONE
    }
}

impl Default for Waiter {
    fn default() -> Waiter {
        Waiter {
            state: WaiterState::Succeeded(0),
            client: None,
            limit: 0,
            links: Links::default(),
            since: Stamp::default(),
            waker: None,
        }
    }
}

impl Node for Queue {
    fn next_free(&mut self) -> &mut u32 {
        self.line.spare_field()
    }
}

impl Node for Group {
    fn next_free(&mut self) -> &mut u32 {
        self.members.spare_field()
    }
}

impl Node for Waiter {
    fn next_free(&mut self) -> &mut u32 {
        &mut self.links.next
    }
}

impl Linked<Waiting> for Waiter {
    fn links(&self) -> Links {
        self.links
    }

    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}
