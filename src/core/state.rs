//! The data of a server. It lies under both the dispatcher and the cursors, and knows neither.

use std::sync::Arc;

use crate::core::counters::Counters;
use crate::core::fence::Fence;
use crate::core::locks::LockTable;
use crate::core::registry::Registry;
use crate::core::slots::Slots;

/// Locks, connections, counters and fencing tokens of a server.
///
/// Each part has its own short mutexes or atomics, so all methods take `&self`.
#[derive(Debug)]
pub struct State {
    /// All locks that are held or waited for.
    pub locks: LockTable,
    /// All live connections.
    pub registry: Registry,
    /// Counters since the start.
    pub counters: Counters,
    /// Source of the fencing tokens.
    pub fence: Fence,
    /// Listings whose page may hold the whole table.
    pub(crate) large_pages: Arc<Slots>,
}

/// Number of large pages: enough that few readers have to do without one, and few enough to bound the memory that readers
/// that do not read can take.
const LARGE_PAGES: usize = 4;

impl State {
    /// Makes the state of a server without connections.
    pub fn new(locks: LockTable, fence: Fence) -> State {
        State {
            locks,
            registry: Registry::default(),
            counters: Counters::new(),
            fence,
            large_pages: Arc::new(Slots::new(Some(LARGE_PAGES))),
        }
    }
}
