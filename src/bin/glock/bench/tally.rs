//! The measurements of a load.

use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::json;

use crate::failure::Failure;

/// Longest latency that is told apart from longer ones. All are recorded to three digits.
const LONGEST: Duration = Duration::from_secs(60);

/// Counts and latencies. The connections of a thread share one, since it takes some 200 KiB.
#[derive(Clone)]
pub(super) struct Tally {
    answered: u64,
    refused: u64,
    /// When the last batch was answered.
    last: Option<Instant>,
    latencies: Histogram<u64>,
}

/// A batch of commands that was sent and answered.
pub(super) struct Answered {
    pub(super) sent: Instant,
    pub(super) answered: Instant,
    /// Number of commands.
    pub(super) commands: u64,
    /// Number of commands that the server refused.
    pub(super) refused: u64,
}

impl Tally {
    pub(super) fn new() -> Result<Tally, Failure> {
        let latencies = Histogram::new_with_bounds(1, LONGEST.as_nanos() as u64, 3);
        Ok(Tally {
            answered: 0,
            refused: 0,
            last: None,
            latencies: latencies.map_err(|error| Failure::of_system(io::Error::other(error)))?,
        })
    }

    /// Counts a batch.
    pub(super) fn count(&mut self, batch: &Answered) {
        let latency = batch.answered - batch.sent;
        let latency = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latencies.saturating_record_n(latency, batch.commands);
        self.last = self.last.max(Some(batch.answered));
        self.answered += batch.commands;
        self.refused += batch.refused;
    }

    /// Adds what another thread has counted.
    pub(super) fn add(&mut self, other: &Tally) -> Result<(), Failure> {
        self.answered += other.answered;
        self.refused += other.refused;
        self.last = self.last.max(other.last);
        let added = self.latencies.add(&other.latencies);
        added.map_err(|error| Failure::of_system(io::Error::other(error)))
    }

    /// Sums up a load that began at `start`.
    pub(super) fn summarize(&self, start: Option<Instant>) -> Summary {
        let elapsed = start.zip(self.last).map(|(start, last)| last - start);
        let us = |ns: u64| ns as f64 / 1000.0;
        let at = |percentile| us(self.latencies.value_at_quantile(percentile));
        Summary {
            answered: self.answered,
            refused: self.refused,
            seconds: elapsed.unwrap_or_default().as_secs_f64(),
            latency_us: Latencies {
                least: us(self.latencies.min()),
                mean: self.latencies.mean() / 1000.0,
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p999: at(0.999),
                most: us(self.latencies.max()),
            },
        }
    }
}

/// Result of a load.
pub(super) struct Summary {
    answered: u64,
    refused: u64,
    /// Time from the moment at which all connections were open to the last reply.
    seconds: f64,
    latency_us: Latencies,
}

/// Latencies of batches, in microseconds.
struct Latencies {
    least: f64,
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    most: f64,
}

/// How the load was made, for its report.
#[derive(Clone, Copy)]
pub(super) struct Setting {
    pub(super) connections: u32,
    pub(super) pipeline: u32,
    pub(super) threads: u32,
}

impl Summary {
    /// Returns commands a second.
    fn rate(&self) -> f64 {
        self.answered as f64 / self.seconds
    }

    /// Returns the report for programs.
    pub(super) fn json(&self, setting: Setting) -> String {
        let us = &self.latency_us;
        let latency = json!({
            "least": us.least, "mean": us.mean, "p50": us.p50, "p90": us.p90, "p99": us.p99, "p999": us.p999,
            "most": us.most,
        });
        let report = json!({
            "connections": setting.connections, "pipeline": setting.pipeline, "threads": setting.threads,
            "seconds": self.seconds, "operations": self.answered, "refused": self.refused,
            "operations_per_second": self.rate(), "latency_us": latency,
        });
        report.to_string()
    }

    /// Returns the report for people.
    pub(super) fn text(&self, setting: Setting) -> String {
        let us = &self.latency_us;
        format!(
            "{} commands in {:.3} s over {} connections, {} at a time: {:.0} a second, {} refused\n\
             latency in µs: least {:.1}, mean {:.1}, p50 {:.1}, p90 {:.1}, p99 {:.1}, p99.9 {:.1}, most {:.1}",
            self.answered,
            self.seconds,
            setting.connections,
            setting.pipeline,
            self.rate(),
            self.refused,
            us.least,
            us.mean,
            us.p50,
            us.p90,
            us.p99,
            us.p999,
            us.most,
        )
    }
}
