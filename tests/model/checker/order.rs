//! One possible order of the operations so far.

use std::collections::BTreeSet;

/// The state of the lock after an order of the operations answered so far.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Order {
    pub(super) holders: BTreeSet<u32>,
    /// The largest known fencing token of a grant.
    pub(super) token: u64,
    /// The head of the queue; there is one if any waiter has certainly joined it.
    pub(super) head: Option<usize>,
    /// Pairs of waiters of which the first joins the queue after the second, although it was invoked in time.
    pub(super) behind: BTreeSet<(usize, usize)>,
    /// Operations that are in the order although their replies come later.
    pub(super) ahead: BTreeSet<usize>,
}

impl Order {
    /// Returns the order without any operation, after which the lock has these holders.
    pub(super) fn new(holders: BTreeSet<u32>, token: u64) -> Order {
        Order {
            holders,
            token,
            head: None,
            behind: BTreeSet::new(),
            ahead: BTreeSet::new(),
        }
    }

    /// Returns the number of holders.
    pub(super) fn count(&self) -> u32 {
        self.holders.len() as u32
    }

    /// Returns this order with another head of the queue.
    pub(super) fn with_head(&self, head: usize) -> Order {
        Order {
            head: Some(head),
            ..self.clone()
        }
    }

    /// Returns true if the lock is in the same state as after another order.
    pub(super) fn is_same_state_as(&self, other: &Order) -> bool {
        let lock = |order: &Order| (order.token, order.head);
        self.holders == other.holders && lock(self) == lock(other)
    }
}
