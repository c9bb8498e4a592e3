//! How WebSocket messages become commands.

use glockd_test_support::within;
use tokio_tungstenite::tungstenite::protocol::frame::coding::Data;

use crate::client::Client;
use crate::server::{TestServer, Via};

async fn websocket() -> (TestServer, Client) {
    let mut server = TestServer::default().await;
    let client = server.connect(Via::WebSocket).await;
    (server, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn message_may_have_a_line_end_and_line_ends_within_are_white_space() {
    within(async {
        let (server, mut client) = websocket().await;
        let mut check = async |message: &[u8], expect: &[u8]| {
            assert_eq!(
                client.ask(message).await.0,
                expect,
                "{}",
                message.escape_ascii()
            );
        };
        check(b"g foo", b"1 Lock Get Success: foo\n").await;
        check(b"g foo\n", b"1 Lock Get Success: foo\n").await;
        check(b"g foo\r\n", b"1 Lock Get Success: foo\n").await;
        check(b"i a\nb", b"0 Lock Not Locked: a b\n").await;
        check(b"i a\ni b\n", b"0 Lock Not Locked: a i b\n").await;
        check(b"i a\n\n", b"0 Lock Not Locked: a\n").await;
        check(b"q\nq", b"").await;
        check(b"", b"").await;
        check(b"\n", b"").await;
        check(b"nonsense", b"").await;
        check(b"i \xFF", b"0 Lock Not Locked: \xFF\n").await;
        let (statistics, _) = client.ask(b"q").await;
        let statistics = String::from_utf8(statistics).unwrap();
        assert!(
            statistics.contains("\ninvalid_commands: 4\n"),
            "{statistics}"
        );
        server.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn message_may_be_binary_and_in_fragments() {
    within(async {
        let (server, mut client) = websocket().await;
        let mut check = async |kind, fragments: &[&[u8]], expect: &[u8]| {
            client.send_fragments(kind, fragments).await;
            assert_eq!(client.message().await, expect, "{fragments:?}");
        };
        check(Data::Binary, &[b"g foo"], b"1 Lock Get Success: foo\n").await;
        check(Data::Binary, &[b"i \xFF"], b"0 Lock Not Locked: \xFF\n").await;
        check(
            Data::Text,
            &[b"i f", b"o", b"o"],
            b"1 Lock Is Locked: foo\n",
        )
        .await;
        check(
            Data::Text,
            &[b"", b"i foo\n", b""],
            b"1 Lock Is Locked: foo\n",
        )
        .await;
        // Half a character is not an error, as the rest may be in the next fragment.
        check(
            Data::Text,
            &[b"i \xC3", b"\xA9"],
            "0 Lock Not Locked: é\n".as_bytes(),
        )
        .await;
        check(
            Data::Binary,
            &[b"r", b" foo\r", b"\n"],
            b"1 Lock Release Success: foo\n",
        )
        .await;
        check(Data::Binary, &[b"", b""], b"").await;
        server.stop().await;
    })
    .await;
}

/// The daemon detects it by the length of the whole message, or already by the header of its frame.
#[tokio::test(flavor = "multi_thread")]
async fn overlong_message_is_counted_and_ends_its_session() {
    within(async {
        let mut server = TestServer::with_max_line(10).await;
        let mut client = server.connect(Via::WebSocket).await;
        client.send(&[b'g'; 1000]).await;
        client.expect_end().await;
        let mut client = server.connect(Via::WebSocket).await;
        assert_eq!(
            client.ask(b"i 45678901").await.0,
            b"0 Lock Not Locked: 45678901\n"
        );
        assert_eq!(
            client.ask(b"i 45678901\r\n").await.0,
            b"0 Lock Not Locked: 45678901\n"
        );
        client.send(b"g 456789012").await;
        client.expect_end().await;
        let mut other = server.connect(Via::Memory).await;
        let statistics = String::from_utf8(other.ask(b"q").await.0).unwrap();
        assert!(
            statistics.contains("\ninvalid_commands: 2\nlocks: 0\n"),
            "{statistics}"
        );
        server.stop().await;
    })
    .await;
}
