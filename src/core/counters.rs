//! Counters of what has happened since the start.
//!
//! Each thread has a stripe of counters that no other thread writes, so counting is an ordinary addition. A shared
//! counter would be a cache line that every core writes, and an atomic read-modify-write would cost as much as the
//! mutex of a lock. Only `q` reads all stripes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use glockd_protocol::Verb;
use thread_local::ThreadLocal;

/// The counters of a server.
#[derive(Debug, Default)]
pub struct Counters {
    stripes: ThreadLocal<Stripe>,
    // Outside the stripes, because they rarely change.
    refused_connections: AtomicU64,
    refused_http: AtomicU64,
}

/// The counters of one thread. When the thread has ended, a later one continues its stripe.
///
/// Aligned to two cache lines, because processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe {
    commands: [Counter; Verb::ALL.len()],
    invalid_commands: Counter,
    orphans: Counter,
    shared_orphans: Counter,
}

const _: () = assert!(size_of::<Stripe>() == 384);

/// A number that one thread writes and any thread reads.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    fn add(&self, number: u64) {
        self.0.store(self.0.load(Relaxed) + number, Relaxed);
    }
}

impl Counters {
    /// Makes counters that are all zero.
    pub fn new() -> Counters {
        Counters::default()
    }

    /// Counts a command.
    pub fn count_command(&self, verb: Verb) {
        self.stripe().commands[verb as usize].add(1);
    }

    /// Counts a frame that was not a command.
    pub fn count_invalid_command(&self) {
        self.stripe().invalid_commands.add(1);
    }

    /// Counts locks that a client still held when its connection ended.
    pub fn count_orphans(&self, exclusive: u64, shared: u64) {
        let stripe = self.stripe();
        stripe.orphans.add(exclusive);
        stripe.shared_orphans.add(shared);
    }

    /// Counts a connection that was refused by a limit.
    pub fn count_refused_connection(&self) {
        self.refused_connections.fetch_add(1, Relaxed);
    }

    /// Counts a connection that was closed because its peer spoke HTTP.
    pub fn count_refused_http(&self) {
        self.refused_http.fetch_add(1, Relaxed);
    }

    /// Returns the number of commands with this verb.
    pub fn commands(&self, verb: Verb) -> u64 {
        self.sum(|stripe| &stripe.commands[verb as usize])
    }

    /// Returns the number of frames that were not a command.
    pub fn invalid_commands(&self) -> u64 {
        self.sum(|stripe| &stripe.invalid_commands)
    }

    /// Returns the number of orphaned exclusive locks.
    pub fn exclusive_orphans(&self) -> u64 {
        self.sum(|stripe| &stripe.orphans)
    }

    /// Returns the number of orphaned shared locks. A lock counts once for each holder.
    pub fn shared_orphans(&self) -> u64 {
        self.sum(|stripe| &stripe.shared_orphans)
    }

    /// Returns the number of connections that were refused by a limit.
    pub fn refused_connections(&self) -> u64 {
        self.refused_connections.load(Relaxed)
    }

    /// Returns the number of connections that were closed because their peer spoke HTTP.
    pub fn refused_http(&self) -> u64 {
        self.refused_http.load(Relaxed)
    }

    fn sum(&self, counter: impl Fn(&Stripe) -> &Counter) -> u64 {
        self.stripes
            .iter()
            .map(|stripe| counter(stripe).0.load(Relaxed))
            .sum()
    }

    fn stripe(&self) -> &Stripe {
        self.stripes.get_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_all_threads_add_up() {
        const THREADS: u64 = 20;
        let counters = Counters::new();
        // Twice, so that the second round continues stripes of ended threads.
        for _ in 0..2 {
            std::thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| {
                        counters.count_command(Verb::G);
                        counters.count_invalid_command();
                        counters.count_orphans(2, 3);
                        counters.count_refused_connection();
                        counters.count_refused_http();
                    });
                }
            });
        }
        assert_eq!(counters.commands(Verb::G), 2 * THREADS);
        assert_eq!(counters.commands(Verb::R), 0);
        assert_eq!(counters.invalid_commands(), 2 * THREADS);
        assert_eq!(counters.refused_connections(), 2 * THREADS);
        assert_eq!(counters.refused_http(), 2 * THREADS);
        assert_eq!(counters.exclusive_orphans(), 4 * THREADS);
        assert_eq!(counters.shared_orphans(), 6 * THREADS);
    }
}
