//! Queries, to servers that mark the end of a listing and to those that do not.

use glockd::Policy;
use glockd_client::{Client, Error, Features, HeldLock, LockKind, Lost};

use crate::losses::answering;
use crate::servers::{connect, serve, serve_with};

fn held(name: &str, holder: &str) -> HeldLock {
    HeldLock {
        name: name.into(),
        holder: holder.into(),
    }
}

#[tokio::test]
async fn listings_and_counters_are_read_from_each_kind_of_server() {
    let served = serve().await;
    for url in served
        .modern()
        .into_iter()
        .chain([served.plain(), served.original()])
    {
        let client = Client::builder(&url)
            .name("me: too")
            .connect()
            .await
            .unwrap();
        let (exclusive, shared) = (LockKind::Exclusive, LockKind::Shared);
        assert_eq!(client.locks(exclusive, None).await.unwrap(), []);
        let _guards = [
            client.lock("b: b").acquire().await.unwrap(),
            client.lock("a").acquire().await.unwrap(),
            client.shared("a").acquire().await.unwrap(),
            client.shared("a").acquire().await.unwrap(),
        ];
        // Without lengths, a listing of all locks is ambiguous; one of a single name is not.
        let all = client.locks(exclusive, None).await.unwrap();
        match client.features().lengths {
            true => assert_eq!(all, [held("a", "me: too"), held("b: b", "me: too")]),
            false => assert_eq!(all, [held("a: me", "too"), held("b: b: me", "too")]),
        }
        let one = client.locks(exclusive, Some(b"b:  b")).await.unwrap();
        assert_eq!(one, [held("b: b", "me: too")]);
        let twice = client.locks(shared, Some(b"a")).await.unwrap();
        assert_eq!(twice, [held("a", "me: too"), held("a", "me: too")]);
        assert_eq!(client.locks(shared, Some(b"b")).await.unwrap(), []);

        let clients = client.clients(Some(b"me: too")).await.unwrap();
        assert!(!clients.is_empty() && clients.iter().all(|client| client.name == b"me: too"));
        let counters = client.statistics().await.unwrap();
        let locks = counters.iter().find(|(key, _)| key == "locks").unwrap();
        assert_eq!(locks.1, 2);
        client.ping().await.unwrap();
    }
    assert_eq!(served.surplus(), 0);
}

/// With many requests at once, among them long listings.
#[tokio::test]
async fn each_request_gets_its_own_reply() {
    let served = serve().await;
    for url in served.modern().into_iter().chain([served.original()]) {
        let client = connect(&url).await;
        let mut guards = Vec::new();
        for number in 0..300 {
            guards.push(
                client
                    .lock(format!("lock {number:03}"))
                    .acquire()
                    .await
                    .unwrap(),
            );
        }
        let mut asked = tokio::task::JoinSet::new();
        for number in 0..600 {
            let client = client.clone();
            asked.spawn(async move {
                match number % 100 {
                    0 => assert_eq!(
                        client.locks(LockKind::Exclusive, None).await.unwrap().len(),
                        300
                    ),
                    _ => assert_eq!(
                        client.is_locked(format!("lock {number:03}")).await.unwrap(),
                        number < 300
                    ),
                }
            });
        }
        asked.join_all().await;
        drop(guards);
    }
    assert_eq!(served.surplus(), 0);
}

/// As glockd was before it had `ldl`.
#[tokio::test]
async fn counted_listing_is_used_if_the_server_has_no_lengths() {
    let (_dir, url) = answering(|line| match line {
        "hello" => "1 hello: wait limit fence list own ping\n".to_owned(),
        "ld" => "1 Lock List: \nprod: deploy: alice\n0 Lock List: \n".to_owned(),
        "lsd gpu: 1" => "1 Shared Lock List: \ngpu: 1: me: too\n0 Shared Lock List: \n".to_owned(),
        other => format!("0 Bad Argument: {other}\n"),
    })
    .await;
    let client = connect(&url).await;
    let all = client.locks(LockKind::Exclusive, None).await.unwrap();
    assert_eq!(all, [held("prod: deploy", "alice")]);
    let one = client.locks(LockKind::Shared, Some(b"gpu: 1")).await;
    assert_eq!(one.unwrap(), [held("gpu: 1", "me: too")]);
}

#[tokio::test]
async fn row_with_a_wrong_length_is_unexpected() {
    let (_dir, url) = answering(|line| match line {
        "hello" => "1 hello: list lengths\n".to_owned(),
        _ => "1 Lock List: \n12 prod: me\n0 Lock List: \n".to_owned(),
    })
    .await;
    let client = connect(&url).await;
    let error = client.locks(LockKind::Exclusive, None).await.unwrap_err();
    assert!(matches!(error, Error::Lost(Lost::Unexpected(_))), "{error}");
}

#[tokio::test]
async fn claims_that_ended_during_the_listing_are_left_out() {
    let (_dir, url) = answering(|line| match line {
        "hello" => "1 hello: wait limit fence list own ping\n".to_owned(),
        "own x" => "3 Lock Owners: x\nx unix:1 5 7 me\nxw unix:3 4 0 -\n- - 0 0 -\n".to_owned(),
        other => format!("0 Bad Argument: {other}\n"),
    })
    .await;
    let claims = connect(&url).await.claims("x").await.unwrap();
    let addresses: Vec<&[u8]> = claims.iter().map(|claim| &claim.address[..]).collect();
    assert_eq!(addresses, [b"unix:1", b"unix:3"]);
}

#[tokio::test]
async fn disabled_command_is_an_error() {
    let served = serve_with(Policy {
        dump: false,
        registry: false,
        ..Policy::default()
    })
    .await;
    for url in served.modern().into_iter().chain([served.original()]) {
        // Except for the registration of a name.
        let client = Client::builder(&url).name("me").connect().await.unwrap();
        let error = client.locks(LockKind::Exclusive, None).await.unwrap_err();
        assert!(matches!(error, Error::Disabled(_)), "{error}");
        let error = client.clients(None).await.unwrap_err();
        assert!(matches!(error, Error::Disabled(_)), "{error}");
        let error = client.claims("a").await.unwrap_err();
        match client.features().own {
            true => assert_eq!(error.to_string(), "the server does not allow `own`"),
            false => assert_eq!(error.to_string(), "the server does not know `own`"),
        }
        assert!(client.lock("a").acquire().await.is_ok());
    }
}

#[tokio::test]
async fn features_of_each_kind_of_server_are_detected() {
    let served = serve().await;
    for url in served.modern() {
        let features = connect(&url).await.features();
        assert!(
            features.wait
                && features.limit
                && features.fence
                && features.list
                && features.own
                && features.ping
                && features.lengths
        );
    }
    for url in [served.plain(), served.original()] {
        assert_eq!(connect(&url).await.features(), Features::default());
    }
}
