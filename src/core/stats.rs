//! What happened since the start, counted.
//!
//! Each thread counts on a stripe of its own, to which nobody else writes, so that counting is an ordinary
//! addition: no cache line that every core writes, and no atomic read-modify-write, which would cost as
//! much as the mutex of a lock. Only a `q` reads all stripes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use glockd_protocol::Verb;
use thread_local::ThreadLocal;

/// The counters of a server.
#[derive(Debug, Default)]
pub struct Stats {
    stripes: ThreadLocal<Stripe>,
    // Not in the stripes: these are seldom counted.
    refused_connections: AtomicU64,
    refused_http: AtomicU64,
}

/// What one thread has counted. A later thread goes on with the stripe of one that has ended.
///
/// Whole pairs of cache lines, because processors fetch them so.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe {
    commands: [Counter; Verb::ALL.len()],
    invalid_commands: Counter,
    orphans: Counter,
    shared_orphans: Counter,
}

const _: () = assert!(size_of::<Stripe>() == 384);

/// A number that one thread writes, and any reads.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    fn add(&self, number: u64) {
        self.0.store(self.0.load(Relaxed) + number, Relaxed);
    }
}

impl Stats {
    /// All counters at zero.
    pub fn new() -> Stats {
        Stats::default()
    }

    /// Counts a command.
    pub fn command(&self, verb: Verb) {
        self.stripe().commands[verb as usize].add(1);
    }

    /// Counts a frame that was no command.
    pub fn invalid_command(&self) {
        self.stripe().invalid_commands.add(1);
    }

    /// Counts locks whose connection ended before it released them.
    pub fn orphans(&self, exclusive: u64, shared: u64) {
        let stripe = self.stripe();
        stripe.orphans.add(exclusive);
        stripe.shared_orphans.add(shared);
    }

    /// Counts a connection that was not let in.
    pub fn refused_connection(&self) {
        self.refused_connections.fetch_add(1, Relaxed);
    }

    /// Counts a connection that was closed because it spoke HTTP.
    pub fn refused_http_connection(&self) {
        self.refused_http.fetch_add(1, Relaxed);
    }

    /// How often a command was counted.
    pub fn commands(&self, verb: Verb) -> u64 {
        self.sum(|stripe| &stripe.commands[verb as usize])
    }

    /// How many frames were no command.
    pub fn invalid_commands(&self) -> u64 {
        self.sum(|stripe| &stripe.invalid_commands)
    }

    /// How many exclusive locks were orphaned.
    pub fn exclusive_orphans(&self) -> u64 {
        self.sum(|stripe| &stripe.orphans)
    }

    /// How many shared locks were orphaned, counted once a holder.
    pub fn shared_orphans(&self) -> u64 {
        self.sum(|stripe| &stripe.shared_orphans)
    }

    /// How many connections were not let in.
    pub fn refused_connections(&self) -> u64 {
        self.refused_connections.load(Relaxed)
    }

    /// How many connections were closed because they spoke HTTP.
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
        let stats = Stats::new();
        // Twice, so that stripes of ended threads are counted on.
        for _ in 0..2 {
            std::thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| {
                        stats.command(Verb::G);
                        stats.invalid_command();
                        stats.orphans(2, 3);
                        stats.refused_connection();
                        stats.refused_http_connection();
                    });
                }
            });
        }
        assert_eq!(stats.commands(Verb::G), 2 * THREADS);
        assert_eq!(stats.commands(Verb::R), 0);
        assert_eq!(stats.invalid_commands(), 2 * THREADS);
        assert_eq!(stats.refused_connections(), 2 * THREADS);
        assert_eq!(stats.refused_http(), 2 * THREADS);
        assert_eq!(stats.exclusive_orphans(), 4 * THREADS);
        assert_eq!(stats.shared_orphans(), 6 * THREADS);
    }
}
