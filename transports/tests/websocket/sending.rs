//! Sending: replies, pongs and close frames.

use std::net::Ipv4Addr;

use futures_util::FutureExt;
use futures_util::{SinkExt, StreamExt};
use glockd_transports::{Input, Output, Session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use crate::client::{
    BINARY, FIN, LIMIT, PING, PONG, TEXT, bounded, frame, limits, listen, open, read_all,
    read_frame, serve,
};

#[tokio::test]
async fn valid_utf8_is_sent_as_text_and_other_bytes_as_binary() {
    bounded(async {
        let (mut client, mut session) = open(limits(LIMIT), b"").await;
        let mut check = async |reply: &[u8], opcode: u8| {
            let mut replies = Output::new();
            replies.push(reply);
            session.send(&mut replies).await.unwrap();
            let got = read_frame(&mut client).await.unwrap();
            assert_eq!(got, (opcode, reply.to_vec()));
        };
        check(b"1 ok\n", TEXT).await;
        check(b"", TEXT).await;
        check("ä\n".as_bytes(), TEXT).await;
        check(b"\xff\n", BINARY).await;
        check(b"\0", TEXT).await;
        check(&[b'x'; 125], TEXT).await;
        check(&[b'x'; 126], TEXT).await;
        check(&[b'x'; 65_535], TEXT).await;
        check(&[0xff; 65_536], BINARY).await;
    })
    .await;
}

#[tokio::test]
async fn batch_is_sent_in_one_write() {
    bounded(async {
        let (mut client, mut session) = open(limits(LIMIT), b"").await;
        let mut replies = Output::new();
        for reply in [b"one\n".as_slice(), b"", b"\xff"] {
            replies.push(reply);
        }
        session.send(&mut replies).await.unwrap();
        let mut bytes = vec![0; 1000];
        let read = client.read(&mut bytes).await.unwrap();
        let expect = b"\x81\x04one\n\x81\x00\x82\x01\xff";
        assert_eq!(
            bytes[..read].escape_ascii().to_string(),
            expect.escape_ascii().to_string()
        );
    })
    .await;
}

#[tokio::test]
async fn parts_are_fragments_of_one_binary_message() {
    bounded(async {
        let (mut client, mut session) = open(limits(LIMIT), b"").await;
        let mut replies = Output::new();
        let part = |replies: &mut Output, data: &[u8]| {
            replies.buffer().extend_from_slice(data);
            replies.end_part();
        };
        replies.push(b"before");
        part(&mut replies, b"a: 1\n");
        part(&mut replies, b"b: 2\n");
        session.send(&mut replies).await.unwrap();
        replies.clear();
        part(&mut replies, b"");
        session.send(&mut replies).await.unwrap();
        replies.clear();
        replies.push(b"c: 3\n");
        replies.push(b"after");
        session.send(&mut replies).await.unwrap();
        let expect: [(u8, &[u8]); 6] = [
            (TEXT, b"before"),
            (BINARY & !FIN, b"a: 1\n"),
            (0, b"b: 2\n"),
            (0, b""),
            (FIN, b"c: 3\n"),
            (TEXT, b"after"),
        ];
        for (first, payload) in expect {
            let got = read_frame(&mut client).await.unwrap();
            assert_eq!(got, (first, payload.to_vec()));
        }
    })
    .await;
}

#[tokio::test]
async fn pong_is_sent_between_parts() {
    bounded(async {
        let input = [frame(PING, b"1"), frame(TEXT, b"a")].concat();
        let (mut client, mut session) = open(limits(LIMIT), b"").await;
        let mut replies = Output::new();
        replies.buffer().extend_from_slice(b"one");
        replies.end_part();
        session.send(&mut replies).await.unwrap();
        client.write_all(&input).await.unwrap();
        let mut frames = Input::new();
        assert_eq!(session.recv(&mut frames).await.unwrap(), 1);
        replies.clear();
        replies.push(b"two");
        session.send(&mut replies).await.unwrap();
        let expect: [(u8, &[u8]); 3] = [(BINARY & !FIN, b"one"), (PONG, b"1"), (FIN, b"two")];
        for (first, payload) in expect {
            let got = read_frame(&mut client).await.unwrap();
            assert_eq!(got, (first, payload.to_vec()));
        }
    })
    .await;
}

/// Returns a client, and a session that has received two messages and a ping behind them.
async fn open_pinged() -> (TcpStream, Box<dyn Session>) {
    let input = [frame(TEXT, b"a"), frame(TEXT, b"b"), frame(PING, b"1")].concat();
    let (client, mut session) = open(limits(LIMIT), &input).await;
    let mut frames = Input::new();
    assert_eq!(session.recv(&mut frames).await.unwrap(), 2);
    (client, session)
}

async fn check_next(client: &mut TcpStream, expect: (u8, &[u8])) {
    let (first, payload) = read_frame(client).await.unwrap();
    assert_eq!((first, &payload[..]), expect);
}

#[tokio::test]
async fn pong_follows_the_replies_before_it_in_any_batches() {
    bounded(async {
        let (mut client, mut session) = open_pinged().await;
        for reply in [b"one", b"two"] {
            let mut replies = Output::new();
            replies.push(reply);
            session.send(&mut replies).await.unwrap();
        }
        check_next(&mut client, (TEXT, b"one")).await;
        check_next(&mut client, (TEXT, b"two")).await;
        check_next(&mut client, (PONG, b"1")).await;
    })
    .await;
}

#[tokio::test]
async fn pong_does_not_wait_for_a_reply_that_is_not_ready() {
    bounded(async {
        let (mut client, mut session) = open_pinged().await;
        let mut replies = Output::new();
        replies.push(b"one");
        session.send(&mut replies).await.unwrap();
        check_next(&mut client, (TEXT, b"one")).await;
        // A server does this while a command waits.
        let mut frames = Input::new();
        tokio::select! {
            received = session.recv(&mut frames) => panic!("{received:?}"),
            () = check_next(&mut client, (PONG, b"1")) => {}
        }
        replies.clear();
        replies.push(b"two");
        session.send(&mut replies).await.unwrap();
        check_next(&mut client, (TEXT, b"two")).await;
    })
    .await;
}

#[tokio::test]
async fn pong_does_not_wait_for_a_reply_in_parts() {
    bounded(async {
        let (mut client, mut session) = open_pinged().await;
        let mut replies = Output::new();
        replies.push(b"one");
        replies.buffer().extend_from_slice(b"tw");
        replies.end_part();
        session.send(&mut replies).await.unwrap();
        replies.clear();
        replies.push(b"o");
        session.send(&mut replies).await.unwrap();
        check_next(&mut client, (TEXT, b"one")).await;
        check_next(&mut client, (BINARY & !FIN, b"tw")).await;
        check_next(&mut client, (PONG, b"1")).await;
        check_next(&mut client, (FIN, b"o")).await;
    })
    .await;
}

#[tokio::test]
async fn empty_batch_sends_the_pong() {
    bounded(async {
        let (mut client, mut session) = open_pinged().await;
        session.send(&mut Output::new()).await.unwrap();
        check_next(&mut client, (PONG, b"1")).await;
    })
    .await;
}

#[tokio::test]
async fn close_sends_the_pong_first() {
    bounded(async {
        let (mut client, session) = open_pinged().await;
        let talk = async {
            let sent = read_all(&mut client).await;
            drop(client);
            sent
        };
        let ((), sent) = tokio::join!(session.close(), talk);
        assert_eq!(sent, ["pong 1", "close 1001"]);
    })
    .await;
}

#[tokio::test]
async fn close_sends_1001() {
    bounded(async {
        let (mut client, session) = open(limits(LIMIT), b"").await;
        let talk = async {
            let sent = read_all(&mut client).await;
            drop(client);
            sent
        };
        let ((), sent) = tokio::join!(session.close(), talk);
        assert_eq!(sent, ["close 1001"]);
    })
    .await;
}

#[tokio::test]
async fn dropped_send_is_continued_where_it_stopped() {
    /// More bytes than the buffers of the sockets hold.
    const LONG: usize = 8 * 1024 * 1024;
    bounded(async {
        let (client, mut session) = open(limits(LIMIT), b"").await;
        let mut replies = Output::new();
        replies.push(&vec![b'x'; LONG]);
        replies.push(b"end");
        let mut received = tokio::spawn(async move {
            let mut client = client;
            let mut bytes = Vec::new();
            while !bytes.ends_with(b"\x81\x03end") {
                assert_ne!(client.read_buf(&mut bytes).await.unwrap(), 0);
            }
            bytes
        });
        // Each call is polled once.
        while session.send(&mut replies).now_or_never().is_none() {
            tokio::task::yield_now().await;
        }
        let bytes = (&mut received).await.unwrap();
        assert_eq!(bytes.len(), 10 + LONG + 5);
        assert!(bytes[10..10 + LONG].iter().all(|&byte| byte == b'x'));
    })
    .await;
}

#[tokio::test]
async fn continued_send_does_not_release_a_pong_early() {
    /// More than the sockets' buffers take.
    const LONG: usize = 8 * 1024 * 1024;
    bounded(async {
        let (client, mut session) = open_pinged().await;
        let received = tokio::spawn(async move {
            let mut client = client;
            let mut frames = Vec::new();
            for _ in 0..3 {
                frames.push(read_frame(&mut client).await.unwrap());
            }
            frames
        });
        for reply in [vec![b'x'; LONG], b"two".to_vec()] {
            let mut replies = Output::new();
            replies.push(&reply);
            // Each call is polled once.
            while session.send(&mut replies).now_or_never().is_none() {
                tokio::task::yield_now().await;
            }
        }
        let frames = received.await.unwrap();
        let kinds: Vec<u8> = frames.iter().map(|(first, _)| *first).collect();
        assert_eq!(kinds, [TEXT, TEXT, PONG]);
    })
    .await;
}

#[tokio::test]
async fn nothing_follows_a_write_that_was_cut_off() {
    bounded(async {
        let (mut client, mut session) = open(limits(LIMIT), b"").await;
        let mut replies = Output::new();
        // More than the buffers of the sockets hold.
        replies.push(&vec![b'x'; 32 * 1024 * 1024]);
        tokio::select! {
            biased;
            sent = session.send(&mut replies) => panic!("that much was sent: {sent:?}"),
            () = tokio::task::yield_now() => {}
        }
        let talk = async {
            let mut bytes = Vec::new();
            client.read_to_end(&mut bytes).await.unwrap();
            drop(client);
            bytes
        };
        let ((), bytes) = tokio::join!(session.close(), talk);
        assert!(bytes[10..].iter().all(|&byte| byte == b'x'));
    })
    .await;
}

#[tokio::test]
async fn client_library_works() {
    bounded(async {
        let (address, mut incoming) = listen(limits(100_000)).await;
        assert!(address.ip() == Ipv4Addr::LOCALHOST);
        let server = async {
            let pending = incoming.next().await.unwrap().unwrap();
            serve(
                pending
                    .handshake
                    .establish()
                    .await
                    .unwrap()
                    .unwrap()
                    .session,
            )
            .await
        };
        let talk = async {
            let stream = TcpStream::connect(address).await.unwrap();
            let (mut client, _) = client_async(format!("ws://{address}/"), stream)
                .await
                .unwrap();
            let long = "x".repeat(70_000);
            let messages = [
                Message::text("g foo"),
                Message::binary(b"\xff".as_slice()),
                Message::text(""),
                Message::text(long),
            ];
            for message in messages {
                client.send(message.clone()).await.unwrap();
                assert_eq!(client.next().await.unwrap().unwrap(), message);
            }
            client.close(None).await.unwrap();
            assert!(client.next().await.unwrap().unwrap().is_close());
            assert!(client.next().await.is_none());
        };
        let (received, ()) = tokio::join!(server, talk);
        assert_eq!(received.len(), 4);
    })
    .await;
}
