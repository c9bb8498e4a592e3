//! Fencing tokens: numbers that grow with every grant, over restarts too.
//!
//! A token is a [`Stamp`] of the lock table, counted on from where this run of the server starts: the Unix time
//! in milliseconds, shifted left by 20. Stamps grow some 250 times more slowly than that, so a later run starts
//! beyond all of an earlier one, unless the clock was set back by nearly as long as that one ran.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::locks::Stamp;

/// How the Unix time in milliseconds becomes the first token.
const SHIFT: u32 = 20;

/// Tokens are below 2⁶³, so that a signed column of a database holds them.
const END: u64 = 1 << 63;

/// Where the fencing tokens of a server start.
#[derive(Debug)]
pub struct Fence {
    start: u64,
}

impl Fence {
    /// Tokens that start at the time of day.
    pub fn from_clock() -> Fence {
        // A clock before 1970 is as wrong as one beyond 2100, and no reason not to serve.
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        Fence {
            start: ms.min((END >> SHIFT) / 2) << SHIFT,
        }
    }

    /// The token of a grant. `None` if it is not certain that a later run will start beyond it.
    pub fn token(&self, stamp: Stamp) -> Option<u64> {
        let token = self.start.checked_add(stamp.number())?;
        (token < END).then_some(token)
    }
}
