//! A plain lock, and the search for an order by trying all.

use std::collections::{BTreeSet, VecDeque};

use crate::history::{Act, Operation};

/// A lock that runs one operation after the other: its holders, its queue and its watchers.
#[derive(Clone, Default)]
pub(super) struct ReferenceLock {
    shared: bool,
    holders: BTreeSet<u32>,
    queue: VecDeque<usize>,
    watchers: BTreeSet<usize>,
}

/// A reply.
pub(super) struct Answer {
    /// The index of the operation that it answers.
    pub(super) index: usize,
    /// The number at its beginning.
    pub(super) number: u32,
    /// True if the operation got the lock, and its connection did not hold it before.
    pub(super) is_grant: bool,
}

impl Answer {
    fn without_grant(index: usize, number: u32) -> Answer {
        Answer {
            index,
            number,
            is_grant: false,
        }
    }
}

impl ReferenceLock {
    /// Returns a free lock.
    pub(super) fn new(shared: bool) -> ReferenceLock {
        ReferenceLock {
            shared,
            ..ReferenceLock::default()
        }
    }

    /// Returns true if a wait has begun and is not over.
    pub(super) fn waits(&self, index: usize) -> bool {
        self.queue.contains(&index) || self.watchers.contains(&index)
    }

    /// Runs an operation, or begins a wait. Returns the replies at that moment.
    pub(super) fn run(&mut self, operations: &[Operation], index: usize) -> Vec<Answer> {
        let Operation {
            connection, act, ..
        } = operations[index];
        let holders = self.holders.len() as u32;
        let holds = self.holders.contains(&connection);
        let number = match act {
            Act::Get if holds || self.shared || holders == 0 => {
                return vec![self.grant(operations, index)];
            }
            Act::Get => 0,
            Act::Inspect => holders,
            Act::Release | Act::End => {
                let mut answers = vec![Answer::without_grant(index, holds.into())];
                if self.holders.remove(&connection) {
                    self.answer_watchers(operations, &mut answers);
                    self.serve_queue(operations, &mut answers);
                }
                return answers;
            }
            Act::GetBelow { limit, .. } if holds || self.queue.is_empty() && holders < limit => {
                return vec![self.grant(operations, index)];
            }
            Act::GetBelow { waits: true, .. } => {
                self.queue.push_back(index);
                return Vec::new();
            }
            Act::GetBelow { .. } => 0,
            Act::Watch { below, .. } if holders < below => 1,
            Act::Watch { waits: true, .. } => {
                self.watchers.insert(index);
                return Vec::new();
            }
            Act::Watch { .. } => 0,
        };
        vec![Answer::without_grant(index, number)]
    }

    /// Ends a wait. Returns all replies that follow.
    pub(super) fn end_wait(&mut self, operations: &[Operation], index: usize) -> Vec<Answer> {
        let mut answers = vec![Answer::without_grant(index, 0)];
        self.queue.retain(|&waiter| waiter != index);
        self.watchers.remove(&index);
        self.serve_queue(operations, &mut answers);
        answers
    }

    fn grant(&mut self, operations: &[Operation], index: usize) -> Answer {
        let is_grant = self.holders.insert(operations[index].connection);
        Answer {
            index,
            number: self.holders.len() as u32,
            is_grant,
        }
    }

    /// Answers the watchers that see few enough holders.
    fn answer_watchers(&mut self, operations: &[Operation], answers: &mut Vec<Answer>) {
        let holders = self.holders.len() as u32;
        self.watchers.retain(|&watcher| {
            let is_satisfied =
                matches!(operations[watcher].act, Act::Watch { below, .. } if holders < below);
            answers.extend(is_satisfied.then_some(Answer::without_grant(watcher, 1)));
            !is_satisfied
        });
    }

    /// Grants the lock to the first waiters, as far as their limits allow.
    fn serve_queue(&mut self, operations: &[Operation], answers: &mut Vec<Answer>) {
        while let Some(&first) = self.queue.front()
            && let Act::GetBelow { limit, .. } = operations[first].act
            && self.holders.len() < limit as usize
        {
            self.queue.pop_front();
            answers.push(self.grant(operations, first));
        }
    }
}

/// Operations that are not in an order yet.
#[derive(Clone)]
struct Remaining<'a> {
    operations: &'a [Operation],
    lock: ReferenceLock,
    token: u64,
    left: BTreeSet<usize>,
}

impl Remaining<'_> {
    /// Returns true if there is an order, by trying all. The next operation to take effect may be any that was invoked
    /// before all other events that are left.
    fn has_order(&self) -> bool {
        let known = |&index: &usize| {
            let operation = &self.operations[index];
            let begun = operation.begun.filter(|_| !self.lock.waits(index));
            begun.unwrap_or(operation.answered).min(operation.answered)
        };
        let Some(first) = self.left.iter().map(known).min() else {
            return true;
        };
        self.left.iter().any(|&index| {
            let operation = &self.operations[index];
            let mut earlier = self.left.range(..index);
            operation.invoked <= first
                && earlier.all(|&other| self.operations[other].connection != operation.connection)
                && self.has_order_with(index, first)
        })
    }

    fn has_order_with(&self, index: usize, now: u64) -> bool {
        let operation = &self.operations[index];
        let mut without = self.clone();
        without.left.remove(&index);
        let mut rest = self.clone();
        match self.lock.waits(index) {
            true => {
                let answers = rest.lock.end_wait(self.operations, index);
                operation.lasted < now && rest.are_given(answers) && rest.has_order()
            }
            false => {
                let answers = rest.lock.run(self.operations, index);
                operation.may_be_nothing() && without.has_order()
                    || rest.are_given(answers) && rest.has_order()
            }
        }
    }

    /// Returns true if these are the replies that were received.
    fn are_given(&mut self, answers: Vec<Answer>) -> bool {
        answers.into_iter().all(|answer| {
            self.left.remove(&answer.index);
            let operation = &self.operations[answer.index];
            let token = operation.token.get().filter(|_| answer.is_grant);
            let in_order = token.is_none_or(|&token| token > self.token);
            self.token = token.copied().unwrap_or(self.token);
            in_order
                && operation
                    .answer
                    .is_none_or(|number| number == answer.number)
        })
    }
}

/// Returns true if there is an order in which the lock gives all replies that were received.
pub(super) fn has_order(shared: bool, operations: &[Operation]) -> bool {
    let remaining = Remaining {
        operations,
        lock: ReferenceLock::new(shared),
        token: 0,
        left: (0..operations.len()).collect(),
    };
    remaining.has_order()
}
