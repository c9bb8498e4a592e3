//! Commands that the original does not have, except those that wait: docs/extensions.md.

use glockd::Policy;

use crate::script;

async fn check(case: &str, policy: Policy, script: &str) {
    script::check_with(&format!("extensions__{case}"), &[policy], script).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hello_lists_the_features_and_ping_is_echoed() {
    check(
        "hello_lists_the_features_and_ping_is_echoed",
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
        "extension_commands_are_unknown_if_disabled",
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
        "bad_arguments_are_refused",
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
async fn fence_and_own_show_tokens_and_claims() {
    check(
        "fence_and_own_show_tokens_and_claims",
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
    check("counted_listings_have_headers", Policy::default(), LISTINGS).await;
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
        "listings_with_lengths_state_the_length_of_each_name",
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
