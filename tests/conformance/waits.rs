//! Waits, and what ends them: time, too much input, the end of the connection or of the server.

use glockd::{Limits, Policy};
use glockd_test_support::within;
use tokio_tungstenite::tungstenite::Message;

use crate::client::{ask, await_claims, equal};
use crate::server::{TestServer, Via};

/// Bytes that may queue behind a wait, beyond the longest line.
const ROOM: usize = 64 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn websocket_ping_is_answered_in_order_and_without_a_wait() {
    within(async {
        let mut server = TestServer::default().await;
        let mut holder = server.connect(Via::Memory).await;
        ask(&mut holder, "g x").await;
        let mut client = server.connect(Via::WebSocket).await;
        let ping = || Message::Ping("1".into());
        let pong = Message::Pong("1".into());
        let text = |text: &str| Message::text(text);
        let messages = [text("g a"), ping(), text("i b"), text("gw 60000 x"), ping()];
        client.send_messages(messages).await;
        let success = |name: &str| text(&format!("1 Lock Get Success: {name}\n"));
        assert_eq!(client.next_message().await, success("a"));
        assert_eq!(client.next_message().await, pong);
        assert_eq!(client.next_message().await, text("0 Lock Not Locked: b\n"));
        assert_eq!(client.next_message().await, pong);
        // The same after a message that has queued.
        client.send_messages([text("i c"), ping()]).await;
        assert_eq!(client.next_message().await, pong);
        ask(&mut holder, "r x").await;
        assert_eq!(client.next_message().await, success("x"));
        assert_eq!(client.next_message().await, text("0 Lock Not Locked: c\n"));
        drop((holder, client));
        server.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn end_of_input_ends_the_wait() {
    for via in Via::STREAMS {
        within(async {
            let mut server = TestServer::default().await;
            let mut holder = server.connect(via).await;
            ask(&mut holder, "g x").await;
            let waiter = server.connect(via).await;
            let answers = waiter
                .finish(&[
                    b"g y\ngw 60000 x\ni y\n",
                    b"gw 60000 y\ngw 60000 x\nsgw 60000 0 x\n",
                    b"iw 60000 x\nr y",
                ])
                .await;
            equal(
                &answers,
                "1 Lock Get Success: y\n\
                 0 Lock Get Cancelled: x\n\
                 1 Lock Is Locked: y\n\
                 1 Lock Get Success: y\n\
                 0 Lock Get Cancelled: x\n\
                 0 Shared Lock Get Cancelled: x\n\
                 0 Lock Is Locked: x\n\
                 1 Lock Release Success: y\n",
            );
            await_claims(&mut holder, "x", 1).await;
            server.stop().await;
        })
        .await;
    }
}

/// Over a WebSocket, this is the end of input.
#[tokio::test(flavor = "multi_thread")]
async fn closing_handshake_ends_the_wait() {
    within(async {
        let mut server = TestServer::default().await;
        let mut holder = server.connect(Via::WebSocket).await;
        ask(&mut holder, "g x").await;
        let waiter = server.connect(Via::WebSocket).await;
        let answers = waiter
            .finish(&[b"g y", b"gw 60000 x", b"i y", b"iw 60000 x", b"r y"])
            .await;
        equal(
            &answers,
            "1 Lock Get Success: y\n\
             0 Lock Get Cancelled: x\n\
             1 Lock Is Locked: y\n\
             0 Lock Is Locked: x\n\
             1 Lock Release Success: y\n",
        );
        await_claims(&mut holder, "x", 1).await;
        server.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn end_of_the_server_ends_waits() {
    within(async {
        let mut server = TestServer::default().await;
        let mut holder = server.connect(Via::Memory).await;
        ask(&mut holder, "g x").await;
        let mut clients = vec![holder];
        for via in Via::ALL {
            for wait in [b"gw 4294967295 x", b"iw 4294967295 x"] {
                let mut client = server.connect(via).await;
                equal(&client.begin(wait).await, "");
                clients.push(client);
            }
        }
        let ending = tokio::spawn(server.stop());
        for mut client in clients {
            // The connections end one by one, so the lock may pass to one of the waiters.
            client.expect_end().await;
        }
        ending.await.unwrap();
    })
    .await;
}

/// To the byte: the queue counts the received bytes, and a line end for each line or message.
#[tokio::test(flavor = "multi_thread")]
async fn wait_is_cancelled_when_too_much_input_queues() {
    const MAX_LINE: usize = 100;
    const LINE: usize = 61;
    const LINES: usize = (MAX_LINE + ROOM) / LINE;
    const { assert!((MAX_LINE + ROOM).is_multiple_of(LINE)) }
    let [name, last] = ["y", "z"].map(|letter| letter.repeat(LINE - "i \n".len()));
    for via in Via::ALL {
        within(async {
            let limits = Limits::default().with_max_line(MAX_LINE);
            let mut server = TestServer::start(Policy::default(), limits).await;
            let mut holder = server.connect(via).await;
            ask(&mut holder, "g x").await;
            let mut waiter = server.connect(via).await;
            equal(&waiter.begin(b"gw 60000 x").await, "");
            let lines = [
                format!("i {name}\n").repeat(LINES - 1),
                format!("i {last}\n"),
            ]
            .concat();
            match via {
                Via::WebSocket => {
                    for line in lines.lines() {
                        waiter.send(line.as_bytes()).await;
                    }
                }
                _ => waiter.send(lines.as_bytes()).await,
            }
            equal(&waiter.begin(b"ping 1").await, "1 pong: 1\n");
            // All of that has queued. Now even an empty command is too much.
            waiter
                .send(if via == Via::WebSocket { b"" } else { b"\n" })
                .await;
            let last = format!("0 Lock Not Locked: {last}\n");
            let expect = [
                "0 Lock Get Cancelled: x\n",
                &format!("0 Lock Not Locked: {name}\n").repeat(LINES - 1),
                &last,
            ];
            equal(&waiter.read_until(last.as_bytes()).await, &expect.concat());
            await_claims(&mut holder, "x", 1).await;
            drop((holder, waiter));
            server.stop().await;
        })
        .await;
    }
}

/// An overlong line is skipped, so that it takes no room. It is answered in its turn.
#[tokio::test(flavor = "multi_thread")]
async fn overlong_line_does_not_cancel_the_wait() {
    for via in Via::STREAMS {
        within(async {
            let limits = Limits::default().with_max_line(100);
            let mut server = TestServer::start(Policy::default(), limits).await;
            let mut holder = server.connect(via).await;
            ask(&mut holder, "g x").await;
            let mut waiter = server.connect(via).await;
            equal(&waiter.begin(b"gw 60000 x").await, "");
            equal(&waiter.begin(b"i before").await, "");
            equal(&waiter.begin(&b"i".repeat(2 * ROOM)).await, "");
            equal(&waiter.begin(b"i behind").await, "");
            ask(&mut holder, "r x").await;
            equal(
                &waiter.await_rest().await,
                "1 Lock Get Success: x\n\
                 0 Lock Not Locked: before\n\
                 0 Line Too Long: limit 100\n\
                 0 Lock Not Locked: behind\n",
            );
            server.stop().await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_command_frees_its_room_in_the_queue() {
    within(async {
        let mut server = TestServer::default().await;
        let mut holder = server.connect(Via::Memory).await;
        ask(&mut holder, "g x").await;
        ask(&mut holder, "g y").await;
        let mut waiter = server.connect(Via::Memory).await;
        waiter.send(b"gw 60000 x\n").await;
        let long = format!("y{}", "z".repeat(10_000));
        for _ in 0..100 {
            waiter.send(format!("gw 60000 {long}\n").as_bytes()).await;
            let answer = waiter.begin(format!("cancel {long}").as_bytes()).await;
            equal(
                &answer,
                &format!("0 Lock Get Cancelled: {long}\n1 Cancel Success: {long}\n"),
            );
        }
        waiter.send(b"gw 60000 y\n").await;
        equal(&waiter.begin(b"").await, "");
        ask(&mut holder, "r x").await;
        await_claims(&mut holder, "y", 2).await;
        ask(&mut holder, "r y").await;
        equal(
            &waiter.await_rest().await,
            "1 Lock Get Success: x\n1 Lock Get Success: y\n",
        );
        server.stop().await;
    })
    .await;
}

/// Even if the reply comes later, or before its turn.
#[tokio::test(flavor = "multi_thread")]
async fn each_message_is_answered_by_one_message() {
    within(async {
        let mut server = TestServer::default().await;
        let mut holder = server.connect(Via::WebSocket).await;
        ask(&mut holder, "g x").await;
        let mut waiter = server.connect(Via::WebSocket).await;
        for message in [
            &b"gw 60000 x"[..],
            b"ping a",
            b"nonsense",
            b"iw 60000 x",
            b"cancel y",
        ] {
            waiter.send(message).await;
        }
        equal(&waiter.message().await, "1 pong: a\n");
        equal(&waiter.message().await, "0 Cancel Failure: y\n");
        waiter.send(b"cancel x").await;
        equal(&waiter.message().await, "0 Lock Get Cancelled: x\n");
        equal(&waiter.message().await, "1 Cancel Success: x\n");
        equal(&waiter.message().await, "");
        ask(&mut holder, "r x").await;
        equal(&waiter.message().await, "1 Lock Is Free: x\n");
        server.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_ends_after_its_time() {
    for via in Via::ALL {
        within(async {
            let mut server = TestServer::default().await;
            let mut holder = server.connect(via).await;
            ask(&mut holder, "g x").await;
            ask(&mut holder, "sg x").await;
            let mut waiter = server.connect(via).await;
            let start = std::time::Instant::now();
            let answers = [
                ask(&mut waiter, "gw 30 x").await,
                ask(&mut waiter, "sgw 30 1 x").await,
                ask(&mut waiter, "iw 30 x").await,
                ask(&mut waiter, "siw 30 1 x").await,
            ];
            assert!(start.elapsed().as_millis() >= 120);
            equal(
                answers.concat().as_bytes(),
                "0 Lock Get Timeout: x\n\
                 0 Shared Lock Get Timeout: x\n\
                 0 Lock Is Locked: x\n\
                 0 Lock Is Locked: x\n",
            );
            await_claims(&mut holder, "x", 2).await;
            drop(holder);
            server.stop().await;
        })
        .await;
    }
}
