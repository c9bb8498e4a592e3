//! The size of a cursor's steps.

/// Entries to show in one step: ten microseconds.
pub(super) const SHOW: usize = 64;

/// Finding this many holders or waiters, with the mutex held once, counts as one plain command in
/// [`Step::work`].
pub(super) const FOUND: usize = 8;

/// Bytes that a step adds to the output, at most, except for one long entry. A page of long names must not become one
/// reply in memory.
pub(super) const CHUNK: usize = 64 * 1024;

/// Result of one step of a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// True if the listing is complete.
    pub done: bool,
    /// Cost of the step in plain commands, at least 1.
    pub work: u32,
}

impl Step {
    /// A step of this cost, with more steps to follow.
    pub(super) fn more(work: usize) -> Step {
        Step {
            done: false,
            work: u32::try_from(work).unwrap_or(u32::MAX).max(1),
        }
    }
}
