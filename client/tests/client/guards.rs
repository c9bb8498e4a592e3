//! Guards: what they report, and how they release their locks.

use std::time::Duration;

use glockd_client::{Client, Error, LockKind, Refusal};
use glockd_test_support::within;

use crate::servers::{await_claims, connect, serve};

#[tokio::test]
async fn guard_releases_its_lock_by_release_and_by_drop() {
    let served = serve().await;
    for url in served.modern().into_iter().chain([served.original()]) {
        let (client, other) = (connect(&url).await, connect(&url).await);
        let guard = client.lock("  a   b ").acquire().await.unwrap();
        assert_eq!(guard.name(), b"a b");
        assert_eq!((guard.kind(), guard.holders()), (LockKind::Exclusive, 1));
        assert!(other.is_locked("a b").await.unwrap());
        guard.release().await.unwrap();
        assert!(!other.is_locked("a b").await.unwrap());

        drop(client.lock("a b").acquire().await.unwrap());
        within(async { while other.is_locked("a b").await.unwrap() {} }).await;
    }
}

#[tokio::test]
async fn one_client_holds_a_name_twice_only_as_a_shared_lock() {
    let served = serve().await;
    for url in served.modern().into_iter().chain([served.original()]) {
        let client = connect(&url).await;
        let guard = client.lock("one").acquire().await.unwrap();
        let error = client.lock("one").acquire().await.unwrap_err();
        assert!(
            matches!(
                error,
                Error::Refused {
                    refusal: Refusal::Held,
                    ..
                }
            ),
            "{error:?}"
        );
        assert_eq!(error.to_string(), "the lock one is held");

        let (first, second) = (client.shared("one"), client.shared("one"));
        let (first, second) = (
            first.acquire().await.unwrap(),
            second.acquire().await.unwrap(),
        );
        assert_eq!((first.holders(), second.holders()), (1, 2));
        assert_eq!(client.holders("one").await.unwrap(), 2);
        first.release().await.unwrap();
        assert_eq!(client.holders("one").await.unwrap(), 1);
        drop((guard, second));
    }
}

#[tokio::test]
async fn fencing_tokens_grow_if_the_server_issues_them() {
    let served = serve().await;
    for url in served.modern() {
        let client = connect(&url).await;
        for request in [
            client.lock("t"),
            client.lock("t").wait_forever(),
            client.shared("t"),
            client.shared("t").limit(2),
        ] {
            let first = request.clone().acquire().await.unwrap();
            let token = first.fence().unwrap();
            first.release().await.unwrap();
            let second = request.acquire().await.unwrap();
            assert!(second.fence().unwrap() > token);
        }
    }
    for url in [served.plain(), served.original()] {
        let client = connect(&url).await;
        assert_eq!(client.lock("t").acquire().await.unwrap().fence(), None);
    }
}

/// After a wait, its connection holds the lock, and other requests may use it.
#[tokio::test]
async fn connections_are_reused_and_few_idle_ones_are_kept() {
    let served = serve().await;
    let (client, watcher) = (connect(&served.unix()).await, connect(&served.unix()).await);
    let connections = async || {
        let counters = watcher.statistics().await.unwrap();
        counters
            .iter()
            .find(|(key, _)| key == "connections")
            .unwrap()
            .1
    };
    for name in 0..20 {
        let waited = client.lock(format!("{name}")).wait(Duration::from_secs(20));
        waited.acquire().await.unwrap().release().await.unwrap();
    }
    assert_eq!(connections().await, 2);

    let mut guards = Vec::new();
    for _ in 0..20 {
        guards.push(client.shared("many").acquire().await.unwrap());
    }
    assert_eq!(connections().await, 21);
    // The connections of these guards can hold other locks, too.
    for name in 0..20 {
        guards.push(client.lock(format!("{name}")).acquire().await.unwrap());
    }
    assert_eq!(connections().await, 21);
    drop(guards);
    within(async { while connections().await > 3 {} }).await;
    assert!(client.lock("0").acquire().await.is_ok());
}

#[tokio::test]
async fn registered_name_is_listed_for_holders_and_waiters() {
    let served = serve().await;
    let client = Client::builder(&served.unix())
        .name("cron  on db1")
        .connect();
    let client = client.await.unwrap();
    let guard = client.lock("backup").acquire().await.unwrap();
    let waiter = tokio::spawn(client.lock("backup").wait_forever().acquire());
    let claims = await_claims(&client, "backup", |claims| claims.len() == 2).await;
    assert!(claims.iter().all(|claim| claim.name == b"cron on db1"));
    assert_eq!(claims[0].fence, guard.fence());
    assert_eq!((claims[0].waits, claims[1].waits), (false, true));
    // A request that is dropped stops waiting.
    waiter.abort();
    await_claims(&client, "backup", |claims| claims.len() == 1).await;
    assert!(!guard.is_lost());
}

#[tokio::test]
async fn guard_keeps_its_lock_after_the_client_is_dropped() {
    let served = serve().await;
    let (client, other) = (connect(&served.unix()).await, connect(&served.unix()).await);
    let guard = client.lock("kept").acquire().await.unwrap();
    drop(client);
    assert!(other.is_locked("kept").await.unwrap());
    drop(guard);
    within(async { while other.is_locked("kept").await.unwrap() {} }).await;
}
