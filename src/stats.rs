//! What happened since the start, counted.
//!
//! Counters are striped: each thread adds to a stripe of its own, and only a `q` reads them all, so that
//! no cache line is written by every command on every core. A stripe is an ordinary atomic all the same:
//! two threads may share one when there are more threads than stripes.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread::available_parallelism;

use glockd_protocol::Verb;

/// More stripes than this are of no use to anyone: a `q` reads them all.
const MAX_STRIPES: usize = 64;

/// The counters of a server.
#[derive(Debug)]
pub struct Stats {
    stripes: Box<[Stripe]>,
}

/// Two cache lines, because processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe {
    commands: [AtomicU64; Verb::ALL.len()],
    invalid_commands: AtomicU64,
    orphans: AtomicU64,
    shared_orphans: AtomicU64,
}

thread_local! {
    static THREAD: Cell<Option<usize>> = const { Cell::new(None) };
}

impl Stats {
    /// All counters at zero.
    pub fn new() -> Stats {
        let stripes = available_parallelism()
            .map_or(1, usize::from)
            .min(MAX_STRIPES);
        Stats {
            stripes: (0..stripes.next_power_of_two())
                .map(|_| Stripe::default())
                .collect(),
        }
    }

    /// Counts a command.
    pub fn command(&self, verb: Verb) {
        self.stripe().commands[verb as usize].fetch_add(1, Relaxed);
    }

    /// Counts a frame that was no command.
    pub fn invalid_command(&self) {
        self.stripe().invalid_commands.fetch_add(1, Relaxed);
    }

    /// Counts locks whose connection ended before it released them.
    pub fn orphans(&self, exclusive: u64, shared: u64) {
        let stripe = self.stripe();
        stripe.orphans.fetch_add(exclusive, Relaxed);
        stripe.shared_orphans.fetch_add(shared, Relaxed);
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

    fn sum(&self, counter: impl Fn(&Stripe) -> &AtomicU64) -> u64 {
        self.stripes
            .iter()
            .map(|stripe| counter(stripe).load(Relaxed))
            .sum()
    }

    fn stripe(&self) -> &Stripe {
        &self.stripes[thread_number() & (self.stripes.len() - 1)]
    }
}

impl Default for Stats {
    fn default() -> Stats {
        Stats::new()
    }
}

/// Numbers threads as they come, so that the worker threads of one runtime get stripes of their own.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    THREAD.get().unwrap_or_else(|| {
        let number = NEXT.fetch_add(1, Relaxed);
        THREAD.set(Some(number));
        number
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_all_threads_add_up() {
        let stats = Stats::new();
        std::thread::scope(|scope| {
            for _ in 0..2 * stats.stripes.len() + 1 {
                scope.spawn(|| {
                    stats.command(Verb::G);
                    stats.invalid_command();
                    stats.orphans(2, 3);
                });
            }
        });
        let threads = 2 * stats.stripes.len() as u64 + 1;
        assert_eq!(stats.commands(Verb::G), threads);
        assert_eq!(stats.commands(Verb::R), 0);
        assert_eq!(stats.invalid_commands(), threads);
        assert_eq!(stats.exclusive_orphans(), 2 * threads);
        assert_eq!(stats.shared_orphans(), 3 * threads);
    }
}
