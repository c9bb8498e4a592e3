//! When a lock was granted, and in which order.

use rustix::time::{ClockId, clock_gettime};

/// A millisecond is so many stamps, as a power of two: more than a shard can grant in one.
const SHIFT: u32 = 12;

/// The number of a grant. Each grant of a shard has a larger one than the last, and it says when it was: so a
/// held lock needs no second number for its age.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(u64);

impl Stamp {
    /// The first that may be given so many milliseconds after the table was made.
    pub(crate) fn at(age: u64) -> Stamp {
        Stamp(age.saturating_mul(1 << SHIFT))
    }

    /// The next after this one, so many milliseconds after the table was made.
    pub(super) fn next(self, age: u64) -> Stamp {
        Stamp(self.0 + 1).max(Stamp::at(age))
    }

    /// How long after the table was made this was, in milliseconds.
    pub fn ms(self) -> u64 {
        self.0 >> SHIFT
    }

    /// This, as a number.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// The age of the table, by the kernel's coarse clock: the time of its last tick, some milliseconds ago. A grant cannot
/// afford the exact clock.
#[derive(Debug)]
pub(super) struct Clock {
    start_ms: u64,
}

impl Clock {
    pub(super) fn new() -> Clock {
        Clock { start_ms: now_ms() }
    }

    /// Returns the age in milliseconds.
    pub(super) fn age(&self) -> u64 {
        now_ms().saturating_sub(self.start_ms)
    }
}

fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    // This clock starts at 0 when the system starts.
    now.tv_sec.cast_unsigned() * 1000 + now.tv_nsec.cast_unsigned() / 1_000_000
}
