//! The state that all connections to a server share.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::command::Command;
use crate::history::{Clock, Lock, Operation};
use crate::tally::Tally;
use crate::wire::Addresses;

/// The server's addresses and limit, and the records of all connections to it.
pub(crate) struct World {
    pub(crate) addresses: Addresses,
    /// Maximum number of locks of a connection.
    pub(crate) max_locks: Option<usize>,
    pub(crate) clock: Clock,
    /// All operations on locks; those of each connection are in order.
    pub(crate) history: Mutex<Vec<(Lock, Operation)>>,
    pub(crate) tally: Mutex<Tally>,
    /// Number of connections so far.
    connections: AtomicU32,
}

impl World {
    pub(crate) fn new(addresses: Addresses, max_locks: Option<usize>) -> World {
        World {
            addresses,
            max_locks,
            clock: Clock::default(),
            history: Mutex::default(),
            tally: Mutex::default(),
            connections: AtomicU32::new(0),
        }
    }

    /// Returns the number of a new connection.
    pub(crate) fn next_number(&self) -> u32 {
        self.connections.fetch_add(1, Relaxed)
    }

    /// Counts a command that was answered, or one that possibly never ran.
    pub(crate) fn count(&self, command: Command, answered: bool) {
        let mut tally = self.tally.lock();
        tally.add(command.counter(), answered);
        if command.is_marked() {
            tally.add("command_i", answered);
        }
    }
}
