//! A number of places, taken one by one by any thread.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Slots that can be taken. At no time are more taken than there are.
#[derive(Debug)]
pub(crate) struct Slots {
    left: AtomicUsize,
}

impl Slots {
    /// So many; `None`: as many as are asked for.
    pub(crate) fn new(number: Option<usize>) -> Slots {
        Slots {
            left: AtomicUsize::new(number.unwrap_or(usize::MAX)),
        }
    }

    /// Takes a place, if one is left.
    pub(crate) fn try_acquire(&self) -> bool {
        let one_less = |left: usize| left.checked_sub(1);
        self.left.fetch_update(Relaxed, Relaxed, one_less).is_ok()
    }

    /// Gives back places that were taken.
    pub(crate) fn release(&self, number: usize) {
        self.left.fetch_add(number, Relaxed);
    }
}
