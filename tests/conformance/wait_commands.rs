//! Scripts of the commands that wait, and of the limits on waiters: docs/extensions.md.

use glockd::{LockLimits, Policy};

use crate::script;

async fn check(case: &str, policy: Policy, script: &str) {
    script::check_with(&format!("wait_commands__{case}"), &[policy], script).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exclusive_lock_can_be_waited_for() {
    check(
        "exclusive_lock_can_be_waited_for",
        Policy::default(),
        r"
        A: gw 60000 a  b
        A: gw 60000 a b
        B: gw 0 a b
        B: gw 1 a b
        B! gw 60000 a b
        C! gw 60000 a b
        A: own a b
        A: g a b
        A: i a b
        A: r a b
        A: i a b
        B?
        B: gw 60000 a b
        B: cancel a b
        A: own a b
        A! gw 60000 a b
        B: r a b
        C?
        C: r a b
        A?
        A: r a b
        A: i a b
        A: q
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn get_without_a_wait_ignores_the_queue() {
    check(
        "get_without_a_wait_ignores_the_queue",
        Policy::default(),
        r"
        A: sg x
        B! sgw 60000 1 x
        C: sgl 9 x
        C: sgw 0 9 x
        C: sg x
        A: sgl 1 x
        A: sgw 60000 0 x
        A: sr x
        B! ping still waiting
        C: sr x
        B?
        C: g x
        D! gw 60000 x
        E: g x
        E: gw 0 x
        C: r x
        D?
        E: g x
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_lock_can_have_a_limit_of_holders() {
    check(
        "shared_lock_can_have_a_limit_of_holders",
        Policy::default(),
        r"
        A: sgl 0 x
        A: sgl 2 x
        A: sgl 0 x
        B: sgl 1 x
        B: sgl 2 x
        C: sgl 2 x
        C: sgw 0 2 x
        C: sgw 1 2 x
        C: si x
        C: sgl 3 x
        B: sr x
        B: sgl 3 x
        C: sgw 60000 1 x
        C: sd
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_lock_is_granted_in_the_order_of_arrival() {
    check(
        "shared_lock_is_granted_in_the_order_of_arrival",
        Policy::default(),
        r"
        A: sg x
        B: sg x
        C! sgw 60000 1 x
        D! sgw 60000 9 x
        E! sgw 60000 9 x
        A: own x
        A: sr x
        A: own x
        C! cancel x
        C?
        D?
        E?
        A: own x
        A! sgw 60000 2 x
        D: sr x
        E: sr x
        A?
        A: sd x
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lock_passes_to_the_waiter_when_the_connection_ends() {
    check(
        "lock_passes_to_the_waiter_when_the_connection_ends",
        Policy::default(),
        r"
        A: g x
        A: sg x
        B! gw 60000 x
        C! gw 60000 x
        D! sgw 60000 1 x
        E! sgw 60000 1 x
        - B
        - D
        - A
        C?
        E?
        C: own x
        C: q
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_beyond_the_maximum_number_of_waiters_is_refused() {
    check(
        "wait_beyond_the_maximum_number_of_waiters_is_refused",
        Policy {
            limits: LockLimits {
                max_waiters: Some(1),
                ..LockLimits::default()
            },
            ..Policy::default()
        },
        r"
        A: g x
        A: sg x
        B! gw 60000 x
        C: gw 60000 x
        C: gw 0 x
        C! sgw 60000 1 x
        D: sgw 60000 1 x
        D! iw 60000 x
        E! siw 60000 1 x
        - B
        B! gw 60000 x
        A: r x
        A: sr x
        B?
        C?
        D?
        E?
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_counts_as_a_lock() {
    check(
        "wait_counts_as_a_lock",
        Policy {
            limits: LockLimits {
                max_locks: Some(2),
                ..LockLimits::default()
            },
            ..Policy::default()
        },
        r"
        A: gw 60000 x
        B! gw 60000 x
        C: g y
        C: gw 60000 y
        C: gw 60000 x
        C: sgl 9 y
        C: sgw 60000 9 y
        B! cancel x
        B?
        C: g y
        C: r y
        B! gw 60000 x
        A: r x
        B?
        A: g y
        A: q
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_can_be_cancelled() {
    check(
        "wait_can_be_cancelled",
        Policy::default(),
        r"
        A: g x
        A: g y
        A: sg z
        A: cancel x
        B! gw 60000 x
        B! cancel y
        B! gw 60000 y
        B! sgw 60000 1 z
        B! iw 60000 y
        B! g w
        B! cancel w
        B! cancel y
        B! cancel z
        B! cancel y
        B! cancel y
        B! cancel x
        B?
        B! iw 60000 x
        B! cancel x
        B! siw 60000 1 z
        B! cancel z
        A: own x
        A: q
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_after_a_wait_are_answered_after_it() {
    check(
        "commands_after_a_wait_are_answered_after_it",
        Policy::default(),
        r"
        A: g x
        B! gw 60000 x
        B! ping 1
        B! me
        B! nonsense
        B! gw x
        B! d
        B! gw 60000 y
        B! ping 2
        B! r x
        B! gw 60000 x
        A: r x
        B?
        A: g x
        B: r x
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_can_wait_until_a_lock_is_free() {
    check(
        "client_can_wait_until_a_lock_is_free",
        Policy::default(),
        r"
        A: iw 0 x
        A: iw 60000 x
        A: siw 0 0 x
        A: siw 0 1 x
        A: g x
        A: iw 0 x
        A: iw 1 x
        B! iw 60000 x
        C! iw 60000 x
        A: own x
        A: r x
        B?
        C?
        A: i x
        A: sg x
        B: sg x
        C! siw 60000 1 x
        D! siw 60000 2 x
        A: siw 0 2 x
        A: siw 0 3 x
        A: sr x
        D?
        B: sr x
        C?
        A: si x
        ",
    )
    .await;
}

/// Even if the lock passes to the next waiter: it was free for an instant.
#[tokio::test(flavor = "multi_thread")]
async fn watcher_is_answered_at_each_release() {
    check(
        "watcher_is_answered_at_each_release",
        Policy::default(),
        r"
        A: g x
        A: sg x
        B! gw 60000 x
        C! iw 60000 x
        D! sgw 60000 1 x
        E! siw 60000 1 x
        A: r x
        B?
        C?
        A: sr x
        D?
        E?
        A: own x
        ",
    )
    .await;
}
