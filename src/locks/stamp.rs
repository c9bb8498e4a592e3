//! When a lock was granted, and in which order.

use rustix::time::{ClockId, clock_gettime};

/// A millisecond is so many stamps, as a power of two: more than a shard can grant in one.
const SHIFT: u32 = 12;

/// The number of a grant. Each grant of a shard has a larger one than the last, and it says when it was: so a
/// held lock needs no second number for its age.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(u64);

impl Stamp {
    /// The next after this one, so many milliseconds after the table was made.
    pub(super) fn next(self, age: u64) -> Stamp {
        Stamp((self.0 + 1).max(age << SHIFT))
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

/// Says how old the table is, in milliseconds.
#[derive(Debug)]
pub(super) struct Clock {
    start: u64,
}

impl Clock {
    pub(super) fn new() -> Clock {
        Clock {
            start: ms(ClockId::Monotonic),
        }
    }

    pub(super) fn age(&self) -> u64 {
        ms(ClockId::Monotonic).saturating_sub(self.start)
    }

    /// The same, up to some milliseconds ago: what a grant can afford.
    pub(super) fn rough_age(&self) -> u64 {
        ms(ROUGH).saturating_sub(self.start)
    }
}

/// The time of the last tick of the kernel, where it says that. It is a quarter of the price.
#[cfg(any(target_os = "linux", target_os = "android"))]
const ROUGH: ClockId = ClockId::MonotonicCoarse;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const ROUGH: ClockId = ClockId::Monotonic;

fn ms(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000
}
