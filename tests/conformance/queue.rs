//! The queue of waiters for a lock.

use glockd_test_support::within;
use tokio::io::AsyncWriteExt;

use crate::client::{ask, await_claims, equal, reset_on_close};
use crate::server::{TestServer, Via};

#[tokio::test(flavor = "multi_thread")]
async fn disconnected_waiter_leaves_the_queue() {
    for via in Via::ALL {
        within(async {
            let mut server = TestServer::default().await;
            let mut holder = server.connect(via).await;
            ask(&mut holder, "g x").await;
            let mut lost = server.tcp().await;
            lost.write_all(b"gw 60000 x\n").await.unwrap();
            await_claims(&mut holder, "x", 2).await;
            let mut next = server.connect(via).await;
            next.begin(b"gw 60000 x").await;
            await_claims(&mut holder, "x", 3).await;
            reset_on_close(&lost);
            drop(lost);
            await_claims(&mut holder, "x", 2).await;
            drop(holder);
            equal(&next.await_rest().await, "1 Lock Get Success: x\n");
            drop(next);
            server.stop().await;
        })
        .await;
    }
}

/// Whichever comes first, the lock reaches the next waiter that is still connected.
#[tokio::test(flavor = "multi_thread")]
async fn waiter_that_disconnects_during_the_grant_does_not_keep_the_lock() {
    const ROUNDS: usize = 50;
    for via in Via::ALL {
        within(async {
            let mut server = TestServer::default().await;
            let mut holder = server.connect(Via::Memory).await;
            ask(&mut holder, "g x").await;
            ask(&mut holder, "sg x").await;
            for _ in 0..ROUNDS {
                let mut closed = Vec::new();
                for wait in [&b"gw 60000 x"[..], b"sgw 60000 1 x"] {
                    let mut client = server.connect(via).await;
                    equal(&client.begin(wait).await, "");
                    closed.push(client);
                }
                let mut reset = server.tcp().await;
                reset.write_all(b"gw 60000 x\n").await.unwrap();
                await_claims(&mut holder, "x", 5).await;
                reset_on_close(&reset);
                let mut next = server.connect(Via::Memory).await;
                equal(&next.begin(b"gw 60000 x\nsgw 60000 1 x").await, "");

                let vanishing = tokio::spawn(async move { drop((closed, reset)) });
                ask(&mut holder, "r x").await;
                ask(&mut holder, "sr x").await;
                vanishing.await.unwrap();
                equal(
                    &next.await_rest().await,
                    "1 Lock Get Success: x\n1 Shared Lock Get Success: x\n",
                );
                holder = next;
            }
            await_claims(&mut holder, "x", 2).await;
            drop(holder);
            server.stop().await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_are_served_in_the_order_of_arrival() {
    const WAITERS: usize = 200;
    within(async {
        let mut server = TestServer::default().await;
        let mut holder = server.connect(Via::Memory).await;
        ask(&mut holder, "g x").await;
        let mut waiters = Vec::new();
        for _ in 0..WAITERS {
            let mut waiter = server.connect(Via::Memory).await;
            equal(&waiter.begin(b"gw 60000 x").await, "");
            waiters.push(waiter);
        }
        let mut last = 0;
        for (number, mut waiter) in waiters.into_iter().enumerate() {
            // By the end of its connection, or by a release.
            match number % 2 {
                0 => drop(holder),
                _ => equal(
                    ask(&mut holder, "r x").await.as_bytes(),
                    "1 Lock Release Success: x\n",
                ),
            }
            equal(&waiter.await_rest().await, "1 Lock Get Success: x\n");
            let fence = ask(&mut waiter, "f x").await;
            let (token, _) = fence.split_once(' ').unwrap();
            let token = token.parse::<u64>().unwrap();
            assert!(token > last);
            last = token;
            holder = waiter;
        }
        server.stop().await;
    })
    .await;
}

/// The waiters are more than the server serves without a pause.
#[tokio::test(flavor = "multi_thread")]
async fn release_serves_all_waiters_within_their_limits() {
    const WAITERS: usize = 500;
    within(async {
        let mut server = TestServer::default().await;
        let mut holder = server.connect(Via::Memory).await;
        ask(&mut holder, "sg x").await;
        ask(&mut holder, "g x").await;
        let mut waiters = Vec::new();
        for _ in 0..WAITERS {
            let mut sharer = server.connect(Via::Memory).await;
            equal(&sharer.begin(b"sgw 60000 1 x").await, "");
            waiters.push(sharer);
            let mut watcher = server.connect(Via::Memory).await;
            equal(&watcher.begin(b"iw 60000 x").await, "");
            waiters.push(watcher);
        }
        // The limits of the other waiters allow them all, once the first one is gone.
        let mut later = Vec::new();
        for _ in 0..WAITERS {
            let mut sharer = server.connect(Via::Memory).await;
            equal(&sharer.begin(b"sgw 60000 100000 x").await, "");
            later.push(sharer);
        }
        ask(&mut holder, "r x").await;
        ask(&mut holder, "sr x").await;
        for (number, waiter) in waiters.iter_mut().enumerate() {
            let answer = waiter.await_rest().await;
            match number % 2 {
                0 => equal(&answer, "1 Shared Lock Get Success: x\n"),
                _ => equal(&answer, "1 Lock Is Free: x\n"),
            }
            if number % 2 == 0 && number + 2 < 2 * WAITERS {
                equal(
                    ask(waiter, "sr x").await.as_bytes(),
                    "1 Shared Lock Release Success: x\n",
                );
            }
        }
        for (number, waiter) in later.iter_mut().enumerate() {
            let expect = format!("{} Shared Lock Get Success: x\n", number + 2);
            equal(&waiter.await_rest().await, &expect);
        }
        server.stop().await;
    })
    .await;
}
