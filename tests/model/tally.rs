//! What the counters of `q` must be.

use std::collections::BTreeMap;

/// Counters, by the keys that they have in `q`.
pub(crate) type Statistics = BTreeMap<String, u64>;

/// What `q` shows of now, rather than of all that has been.
const GAUGES: [&str; 3] = ["connections", "locks", "shared_locks"];

/// How often each thing that is counted was certainly done, and at most.
#[derive(Default)]
pub(crate) struct Tally(BTreeMap<String, (u64, u64)>);

impl Tally {
    /// Something was done; if not certainly, then possibly.
    pub(crate) fn add(&mut self, key: impl Into<String>, certainly: bool) {
        let (least, most) = self.0.entry(key.into()).or_default();
        *least += u64::from(certainly);
        *most += 1;
    }

    /// Holds this against what the server has counted, while nothing is under way. From then on that is what
    /// was certainly done.
    pub(crate) fn check(&mut self, statistics: &Statistics) {
        for (key, &value) in counters(statistics) {
            let (least, most) = self.0.remove(key).unwrap_or_default();
            let range = least..=most;
            assert!(range.contains(&value), "{key} is {value}, not of {range:?}");
        }
        self.0.retain(|_, (least, _)| *least > 0);
        assert_eq!(self.0, BTreeMap::new(), "not in {statistics:?}");
        let certain = |(key, &value): (&String, &u64)| (key.clone(), (value, value));
        self.0 = counters(statistics).map(certain).collect();
    }
}

/// Those that only grow.
pub(crate) fn counters(statistics: &Statistics) -> impl Iterator<Item = (&String, &u64)> {
    statistics
        .iter()
        .filter(|(key, _)| !GAUGES.contains(&key.as_str()))
}
