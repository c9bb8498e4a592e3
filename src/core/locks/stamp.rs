//! Stamps of grants and waits, and the clock behind them.

use rustix::time::{ClockId, clock_gettime};

/// Number of stamps in a millisecond, as a power of two: more than a shard can give out in that time.
const SHIFT: u32 = 12;

/// The number of a grant or a wait. It orders those of one shard and says when each began, so a held lock needs no second
/// number for its age.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(u64);

impl Stamp {
    /// Returns the first stamp of a moment, given as the age of the table in milliseconds.
    pub(crate) fn at(age_ms: u64) -> Stamp {
        Stamp(age_ms.saturating_mul(1 << SHIFT))
    }

    /// Returns the stamp after this one, at this age of the table in milliseconds.
    pub(super) fn next(self, age_ms: u64) -> Stamp {
        Stamp(self.0 + 1).max(Stamp::at(age_ms))
    }

    /// Returns the age of the table at the moment of the stamp, in milliseconds.
    pub fn ms(self) -> u64 {
        self.0 >> SHIFT
    }

    /// Returns the stamp as a number.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// The age of a table, by the kernel's coarse clock: as of its last tick, some milliseconds ago. Reading the exact clock would
/// cost more than a grant can afford.
#[derive(Debug)]
pub(super) struct Clock {
    start_ms: u64,
}

impl Clock {
    /// Makes a clock that starts now.
    pub(super) fn new() -> Clock {
        Clock { start_ms: now_ms() }
    }

    /// Returns the time since the start, in milliseconds.
    pub(super) fn age_ms(&self) -> u64 {
        now_ms().saturating_sub(self.start_ms)
    }
}

fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    // This clock starts at 0 when the system starts.
    now.tv_sec.cast_unsigned() * 1000 + now.tv_nsec.cast_unsigned() / 1_000_000
}
