//! Whether what clients saw of a lock can be true.
//!
//! The server's own order of things is not known, only that each operation took effect between two moments
//! that its client saw. So an order is looked for in which a lock that does what [`run`] says, one operation
//! after the other, gives every answer that was given: linearizability, as Herlihy and Wing have it. If there
//! is none, then a lock was held twice, or a count was wrong, or a refusal had no reason. If there is one, then
//! no client could tell that anything was amiss.
//!
//! Orders are found as by Lowe ("Testing for linearizability", 2017): going through what was seen as it was
//! seen, and putting nothing in order before an answer asks for it. Of all orders so far is kept what later
//! answers can tell apart: who holds the lock, and what took effect and has yet to be answered.
//!
//! Turned down: comparing the times during which a lock was certainly held, and possibly held. It is less
//! code, but lets a count pass that is wrong by as many as have commands under way.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use crate::history::{Act, Operation};

/// Holds what happened to a lock, which was held by these before, against what a lock does. The operations of
/// each connection stand in the order in which it sent them.
///
/// # Errors
///
/// The first answer that is true in no order.
pub(crate) fn check(
    shared: bool,
    holders: &BTreeSet<u32>,
    operations: &[Operation],
) -> Result<(), String> {
    let mut search = Search {
        shared,
        operations,
        open: BTreeMap::new(),
        orders: HashSet::from([Order {
            holders: holders.clone(),
            ahead: BTreeSet::new(),
        }]),
    };
    let mut seen: Vec<(u64, usize, bool)> = Vec::with_capacity(2 * operations.len());
    for (index, operation) in operations.iter().enumerate() {
        seen.push((operation.invoked, index, false));
        seen.push((operation.answered, index, true));
    }
    // What was seen at one moment belongs to one connection, and keeps its order.
    seen.sort_unstable();
    for (_, index, answered) in seen {
        if !answered {
            search.invoked(index);
        } else if !search.answered(index) {
            return Err(explain(operations, index));
        }
    }
    Ok(())
}

/// What a lock does, and what it answers.
fn run(shared: bool, holders: &mut BTreeSet<u32>, operation: &Operation) -> u32 {
    let connection = operation.connection;
    let answer = match operation.act {
        Act::Get => {
            if shared || holders.is_empty() {
                holders.insert(connection);
            }
            match shared {
                true => holders.len(),
                false => holders.contains(&connection).into(),
            }
        }
        Act::Release | Act::End => holders.remove(&connection).into(),
        Act::Inspect => holders.len(),
    };
    answer as u32
}

/// What is to be known of an order of what was answered so far.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Order {
    holders: BTreeSet<u32>,
    /// Operations that are in the order, though their answers come later.
    ahead: BTreeSet<usize>,
}

struct Search<'a> {
    shared: bool,
    operations: &'a [Operation],
    /// What is under way, by connection.
    open: BTreeMap<u32, VecDeque<usize>>,
    orders: HashSet<Order>,
}

impl Search<'_> {
    fn invoked(&mut self, index: usize) {
        let connection = self.operations[index].connection;
        self.open.entry(connection).or_default().push_back(index);
    }

    /// Goes on with orders in which this operation has taken effect. Whether there are any.
    fn answered(&mut self, index: usize) -> bool {
        let mut untried: Vec<Order> = self.orders.drain().collect();
        let mut tried = HashSet::new();
        while let Some(mut order) = untried.pop() {
            if order.ahead.remove(&index) {
                self.orders.insert(order);
            } else if tried.insert(order.clone()) {
                self.extend(&order, &mut untried);
            }
        }
        let connection = self.operations[index].connection;
        let open = self.open.entry(connection).or_default();
        assert_eq!(open.pop_front(), Some(index), "answers come in order");
        if open.is_empty() {
            self.open.remove(&connection);
        }
        !self.orders.is_empty()
    }

    /// Adds the orders that have one operation more, of those that are under way.
    fn extend(&self, order: &Order, orders: &mut Vec<Order>) {
        let before = orders.len();
        for queue in self.open.values() {
            let Some(&next) = queue.iter().find(|index| !order.ahead.contains(index)) else {
                continue;
            };
            let operation = &self.operations[next];
            let mut longer = order.clone();
            longer.ahead.insert(next);
            // What has no answer may never have been run, but that a connection ends is certain.
            let certain = operation.answer.is_some() || operation.act == Act::End;
            if !certain {
                orders.push(longer.clone());
            }
            let answer = run(self.shared, &mut longer.holders, operation);
            if operation.answer.is_some_and(|given| given != answer) {
                continue;
            }
            if certain && longer.holders == order.holders {
                // It is as true now as it could be later, and stands in nobody's way.
                orders.truncate(before);
                orders.push(longer);
                return;
            }
            orders.push(longer);
        }
    }
}

/// What was seen of an operation, and of those that were under way with it.
fn explain(operations: &[Operation], index: usize) -> String {
    let wrong = &operations[index];
    let meanwhile =
        |other: &&Operation| other.answered > wrong.invoked && other.invoked < wrong.answered;
    let mut context: Vec<&Operation> = operations.iter().filter(meanwhile).collect();
    context.sort_by_key(|operation| operation.invoked);
    let mut text = format!("{wrong:?} is true in no order. Meanwhile:");
    for operation in context {
        text += &format!("\n{operation:?}");
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Checks what happened to a lock that nobody held. Of each connection, one after the other, it says what
    /// it did: `ACT FROM-TO ANSWER`, where `-` is the answer that did not come.
    #[track_caller]
    fn check(shared: bool, connections: &[&str], expect: bool) {
        let mut operations = Vec::new();
        for (connection, acts) in (0..).zip(connections) {
            operations.extend(acts.split(", ").map(|act| operation(connection, act)));
        }
        let checked = super::check(shared, &BTreeSet::new(), &operations);
        assert_eq!(checked.is_ok(), expect, "{connections:?}: {checked:?}");
    }

    fn operation(connection: u32, text: &str) -> Operation {
        let [act, during, answer] = text.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{text}");
        };
        let (invoked, answered) = during.split_once('-').unwrap();
        Operation {
            connection,
            act: match act {
                "get" => Act::Get,
                "release" => Act::Release,
                "inspect" => Act::Inspect,
                "end" => Act::End,
                _ => panic!("{text}"),
            },
            invoked: invoked.parse().unwrap(),
            answered: answered.parse().unwrap(),
            answer: (answer != "-").then(|| answer.parse().unwrap()),
        }
    }

    #[test]
    fn a_lock_is_held_once() {
        let exclusive = |connections: &[&str], expect| check(false, connections, expect);
        exclusive(&["get 1-2 1", "get 3-4 0"], true);
        exclusive(&["get 1-2 1", "get 3-4 1"], false);
        // At the same time, too.
        exclusive(&["get 1-3 1", "get 2-4 0"], true);
        exclusive(&["get 1-3 0", "get 2-4 1"], true);
        exclusive(&["get 1-3 1", "get 2-4 1"], false);
        exclusive(&["get 1-4 1, get 5-6 1"], true);
        // Within one batch of another, while it was held.
        let batch = "get 3-4 1, release 3-5 1";
        exclusive(&["get 1-2 1, release 6-7 1", batch], false);
        exclusive(&["get 1-2 1, release 4-7 1", batch], true);
        // In the order of a connection, and of what was seen.
        exclusive(&["release 1-2 0, get 1-3 1"], true);
        exclusive(&["get 1-2 1, release 1-3 0"], false);
        exclusive(&["get 1-2 1, release 3-4 1, release 5-6 1"], false);
        exclusive(&["get 1-2 1, release 3-6 1", "get 4-5 1"], true);
        exclusive(&["get 1-2 1, release 5-6 1", "get 3-4 1"], false);
    }

    #[test]
    fn a_refusal_has_a_reason() {
        let exclusive = |connections: &[&str], expect| check(false, connections, expect);
        exclusive(&["get 1-2 0"], false);
        exclusive(&["get 1-2 1, get 3-4 0"], false);
        exclusive(&["get 1-2 1, release 3-4 1", "get 5-6 0"], false);
        exclusive(&["get 1-2 1, release 3-6 1", "get 5-7 0"], true);
        exclusive(&["get 2-4 1", "get 1-3 0"], true);
        exclusive(&["get 2-3 1", "get 0-1 0"], false);
        // A holder explains a refusal, and then a grant only if it has released.
        exclusive(&["get 1-6 1", "get 2-3 0", "get 4-5 1"], false);
        exclusive(
            &["get 1-6 1, release 1-7 1", "get 2-3 0", "get 4-5 1"],
            true,
        );
    }

    #[test]
    fn an_inspection_is_true() {
        check(false, &["inspect 1-2 0"], true);
        check(false, &["inspect 1-2 1"], false);
        check(false, &["get 2-3 1", "inspect 1-4 0, inspect 5-6 1"], true);
        check(false, &["get 1-2 1", "inspect 3-4 0"], false);
        // What was seen cannot be unseen.
        check(false, &["get 1-6 1", "inspect 2-3 1, inspect 4-5 0"], false);
        check(true, &["get 1-2 1", "get 3-4 2", "inspect 5-6 2"], true);
        check(true, &["get 1-2 1", "get 3-4 2", "inspect 5-6 1"], false);
    }

    #[test]
    fn a_count_is_exact() {
        let shared = |connections: &[&str], expect| check(true, connections, expect);
        shared(&["get 1-2 1, get 3-4 1", "get 5-6 2"], true);
        shared(&["get 1-2 1", "get 3-4 1"], false);
        shared(&["get 1-2 2"], false);
        shared(&["get 1-2 1, get 3-4 2"], false);
        // Who came first is open, that one did is not.
        shared(&["get 1-4 2", "get 2-3 1"], true);
        shared(&["get 1-4 1", "get 2-3 2"], true);
        shared(&["get 1-4 1", "get 2-3 1"], false);
        shared(&["get 1-4 2", "get 2-3 2"], false);
        // Each of these could be, but not all.
        shared(&["get 1-9 1", "get 2-9 2", "get 3-9 3"], true);
        shared(&["get 1-9 1", "get 2-9 3", "get 3-9 3"], false);
        shared(
            &["get 1-2 1, release 3-9 1", "get 4-9 1", "get 5-9 2"],
            true,
        );
        shared(
            &["get 1-2 1, release 3-9 1", "get 4-9 1", "get 5-9 1"],
            false,
        );
    }

    #[test]
    fn a_connection_holds_until_it_ends_and_no_longer() {
        let exclusive = |connections: &[&str], expect| check(false, connections, expect);
        exclusive(&["get 1-2 1, end 3-6 -", "get 4-5 1"], true);
        exclusive(&["get 1-2 1, end 3-6 -", "get 4-5 0"], true);
        exclusive(&["get 1-2 1, end 5-6 -", "get 3-4 1"], false);
        exclusive(&["get 1-2 1, end 3-4 -", "get 5-6 0"], false);
        check(true, &["get 1-2 1, end 3-4 -", "get 5-6 1"], true);
        check(true, &["get 1-2 1, end 3-4 -", "get 5-6 2"], false);
    }

    #[test]
    fn what_was_not_answered_may_have_been_done_or_not() {
        let exclusive = |connections: &[&str], expect| check(false, connections, expect);
        let broken = "get 1-8 -, end 7-8 -";
        exclusive(&[broken, "get 2-3 0"], true);
        exclusive(&[broken, "get 2-3 1"], true);
        exclusive(&[broken, "get 2-3 1, release 4-5 1", "inspect 6-7 1"], true);
        exclusive(&[broken, "get 2-3 0, get 4-5 1"], false);
        exclusive(&[broken, "get 9-10 0"], false);
        let released = "get 1-8 -, release 1-8 -, end 7-8 -";
        exclusive(&[released, "get 2-3 0, get 4-5 1"], true);
        exclusive(&[released, "get 2-3 0, get 4-5 1", "get 6-7 1"], false);
    }

    /// Whether there is an order, by trying all: what takes effect next is whatever was invoked before every
    /// answer that is still to come.
    fn has_order(shared: bool, holders: &BTreeSet<u32>, rest: &[Operation]) -> bool {
        let Some(first_answer) = rest.iter().map(|operation| operation.answered).min() else {
            return true;
        };
        rest.iter().enumerate().any(|(index, operation)| {
            let earlier = |other: &Operation| other.connection == operation.connection;
            if operation.invoked > first_answer || rest[..index].iter().any(earlier) {
                return false;
            }
            let others = [&rest[..index], &rest[index + 1..]].concat();
            let mut after = holders.clone();
            let answer = run(shared, &mut after, operation);
            match operation.answer {
                Some(given) => given == answer && has_order(shared, &after, &others),
                None => {
                    has_order(shared, &after, &others)
                        || operation.act != Act::End && has_order(shared, holders, &others)
                }
            }
        })
    }

    /// Histories of three connections: at each moment, one of them gets an answer to what it has under way,
    /// or else begins something.
    fn histories() -> impl Strategy<Value = Vec<Operation>> {
        let acts = vec![Act::Get, Act::Get, Act::Release, Act::Inspect, Act::End];
        let moment = (
            0..3u32,
            prop::sample::select(acts),
            prop::option::weighted(0.8, 0..3u32),
        );
        vec(moment, 1..14).prop_map(|moments| {
            let mut operations: Vec<Operation> = Vec::new();
            for (now, (connection, act, answer)) in (0..).zip(moments) {
                let own = |operation: &&mut Operation| operation.connection == connection;
                match operations.iter_mut().rfind(own) {
                    Some(last) if last.answered == u64::MAX => last.answered = now,
                    _ => operations.push(Operation {
                        connection,
                        act,
                        invoked: now,
                        answered: u64::MAX,
                        answer,
                    }),
                }
            }
            operations
        })
    }

    proptest! {
        #[test]
        fn it_finds_what_trying_all_orders_finds(shared in any::<bool>(), history in histories()) {
            let nobody = BTreeSet::new();
            let checked = super::check(shared, &nobody, &history);
            prop_assert_eq!(checked.is_ok(), has_order(shared, &nobody, &history), "{:?}", checked);
        }
    }
}
