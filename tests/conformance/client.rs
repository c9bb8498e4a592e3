//! A client over any transport.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use socket2::{SockRef, Socket};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::{WebSocketStream, client_async};

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

enum Wire {
    Stream(Box<dyn Stream>),
    WebSocket(Box<WebSocketStream<TcpStream>>),
}

/// A client's end of a connection.
pub(crate) struct Client {
    /// The client's address, as the server should see it.
    pub(crate) address: String,
    wire: Wire,
}

/// An inspection of a lock that no client holds. Its reply marks the end of the reply before.
const MARK: &[u8] = b"i \x01mark\n";
const MARK_REPLY: &[u8] = b"0 Lock Not Locked: \x01mark\n";

/// A ping. Its reply marks the end of what is answered at once.
const PING: &[u8] = b"ping \x01mark\n";
const PONG: &[u8] = b"1 pong: \x01mark\n";

/// Returns a message of these bytes: a text message if they are UTF-8.
fn message(bytes: &[u8]) -> Message {
    match str::from_utf8(bytes) {
        Ok(text) => Message::text(text),
        Err(_) => Message::binary(bytes.to_vec()),
    }
}

impl Client {
    /// Returns a client whose frames are lines.
    pub(crate) fn stream(address: String, stream: impl Stream + 'static) -> Client {
        Client {
            address,
            wire: Wire::Stream(Box::new(stream)),
        }
    }

    /// Returns a client whose frames are messages, after the handshake.
    pub(crate) async fn websocket(stream: TcpStream) -> Client {
        let address = stream.local_addr().unwrap().to_string();
        let (stream, _) = client_async("ws://localhost/", stream).await.unwrap();
        let wire = Wire::WebSocket(Box::new(stream));
        Client { address, wire }
    }

    /// Sends bytes as they are, or over a WebSocket as one message.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        match &mut self.wire {
            Wire::Stream(stream) => stream.write_all(bytes).await.unwrap(),
            Wire::WebSocket(socket) => socket.send(message(bytes)).await.unwrap(),
        }
    }

    /// Sends one message in these fragments.
    pub(crate) async fn send_fragments(&mut self, kind: Data, fragments: &[&[u8]]) {
        let Wire::WebSocket(socket) = &mut self.wire else {
            unreachable!("streams have no messages");
        };
        for (index, fragment) in fragments.iter().enumerate() {
            let kind = if index == 0 { kind } else { Data::Continue };
            let last = index + 1 == fragments.len();
            let frame = Frame::message(fragment.to_vec(), OpCode::Data(kind), last);
            socket.send(Message::Frame(frame)).await.unwrap();
        }
    }

    /// Sends several messages at once.
    pub(crate) async fn send_messages(&mut self, messages: impl IntoIterator<Item = Message>) {
        let Wire::WebSocket(socket) = &mut self.wire else {
            unreachable!("streams have no messages");
        };
        for message in messages {
            socket.feed(message).await.unwrap();
        }
        socket.flush().await.unwrap();
    }

    /// Receives the next message, including pongs.
    pub(crate) async fn next_message(&mut self) -> Message {
        let Wire::WebSocket(socket) = &mut self.wire else {
            unreachable!("streams have no messages");
        };
        socket.next().await.unwrap().unwrap()
    }

    /// Sends one command. Returns the bytes of its reply, and the number of inspections that were sent to find its end.
    pub(crate) async fn ask(&mut self, command: &[u8]) -> (Vec<u8>, u64) {
        match &mut self.wire {
            Wire::Stream(_) => {
                self.send(&[command, b"\n", MARK].concat()).await;
                (self.read_up_to(MARK_REPLY).await, 1)
            }
            Wire::WebSocket(socket) => {
                socket.send(message(command)).await.unwrap();
                (self.message().await, 0)
            }
        }
    }

    /// Sends one command, and a ping, which is answered even during a wait. Returns what is answered before the ping.
    pub(crate) async fn begin(&mut self, command: &[u8]) -> Vec<u8> {
        self.send(&[command, b"\n"].concat()).await;
        self.send(PING).await;
        self.read_up_to(PONG).await
    }

    /// Receives all replies that are due.
    pub(crate) async fn await_rest(&mut self) -> Vec<u8> {
        self.send(MARK).await;
        self.read_up_to(MARK_REPLY).await
    }

    async fn read_up_to(&mut self, mark: &[u8]) -> Vec<u8> {
        let mut read = self.read_until(mark).await;
        read.truncate(read.len() - mark.len());
        read
    }

    /// Reads until the bytes read end with `end`. Returns them.
    pub(crate) async fn read_until(&mut self, end: &[u8]) -> Vec<u8> {
        let mut read = Vec::new();
        while !read.ends_with(end) {
            let before = read.len();
            match &mut self.wire {
                Wire::Stream(stream) => drop(stream.read_buf(&mut read).await.unwrap()),
                Wire::WebSocket(_) => read.extend(self.message().await),
            }
            assert!(
                read.len() > before || matches!(self.wire, Wire::WebSocket(_)),
                "the server closed after {}",
                read.escape_ascii()
            );
        }
        read
    }

    /// Receives the next message, and returns its bytes.
    pub(crate) async fn message(&mut self) -> Vec<u8> {
        let Wire::WebSocket(socket) = &mut self.wire else {
            unreachable!("streams have no messages");
        };
        match socket.next().await.unwrap().unwrap() {
            Message::Text(text) => text.as_bytes().to_vec(),
            Message::Binary(bytes) => {
                let text = str::from_utf8(&bytes);
                assert!(
                    text.is_err() || bytes.len() > 65536,
                    "text in a binary message"
                );
                bytes.to_vec()
            }
            other => panic!("{other:?}"),
        }
    }

    /// Sends segments, or messages, and closes the sending side. Meanwhile reads all replies, until the server closes.
    pub(crate) async fn finish(self, segments: &[&[u8]]) -> Vec<u8> {
        let mut read = Vec::new();
        match self.wire {
            Wire::Stream(stream) => {
                let (mut input, mut output) = tokio::io::split(stream);
                let sending = async {
                    for segment in segments {
                        output.write_all(segment).await.unwrap();
                        output.flush().await.unwrap();
                    }
                    output.shutdown().await.unwrap();
                };
                // At the same time: a server whose replies are not read stops reading.
                let (_, received) = tokio::join!(sending, input.read_to_end(&mut read));
                received.unwrap();
            }
            Wire::WebSocket(mut socket) => {
                for segment in segments {
                    socket.send(message(segment)).await.unwrap();
                }
                socket.send(Message::Close(None)).await.unwrap();
                while let Some(answer) = socket.next().await {
                    match answer.unwrap() {
                        Message::Close(_) => {}
                        other => read.extend(other.into_data()),
                    }
                }
            }
        }
        read
    }

    /// Sends segments to a server that may close at any of them, and returns the replies before that. Keeps the
    /// sending side open.
    pub(crate) async fn send_until_closed(self, segments: &[&[u8]]) -> Vec<u8> {
        let Wire::Stream(stream) = self.wire else {
            unreachable!("messages are not segments");
        };
        let (mut input, mut output) = tokio::io::split(stream);
        let sending = async {
            for segment in segments {
                if output.write_all(segment).await.is_err() {
                    break;
                }
            }
        };
        let mut read = Vec::new();
        // An error is a reset, which the server sends if it has not read everything.
        let (_, _) = tokio::join!(sending, input.read_to_end(&mut read));
        read
    }

    /// Waits until the server closes, and returns what it sent before.
    pub(crate) async fn expect_end(&mut self) -> Vec<u8> {
        let mut read = Vec::new();
        match &mut self.wire {
            Wire::Stream(stream) => drop(stream.read_to_end(&mut read).await),
            Wire::WebSocket(socket) => while let Some(Ok(_)) = socket.next().await {},
        }
        read
    }
}

/// Makes the socket reset the connection when it is closed.
pub(crate) fn reset_on_close(stream: &TcpStream) {
    let socket: SockRef<'_> = SockRef::from(stream);
    let socket: &Socket = &socket;
    socket.set_linger(Some(Duration::ZERO)).unwrap();
}

/// Checks a reply. A failure shows it escaped.
#[track_caller]
pub(crate) fn equal(found: &[u8], expect: &str) {
    assert_eq!(
        found.escape_ascii().to_string(),
        expect.escape_default().to_string()
    );
}

/// Sends a command, and returns its reply as text.
pub(crate) async fn ask(client: &mut Client, command: &str) -> String {
    String::from_utf8(client.ask(command.as_bytes()).await.0).unwrap()
}

/// Waits until `own` shows this number of claims on the locks of a name.
pub(crate) async fn await_claims(observer: &mut Client, name: &str, claims: usize) {
    let expect = format!("{claims} Lock Owners: {name}\n");
    while !ask(observer, &format!("own {name}"))
        .await
        .starts_with(&expect)
    {}
}
