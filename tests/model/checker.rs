//! Checks whether the replies that clients have received about a lock are possible.
//!
//! The order in which the server ran the operations is not known. It is only known that each operation took effect
//! between two moments that its client observed. So the checker searches an order in which a lock that follows the
//! rules below, one operation after the other, gives each reply that was received: linearizability, as defined by
//! Herlihy and Wing. If there is no such order, a lock was held twice, a count was wrong, a refusal had no reason, or
//! a waiter was forgotten or overtaken. If there is one, no client can have noticed an error.
//!
//! The search follows Lowe ("Testing for linearizability", 2017): it goes through the observed events in time, and
//! puts an operation into an order only when a reply requires it. Of all orders so far, it keeps what later replies
//! can distinguish: the holders, and the operations that have taken effect and are not answered yet.
//!
//! Waiters are served in the order of arrival, but no client observes when it joins the queue. Trying all orders in
//! which they may have joined would take too long, and most of them make no difference. So a queue is known only as
//! the set of the waiters that have certainly joined it, and its head, which alone makes a difference. The head is
//! chosen when a choice must be made, among all waiters that may have joined before the others.
//!
//! Turned down: comparing the times during which a lock was certainly held with those during which it was possibly
//! held. That is less code, but accepts a count that is wrong by the number of commands under way.

mod order;
mod search;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use order::Order;
use search::{Event, Search};

use crate::history::Operation;

/// The state of a lock before the operations to check.
#[derive(Clone, Debug, Default)]
pub(crate) struct Past {
    pub(crate) holders: BTreeSet<u32>,
    /// The largest known fencing token.
    pub(crate) token: u64,
}

/// Checks the operations on a lock since `past`. Those of each connection are in the order in which it sent them.
///
/// # Errors
///
/// The first reply that is not possible in any order.
pub(crate) fn check(shared: bool, past: &Past, operations: &[Operation]) -> Result<(), String> {
    let mut events: Vec<(u64, Event, usize)> = Vec::with_capacity(2 * operations.len());
    for (index, operation) in operations.iter().enumerate() {
        events.push((operation.invoked, Event::Invoked, index));
        events.push((operation.answered, Event::Answered, index));
        if let Some(begun) = operation.begun {
            events.push((begun, Event::Begun, index));
        }
    }
    // Events of the same moment belong to one connection, and keep their order.
    events.sort_unstable();
    let first = Order::new(past.holders.clone(), past.token);
    let mut search = Search::new(shared, operations, first);
    for (now, event, index) in events {
        search.observe(now, event, index);
        if search.is_exhausted() {
            return Err(explain(operations, index));
        }
    }
    Ok(())
}

/// Describes an operation, and those that were under way at the same time.
fn explain(operations: &[Operation], index: usize) -> String {
    let wrong = &operations[index];
    let meanwhile =
        |other: &&Operation| other.answered > wrong.invoked && other.invoked < wrong.answered;
    let mut context: Vec<&Operation> = operations.iter().filter(meanwhile).collect();
    context.sort_by_key(|operation| operation.invoked);
    let mut text = format!("{wrong:?} is not possible in any order. Meanwhile:");
    for operation in context {
        text += &format!("\n{operation:?}");
    }
    text
}
