//! What was asked and answered, and in what order that was seen.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// How many names are fought for.
pub(crate) const NAMES: usize = 6;

/// One lock: a name, as an exclusive or as a shared one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lock {
    pub(crate) shared: bool,
    pub(crate) number: usize,
}

impl Lock {
    pub(crate) fn all() -> impl Iterator<Item = Lock> {
        let of_kind = |shared| (0..NAMES).map(move |number| Lock { shared, number });
        [false, true].into_iter().flat_map(of_kind)
    }

    /// Names in sorted order.
    pub(crate) fn name(self) -> String {
        format!("hot {}", self.number)
    }
}

/// What can be done to a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Get,
    Release,
    Inspect,
    /// The end of a connection, which releases.
    End,
}

/// One thing that a connection did to a lock: at some moment between two that its client saw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    pub(crate) connection: u32,
    pub(crate) act: Act,
    /// Before it was sent.
    pub(crate) invoked: u64,
    /// After its answer came; or, without one, after its connection was seen to have ended.
    pub(crate) answered: u64,
    /// The number that the answer begins with: how many hold the lock, or whether that was done.
    pub(crate) answer: Option<u32>,
}

/// Numbers the moments that are seen, over all clients. What was answered at a lower number than another
/// was invoked at happened before it.
#[derive(Default)]
pub(crate) struct Clock(AtomicU64);

impl Clock {
    pub(crate) fn now(&self) -> u64 {
        self.0.fetch_add(1, SeqCst)
    }
}
