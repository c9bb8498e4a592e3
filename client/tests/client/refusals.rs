//! Locks that are refused, and names that are invalid.

use std::time::Duration;

use glockd::{LockLimits, Policy};
use glockd_client::{Client, Error, LockGuard, LockKind, LockRequest, Lost, Refusal};
use glockd_test_support::within;

use crate::servers::{await_claims, connect, serve, serve_with};

async fn refusal(request: LockRequest) -> Refusal {
    match within(request.acquire()).await.unwrap_err() {
        Error::Refused { refusal, .. } => refusal,
        error => panic!("{error}"),
    }
}

/// Acquires the exclusive lock `held` and the shared lock `full`, and checks that further requests are refused. Returns
/// the guards.
async fn hold_and_be_refused(client: &Client) -> [LockGuard; 2] {
    let short = Duration::from_millis(50);
    let holding = [
        client.lock("held").acquire().await.unwrap(),
        client.shared("full").acquire().await.unwrap(),
    ];
    let (held, full) = (client.lock("held"), client.shared("full").limit(1));
    assert_eq!(refusal(held.clone()).await, Refusal::Held);
    assert_eq!(refusal(held.wait(short)).await, Refusal::Timeout);
    assert_eq!(refusal(full.clone()).await, Refusal::Full);
    assert_eq!(refusal(full.wait(short)).await, Refusal::Timeout);
    holding
}

/// Returns how many times the server was asked for an exclusive lock without a wait.
async fn gets(client: &Client) -> u64 {
    let counters = client.statistics().await.unwrap();
    let gets = counters.iter().find(|(key, _)| key == "command_g").unwrap();
    gets.1
}

#[tokio::test]
async fn refusal_states_the_reason() {
    let served = serve_with(Policy {
        limits: LockLimits {
            max_waiters: Some(1),
            ..LockLimits::default()
        },
        ..Policy::default()
    })
    .await;
    for url in served.modern() {
        let client = connect(&url).await;
        let holding = hold_and_be_refused(&client).await;
        let waiter = tokio::spawn(client.lock("held").wait_forever().acquire());
        await_claims(&client, "held", |claims| claims.len() == 2).await;
        assert_eq!(
            refusal(client.lock("held").wait_forever()).await,
            Refusal::QueueFull
        );
        drop(holding);
        drop(within(waiter).await.unwrap().unwrap());
    }
}

#[tokio::test]
async fn server_without_a_queue_is_asked_again() {
    let served = serve().await;
    for url in [served.plain(), served.original()] {
        let client = connect(&url).await;
        let holding = hold_and_be_refused(&client).await;
        // The grant beyond the limit was released.
        assert_eq!(client.holders("full").await.unwrap(), 1);
        let before = gets(&client).await;
        let waiter = tokio::spawn(client.lock("held").wait_forever().acquire());
        // The first get of the waiter, and another one after its refusal.
        within(async { while gets(&client).await < before + 2 {} }).await;
        drop(holding);
        drop(within(waiter).await.unwrap().unwrap());
    }
    assert_eq!(served.surplus(), 0);
}

#[tokio::test]
async fn name_may_contain_any_byte_but_a_line_end() {
    let served = serve().await;
    for url in served.modern().into_iter().chain([served.original()]) {
        let client = connect(&url).await;
        for name in [
            &b""[..],
            b"\0\xff\xc2",
            b"1 Lock Get Success: ",
            "Grüße 🔒".as_bytes(),
        ] {
            let guard = client.lock(name).acquire().await.unwrap();
            assert!(client.is_locked(name).await.unwrap());
            guard.release().await.unwrap();
        }
        let error = client.lock("a\nr b").acquire().await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "a name must not contain a line end: a\\nr b"
        );
        let error = client.is_locked("a\n").await.unwrap_err();
        assert!(matches!(error, Error::BadName(_)));
        let error = client.shared("a").limit(0).acquire().await.unwrap_err();
        assert!(matches!(error, Error::ZeroLimit));
    }
}

#[tokio::test]
async fn name_that_is_too_long_is_an_error() {
    let served = serve().await;
    for url in served.modern() {
        let client = connect(&url).await;
        let error = client
            .lock(vec![b'x'; 200_000])
            .acquire()
            .await
            .unwrap_err();
        match url.starts_with("ws") {
            // The server closes the connection, but not those of other guards.
            true => {
                assert!(matches!(error, Error::Lost(Lost::TooLong)), "{error}");
                let held = client.lock("held").acquire().await.unwrap();
                let long = vec![b'x'; 200_000];
                for error in [
                    client.shared(&long).limit(1).acquire().await.unwrap_err(),
                    client
                        .lock(&long)
                        .wait_forever()
                        .acquire()
                        .await
                        .unwrap_err(),
                    client.is_locked(&long).await.unwrap_err(),
                    client.claims(&long).await.unwrap_err(),
                ] {
                    assert!(matches!(error, Error::Lost(Lost::TooLong)), "{error}");
                }
                held.release().await.unwrap();
            }
            false => {
                assert!(
                    matches!(error, Error::TooLong { limit: 131_072 }),
                    "{error}"
                );
                assert!(client.lock("x").acquire().await.is_ok());
            }
        }
    }
}

/// The original would run the rest of the line as another command.
#[tokio::test]
async fn name_that_is_too_long_for_the_original_is_not_sent() {
    let served = serve().await;
    for url in [served.plain(), served.original()] {
        let client = connect(&url).await;
        let longest = vec![b'x'; 4095 - "g \n".len()];
        let guard = client.lock(&longest).acquire().await.unwrap();
        assert!(client.is_locked(&longest).await.unwrap());
        guard.release().await.unwrap();
        let longer = [longest, b"r held".to_vec()].concat();
        for error in [
            client.lock(&longer).acquire().await.unwrap_err(),
            client
                .lock(&longer)
                .wait_forever()
                .acquire()
                .await
                .unwrap_err(),
            client.is_locked(&longer).await.unwrap_err(),
            client
                .locks(LockKind::Shared, Some(&longer))
                .await
                .unwrap_err(),
        ] {
            assert!(matches!(error, Error::TooLong { limit: 4095 }), "{error}");
        }
    }
    assert_eq!(served.surplus(), 0);
}

/// A line of a listing can look like any reply.
#[tokio::test]
async fn lock_may_have_the_name_of_a_refusal() {
    let served = serve().await;
    for url in served.modern().into_iter().chain([served.plain()]) {
        let client = Client::builder(&url).name("limit 5").connect();
        let client = client.await.unwrap();
        let guard = client.lock("0 Line Too Long").acquire().await.unwrap();
        let locks = client.locks(LockKind::Exclusive, None).await.unwrap();
        assert_eq!(locks[0].name, guard.name());
        assert_eq!(locks[0].holder, b"limit 5");
    }
}
