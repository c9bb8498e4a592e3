//! A counter of free slots, shared by threads.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Slots that can be acquired. At no moment are more acquired than there are.
#[derive(Debug)]
pub(crate) struct Slots {
    free: AtomicUsize,
}

impl Slots {
    /// Makes this many free slots; `None` means unlimited.
    pub(crate) fn new(count: Option<usize>) -> Slots {
        Slots {
            free: AtomicUsize::new(count.unwrap_or(usize::MAX)),
        }
    }

    /// Acquires a slot. Returns false if none is free.
    pub(crate) fn try_acquire(&self) -> bool {
        let one_less = |free: usize| free.checked_sub(1);
        self.free.fetch_update(Relaxed, Relaxed, one_less).is_ok()
    }

    /// Releases acquired slots.
    pub(crate) fn release(&self, count: usize) {
        self.free.fetch_add(count, Relaxed);
    }
}
