//! Fencing tokens: numbers that grow with every grant, also across restarts.
//!
//! A token is a [`Stamp`] of the lock table plus the start of this run. By default, the start is the Unix time in
//! milliseconds, shifted left by 20 bits. Stamps grow about 250 times more slowly than that, so a later run starts
//! beyond all tokens of an earlier run, unless the clock was set back by nearly as long as the earlier run lasted.
//!
//! A server that cannot trust its clock keeps a high-water mark outside this module. The mark is written ahead. A
//! token is shown only if it is below the mark, and the next run starts at the mark, whatever the clock says.
//! A grant knows nothing of this and never waits for a disk. Only a request for a token can fail.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::core::locks::Stamp;

/// Bits by which the Unix time in milliseconds is shifted to make the first token.
const SHIFT: u32 = 20;

/// Upper limit of tokens: 2⁶³, so that a signed column of a database holds them.
pub(crate) const END: u64 = 1 << 63;

/// Largest start that the clock may give: half of [`END`], which is the year 2109.
const LAST_START: u64 = END / 2;

/// Source of the fencing tokens of a server.
#[derive(Debug)]
pub struct Fence {
    start: u64,
    /// Tokens below it may be shown.
    mark: AtomicU64,
}

impl Fence {
    /// Makes tokens that start at the time of day and have no mark.
    pub fn from_clock() -> Fence {
        Fence::new(start_by_clock(), END)
    }

    /// Makes tokens that start at `start`, and are shown while they are below `mark`.
    pub fn new(start: u64, mark: u64) -> Fence {
        Fence {
            start,
            mark: AtomicU64::new(mark),
        }
    }

    /// Allows tokens below this mark. No later run may start below it, whatever happens.
    pub fn set_mark(&self, mark: u64) {
        self.mark.store(mark, SeqCst);
    }

    /// Returns the token of a grant; `None` if a later run might start below it.
    pub fn token(&self, stamp: Stamp) -> Option<u64> {
        let token = self.start.saturating_add(stamp.number());
        (token < self.mark.load(SeqCst)).then_some(token)
    }
}

/// Returns the first token by the time of day. A clock before 1970 or after 2109 is clearly wrong, but the server
/// must start anyway, so this uses the nearest usable time.
pub(crate) fn start_by_clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let ms = u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
    ms.min(LAST_START >> SHIFT) << SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_start_at_the_time_of_day() {
        let before = start_by_clock();
        let token = Fence::from_clock().token(Stamp::at(0)).unwrap();
        assert!((before..=start_by_clock()).contains(&token));
        assert!(token > 1_700_000_000_000 << SHIFT);
        assert!(token < END);
    }

    #[test]
    fn token_at_or_beyond_the_mark_is_not_shown() {
        let fence = Fence::new(10, 10 + Stamp::at(5).number());
        let last = Stamp::at(5).number() - 1;
        assert!(fence.token(Stamp::at(0)).is_some());
        assert!(fence.token(Stamp::at(4)).unwrap() < 10 + last);
        assert_eq!(fence.token(Stamp::at(5)), None);
        fence.set_mark(11 + Stamp::at(5).number());
        assert_eq!(fence.token(Stamp::at(5)), Some(10 + Stamp::at(5).number()));
    }

    #[test]
    fn tokens_without_a_mark_end_at_the_limit() {
        let fence = Fence::from_clock();
        assert!(fence.token(Stamp::at(1 << 21)).is_some());
        assert_eq!(fence.token(Stamp::at(u64::MAX >> 12)), None);
    }
}
