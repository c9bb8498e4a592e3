//! Thirteen commands under the four settings of `-dump` and `-registry`: one script, one snapshot a
//! setting, the same over all transports.

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

async fn check(dump: bool, registry: bool) {
    let snapshot = format!("policy__dump_{dump}_registry_{registry}");
    script::check(
        &snapshot,
        Policy {
            dump,
            registry,
            ..Policy::default()
        },
        SCRIPT,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_allowed() {
    check(true, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_dump() {
    check(false, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_registry() {
    check(true, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neither() {
    check(false, false).await;
}
