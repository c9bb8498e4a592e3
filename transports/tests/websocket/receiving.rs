//! Receiving: frames, batches, and the ends of a session.

use glockd_transports::{Input, InputFrame};
use tokio::io::AsyncWriteExt;

use crate::client::{
    BINARY, CLOSE, FIN, LIMIT, PING, PONG, TEXT, bounded, frame, limits, open, read_all,
    read_frame, serve,
};

const CONTINUE: u8 = 0;
const PART_TEXT: u8 = TEXT & !FIN;
const PART_BINARY: u8 = BINARY & !FIN;
const LAST: u8 = CONTINUE | FIN;

/// Returns the payload of a close frame.
fn code(code: u16) -> [u8; 2] {
    code.to_be_bytes()
}

/// Sends these raw frames and ends the input. Compares the frames that the session receives, and the frames that the
/// client gets from a server that answers each frame with itself.
async fn check(input: &[Vec<u8>], received: &[&str], sent: &[&str]) {
    let input = input.concat();
    // The result does not depend on how the bytes arrive.
    for piece in [1, 7, usize::MAX] {
        let (mut client, session) = open(limits(LIMIT), b"").await;
        let talk = async {
            let (mut reader, mut writer) = client.split();
            let write = async {
                for bytes in input.chunks(piece) {
                    writer.write_all(bytes).await.unwrap();
                    tokio::task::yield_now().await;
                }
                writer.shutdown().await.unwrap();
            };
            tokio::join!(write, read_all(&mut reader)).1
        };
        let (was_received, was_sent) = bounded(async { tokio::join!(serve(session), talk) }).await;
        let input = input.escape_ascii();
        assert_eq!(was_received, received, "{input} in pieces of {piece}");
        assert_eq!(was_sent, sent, "{input} in pieces of {piece}");
    }
}

#[tokio::test]
async fn message_is_one_frame() {
    let close = frame(CLOSE, b"");
    let one = async |message: Vec<u8>, received: &str, sent: &str| {
        check(&[message, close.clone()], &[received], &[sent, "close"]).await;
    };
    one(frame(TEXT, b"g foo"), "g foo", "text g foo").await;
    one(frame(BINARY, b"g foo"), "g foo", "text g foo").await;
    one(frame(BINARY, b"g \xff"), "g \\xff", "binary g \\xff").await;
    one(
        frame(TEXT, "g ä".as_bytes()),
        "g \\xc3\\xa4",
        "text g \\xc3\\xa4",
    )
    .await;
    one(frame(TEXT, b""), "", "text ").await;
    one(frame(BINARY, b""), "", "text ").await;
    check(
        &[frame(TEXT, b"a"), frame(BINARY, b"b"), close.clone()],
        &["a", "b"],
        &["text a", "text b", "close"],
    )
    .await;
}

#[tokio::test]
async fn one_line_end_is_stripped() {
    let one = async |message: &[u8], received: &str| {
        let sent = format!("text {received}");
        check(&[frame(TEXT, message)], &[received], &[&sent]).await;
    };
    one(b"q\n", "q").await;
    one(b"q\r\n", "q").await;
    one(b"q\n\n", "q\\n").await;
    one(b"q\r", "q\\r").await;
    one(b"q\nq", "q\\nq").await;
    one(b"\n", "").await;
}

#[tokio::test]
async fn fragments_are_joined_to_one_frame() {
    let parts = |first: u8, parts: [&[u8]; 3]| {
        [
            frame(first, parts[0]),
            frame(CONTINUE, parts[1]),
            frame(LAST, parts[2]),
        ]
    };
    check(
        &parts(PART_TEXT, [b"g ", b"", b"a\n"]),
        &["g a"],
        &["text g a"],
    )
    .await;
    check(
        &parts(PART_BINARY, [b"g", b" ", b"\xff"]),
        &["g \\xff"],
        &["binary g \\xff"],
    )
    .await;
    // A fragment may end within a character.
    check(
        &parts(PART_TEXT, [b"g", b"\xc3", b"\xa4"]),
        &["g\\xc3\\xa4"],
        &["text g\\xc3\\xa4"],
    )
    .await;
    check(
        &[
            frame(PART_TEXT, b"a"),
            frame(PING, b"1"),
            frame(CONTINUE, b"b"),
            frame(PONG, b""),
            frame(LAST, b"c"),
        ],
        &["abc"],
        &["pong 1", "text abc"],
    )
    .await;
}

#[tokio::test]
async fn message_without_its_last_fragment_is_dropped() {
    check(&[], &[], &[]).await;
    check(&[frame(TEXT, b"abc")[..7].to_vec()], &[], &[]).await;
    check(&[vec![TEXT]], &[], &[]).await;
    check(&[frame(PART_TEXT, b"abc")], &[], &[]).await;
    check(
        &[frame(TEXT, b"a"), frame(PART_TEXT, b"b")],
        &["a"],
        &["text a"],
    )
    .await;
}

#[tokio::test]
async fn ping_is_answered_by_a_pong() {
    check(&[frame(PING, b"")], &[], &["pong "]).await;
    check(&[frame(PONG, b"unasked")], &[], &[]).await;
    let most = [b'x'; 125];
    let pong = format!("pong {}", "x".repeat(125));
    check(&[frame(PING, &most)], &[], &[&pong]).await;
}

#[tokio::test]
async fn pong_follows_the_replies_to_messages_before_its_ping() {
    let (a, b, c) = (frame(TEXT, b"a"), frame(TEXT, b"b"), frame(TEXT, b"c"));
    let ping = |payload: &[u8]| frame(PING, payload);
    check(
        &[a.clone(), ping(b"1"), b.clone()],
        &["a", "b"],
        &["text a", "pong 1", "text b"],
    )
    .await;
    check(
        &[
            ping(b"1"),
            a.clone(),
            b.clone(),
            ping(b"2"),
            ping(b"3"),
            c.clone(),
        ],
        &["a", "b", "c"],
        &["pong 1", "text a", "text b", "pong 2", "pong 3", "text c"],
    )
    .await;
    check(
        &[a.clone(), ping(b"1"), frame(CLOSE, b"")],
        &["a"],
        &["text a", "pong 1", "close"],
    )
    .await;
    check(
        &[a.clone(), ping(b"1"), frame(TEXT, b"123456789")],
        &["a", "OVERSIZED"],
        &["text a", "pong 1", "close 1009"],
    )
    .await;
    check(
        &[
            a,
            frame(PART_TEXT, b"b"),
            ping(b"1"),
            frame(LAST, b"b"),
            ping(b"2"),
        ],
        &["a", "bb"],
        &["text a", "pong 1", "text bb", "pong 2"],
    )
    .await;
}

#[tokio::test]
async fn many_messages_and_pings_are_answered_in_order() {
    bounded(async {
        const PAIRS: u32 = 10_000;
        let (mut client, session) = open(limits(LIMIT), b"").await;
        let (mut reader, mut writer) = client.split();
        let write = async {
            let pair = |number: u32| {
                let payload = number.to_string();
                [TEXT, PING]
                    .map(|kind| frame(kind, payload.as_bytes()))
                    .concat()
            };
            let input: Vec<u8> = (0..PAIRS).flat_map(pair).collect();
            writer.write_all(&input).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let read = async {
            for number in 0..PAIRS {
                for kind in [TEXT, PONG] {
                    let reply = read_frame(&mut reader).await.unwrap();
                    assert_eq!(reply, (kind, number.to_string().into_bytes()));
                }
            }
            read_frame(&mut reader).await
        };
        let (received, (), rest) = tokio::join!(serve(session), write, read);
        assert_eq!(received.len(), PAIRS as usize);
        assert_eq!(rest, None);
    })
    .await;
}

#[tokio::test]
async fn close_frame_is_answered() {
    check(&[frame(CLOSE, b"")], &[], &["close"]).await;
    let close = [&code(1000)[..], b"bye"].concat();
    check(&[frame(CLOSE, &close)], &[], &["close 1000"]).await;
    check(&[frame(CLOSE, &code(4999))], &[], &["close 4999"]).await;
    check(
        &[
            frame(TEXT, b"a"),
            frame(CLOSE, &code(1001)),
            frame(TEXT, b"b"),
        ],
        &["a"],
        &["text a", "close 1001"],
    )
    .await;
}

#[tokio::test]
async fn protocol_violation_closes_with_1002() {
    let one = async |bad: Vec<u8>| {
        check(std::slice::from_ref(&bad), &[], &["close 1002"]).await;
        // Messages before it are answered, and messages behind it are not.
        let input = [frame(TEXT, b"a"), bad, frame(TEXT, b"b")];
        check(&input, &["a"], &["text a", "close 1002"]).await;
    };
    let unmasked = vec![TEXT, 1, b'x'];
    one(unmasked).await;
    for reserved_bit in [0x40, 0x20, 0x10] {
        one(frame(TEXT | reserved_bit, b"x")).await;
    }
    for reserved_opcode in [0x83, 0x87, 0x8b, 0x8f] {
        one(frame(reserved_opcode, b"x")).await;
    }
    one(frame(LAST, b"x")).await;
    one(frame(CONTINUE, b"x")).await;
    one([frame(PART_TEXT, b"x"), frame(TEXT, b"y")].concat()).await;
    one([frame(PART_BINARY, b"x"), frame(PART_BINARY, b"y")].concat()).await;
    one(frame(PING & !FIN, b"")).await;
    one(frame(CLOSE & !FIN, b"")).await;
    one(frame(CLOSE, b"x")).await;
    for never_sent in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
        one(frame(CLOSE, &code(never_sent))).await;
    }
}

#[tokio::test]
async fn long_control_frame_closes_with_1002() {
    bounded(async {
        let (mut client, session) = open(limits(1000), &frame(PING, &[b'x'; 126])).await;
        client.shutdown().await.unwrap();
        let (received, sent) = tokio::join!(serve(session), read_all(&mut client));
        assert!(received.is_empty());
        assert_eq!(sent, ["close 1002"]);
    })
    .await;
}

#[tokio::test]
async fn invalid_utf8_closes_with_1007() {
    let one = async |bad: Vec<u8>| {
        check(std::slice::from_ref(&bad), &[], &["close 1007"]).await;
        let input = [frame(TEXT, b"a"), bad, frame(TEXT, b"b")];
        check(&input, &["a"], &["text a", "close 1007"]).await;
    };
    one(frame(TEXT, b"\xff")).await;
    one(frame(TEXT, b"ab\xc3")).await;
    one(frame(TEXT, b"\xed\xa0\x80")).await;
    one([frame(PART_TEXT, b"\xc3"), frame(LAST, b"x")].concat()).await;
    one([frame(PART_TEXT, b"ab"), frame(LAST, b"\xc3")].concat()).await;
    let reason = [&code(1000)[..], b"\xff"].concat();
    one(frame(CLOSE, &reason)).await;
}

#[tokio::test]
async fn limit_does_not_count_the_line_end() {
    let fits = async |message: &[u8]| {
        let sent = "text 12345678";
        check(&[frame(TEXT, message)], &["12345678"], &[sent]).await;
        let parts = [
            frame(PART_BINARY, &message[..5]),
            frame(LAST, &message[5..]),
        ];
        check(&parts, &["12345678"], &[sent]).await;
    };
    fits(b"12345678").await;
    fits(b"12345678\n").await;
    fits(b"12345678\r\n").await;
    let passes = async |message: &[u8]| {
        let parts = [
            frame(PART_BINARY, &message[..5]),
            frame(LAST, &message[5..]),
        ]
        .concat();
        for bad in [frame(TEXT, message), frame(BINARY, message), parts] {
            check(std::slice::from_ref(&bad), &["OVERSIZED"], &["close 1009"]).await;
            let input = [frame(TEXT, b"a"), frame(TEXT, b"b"), bad, frame(TEXT, b"c")];
            let received = ["a", "b", "OVERSIZED"];
            check(&input, &received, &["text a", "text b", "close 1009"]).await;
        }
    };
    passes(b"123456789").await;
    passes(b"123456789\n").await;
    passes(b"123456789\r\n").await;
    passes(b"12345678\n\n").await;
    passes(b"12345678\r").await;
    passes(b"12345678901234567890").await;
}

#[tokio::test]
async fn header_of_a_huge_frame_closes_at_once() {
    for length in [1u64 << 62, u64::MAX, 1 << 31, 126] {
        let header = [&[BINARY, 0x80 | 127][..], &length.to_be_bytes(), &[0; 4]].concat();
        check(&[header], &["OVERSIZED"], &["close 1009"]).await;
    }
}

#[tokio::test]
async fn endless_fragments_close_with_1009() {
    let mut input = vec![frame(PART_TEXT, b"")];
    input.extend((0..5).map(|_| frame(CONTINUE, b"xyz")));
    check(&input, &["OVERSIZED"], &["close 1009"]).await;
}

#[tokio::test]
async fn messages_that_arrive_together_are_one_batch() {
    bounded(async {
        let input: Vec<u8> = (0..50).flat_map(|_| frame(TEXT, b"g a")).collect();
        let (_client, mut session) = open(limits(LIMIT), &input).await;
        let mut frames = Input::new();
        assert_eq!(session.recv(&mut frames).await.unwrap(), 50);
        assert!(
            frames
                .iter()
                .all(|frame| frame == InputFrame::Complete(b"g a"))
        );
    })
    .await;
}

#[tokio::test]
async fn batch_is_bounded() {
    bounded(async {
        let check = async |message: &[u8], count: usize, most: usize| {
            let (mut client, mut session) = open(limits(1000), b"").await;
            let input = frame(TEXT, message).repeat(count);
            let write = async {
                client.write_all(&input).await.unwrap();
                client.shutdown().await.unwrap();
            };
            let read = async {
                let mut sum = 0;
                loop {
                    let mut frames = Input::new();
                    match session.recv(&mut frames).await.unwrap() {
                        0 => break sum,
                        batch => {
                            assert!(batch <= most, "{batch}");
                            sum += batch;
                        }
                    }
                }
            };
            let ((), sum) = tokio::join!(write, read);
            assert_eq!(sum, count);
        };
        check(b"", 5000, 1024).await;
        check(&[b'x'; 1000], 1000, 66).await;
    })
    .await;
}

#[tokio::test]
async fn dropped_recv_loses_no_input() {
    bounded(async {
        let (mut client, mut session) = open(limits(1000), b"").await;
        let messages = [b"one".as_slice(), b"", &[b'x'; 300], b"four"];
        let mut received = Vec::new();
        let mut input: Vec<u8> = messages
            .iter()
            .flat_map(|message| {
                [
                    frame(TEXT, message),
                    frame(PING, message.get(..9).unwrap_or(b"")),
                ]
            })
            .flatten()
            .collect();
        input.extend(frame(PART_TEXT, b"fi"));
        input.extend(frame(LAST, b"ve"));
        for byte in input {
            client.write_all(&[byte]).await.unwrap();
            let mut frames = Input::new();
            tokio::select! {
                biased;
                count = session.recv(&mut frames) => assert!(count.unwrap() > 0),
                () = tokio::task::yield_now() => assert!(frames.is_empty()),
            }
            received.extend(frames.iter().map(|frame| format!("{frame:?}")));
        }
        client.shutdown().await.unwrap();
        loop {
            let mut frames = Input::new();
            if session.recv(&mut frames).await.unwrap() == 0 {
                break;
            }
            received.extend(frames.iter().map(|frame| format!("{frame:?}")));
        }
        let expect: Vec<String> = messages
            .iter()
            .chain([&b"five".as_slice()])
            .map(|message| format!("{:?}", InputFrame::Complete(message)))
            .collect();
        assert_eq!(received, expect);
    })
    .await;
}

#[tokio::test]
async fn peer_that_only_pings_is_answered() {
    bounded(async {
        const PINGS: u32 = 50_000;
        let (mut client, session) = open(limits(LIMIT), b"").await;
        let (mut reader, mut writer) = client.split();
        let write = async {
            for number in 0..PINGS {
                let ping = frame(PING, &number.to_be_bytes());
                writer.write_all(&ping).await.unwrap();
            }
            writer.write_all(&frame(CLOSE, b"")).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let read = async {
            for number in 0..PINGS {
                let pong = read_frame(&mut reader).await.unwrap();
                assert_eq!(pong, (PONG, number.to_be_bytes().to_vec()));
            }
            read_all(&mut reader).await
        };
        let (received, (), rest) = tokio::join!(serve(session), write, read);
        assert!(received.is_empty());
        assert_eq!(rest, ["close"]);
    })
    .await;
}

#[tokio::test]
async fn close_frame_arrives_though_input_is_unread() {
    bounded(async {
        let (mut client, session) = open(limits(LIMIT), b"").await;
        let mut input = frame(TEXT, b"123456789");
        input.resize(500_000, 0);
        let talk = async {
            client.write_all(&input).await.unwrap();
            client.shutdown().await.unwrap();
            read_all(&mut client).await
        };
        let (received, sent) = tokio::join!(serve(session), talk);
        assert_eq!(received, ["OVERSIZED"]);
        assert_eq!(sent, ["close 1009"]);
    })
    .await;
}

#[tokio::test]
async fn reset_ends_the_session() {
    bounded(async {
        let (client, mut session) = open(limits(LIMIT), b"").await;
        client.set_zero_linger().unwrap();
        drop(client);
        let mut frames = Input::new();
        let received = session.recv(&mut frames).await;
        assert!(!matches!(received, Ok(1..)), "{received:?}");
        session.close().await;
    })
    .await;
}
