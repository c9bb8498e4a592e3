mod random;
mod reference;

use std::sync::{Arc, OnceLock};

use super::Past;
use crate::history::{Act, Operation, Token};

/// Checks the operations on a free lock. Each element has the operations of one connection, one after the other:
/// `ACT FROM-TO REPLY`, where the reply `-` means that there was none. The number of an act, if it has one, follows its
/// name; the fencing token, if it is known, follows the reply. For a wait that has certainly begun, the times are
/// `FROM-BEGUN-TO`, or without success `FROM-BEGUN-LASTED-TO`.
#[track_caller]
fn check(shared: bool, connections: &[&str], expect: bool) {
    let mut operations = Vec::new();
    for (connection, acts) in (0..).zip(connections) {
        operations.extend(acts.split(", ").map(|act| operation(connection, act)));
    }
    let checked = super::check(shared, &Past::default(), &operations);
    assert_eq!(checked.is_ok(), expect, "{connections:?}: {checked:?}");
}

fn operation(connection: u32, text: &str) -> Operation {
    let [act, during, answer, ref token @ ..] = text.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{text}");
    };
    let (act, number) = act.split_at(act.trim_end_matches(char::is_numeric).len());
    let number = number.parse().unwrap_or(0);
    let moments: Vec<u64> = during.split('-').map(|it| it.parse().unwrap()).collect();
    let known = &moments[1..moments.len() - 1];
    Operation {
        connection,
        act: match act {
            "get" => Act::Get,
            "release" => Act::Release,
            "inspect" => Act::Inspect,
            "end" => Act::End,
            "below" => below(number, false),
            "wait" => below(number, true),
            "see" => watch(number, false),
            "watch" => watch(number, true),
            _ => panic!("{text}"),
        },
        invoked: moments[0],
        answered: moments[moments.len() - 1],
        answer: (answer != "-").then(|| answer.parse().unwrap()),
        begun: known.first().copied(),
        lasted: known.last().copied().unwrap_or(moments[0]),
        token: known_as(token.first().map(|token| token.parse().unwrap())),
    }
}

fn below(limit: u32, waits: bool) -> Act {
    Act::GetBelow { limit, waits }
}

fn watch(below: u32, waits: bool) -> Act {
    Act::Watch { below, waits }
}

fn known_as(token: Option<u64>) -> Token {
    Arc::new(token.map(OnceLock::from).unwrap_or_default())
}

#[test]
fn exclusive_lock_has_one_holder() {
    let exclusive = |connections: &[&str], expect| check(false, connections, expect);
    exclusive(&["get 1-2 1", "get 3-4 0"], true);
    exclusive(&["get 1-2 1", "get 3-4 1"], false);
    // The same for operations at the same time.
    exclusive(&["get 1-3 1", "get 2-4 0"], true);
    exclusive(&["get 1-3 0", "get 2-4 1"], true);
    exclusive(&["get 1-3 1", "get 2-4 1"], false);
    exclusive(&["get 1-4 1, get 5-6 1"], true);
    // Within one batch of another connection, while the lock was held.
    let batch = "get 3-4 1, release 3-5 1";
    exclusive(&["get 1-2 1, release 6-7 1", batch], false);
    exclusive(&["get 1-2 1, release 4-7 1", batch], true);
    // In the order of the connection, and of the observed events.
    exclusive(&["release 1-2 0, get 1-3 1"], true);
    exclusive(&["get 1-2 1, release 1-3 0"], false);
    exclusive(&["get 1-2 1, release 3-4 1, release 5-6 1"], false);
    exclusive(&["get 1-2 1, release 3-6 1", "get 4-5 1"], true);
    exclusive(&["get 1-2 1, release 5-6 1", "get 3-4 1"], false);
}

#[test]
fn refusal_needs_a_reason() {
    let exclusive = |connections: &[&str], expect| check(false, connections, expect);
    exclusive(&["get 1-2 0"], false);
    exclusive(&["get 1-2 1, get 3-4 0"], false);
    exclusive(&["get 1-2 1, release 3-4 1", "get 5-6 0"], false);
    exclusive(&["get 1-2 1, release 3-6 1", "get 5-7 0"], true);
    exclusive(&["get 2-4 1", "get 1-3 0"], true);
    exclusive(&["get 2-3 1", "get 0-1 0"], false);
    // A holder explains a refusal, and allows a later grant only if it has released.
    exclusive(&["get 1-6 1", "get 2-3 0", "get 4-5 1"], false);
    exclusive(
        &["get 1-6 1, release 1-7 1", "get 2-3 0", "get 4-5 1"],
        true,
    );
}

#[test]
fn inspection_states_the_holders() {
    check(false, &["inspect 1-2 0"], true);
    check(false, &["inspect 1-2 1"], false);
    check(false, &["get 2-3 1", "inspect 1-4 0, inspect 5-6 1"], true);
    check(false, &["get 1-2 1", "inspect 3-4 0"], false);
    // A state that was observed cannot come back.
    check(false, &["get 1-6 1", "inspect 2-3 1, inspect 4-5 0"], false);
    check(true, &["get 1-2 1", "get 3-4 2", "inspect 5-6 2"], true);
    check(true, &["get 1-2 1", "get 3-4 2", "inspect 5-6 1"], false);
}

#[test]
fn count_of_holders_is_exact() {
    let shared = |connections: &[&str], expect| check(true, connections, expect);
    shared(&["get 1-2 1, get 3-4 1", "get 5-6 2"], true);
    shared(&["get 1-2 1", "get 3-4 1"], false);
    shared(&["get 1-2 2"], false);
    shared(&["get 1-2 1, get 3-4 2"], false);
    // Either one may have come first, but not both.
    shared(&["get 1-4 2", "get 2-3 1"], true);
    shared(&["get 1-4 1", "get 2-3 2"], true);
    shared(&["get 1-4 1", "get 2-3 1"], false);
    shared(&["get 1-4 2", "get 2-3 2"], false);
    // Each of these is possible, but not all of them.
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
fn connection_holds_its_locks_until_its_end() {
    let exclusive = |connections: &[&str], expect| check(false, connections, expect);
    exclusive(&["get 1-2 1, end 3-6 -", "get 4-5 1"], true);
    exclusive(&["get 1-2 1, end 3-6 -", "get 4-5 0"], true);
    exclusive(&["get 1-2 1, end 5-6 -", "get 3-4 1"], false);
    exclusive(&["get 1-2 1, end 3-4 -", "get 5-6 0"], false);
    check(true, &["get 1-2 1, end 3-4 -", "get 5-6 1"], true);
    check(true, &["get 1-2 1, end 3-4 -", "get 5-6 2"], false);
}

#[test]
fn unanswered_operation_may_have_run_or_not() {
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

#[test]
fn ended_wait_got_the_lock_or_not() {
    let exclusive = |connections: &[&str], expect| check(false, connections, expect);
    exclusive(&["wait1 1-2 1", "get 3-4 0"], true);
    exclusive(&["wait1 1-2 1", "get 3-4 1"], false);
    // The holder released during the wait.
    let holder = "get 1-2 1, release 5-7 1";
    exclusive(&[holder, "wait1 3-6 1", "inspect 8-9 1"], true);
    exclusive(&[holder, "wait1 3-6 1", "inspect 8-9 0"], false);
    exclusive(&[holder, "wait1 3-4 1"], false);
    exclusive(&[holder, "wait1 3-4 0", "inspect 8-9 0"], true);
    exclusive(&[holder, "wait1 3-4 0", "inspect 8-9 1"], false);
    // A wait by the holder succeeds at once, even if others wait.
    let holder = "get 1-2 1, wait1 6-7 1, release 8-9 1";
    exclusive(&[holder, "wait1 3-4-9 1"], true);
    exclusive(&["get 1-2 1, wait1 6-6-7 0", "wait1 3-4-8-9 0"], false);
    exclusive(&["wait1 3-4-9 1"], true);
    exclusive(&["wait1 3-4-8-9 0"], false);
}

#[test]
fn forgotten_waiter_is_detected() {
    let exclusive = |connections: &[&str], expect| check(false, connections, expect);
    // The wait lasted all the time, so the lock was never free.
    let waiter = "wait1 3-4-8-9 0";
    exclusive(&["get 1-2 1", waiter], true);
    exclusive(&["get 1-2 1, release 5-6 1", waiter], false);
    exclusive(&["get 1-2 1, release 5-6 1, get 5-7 1", waiter], false);
    exclusive(&["get 1-2 1, end 5-6 -", waiter], false);
    exclusive(&[waiter], false);
    exclusive(&["get 1-2 1, release 5-10 1", waiter], true);
    // The wait may have been over by then.
    exclusive(&["get 1-2 1, release 5-6 1", "wait1 3-4-5-7 0"], true);
    // The wait was cancelled, possibly before it began.
    exclusive(&["get 1-2 1, release 5-6 1", "wait1 3-9 0"], true);
    exclusive(&["wait1 3-9 0"], true);
    // The wait has not begun, or is over.
    exclusive(
        &[
            "get 1-2 1, release 5-7 1",
            "wait1 3-9 1",
            "get 6-8 1, release 6-8 1",
        ],
        true,
    );
    exclusive(
        &[
            "get 1-2 1, release 5-7 1",
            "wait1 3-4-9 1",
            "get 6-8 1, release 6-8 1",
        ],
        false,
    );
    exclusive(
        &[
            "get 1-2 1, release 5-7 1",
            "wait1 3-4-9 -, end 8-9 -",
            "get 6-7 0",
        ],
        true,
    );
    // When the first waiter gives up, the next one gets the lock, also if it was released meanwhile.
    let holders = ["get 1-2 1", "get 1-2 2"];
    let [one, other] = holders;
    check(true, &[one, other, "wait1 3-4-8-9 0", "wait3 5-10 3"], true);
    check(
        true,
        &[one, other, "wait1 3-4-8-9 0", "wait3 5-6-8-11 0"],
        true,
    );
    check(
        true,
        &[one, other, "wait1 3-4-8-9 0", "wait3 5-6-10-11 0"],
        false,
    );
    let released = "get 1-2 1, release 6-7 1";
    check(true, &[released, other, "wait2 3-4-8-9 0"], false);
    check(true, &[released, other, "wait1 3-4-8-9 0"], true);
}

#[test]
fn waiters_are_served_in_the_order_of_arrival() {
    let holder = "get 1-2 1, release 9-10 1";
    let exclusive = |connections: &[&str], expect| check(false, connections, expect);
    exclusive(&[holder, "wait1 3-4-11 1", "wait1 5-6-8-20 0"], true);
    exclusive(&[holder, "wait1 3-4-19-20 0", "wait1 5-6-11 1"], false);
    exclusive(&[holder, "wait1 3-7-19-20 0", "wait1 5-6-11 1"], true);
    // A waiter that has given up does not block the others.
    exclusive(&[holder, "wait1 3-4-8 0", "wait1 5-6-11 1"], true);
    // A connection that must release first is in the queue behind those that joined before the release.
    let waiters = [
        "get 1-2 2, release 3-9 1, wait2 3-14 2",
        "wait1 2-2-8-10 0",
        "wait2 4-5-20-21 0",
    ];
    let [late, first, second] = waiters;
    let shared = |connections: &[&str], expect| check(true, connections, expect);
    shared(&["get 0-1 1", late, first, second, "inspect 6-7 1"], true);
    shared(&["get 0-1 1", late, first, second, "inspect 6-7 2"], false);
    // Even if the limit of the second allows a grant, and that of the first does not.
    check(
        true,
        &["get 1-2 1", "wait1 3-4-8-9 0", "wait5 5-6-8 2"],
        false,
    );
    check(
        true,
        &["get 1-2 1", "wait1 3-7-8-9 0", "wait5 5-6-8 2"],
        true,
    );
    check(
        true,
        &["get 1-2 1", "wait1 3-4-8-9 0", "below5 5-6 2"],
        false,
    );
    check(
        true,
        &["get 1-2 1", "wait1 3-4-8-9 0", "below5 5-6 0"],
        true,
    );
    // As in the original.
    check(true, &["get 1-2 1", "wait1 3-4-8-9 0", "get 5-6 2"], true);
    // Each of these may be first, but not both.
    let waiters = ["wait1 3-7-29-30 0", "wait1 3-7-29-30 0"];
    let [one, other] = waiters;
    check(true, &["get 1-2 1", one, other], true);
    check(
        true,
        &[
            "get 1-2 1, release 8-9 1, get 10-11 1",
            "wait1 3-7-30 1",
            "wait1 3-7-30 1",
        ],
        false,
    );
}

#[test]
fn limit_of_holders_is_kept() {
    let shared = |connections: &[&str], expect| check(true, connections, expect);
    shared(&["below1 1-2 1", "below1 3-4 0", "below2 5-6 2"], true);
    shared(&["below1 1-2 1", "below1 3-4 2"], false);
    shared(&["below1 1-2 0"], false);
    shared(&["below0 1-2 0"], true);
    shared(&["below2 1-2 1", "below2 3-4 0"], false);
    shared(&["below1 1-2 1, below1 3-4 1"], true);
    shared(&["below2 1-3 1", "below2 1-3 2", "below2 1-3 0"], true);
    shared(&["below2 1-3 1", "below2 1-3 2", "below2 1-3 3"], false);
    shared(&["get 1-2 1", "wait1 3-8 2"], false);
    shared(&["get 1-2 1, release 4-5 1", "wait1 3-8 1"], true);
    shared(&["get 1-2 1", "below2 3-4 2", "wait2 5-6-8-9 0"], true);
}

#[test]
fn watcher_is_answered_at_a_release() {
    let exclusive = |connections: &[&str], expect| check(false, connections, expect);
    exclusive(&["see1 1-2 1"], true);
    exclusive(&["see1 1-2 0"], false);
    exclusive(&["get 1-2 1", "see1 3-4 0", "watch1 3-4-5-6 0"], true);
    exclusive(&["get 1-2 1", "see1 3-4 1"], false);
    exclusive(&["get 1-2 1", "watch1 3-4 1"], false);
    exclusive(&["get 1-2 1, release 5-6 1", "watch1 3-7 1"], true);
    exclusive(&["get 1-2 1, release 5-6 1", "watch1 3-4-7-8 0"], false);
    exclusive(&["get 1-2 1, release 5-6 1", "watch1 3-7 0"], true);
    // Even if another connection gets the lock at once. A question without a wait does not observe the release.
    let passed = ["get 1-2 1, release 5-6 1", "wait1 3-4-20 1"];
    let [holder, heir] = passed;
    exclusive(&[holder, heir, "watch1 3-7 1", "watch1 3-7 1"], true);
    exclusive(&[holder, heir, "watch1 3-4-7-8 0"], false);
    exclusive(&[holder, heir, "see1 4-7 1"], false);
    exclusive(&[holder, heir, "watch1 7-9 1"], false);
    let shared = |connections: &[&str], expect| check(true, connections, expect);
    let [one, other] = ["get 1-2 1", "get 1-2 2, release 5-6 1"];
    shared(&[one, other, "watch2 3-7 1"], true);
    shared(&[one, other, "watch2 3-4-7-8 0"], false);
    shared(&[one, other, "watch1 3-4-7-8 0"], true);
    shared(&[one, other, "watch1 3-7 1"], false);
    shared(&[one, other, "see2 7-8 1, see1 7-9 0"], true);
}

#[test]
fn tokens_grow_in_the_order_of_grants() {
    let exclusive = |connections: &[&str], expect| check(false, connections, expect);
    let first = "get 1-2 1 5, release 3-4 1";
    exclusive(&[first, "get 6-7 1 6"], true);
    exclusive(&[first, "get 6-7 1 5"], false);
    exclusive(&[first, "get 6-7 1 4"], false);
    exclusive(&[first, "wait1 2-3-7 1 4"], false);
    exclusive(
        &["get 1-5 1 6, release 1-5 1", "get 1-5 1 4, release 1-5 1"],
        true,
    );
    // That holder got the lock before.
    exclusive(&["get 1-2 1 5, release 3-9 1", "get 4-8 1 4"], false);
    check(true, &["get 1-4 1 5", "get 2-3 2 6"], true);
    check(true, &["get 1-4 1 6", "get 2-3 2 5"], false);
    check(true, &["get 1-2 1 6", "get 1-5 2"], true);
}
