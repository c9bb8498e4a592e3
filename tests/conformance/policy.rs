//! Thirteen commands with the four settings of `-dump` and `-registry`: one script, and one snapshot for each setting,
//! which is the same over all transports.

use glockd::Policy;

use crate::script;

const SCRIPT: &str = "
    A: me
    A: iam worker
    A: me
    A: g foo
    A: sg foo
    B: g foo
    B: sg foo
    B: i foo
    B: si foo
    B: d
    B: d foo
    B: sd
    B: sd foo
    B: dump
    B: dump shared
    B: who
    B: who worker
    A: r foo
    B: sr foo
    B: iam
    B: q
    ";

async fn check(policy: Policy) {
    let Policy { dump, registry, .. } = policy;
    let snapshot = format!("policy__dump_{dump}_registry_{registry}");
    script::check(&snapshot, policy, SCRIPT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_commands_are_answered_by_default() {
    check(Policy::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_dump_listings_are_disabled() {
    check(Policy {
        dump: false,
        ..Policy::default()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_registry_names_are_disabled() {
    check(Policy {
        registry: false,
        ..Policy::default()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_dump_and_registry_both_are_disabled() {
    check(Policy {
        dump: false,
        registry: false,
        ..Policy::default()
    })
    .await;
}
