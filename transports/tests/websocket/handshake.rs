//! The opening handshake, and other requests on a WebSocket port.

use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_stream::StreamExt;

use crate::client::{
    CLOSE, REQUEST, RESPONSE, TEXT, bounded, frame, limits, listen, open, read_all, serve,
};

/// Sends a request in one piece. Returns the response, and whether the handshake made a session, once both sides
/// have closed.
async fn shake(request: &[u8]) -> (String, bool) {
    let (address, mut incoming) = listen(limits(1000)).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    let pending = incoming.next().await.unwrap().unwrap();
    let server = async {
        let established = pending.handshake.establish().await.unwrap();
        established.is_some()
    };
    let talk = async {
        let (mut reader, mut writer) = client.split();
        let mut response = Vec::new();
        let (read, written) =
            tokio::join!(reader.read_to_end(&mut response), writer.write_all(request));
        read.unwrap();
        written.unwrap();
        drop(client);
        String::from_utf8(response).unwrap()
    };
    let (accepted, response) = bounded(async { tokio::join!(server, talk) }).await;
    (response, accepted)
}

async fn check(request: impl AsRef<str>, expect: &str) {
    let request = request.as_ref();
    let (response, accepted) = shake(request.as_bytes()).await;
    assert_eq!(response, expect, "to {request}");
    assert_eq!(accepted, expect.starts_with("HTTP/1.1 101 "));
}

/// Returns the request with a line replaced, or removed if `instead` is empty.
fn with(line: &str, instead: &str) -> String {
    assert!(REQUEST.contains(line), "{line}");
    match instead {
        "" => REQUEST.replace(&format!("{line}\r\n"), ""),
        _ => REQUEST.replace(line, instead),
    }
}

/// Returns the response with another header behind the others.
fn and(header: &str) -> String {
    RESPONSE.replace("\r\n\r\n", &format!("\r\n{header}\r\n\r\n"))
}

#[tokio::test]
async fn request_to_upgrade_opens_a_websocket() {
    check(REQUEST, RESPONSE).await;
    check(with("GET / ", "GET /any/path?at=all "), RESPONSE).await;
    check(with("Host: localhost", "Host: elsewhere:1"), RESPONSE).await;
    check(with("Host: localhost", ""), RESPONSE).await;
    let origin = "Host: localhost\r\nOrigin: https://example.com";
    check(with("Host: localhost", origin), RESPONSE).await;
    let browser = "Connection: keep-alive, upgrade";
    check(with("Connection: Upgrade", browser), RESPONSE).await;
    check(
        with("Upgrade: websocket", "Upgrade: h2c, WebSocket"),
        RESPONSE,
    )
    .await;
    let extension = "Host: localhost\r\nSec-WebSocket-Extensions: permessage-deflate";
    check(with("Host: localhost", extension), RESPONSE).await;
}

#[tokio::test]
async fn any_key_is_accepted() {
    let request = with("Key: dGhlIHNhbXBsZSBub25jZQ==", "Key: x");
    let response = RESPONSE.replace(
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        "JVxkmtKFjDcI/Pm/AGPEKSN6wT8=",
    );
    check(request, &response).await;
}

#[tokio::test]
async fn only_subprotocol_is_echoed() {
    let offer = |offered: &str| {
        let headers = format!("Host: localhost\r\n{offered}");
        with("Host: localhost", &headers)
    };
    let echoed = and("sec-websocket-protocol: chat");
    check(offer("Sec-WebSocket-Protocol: chat"), &echoed).await;
    check(offer("Sec-WebSocket-Protocol: chat,"), &echoed).await;
    check(offer("Sec-WebSocket-Protocol: chat, superchat"), RESPONSE).await;
    let twice = "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: superchat";
    check(offer(twice), RESPONSE).await;
    check(offer("Sec-WebSocket-Protocol:"), RESPONSE).await;
}

#[tokio::test]
async fn request_without_upgrade_gets_426() {
    let expect = "HTTP/1.1 426 Upgrade Required\r\n\
        content-type: text/plain\r\n\
        connection: upgrade, close\r\n\
        upgrade: websocket\r\n\
        content-length: 26\r\n\r\n\
        This is a WebSocket port.\n";
    check("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", expect).await;
    check(with("Connection: Upgrade", ""), expect).await;
    check(with("Upgrade: websocket", "Upgrade: h2c"), expect).await;
    check("GET / HTTP/1.0\r\n\r\n", &expect.replace("1.1", "1.0")).await;
}

#[tokio::test]
async fn request_for_another_version_gets_426_with_the_version() {
    let expect = "HTTP/1.1 426 Upgrade Required\r\n\
        content-type: text/plain\r\n\
        connection: upgrade, close\r\n\
        upgrade: websocket\r\n\
        sec-websocket-version: 13\r\n\
        content-length: 34\r\n\r\n\
        The WebSocket version must be 13.\n";
    check(
        with("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8"),
        expect,
    )
    .await;
    check(with("Sec-WebSocket-Version: 13", ""), expect).await;
}

#[tokio::test]
async fn other_method_gets_405() {
    let expect = "HTTP/1.1 405 Method Not Allowed\r\n\
        content-type: text/plain\r\n\
        connection: close\r\n\
        allow: GET\r\n\
        content-length: 28\r\n\r\n\
        Only GET opens a WebSocket.\n";
    check(with("GET / ", "POST / "), expect).await;
    // A body longer than what is read before the response. The response must arrive all the same.
    let upload = "POST / HTTP/1.1\r\nContent-Length: 300000\r\n\r\n".to_owned();
    check(upload + &"x".repeat(300_000), expect).await;
}

#[tokio::test]
async fn malformed_request_gets_400_or_431() {
    let check_start = async |request: String, expect: &str| {
        let (response, accepted) = shake(request.as_bytes()).await;
        assert!(response.starts_with(expect), "{request} gets {response}");
        assert!(!accepted);
    };
    let bad = "HTTP/1.1 400 Bad Request\r\n";
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    check_start(with(key, ""), bad).await;
    check_start(with(key, "Sec-WebSocket-Key:"), bad).await;
    check_start(with("Host: localhost", "Content-Length: 5"), bad).await;
    check_start(with("HTTP/1.1", "HTTP/1.0"), "HTTP/1.0 400 Bad Request\r\n").await;
    check_start("g foo\n".to_owned(), bad).await;
    check_start("\u{16}\u{3}\u{1}\u{2}\0".to_owned(), bad).await;
    let endless = format!("GET / HTTP/1.1\r\nCookie: {}", "x".repeat(100_000));
    check_start(endless, "HTTP/1.1 431 ").await;
}

#[tokio::test]
async fn peer_that_closes_during_the_handshake_makes_no_session() {
    bounded(async {
        for said in ["", "GET / HT", REQUEST.trim_end()] {
            let (address, mut incoming) = listen(limits(1000)).await;
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(said.as_bytes()).await.unwrap();
            drop(client);
            let pending = incoming.next().await.unwrap().unwrap();
            let established = pending.handshake.establish().await;
            assert!(!matches!(established, Ok(Some(_))), "after {said}");
        }
    })
    .await;
}

#[tokio::test]
async fn refused_connection_gets_503() {
    const EXPECT: &str = "HTTP/1.1 503 Service Unavailable\r\n\
        content-type: text/plain\r\n\
        connection: close\r\n\
        content-length: 22\r\n\r\n\
        Too many connections.\n";
    bounded(async {
        let (address, mut incoming) = listen(limits(1000)).await;
        for request_comes_first in [true, false] {
            let mut client = TcpStream::connect(address).await.unwrap();
            let pending = incoming.next().await.unwrap().unwrap();
            let request = REQUEST.as_bytes();
            if request_comes_first {
                client.write_all(request).await.unwrap();
                pending.refuse();
            } else {
                pending.refuse();
                // The connection may already be closed.
                let _ = client.write_all(request).await;
            }
            let mut response = vec![0; EXPECT.len()];
            client.read_exact(&mut response).await.unwrap();
            assert_eq!(str::from_utf8(&response).unwrap(), EXPECT);
            // The connection is closed, by a reset if the request arrived after the response.
            let mut rest = Vec::new();
            let end = client.read_to_end(&mut rest).await;
            assert!(end.is_ok() || !request_comes_first, "{end:?}");
            assert_eq!(rest, b"");
        }
    })
    .await;
}

#[tokio::test]
async fn dropped_handshake_closes_without_a_response() {
    bounded(async {
        let (address, mut incoming) = listen(limits(1000)).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        let pending = incoming.next().await.unwrap().unwrap();
        assert!(pending.handshake.establish().now_or_never().is_none());
        let mut response = Vec::new();
        client.read_to_end(&mut response).await.unwrap();
        assert_eq!(response, b"");
    })
    .await;
}

#[tokio::test]
async fn request_may_arrive_in_pieces() {
    bounded(async {
        let (address, mut incoming) = listen(limits(1000)).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        client.set_nodelay(true).unwrap();
        let pending = incoming.next().await.unwrap().unwrap();
        let server = async {
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
            for byte in REQUEST.bytes() {
                client.write_all(&[byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            let mut response = vec![0; RESPONSE.len()];
            client.read_exact(&mut response).await.unwrap();
            assert_eq!(str::from_utf8(&response).unwrap(), RESPONSE);
            client.write_all(&frame(CLOSE, b"")).await.unwrap();
            assert_eq!(read_all(&mut client).await, ["close"]);
            drop(client);
        };
        tokio::join!(server, talk);
    })
    .await;
}

#[tokio::test]
async fn messages_right_behind_the_request_are_received() {
    bounded(async {
        let check = async |sizes: &[usize]| {
            let messages: Vec<String> = sizes.iter().map(|&size| "x".repeat(size)).collect();
            let mut input: Vec<u8> = messages
                .iter()
                .flat_map(|message| frame(TEXT, message.as_bytes()))
                .collect();
            input.extend(frame(CLOSE, b""));
            let (mut client, session) = open(limits(100_000), &input).await;
            let (received, sent) = tokio::join!(serve(session), async {
                let sent = read_all(&mut client).await;
                drop(client);
                sent
            });
            assert_eq!(received, messages);
            assert_eq!(sent.len(), messages.len() + 1);
        };
        check(&[5]).await;
        check(&[5, 0, 7]).await;
        check(&[3000, 3000]).await;
        check(&[20_000, 1]).await;
    })
    .await;
}

#[tokio::test]
async fn client_that_has_closed_its_sending_side_is_served() {
    bounded(async {
        let (address, mut incoming) = listen(limits(1000)).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        let input = [REQUEST.as_bytes(), &frame(TEXT, b"g a")].concat();
        client.write_all(&input).await.unwrap();
        client.shutdown().await.unwrap();
        let pending = incoming.next().await.unwrap().unwrap();
        assert_eq!(
            pending.peer.as_str(),
            client.local_addr().unwrap().to_string()
        );
        let session = pending
            .handshake
            .establish()
            .await
            .unwrap()
            .unwrap()
            .session;
        assert_eq!(serve(session).await, ["g a"]);
        let mut output = Vec::new();
        client.read_to_end(&mut output).await.unwrap();
        let expect = [RESPONSE.as_bytes(), &[TEXT, 3], b"g a"].concat();
        assert_eq!(
            output.escape_ascii().to_string(),
            expect.escape_ascii().to_string()
        );
    })
    .await;
}
