//! The checker compared with the search that tries all orders, for random histories.

use std::collections::{BTreeMap, VecDeque};

use proptest::collection::vec;
use proptest::prelude::*;

use super::reference::{Answer, ReferenceLock, has_order};
use super::{below, known_as, watch};
use crate::checker::{Past, check};
use crate::history::{Act, Operation, Token};

/// What a connection does at one moment of a history.
#[derive(Clone, Debug)]
struct Moment {
    connection: u32,
    /// The operation that it begins, unless it is patient and its last one is not answered yet.
    act: Act,
    /// True: it waits for the reply to its last operation, if there is one, instead of beginning another.
    is_patient: bool,
    /// True: the operation takes effect at once. False: it takes effect when it is answered.
    is_early: bool,
    /// True if the client knows that moment, and the token.
    is_known: bool,
    /// A false reply, instead of the true one.
    lie: Option<Option<u32>>,
}

fn moments() -> impl Strategy<Value = Vec<Moment>> {
    let act = prop_oneof![
        3 => Just(Act::Get),
        4 => Just(Act::Release),
        1 => Just(Act::Inspect),
        1 => Just(Act::End),
        2 => (0..3u32).prop_map(|limit| below(limit, false)),
        6 => (1..3u32).prop_map(|limit| below(limit, true)),
        1 => (1..3u32).prop_map(|below| watch(below, false)),
        3 => (1..3u32).prop_map(|below| watch(below, true)),
    ];
    let how = (any::<bool>(), any::<bool>(), any::<bool>());
    let lie = prop::option::weighted(0.08, prop::option::weighted(0.8, 0..3u32));
    let moment = (0..4u32, act, how, lie).prop_map(
        |(connection, act, (is_patient, is_early, is_known), lie)| Moment {
            connection,
            act,
            is_patient,
            is_early,
            is_known,
            lie,
        },
    );
    vec(moment, 1..16)
}

/// A history of a correct lock, except for false replies.
struct History {
    lock: ReferenceLock,
    operations: Vec<Operation>,
    answers: Vec<Option<u32>>,
    /// Operations by connection.
    under_way: BTreeMap<u32, VecDeque<usize>>,
    token: u64,
}

impl History {
    fn of(shared: bool, moments: &[Moment]) -> Vec<Operation> {
        let mut history = History {
            lock: ReferenceLock::new(shared),
            operations: Vec::new(),
            answers: Vec::new(),
            under_way: BTreeMap::new(),
            token: 0,
        };
        let mut begun_by = Vec::new();
        for (now, moment) in (1..).zip(moments) {
            let queue = history.under_way.entry(moment.connection).or_default();
            if moment.is_patient
                && let Some(first) = queue.pop_front()
            {
                history.end(first, now);
                continue;
            }
            let index = history.operations.len();
            let is_first = queue.is_empty();
            queue.push_back(index);
            history.answers.push(None);
            begun_by.push(moment);
            history.operations.push(Operation {
                connection: moment.connection,
                act: moment.act,
                invoked: now,
                answered: u64::MAX,
                answer: None,
                begun: None,
                lasted: now,
                token: Token::default(),
            });
            if is_first && moment.is_early {
                history.run(index, now);
            }
        }
        let rest = std::mem::take(&mut history.under_way).into_values();
        for (now, index) in (moments.len() as u64 + 1..).zip(rest.flatten()) {
            history.end(index, now);
        }
        let History {
            mut operations,
            answers,
            ..
        } = history;
        for ((operation, answer), moment) in operations.iter_mut().zip(answers).zip(begun_by) {
            operation.answer = moment.lie.unwrap_or(answer);
            let in_vain = operation.answer.is_none_or(|answer| answer == 0);
            if !moment.is_known || !operation.act.waits() {
                operation.begun = None;
            }
            if !moment.is_known || !in_vain {
                operation.lasted = operation.invoked;
            }
            if !moment.is_known {
                operation.token = Token::default();
            }
        }
        operations
    }

    /// Lets an operation take effect, or a wait begin, directly after this moment.
    fn run(&mut self, index: usize, now: u64) {
        self.operations[index].begun = Some(now);
        let answers = self.lock.run(&self.operations, index);
        self.note(answers);
    }

    /// Lets an operation be answered at this moment, before which it has taken effect.
    fn end(&mut self, index: usize, now: u64) {
        if self.operations[index].begun.is_none() {
            self.run(index, now - 1);
        }
        if self.lock.waits(index) {
            self.operations[index].lasted = now - 1;
            let answers = self.lock.end_wait(&self.operations, index);
            self.note(answers);
        }
        self.operations[index].answered = now;
    }

    fn note(&mut self, answers: Vec<Answer>) {
        for answer in answers {
            self.answers[answer.index] = Some(answer.number);
            if answer.is_grant {
                self.token += 1;
                self.operations[answer.index].token = known_as(Some(self.token));
            }
        }
    }
}

proptest! {
    #[test]
    fn checker_agrees_with_trying_all_orders(shared in any::<bool>(), moments in moments()) {
        let history = History::of(shared, &moments);
        let checked = check(shared, &Past::default(), &history);
        prop_assert_eq!(checked.is_ok(), has_order(shared, &history), "{:?}", checked);
        prop_assert!(checked.is_ok() || moments.iter().any(|moment| moment.lie.is_some()), "{:?}", checked);
    }
}
