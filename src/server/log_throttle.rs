//! Log lines that peers could cause without end.

use std::time::{Duration, Instant};

/// How long nothing more is said of what was just said.
const SILENCE: Duration = Duration::from_secs(10);

/// What happens again and again, and is told of now and then.
#[derive(Debug, Default)]
pub(crate) struct LogThrottle {
    told: Option<Instant>,
    untold: u64,
}

impl LogThrottle {
    /// It has happened once more. How often since it was last told of, if it is to be told of now.
    pub(crate) fn happened(&mut self) -> Option<u64> {
        self.untold += 1;
        if self.told.is_some_and(|told| told.elapsed() < SILENCE) {
            return None;
        }
        self.told = Some(Instant::now());
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_of_now_and_then() {
        let mut quiet = LogThrottle::default();
        assert_eq!(quiet.happened(), Some(1));
        assert!((0..1000).all(|_| quiet.happened().is_none()));
        quiet.told = quiet.told.and_then(|told| told.checked_sub(SILENCE));
        assert_eq!(quiet.happened(), Some(1001));
        assert_eq!(quiet.happened(), None);
    }
}
