//! The search for an order of the operations, and the rules of a lock.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use super::order::Order;
use crate::history::{Act, Operation};

/// An event that a client observed: an operation was invoked, was answered, or had begun. In the order in which events
/// of one moment are known: that an operation has begun is known only after that moment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    Invoked,
    Answered,
    Begun,
}

/// The search, at one moment.
pub(super) struct Search<'a> {
    shared: bool,
    operations: &'a [Operation],
    now: u64,
    /// Operations under way, by connection.
    open: BTreeMap<u32, VecDeque<usize>>,
    /// Waits under way that have certainly begun.
    begun: BTreeSet<usize>,
    /// All orders that agree with the events so far.
    orders: HashSet<Order>,
}

impl<'a> Search<'a> {
    /// Begins a search with an order that has no operation.
    pub(super) fn new(shared: bool, operations: &'a [Operation], first: Order) -> Search<'a> {
        Search {
            shared,
            operations,
            now: 0,
            open: BTreeMap::new(),
            begun: BTreeSet::new(),
            orders: HashSet::from([first]),
        }
    }

    /// Continues with the orders that agree with the next event.
    pub(super) fn observe(&mut self, now: u64, event: Event, index: usize) {
        self.now = now;
        match event {
            Event::Invoked => self.invoked(index),
            Event::Answered => self.answered(index),
            Event::Begun => self.begun(index),
        }
    }

    /// Returns true if no order agrees with all events so far.
    pub(super) fn is_exhausted(&self) -> bool {
        self.orders.is_empty()
    }

    fn invoked(&mut self, index: usize) {
        let connection = self.operations[index].connection;
        self.open.entry(connection).or_default().push_back(index);
    }

    /// Continues with the orders in which this operation has taken effect.
    fn answered(&mut self, index: usize) {
        self.search(|_, order| {
            let mut order = order.clone();
            order.ahead.remove(&index).then_some(order)
        });
        let connection = self.operations[index].connection;
        let open = self.open.entry(connection).or_default();
        assert_eq!(open.pop_front(), Some(index), "reply out of order");
        if open.is_empty() {
            self.open.remove(&connection);
        }
        self.begun.remove(&index);
    }

    /// Continues with the orders in which this wait has begun, or is over.
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

    /// Extends all orders, until `found` accepts each.
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

    /// Adds the orders that have one more of the operations under way.
    fn extend(&self, order: &Order, orders: &mut Vec<Order>) {
        let before = orders.len();
        for &connection in self.open.keys() {
            let Some(next) = self.next(order, connection) else {
                continue;
            };
            let first = orders.len();
            self.run(order, next, orders);
            let operation = &self.operations[next];
            let waits_without_success =
                operation.queue_limit().is_some() && operation.answer.is_none_or(|it| it == 0);
            if let [longer] = &orders[first..]
                && !operation.may_be_nothing()
                && !waits_without_success
                && longer.is_same_state_as(order)
            {
                // The operation changes nothing, so that now is as good as later.
                let longer = longer.clone();
                orders.truncate(before);
                orders.push(longer);
                return;
            }
        }
    }

    /// Returns the first operation of a connection that is not yet in an order.
    fn next(&self, order: &Order, connection: u32) -> Option<usize> {
        let mut open = self.open.get(&connection)?.iter().copied();
        open.find(|index| !order.ahead.contains(index))
    }

    /// The rules of a lock: adds the orders in which this operation comes next, or what it waits for, and has the
    /// reply that it had.
    fn run(&self, order: &Order, index: usize, orders: &mut Vec<Order>) {
        let operation = &self.operations[index];
        let holds = order.holders.contains(&operation.connection);
        let is_queued = order.head == Some(index) || self.begun.contains(&index);
        let may_end = !operation.act.waits() || operation.lasted < self.now;
        let may_answer = |answer| operation.answer.is_none_or(|given| given == answer);
        if operation.may_be_nothing() && !is_queued {
            orders.push(self.append(order.clone(), index));
        }
        match operation.act {
            Act::Get if holds || self.shared || order.count() == 0 => {
                orders.extend(self.grant(order.clone(), index));
            }
            Act::Get if may_answer(0) => orders.push(self.append(order.clone(), index)),
            Act::Inspect if may_answer(order.count()) => {
                orders.push(self.append(order.clone(), index));
            }
            Act::Release | Act::End if may_answer(holds.into()) => match holds {
                true => self.release(order, index, orders),
                false => orders.push(self.append(order.clone(), index)),
            },
            Act::GetBelow { .. } if is_queued && may_answer(0) && may_end => {
                self.leave(order.clone(), index, orders);
            }
            Act::GetBelow { .. } if is_queued => {}
            Act::GetBelow { limit, .. } => {
                let is_full = order.head.is_some() || order.count() >= limit;
                if holds || !is_full {
                    orders.extend(self.grant(order.clone(), index));
                }
                if !holds && may_answer(0) && may_end {
                    match is_full {
                        true => orders.push(self.append(order.clone(), index)),
                        false => orders.extend(
                            self.blockers(order)
                                .filter(|&head| head != index)
                                .map(|head| self.append(order.with_head(head), index)),
                        ),
                    }
                }
            }
            Act::Watch { below, .. } => {
                let is_free = order.count() < below;
                let is_watched = !is_free || self.begun.contains(&index);
                if is_free && may_answer(1) || is_watched && may_answer(0) && may_end {
                    orders.push(self.append(order.clone(), index));
                }
            }
            _ => {}
        }
    }

    /// Grants the lock.
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
        is_true.then(|| self.append(order, index))
    }

    /// Releases the lock. Watchers are answered before it is granted to another connection.
    fn release(&self, order: &Order, index: usize, orders: &mut Vec<Order>) {
        let mut after = order.clone();
        after.holders.remove(&self.operations[index].connection);
        for next in self.open.keys().filter_map(|&it| self.next(order, it)) {
            let operation = &self.operations[next];
            if let Act::Watch { below, waits: true } = operation.act
                && after.count() < below
            {
                match operation.answer {
                    Some(1) => after = self.append(after, next),
                    Some(0) if self.begun.contains(&next) => return,
                    _ => {}
                }
            }
        }
        self.serve_queue(self.append(after, index), orders);
    }

    /// Removes a waiter from the queue.
    fn leave(&self, mut order: Order, index: usize, orders: &mut Vec<Order>) {
        order.head = order.head.filter(|&head| head != index);
        self.serve_queue(self.append(order, index), orders);
    }

    /// Grants the lock to the head of the queue, as long as its limit allows that.
    fn serve_queue(&self, order: Order, orders: &mut Vec<Order>) {
        if let Some(head) = order.head {
            match self.is_blocked(&order, head) {
                true => orders.push(order),
                false => {
                    let order = Order {
                        head: None,
                        ..order
                    };
                    if let Some(order) = self.grant(order, head) {
                        self.serve_queue(order, orders);
                    }
                }
            }
            return;
        }
        let queue = self.queue(&order);
        if queue.is_empty() {
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
            if !queue.iter().any(|other| *other != head && is_behind(other)) {
                self.serve_queue(order.with_head(head), orders);
            }
        }
    }

    /// Returns the orders in which a wait begins now.
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

    /// Returns the waiters that may be the head of the queue and cannot get the lock.
    fn blockers(&self, order: &Order) -> impl Iterator<Item = usize> {
        self.waiters(order)
            .filter(|&waiter| self.is_blocked(order, waiter))
    }

    /// Returns the waiters that may be in the queue.
    fn waiters(&self, order: &Order) -> impl Iterator<Item = usize> {
        let others = self.open.keys().filter(|&it| !order.holders.contains(it));
        others
            .filter_map(|&connection| self.next(order, connection))
            .filter(|&next| self.operations[next].queue_limit().is_some())
    }

    /// Returns the waiters that have certainly joined the queue. The head may be missing.
    fn queue(&self, order: &Order) -> Vec<usize> {
        let is_queued = |index: &usize| {
            let is_queued = self.operations[*index].queue_limit().is_some();
            is_queued && !order.ahead.contains(index)
        };
        self.begun.iter().copied().filter(is_queued).collect()
    }

    fn is_blocked(&self, order: &Order, waiter: usize) -> bool {
        let limit = self.operations[waiter].queue_limit();
        limit.is_some_and(|limit| order.count() >= limit)
    }

    /// Puts an operation at the end of an order. If its connection then waits, that wait was not in the queue before.
    fn append(&self, mut order: Order, index: usize) -> Order {
        order.ahead.insert(index);
        order
            .behind
            .retain(|&(one, other)| one != index && other != index);
        let connection = self.operations[index].connection;
        if let Some(next) = self.next(&order, connection)
            && self.operations[next].queue_limit().is_some()
        {
            let queue = self.queue(&order);
            order
                .behind
                .extend(queue.into_iter().map(|other| (next, other)));
        }
        order
    }
}
