//! Commands that the original does not have: docs/extensions.md.

use glockd::{LockLimits, Policy};

use crate::script;

async fn check(case: &str, policy: Policy, script: &str) {
    script::check_with(&format!("extensions__{case}"), &[policy], script).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hello_lists_the_features_and_ping_is_echoed() {
    check(
        "hello_and_ping",
        Policy::default(),
        r"
        A: hello
        A: hello there
        A: ping
        A: ping  a \t b\x20
        A: ping \xFF\x00
        A: q
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn extension_commands_are_unknown_if_disabled() {
    check(
        "none_is_known_where_they_are_forbidden",
        Policy {
            extensions: false,
            ..Policy::default()
        },
        r"
        A: g x
        A: hello
        A: ping
        A: gw 0 x
        A: gw x
        A: sgl 1 x
        A: sgw 0 1 x
        A: cancel x
        A: iw 0 x
        A: siw 0 1 x
        A: f x
        A: sf x
        A: own x
        A: ld
        A: lsd
        A: ldl
        A: lsdl
        A: ldl x
        A: lsdl x
        A: lwho
        A: lq
        A: d
        A: sd
        A: q
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_arguments_are_refused() {
    check(
        "bad_arguments",
        Policy::default(),
        r"
        A: gw
        A: gw x
        A: gw -1 x
        A: gw +1 x
        A: gw 1.0 x
        A: gw 0x1 x
        A: gw 1x
        A: gw 4294967296 x
        A: gw \xD9\xA1 x
        A: iw
        A: iw x
        A: iw -1 x
        A: iw +1 x
        A: iw 0x1 x
        A: iw 4294967296 x
        A: sgl
        A: sgl x 1
        A: sgl -1 x
        A: sgl +1 x
        A: sgl 0x1 x
        A: sgl 4294967296 x
        A: sgw
        A: sgw 0
        A: sgw 0 x
        A: sgw x 0
        A: sgw -1 1 x
        A: sgw 0 -1 x
        A: sgw +0 1 x
        A: sgw 0 +1 x
        A: sgw 0x0 1 x
        A: sgw 0 0x1 x
        A: sgw 4294967296 1 x
        A: sgw 0 4294967296 x
        A: siw
        A: siw 0
        A: siw 0 x
        A: siw x 0
        A: siw -1 1 x
        A: siw 0 -1 x
        A: siw +0 1 x
        A: siw 0 +1 x
        A: siw 0x0 1 x
        A: siw 0 0x1 x
        A: siw 4294967296 1 x
        A: siw 0 4294967296 x
        A: d
        A: sd
        A: gw 4294967295
        A: sgl 4294967295
        A: sgw 0 1
        A: iw 0 y
        A: siw 0 1 y
        A: gw 00000000000 \t 1  x
        A: d
        A: sd
        A: q
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exclusive_lock_can_be_waited_for() {
    check(
        "an_exclusive_lock_is_waited_for",
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
        "a_line_ignored_by_those_who_only_try",
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
        "shared_locks_have_limits",
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
        "a_shared_lock_is_waited_for_in_turn",
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
        "a_lock_is_handed_on_by_the_end_of_a_connection",
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
        "so_many_may_wait",
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
async fn wait_counts_as_a_lock_of_its_connection() {
    check(
        "a_wait_takes_the_place_of_a_lock",
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
        "a_wait_is_cancelled",
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
        "what_follows_a_wait_is_answered_behind_it",
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
        "free_locks_are_watched_for",
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
        "watchers_are_told_of_each_release",
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

#[tokio::test(flavor = "multi_thread")]
async fn fence_and_own_show_tokens_and_claims() {
    check(
        "fences_and_owners",
        Policy::default(),
        r"
        A: f x
        A: sf x
        A: own x
        A: iam a  name
        A: g x
        A: sg x
        B: sg x
        A: f x
        A: sf x
        B: f x
        B: sf x
        C! gw 60000 x
        D! sgw 60000 1 x
        A: own x
        A: own
        A: g
        A: own
        A: r
        A: f
        A: sr x
        A: sf x
        ",
    )
    .await;
}

const LISTINGS: &str = r"
    A: ld
    A: lsd
    A: lwho
    A: lq
    A: iam one
    B: iam two words
    A: g b
    A: g a  b
    B: g c
    A: sg b
    B: sg b
    B: sg a
    A: ld
    A: ld  a  b
    A: ld nothing
    A: lsd
    A: lsd b
    A: lsd nothing
    A: lwho
    A: lwho two words
    A: lwho nobody
    A: lq whatever
    A: own b
    ";

#[tokio::test(flavor = "multi_thread")]
async fn counted_listings_have_headers() {
    check("listings_are_counted", Policy::default(), LISTINGS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counted_listings_obey_dump_and_registry() {
    for (dump, registry) in [(false, true), (true, false), (false, false)] {
        let case = format!("listings_dump_{dump}_registry_{registry}");
        check(
            &case,
            Policy {
                dump,
                registry,
                ..Policy::default()
            },
            LISTINGS,
        )
        .await;
    }
}

/// Names and holders that are ambiguous in other listings.
const LENGTHS: &str = r"
    A: ldl
    A: lsdl
    A: iam deploy: alice
    A: g prod
    B: iam alice
    B: g prod: deploy
    B: g
    B: g 12 prod
    B: g gr\xC3\xBCn \xFF
    A: sg prod
    B: sg prod
    B: sg prod: deploy
    A: ld
    A: ldl
    A: ldl  prod
    A: ldl prod: deploy
    A: ldl nothing
    A: lsdl
    A: lsdl prod
    A: lsdl nothing
    A: q
    ";

#[tokio::test(flavor = "multi_thread")]
async fn listings_with_lengths_state_the_length_of_each_name() {
    check(
        "listings_say_how_long_names_are",
        Policy::default(),
        LENGTHS,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_with_lengths_obey_dump_and_registry() {
    let script = r"
        A: ldl
        A: lsdl
        A: iam a
        A: g x
        A: sg x
        A: ldl
        A: lsdl x
        A: q
        ";
    for (dump, registry) in [(false, true), (true, false)] {
        let case = format!("lengths_dump_{dump}_registry_{registry}");
        check(
            &case,
            Policy {
                dump,
                registry,
                ..Policy::default()
            },
            script,
        )
        .await;
    }
}
