//! A client of raw bytes, which can send what no proper client sends.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use glockd_transports::{
    Incoming, Input, InputFrame, Limits, Output, Session, Transport, WebSocket,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_stream::StreamExt;

pub(crate) const REQUEST: &str = "GET / HTTP/1.1\r\n\
    Host: localhost\r\n\
    Connection: Upgrade\r\n\
    Upgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

pub(crate) const RESPONSE: &str = "HTTP/1.1 101 Switching Protocols\r\n\
    connection: upgrade\r\n\
    upgrade: websocket\r\n\
    sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A maximum message length that tests easily exceed.
pub(crate) const LIMIT: usize = 8;

pub(crate) const TEXT: u8 = 0x81;
pub(crate) const BINARY: u8 = 0x82;
pub(crate) const CLOSE: u8 = 0x88;
pub(crate) const PING: u8 = 0x89;
pub(crate) const PONG: u8 = 0x8a;
/// Flag beside an opcode. A frame without it is not the last of its message.
pub(crate) const FIN: u8 = 0x80;

pub(crate) fn limits(max_line: usize) -> Limits {
    Limits::default().with_max_line(max_line)
}

pub(crate) async fn bounded<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), test)
        .await
        .expect("the test takes too long")
}

/// Starts a WebSocket transport on a free port.
pub(crate) async fn listen(limits: Limits) -> (SocketAddr, Incoming) {
    let transport = Box::new(WebSocket::address((Ipv4Addr::LOCALHOST, 0).into()));
    let listening = transport.listen(limits).await.unwrap();
    (listening.address.ip().unwrap(), listening.incoming)
}

/// Returns both ends of a connection after its handshake. `leftover` was sent right behind the request.
pub(crate) async fn open(limits: Limits, leftover: &[u8]) -> (TcpStream, Box<dyn Session>) {
    let (address, mut incoming) = listen(limits).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.set_nodelay(true).unwrap();
    let input = [REQUEST.as_bytes(), leftover].concat();
    client.write_all(&input).await.unwrap();
    let pending = incoming.next().await.unwrap().unwrap();
    let session = pending
        .handshake
        .establish()
        .await
        .unwrap()
        .unwrap()
        .session;
    let mut response = vec![0; RESPONSE.len()];
    client.read_exact(&mut response).await.unwrap();
    assert_eq!(str::from_utf8(&response).unwrap(), RESPONSE);
    (client, session)
}

/// Returns a masked frame. Its length takes as few bytes as possible.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | length as u8),
        length @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
    bytes
}

/// Returns the first byte and the payload of the next frame from the server; `None` at the end of input.
pub(crate) async fn read_frame(client: &mut (impl AsyncRead + Unpin)) -> Option<(u8, Vec<u8>)> {
    let first = client.read_u8().await.ok()?;
    let length = match client.read_u8().await.unwrap() {
        126 => client.read_u16().await.unwrap().into(),
        127 => client.read_u64().await.unwrap(),
        length => u64::from(length),
    };
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    client.read_exact(&mut payload).await.unwrap();
    Some((first, payload))
}

/// Returns a frame from the server as text.
pub(crate) fn shown((first, payload): &(u8, Vec<u8>)) -> String {
    let text = payload.escape_ascii();
    match *first {
        TEXT => format!("text {text}"),
        BINARY => format!("binary {text}"),
        PONG => format!("pong {text}"),
        CLOSE if payload.is_empty() => "close".to_owned(),
        CLOSE => format!("close {}", u16::from_be_bytes([payload[0], payload[1]])),
        other => format!("{other:#04x} {text}"),
    }
}

/// Returns all frames from the server until it closes.
pub(crate) async fn read_all(client: &mut (impl AsyncRead + Unpin)) -> Vec<String> {
    let mut frames = Vec::new();
    while let Some(frame) = read_frame(client).await {
        frames.push(shown(&frame));
    }
    frames
}

/// Answers each frame with itself until the input ends, then closes. Returns the received frames.
pub(crate) async fn serve(mut session: Box<dyn Session>) -> Vec<String> {
    let mut received = Vec::new();
    loop {
        let mut frames = Input::new();
        let count = session.recv(&mut frames).await.unwrap();
        assert_eq!(count, frames.len());
        if count == 0 {
            break;
        }
        let mut replies = Output::new();
        for frame in frames.iter() {
            match frame {
                InputFrame::Complete(data) => {
                    received.push(data.escape_ascii().to_string());
                    replies.push(data);
                }
                InputFrame::Oversized => {
                    assert_eq!(count, 1, "the frames before it are answered first");
                    received.push("OVERSIZED".to_owned());
                    replies.push(b"0 Line Too Long");
                }
                InputFrame::OversizedEnds(_) => panic!("only line sessions report these"),
            }
        }
        session.send(&mut replies).await.unwrap();
    }
    session.close().await;
    received
}
