//! Sockets to the server over each transport, and the ways to close them.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use socket2::SockRef;
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader,
};
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

/// The addresses of the server.
pub(crate) struct Addresses {
    pub(crate) tcp: SocketAddr,
    pub(crate) websocket: SocketAddr,
    pub(crate) unix: PathBuf,
}

/// The transport of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Via {
    Tcp,
    Unix,
    WebSocket,
}

impl Via {
    pub(crate) const ALL: [Via; 3] = [Via::Tcp, Via::Unix, Via::WebSocket];
}

/// A client's end of a connection.
pub(crate) enum Wire {
    Tcp(BufReader<TcpStream>),
    Unix(BufReader<UnixStream>),
    WebSocket(Box<WebSocketStream<TcpStream>>, VecDeque<String>),
}

trait Stream: AsyncBufRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncBufRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A [`Wire`], by its framing.
enum Kind<'a> {
    Lines(&'a mut dyn Stream),
    /// A WebSocket, and lines that are received and not read.
    Messages(&'a mut WebSocketStream<TcpStream>, &'a mut VecDeque<String>),
}

impl Wire {
    pub(crate) async fn connect(addresses: &Addresses, via: Via) -> Wire {
        match via {
            Via::Tcp => {
                let stream = TcpStream::connect(addresses.tcp).await.unwrap();
                Wire::Tcp(BufReader::new(stream))
            }
            Via::Unix => {
                let stream = UnixStream::connect(&addresses.unix).await.unwrap();
                Wire::Unix(BufReader::new(stream))
            }
            Via::WebSocket => {
                let stream = TcpStream::connect(addresses.websocket).await.unwrap();
                let (socket, _) = client_async("ws://localhost/", stream).await.unwrap();
                Wire::WebSocket(Box::new(socket), VecDeque::new())
            }
        }
    }

    fn kind(&mut self) -> Kind<'_> {
        match self {
            Wire::Tcp(stream) => Kind::Lines(stream),
            Wire::Unix(stream) => Kind::Lines(stream),
            Wire::WebSocket(socket, lines) => Kind::Messages(socket, lines),
        }
    }

    /// Sends lines, in one write if possible.
    pub(crate) async fn send(&mut self, lines: &[String]) {
        match self.kind() {
            Kind::Lines(stream) => {
                let mut bytes = lines.join("\n");
                bytes.push('\n');
                stream.write_all(bytes.as_bytes()).await.unwrap();
            }
            Kind::Messages(socket, _) => {
                for line in lines {
                    socket.feed(Message::text(line)).await.unwrap();
                }
                socket.flush().await.unwrap();
            }
        }
    }

    /// Receives a line.
    pub(crate) async fn receive(&mut self) -> String {
        match self.kind() {
            Kind::Lines(stream) => {
                let line = stream.lines().next_line().await.unwrap();
                line.expect("the server has closed")
            }
            Kind::Messages(socket, lines) => loop {
                if let Some(line) = lines.pop_front() {
                    return line;
                }
                let message = socket.next().await.unwrap().unwrap();
                lines.extend(message.to_text().unwrap().lines().map(str::to_owned));
            },
        }
    }

    /// Closes the sending side.
    pub(crate) async fn close_sending_side(&mut self) {
        match self.kind() {
            Kind::Lines(stream) => stream.shutdown().await.unwrap(),
            Kind::Messages(socket, _) => socket.close(None).await.unwrap(),
        }
    }

    /// Waits until the server closes, and checks that it sends nothing more.
    pub(crate) async fn await_end(mut self) {
        match self.kind() {
            Kind::Lines(stream) => {
                let mut rest = String::new();
                stream.read_to_string(&mut rest).await.unwrap();
                assert_eq!(rest, "");
            }
            Kind::Messages(socket, lines) => {
                assert_eq!(*lines, [""; 0]);
                let goodbye = socket.next().await.unwrap().unwrap();
                assert!(matches!(goodbye, Message::Close(_)), "{goodbye:?}");
            }
        }
    }

    /// Disconnects without a closing handshake; by a reset, where the transport has one.
    pub(crate) fn disconnect(self, reset: bool) {
        let stream = match &self {
            Wire::Tcp(stream) => stream.get_ref(),
            Wire::WebSocket(socket, _) => socket.get_ref(),
            Wire::Unix(_) => return,
        };
        if reset {
            let socket = SockRef::from(stream);
            socket.set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
}
