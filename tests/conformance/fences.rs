//! Fencing tokens and ages: the numbers of `f`, `sf` and `own`, which differ from run to run.

use std::time::{Duration, Instant};

use glockd_test_support::within;

use crate::client::{Client, ask, equal};
use crate::server::{TestServer, Via};

/// A line of `own`: role, milliseconds and token.
type Owner = (String, u64, u64);

async fn own(client: &mut Client, name: &str) -> Vec<Owner> {
    let answer = ask(client, &format!("own {name}")).await;
    let (header, lines) = answer.split_once('\n').unwrap();
    let owners: Vec<Owner> = lines
        .lines()
        .map(|line| {
            let fields: Vec<&str> = line.splitn(5, ' ').collect();
            let number = |field: &str| field.parse().unwrap();
            (fields[0].to_owned(), number(fields[2]), number(fields[3]))
        })
        .collect();
    assert_eq!(header, format!("{} Lock Owners: {name}", owners.len()));
    owners
}

/// Returns the roles and tokens in the reply to `own`.
async fn tokens(client: &mut Client, name: &str) -> Vec<(String, u64)> {
    let owners = own(client, name).await.into_iter();
    owners.map(|(role, _, token)| (role, token)).collect()
}

async fn fence(client: &mut Client, command: &str) -> u64 {
    let answer = ask(client, command).await;
    let (token, _) = answer.split_once(" Lock Fence: ").expect(&answer);
    token.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_grant_has_a_larger_token_than_the_last() {
    for via in Via::ALL {
        for (get, wait, release, fenced, role) in [
            ("g x", "gw 60000 x", "r x", "f x", "x"),
            ("sgl 1 x", "sgw 60000 1 x", "sr x", "sf x", "s"),
        ] {
            within(async {
                let mut server = TestServer::default().await;
                let mut holder = server.connect(via).await;
                let mut last = 0;
                for _ in 0..3 {
                    // A get by the holder does not change the token.
                    ask(&mut holder, get).await;
                    let token = fence(&mut holder, fenced).await;
                    assert!(token > last && token < 1 << 63, "{token} after {last}");
                    ask(&mut holder, wait).await;
                    assert_eq!(fence(&mut holder, fenced).await, token);
                    assert_eq!(tokens(&mut holder, "x").await, [(role.to_owned(), token)]);

                    let mut next = server.connect(via).await;
                    equal(&next.begin(wait.as_bytes()).await, "");
                    let waits = (format!("{role}w"), 0);
                    assert_eq!(
                        tokens(&mut holder, "x").await,
                        [(role.to_owned(), token), waits]
                    );
                    ask(&mut holder, release).await;
                    next.await_rest().await;
                    let handed_over = fence(&mut next, fenced).await;
                    assert!(handed_over > token, "{handed_over} after {token}");
                    let found = tokens(&mut holder, "x").await;
                    assert_eq!(found, [(role.to_owned(), handed_over)]);
                    last = handed_over;
                    ask(&mut next, release).await;
                }
                drop(holder);
                server.stop().await;
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_holder_of_a_shared_lock_has_its_own_token() {
    within(async {
        let mut server = TestServer::default().await;
        let mut holders = Vec::new();
        let mut expect = Vec::new();
        for _ in 0..5 {
            let mut holder = server.connect(Via::Memory).await;
            ask(&mut holder, "sg x").await;
            expect.push(("s".to_owned(), fence(&mut holder, "sf x").await));
            holders.push(holder);
        }
        assert!(expect.is_sorted_by(|(_, one), (_, next)| one < next));
        assert_eq!(tokens(&mut holders[0], "x").await, expect);
        drop(holders);
        server.stop().await;
    })
    .await;
}

/// The clock may be a tick or two behind.
#[tokio::test(flavor = "multi_thread")]
async fn own_shows_the_age_of_the_grant_or_of_the_wait() {
    const OLD: u64 = 400;
    const TICKS: Duration = Duration::from_millis(100);
    #[track_caller]
    fn plausible(age: u64, since: Instant) {
        let most = since.elapsed() + TICKS;
        assert!(Duration::from_millis(age) <= most, "{age} of {most:?}");
    }
    within(async {
        let mut server = TestServer::default().await;
        let mut holder = server.connect(Via::Memory).await;
        let mut next = server.connect(Via::Memory).await;
        let got = Instant::now();
        ask(&mut holder, "g x").await;
        equal(&next.begin(b"gw 60000 x").await, "");
        loop {
            let owners = own(&mut holder, "x").await;
            let [(_, held, _), (_, waited, _)] = owners[..] else {
                panic!("{owners:?}");
            };
            plausible(held, got);
            assert!(waited <= held);
            if waited >= OLD {
                break;
            }
        }
        // The age begins at the grant, however long the wait was.
        let released = Instant::now();
        ask(&mut holder, "r x").await;
        let owners = own(&mut holder, "x").await;
        assert_eq!(owners.len(), 1);
        plausible(owners[0].1, released);
        drop((holder, next));
        server.stop().await;
    })
    .await;
}
