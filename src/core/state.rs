//! The data of a server. It lies under both the dispatcher and the cursors, and knows neither.

use crate::core::fence::Fence;
use crate::core::locks::LockTable;
use crate::core::registry::Registry;
use crate::core::stats::Stats;

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
    pub stats: Stats,
    /// Source of the fencing tokens.
    pub fence: Fence,
}
