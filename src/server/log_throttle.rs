//! Limits how often a log line that peers can cause is written.

use std::time::{Duration, Instant};

/// Time after a log line in which no other is written.
const SILENCE: Duration = Duration::from_secs(10);

/// Occurrences of one kind, of which at most one in [`SILENCE`] is logged.
#[derive(Debug, Default)]
pub(crate) struct LogThrottle {
    /// Time of the last log line.
    logged: Option<Instant>,
    /// Occurrences since the last log line.
    unlogged: u64,
}

impl LogThrottle {
    /// Records one occurrence. Returns the count since the last log line if it is time to log again.
    pub(crate) fn record(&mut self) -> Option<u64> {
        self.unlogged += 1;
        if self.logged.is_some_and(|logged| logged.elapsed() < SILENCE) {
            return None;
        }
        self.logged = Some(Instant::now());
        Some(std::mem::take(&mut self.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn occurrences_between_log_lines_are_counted() {
        let mut throttle = LogThrottle::default();
        assert_eq!(throttle.record(), Some(1));
        assert!((0..1000).all(|_| throttle.record().is_none()));
        throttle.logged = throttle
            .logged
            .and_then(|logged| logged.checked_sub(SILENCE));
        assert_eq!(throttle.record(), Some(1001));
        assert_eq!(throttle.record(), None);
    }
}
