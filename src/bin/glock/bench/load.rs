//! A load: what all of its threads and connections share.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use glockd_client::{Endpoint, Error};
use tokio::sync::{Barrier, Notify};

use super::batch::Work;
use crate::failure::Failure;

/// What to send, where to, and how much of it.
pub(super) struct Plan {
    pub(super) endpoint: Endpoint,
    pub(super) work: Work,
    /// Number of locks that all connections contend for. 0 means that each has its own.
    pub(super) keys: u32,
    /// Number of connections.
    pub(super) connections: u32,
    /// Number of commands in a batch.
    pub(super) pipeline: u32,
    /// Number of commands in all, unless there is a time.
    pub(super) operations: u64,
    /// Time for which commands are sent.
    pub(super) time: Option<Duration>,
}

/// A load that is being made.
pub(super) struct Load {
    pub(super) plan: Plan,
    /// Part of the names of the locks, so that two runs at a time do not disturb each other. Random: containers and
    /// hosts have the same process ids.
    salt: u64,
    /// Number of commands that connections have taken to send.
    taken: AtomicU64,
    /// Number of commands that were answered.
    done: AtomicU64,
    /// Number of connections on which the server has answered.
    open: AtomicU32,
    /// Place where all connections wait until all are open.
    ready: Barrier,
    /// When the first connection left the barrier.
    start: OnceLock<Instant>,
    has_failed: AtomicBool,
    /// Tells connections at the barrier that not all will come.
    failed: Notify,
}

impl Load {
    pub(super) fn new(plan: Plan) -> Load {
        Load {
            // The hasher is seeded at random.
            salt: RandomState::new().hash_one(()) & 0xffff_ffff,
            taken: AtomicU64::new(0),
            done: AtomicU64::new(0),
            open: AtomicU32::new(0),
            ready: Barrier::new(plan.connections as usize),
            start: OnceLock::new(),
            has_failed: AtomicBool::new(false),
            failed: Notify::new(),
            plan,
        }
    }

    /// Waits until all connections are open, or one has failed. Returns when the load began, if it did.
    pub(super) async fn all_ready(&self) -> Option<Instant> {
        let failed = self.failed.notified();
        // A failure sets the flag first, and notifies then.
        if self.has_failed() {
            return None;
        }
        tokio::select! {
            // No connection sends anything before the time is set.
            _ = self.ready.wait() => Some(*self.start.get_or_init(Instant::now)),
            () = failed => None,
        }
    }

    /// Returns when the load began, if it has begun.
    pub(super) fn start(&self) -> Option<Instant> {
        self.start.get().copied()
    }

    /// Takes the next batch to send. Returns its number of commands: 0 if no more are to be sent.
    pub(super) fn take_batch(&self) -> u64 {
        let most = u64::from(self.plan.pipeline);
        if self.plan.time.is_some() {
            return most;
        }
        let taken = self.taken.fetch_add(most, Relaxed);
        self.plan.operations.saturating_sub(taken).min(most)
    }

    /// Returns the name of the lock of a connection.
    pub(super) fn lock_name(&self, connection: u32) -> String {
        let key = match self.plan.keys {
            0 => connection,
            keys => connection % keys,
        };
        format!("bench:{:08x}:{key:06}", self.salt)
    }

    /// Returns the failure of a connection that could not be opened.
    pub(super) fn not_connected(&self, source: io::Error) -> Failure {
        let endpoint = self.plan.endpoint.clone();
        Error::Connect { endpoint, source }.into()
    }

    /// Records that the server has answered on one more connection.
    pub(super) fn connection_is_open(&self) {
        self.open.fetch_add(1, Relaxed);
    }

    /// Fails if the server has refused connections. It accepts each, and closes those beyond its maximum unanswered.
    pub(super) fn check_open(&self) -> Result<(), Failure> {
        let (open, connections) = (self.open.load(Relaxed), self.plan.connections);
        if open == connections {
            return Ok(());
        }
        Err(Failure::unavailable(format!(
            "the server took {open} of {connections} connections and closed the others: it probably limits them \
             (-max-connections, -max-connections-per-ip)"
        )))
    }

    /// Records that commands were answered.
    pub(super) fn answered(&self, commands: u64) {
        self.done.fetch_add(commands, Relaxed);
    }

    /// Returns the number of commands that were answered so far.
    pub(super) fn done(&self) -> u64 {
        self.done.load(Relaxed)
    }

    /// Records that a part of the load has failed, which ends all of it.
    pub(super) fn fail(&self) {
        self.has_failed.store(true, Relaxed);
        self.failed.notify_waiters();
    }

    /// Returns whether a part of the load has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.load(Relaxed)
    }
}
