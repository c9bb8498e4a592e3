//! Limits of a lock table.

/// Limits of a [`LockTable`](super::LockTable). `None`, the default, means unlimited.
///
/// An exclusive lock counts once, a shared lock once for each of its holders. A client that waits to hold a lock counts as a
/// holder: its grant cannot fail later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockLimits {
    /// Maximum number of locks in all.
    pub max_locks: Option<usize>,
    /// Maximum number of locks of one client.
    pub max_locks_per_connection: Option<usize>,
    /// Maximum number of clients that wait to hold one lock.
    pub max_waiters: Option<usize>,
}
