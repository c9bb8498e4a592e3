//! Whether what clients saw of a lock can be true.
//!
//! The server's own order of things is not known, only that each operation took effect between two moments
//! that its client saw. So an order is looked for in which a lock that does what is written here, one thing
//! after the other, gives every answer that was given: linearizability, as Herlihy and Wing have it. If there
//! is none, then a lock was held twice, or a count was wrong, or a refusal had no reason, or a waiter was
//! forgotten or overtaken. If there is one, then no client could tell that anything was amiss.
//!
//! Orders are found as by Lowe ("Testing for linearizability", 2017): going through what was seen as it was
//! seen, and putting nothing in order before an answer asks for it. Of all orders so far is kept what later
//! answers can tell apart: who holds the lock, and what took effect and has yet to be answered.
//!
//! Who waits stands in line, first come, first served; but no client sees when it joins the line. To try all
//! the orders in which they may have joined would be too much, and little of it ever matters. So a line is
//! known only as a set, of those who have certainly joined it, and its head, which alone makes a difference:
//! that is chosen when there is a choice to make, among all who may have joined before the others.
//!
//! Turned down: comparing the times during which a lock was certainly held, and possibly held. It is less
//! code, but lets a count pass that is wrong by as many as have commands under way.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use crate::history::{Act, Operation};

/// What is left of all that happened to a lock.
#[derive(Clone, Debug, Default)]
pub(crate) struct Past {
    pub(crate) holders: BTreeSet<u32>,
    /// The greatest that is known.
    pub(crate) token: u64,
}

/// Holds what happened to a lock since then against what a lock does. The operations of each connection stand
/// in the order in which it sent them.
///
/// # Errors
///
/// The first answer that is true in no order.
pub(crate) fn check(shared: bool, past: &Past, operations: &[Operation]) -> Result<(), String> {
    let mut search = Search {
        shared,
        operations,
        now: 0,
        open: BTreeMap::new(),
        begun: BTreeSet::new(),
        orders: HashSet::from([Order {
            holders: past.holders.clone(),
            token: past.token,
            head: None,
            behind: BTreeSet::new(),
            ahead: BTreeSet::new(),
        }]),
    };
    let mut seen: Vec<(u64, Seen, usize)> = Vec::with_capacity(2 * operations.len());
    for (index, operation) in operations.iter().enumerate() {
        seen.push((operation.invoked, Seen::Invoked, index));
        seen.push((operation.answered, Seen::Answered, index));
        if let Some(begun) = operation.begun {
            seen.push((begun, Seen::Begun, index));
        }
    }
    // What was seen at one moment belongs to one connection, and keeps its order.
    seen.sort_unstable();
    for (now, seen, index) in seen {
        search.now = now;
        match seen {
            Seen::Invoked => search.invoked(index),
            Seen::Answered => search.answered(index),
            Seen::Begun => search.begun(index),
        }
        if search.orders.is_empty() {
            return Err(explain(operations, index));
        }
    }
    Ok(())
}

/// What is known at a moment; that an operation has begun, only after it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    Invoked,
    Answered,
    Begun,
}

impl Operation {
    /// Whether it has perhaps never been run: what has no answer, and what was cancelled before it began. But
    /// that a connection ends is certain.
    fn may_be_nothing(&self) -> bool {
        let cancelled = self.act.waits() && self.answer == Some(0);
        let unknown = self.answer.is_none() && self.act != Act::End;
        self.begun.is_none() && (unknown || cancelled)
    }

    /// Whether it stands in line for the lock, and how many may hold it then.
    fn stands_in_line(&self) -> Option<u32> {
        match self.act {
            Act::GetBelow { limit, waits: true } => Some(limit),
            _ => None,
        }
    }
}

/// What is to be known of an order of what was answered so far.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Order {
    holders: BTreeSet<u32>,
    /// The greatest of all grants that is known.
    token: u64,
    /// The first in line; there is one if anybody has certainly joined it.
    head: Option<usize>,
    /// Of these, the first joins the line behind the second, though it was asked for in time.
    behind: BTreeSet<(usize, usize)>,
    /// Operations that are in the order, though their answers come later.
    ahead: BTreeSet<usize>,
}

impl Order {
    fn count(&self) -> u32 {
        self.holders.len() as u32
    }

    fn with_head(&self, head: usize) -> Order {
        Order {
            head: Some(head),
            ..self.clone()
        }
    }

    /// Whether the lock is as it is in another order.
    fn is_as(&self, other: &Order) -> bool {
        let lock = |order: &Order| (order.token, order.head);
        self.holders == other.holders && lock(self) == lock(other)
    }
}

struct Search<'a> {
    shared: bool,
    operations: &'a [Operation],
    now: u64,
    /// What is under way, by connection.
    open: BTreeMap<u32, VecDeque<usize>>,
    /// Waits under way that have certainly begun.
    begun: BTreeSet<usize>,
    orders: HashSet<Order>,
}

impl Search<'_> {
    fn invoked(&mut self, index: usize) {
        let connection = self.operations[index].connection;
        self.open.entry(connection).or_default().push_back(index);
    }

    /// Goes on with orders in which this operation has taken effect.
    fn answered(&mut self, index: usize) {
        self.search(|_, order| {
            let mut order = order.clone();
            order.ahead.remove(&index).then_some(order)
        });
        let connection = self.operations[index].connection;
        let open = self.open.entry(connection).or_default();
        assert_eq!(open.pop_front(), Some(index), "answers come in order");
        if open.is_empty() {
            self.open.remove(&connection);
        }
        self.begun.remove(&index);
    }

    /// Goes on with orders in which this wait has begun, or is over.
    fn begun(&mut self, index: usize) {
        let operation = &self.operations[index];
        let mut joined = HashSet::new();
        self.search(|search, order| {
            if order.ahead.contains(&index) {
                return Some(order.clone());
            }
            if search.next(order, operation.connection) == Some(index) {
                joined.extend(search.begin(order, index));
            }
            None
        });
        self.orders.extend(joined);
        self.begun.insert(index);
    }

    /// Makes orders longer, until each is one that is looked for.
    fn search(&mut self, mut found: impl FnMut(&Self, &Order) -> Option<Order>) {
        let mut untried: Vec<Order> = self.orders.drain().collect();
        let mut tried = HashSet::new();
        let mut orders = HashSet::new();
        while let Some(order) = untried.pop() {
            if let Some(found) = found(self, &order) {
                orders.insert(found);
            } else if !tried.contains(&order) {
                self.extend(&order, &mut untried);
                tried.insert(order);
            }
        }
        self.orders = orders;
    }

    /// Adds the orders that have one operation more, of those that are under way.
    fn extend(&self, order: &Order, orders: &mut Vec<Order>) {
        let before = orders.len();
        for &connection in self.open.keys() {
            let Some(next) = self.next(order, connection) else {
                continue;
            };
            let first = orders.len();
            self.run(order, next, orders);
            let operation = &self.operations[next];
            let waits_in_vain =
                operation.stands_in_line().is_some() && operation.answer.is_none_or(|it| it == 0);
            if let [longer] = &orders[first..]
                && !operation.may_be_nothing()
                && !waits_in_vain
                && longer.is_as(order)
            {
                // It is as true now as it could be later, and stands in nobody's way.
                let longer = longer.clone();
                orders.truncate(before);
                orders.push(longer);
                return;
            }
        }
    }

    /// The first operation of a connection that is not yet in an order.
    fn next(&self, order: &Order, connection: u32) -> Option<usize> {
        let mut open = self.open.get(&connection)?.iter().copied();
        open.find(|index| !order.ahead.contains(index))
    }

    /// What a lock does: adds the orders in which this operation comes next, or what it waits for, and is
    /// answered as it was.
    fn run(&self, order: &Order, index: usize, orders: &mut Vec<Order>) {
        let operation = &self.operations[index];
        let holds = order.holders.contains(&operation.connection);
        let is_in_line = order.head == Some(index) || self.begun.contains(&index);
        let may_end = !operation.act.waits() || operation.lasted < self.now;
        let may_answer = |answer| operation.answer.is_none_or(|given| given == answer);
        if operation.may_be_nothing() && !is_in_line {
            orders.push(self.put(order.clone(), index));
        }
        match operation.act {
            Act::Get if holds || self.shared || order.count() == 0 => {
                orders.extend(self.grant(order.clone(), index));
            }
            Act::Get if may_answer(0) => orders.push(self.put(order.clone(), index)),
            Act::Inspect if may_answer(order.count()) => {
                orders.push(self.put(order.clone(), index));
            }
            Act::Release | Act::End if may_answer(holds.into()) => match holds {
                true => self.release(order, index, orders),
                false => orders.push(self.put(order.clone(), index)),
            },
            Act::GetBelow { .. } if is_in_line && may_answer(0) && may_end => {
                self.leave(order.clone(), index, orders);
            }
            Act::GetBelow { .. } if is_in_line => {}
            Act::GetBelow { limit, .. } => {
                let is_full = order.head.is_some() || order.count() >= limit;
                if holds || !is_full {
                    orders.extend(self.grant(order.clone(), index));
                }
                if !holds && may_answer(0) && may_end {
                    match is_full {
                        true => orders.push(self.put(order.clone(), index)),
                        false => orders.extend(
                            self.blockers(order)
                                .filter(|&head| head != index)
                                .map(|head| self.put(order.with_head(head), index)),
                        ),
                    }
                }
            }
            Act::Watch { below, .. } => {
                let is_free = order.count() < below;
                let is_watched = !is_free || self.begun.contains(&index);
                if is_free && may_answer(1) || is_watched && may_answer(0) && may_end {
                    orders.push(self.put(order.clone(), index));
                }
            }
            _ => {}
        }
    }

    /// Gives the lock to who has asked for it.
    fn grant(&self, mut order: Order, index: usize) -> Option<Order> {
        let operation = &self.operations[index];
        if order.holders.insert(operation.connection)
            && let Some(&token) = operation.token.get()
        {
            if token <= order.token {
                return None;
            }
            order.token = token;
        }
        let is_true = operation.answer.is_none_or(|given| given == order.count());
        is_true.then(|| self.put(order, index))
    }

    /// Takes the lock from who holds it. Who watches sees that before anybody else is given it.
    fn release(&self, order: &Order, index: usize, orders: &mut Vec<Order>) {
        let mut after = order.clone();
        after.holders.remove(&self.operations[index].connection);
        for next in self.open.keys().filter_map(|&it| self.next(order, it)) {
            let operation = &self.operations[next];
            if let Act::Watch { below, waits: true } = operation.act
                && after.count() < below
            {
                match operation.answer {
                    Some(1) => after = self.put(after, next),
                    Some(0) if self.begun.contains(&next) => return,
                    _ => {}
                }
            }
        }
        self.serve(self.put(after, index), orders);
    }

    /// Takes a waiter out of the line.
    fn leave(&self, mut order: Order, index: usize, orders: &mut Vec<Order>) {
        order.head = order.head.filter(|&head| head != index);
        self.serve(self.put(order, index), orders);
    }

    /// Gives the lock to the first in line, as long as there is one who may have it.
    fn serve(&self, order: Order, orders: &mut Vec<Order>) {
        if let Some(head) = order.head {
            match self.is_blocked(&order, head) {
                true => orders.push(order),
                false => {
                    let order = Order {
                        head: None,
                        ..order
                    };
                    if let Some(order) = self.grant(order, head) {
                        self.serve(order, orders);
                    }
                }
            }
            return;
        }
        let line = self.line(&order);
        if line.is_empty() {
            orders.push(order);
            return;
        }
        for head in self.waiters(&order) {
            let invoked = self.operations[head].invoked;
            let is_behind = |other: &usize| {
                let joined = self.operations[*other].begun;
                joined.is_some_and(|joined| joined < invoked)
                    || order.behind.contains(&(head, *other))
            };
            if !line.iter().any(|other| *other != head && is_behind(other)) {
                self.serve(order.with_head(head), orders);
            }
        }
    }

    /// The orders in which a wait begins now.
    fn begin(&self, order: &Order, index: usize) -> Vec<Order> {
        let operation = &self.operations[index];
        match operation.act {
            Act::Watch { below, .. } if order.count() >= below => vec![order.clone()],
            Act::GetBelow { .. } if !order.holders.contains(&operation.connection) => {
                match order.head {
                    Some(_) => vec![order.clone()],
                    None => self
                        .blockers(order)
                        .map(|head| order.with_head(head))
                        .collect(),
                }
            }
            _ => Vec::new(),
        }
    }

    /// Who may stand in line first, and waits then.
    fn blockers(&self, order: &Order) -> impl Iterator<Item = usize> {
        self.waiters(order)
            .filter(|&waiter| self.is_blocked(order, waiter))
    }

    /// Who may stand in line.
    fn waiters(&self, order: &Order) -> impl Iterator<Item = usize> {
        let others = self.open.keys().filter(|&it| !order.holders.contains(it));
        others
            .filter_map(|&connection| self.next(order, connection))
            .filter(|&next| self.operations[next].stands_in_line().is_some())
    }

    /// Who has certainly joined the line, perhaps without its head.
    fn line(&self, order: &Order) -> Vec<usize> {
        let stands = |index: &usize| {
            let stands = self.operations[*index].stands_in_line().is_some();
            stands && !order.ahead.contains(index)
        };
        self.begun.iter().copied().filter(stands).collect()
    }

    fn is_blocked(&self, order: &Order, waiter: usize) -> bool {
        let limit = self.operations[waiter].stands_in_line();
        limit.is_some_and(|limit| order.count() >= limit)
    }

    /// Puts an operation at the end of an order. What its connection waits for next was not in line before.
    fn put(&self, mut order: Order, index: usize) -> Order {
        order.ahead.insert(index);
        order
            .behind
            .retain(|&(one, other)| one != index && other != index);
        let connection = self.operations[index].connection;
        if let Some(next) = self.next(&order, connection)
            && self.operations[next].stands_in_line().is_some()
        {
            let line = self.line(&order);
            order
                .behind
                .extend(line.into_iter().map(|other| (next, other)));
        }
        order
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
mod tests;
