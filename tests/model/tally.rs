//! The expected counters in `q`.

use std::collections::BTreeMap;

/// Counters, by the keys that they have in `q`.
pub(crate) type Statistics = BTreeMap<String, u64>;

/// The keys of gauges in `q`, which state the present and not the total.
const GAUGES: [&str; 3] = ["connections", "locks", "shared_locks"];

/// For each counter, the minimum and maximum of its value.
#[derive(Default)]
pub(crate) struct Tally(BTreeMap<String, (u64, u64)>);

impl Tally {
    /// Adds one to a counter: certainly, or possibly.
    pub(crate) fn add(&mut self, key: impl Into<String>, certainly: bool) {
        let (least, most) = self.0.entry(key.into()).or_default();
        *least += u64::from(certainly);
        *most += 1;
    }

    /// Compares this with the server's counters while nothing is under way. From then on, those values are certain.
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

/// Returns the counters that only grow.
pub(crate) fn counters(statistics: &Statistics) -> impl Iterator<Item = (&String, &u64)> {
    statistics
        .iter()
        .filter(|(key, _)| !GAUGES.contains(&key.as_str()))
}
