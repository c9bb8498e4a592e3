//! Bytes to a server and back, over whatever leads there.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

#[cfg(feature = "websocket")]
use futures_util::{Sink, Stream};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
#[cfg(feature = "websocket")]
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, protocol::frame::coding::CloseCode},
};

use crate::{Endpoint, Lost};

/// How long a connection is silent before TCP asks whether the server is there, how long after each question it
/// asks again, and how often. All in all shorter than what a server takes to give up a client that is gone, so that
/// whoever lost the network knows before the locks are anybody else's.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 2);

/// How long what was sent may go unacknowledged: the sum of the above.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(20);

/// What is read at a time.
const READ: usize = 16 * 1024;

/// A connection to a server. What it sends is lines; over a WebSocket, one a message.
pub(crate) enum Wire {
    Tcp(TcpStream),
    Unix(UnixStream),
    #[cfg(feature = "websocket")]
    WebSocket(Box<WebSocketStream<TcpStream>>),
}

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// Some bytes, which may be any part of any number of replies.
    Bytes,
    /// One reply, whole.
    Message,
}

/// Lines that wait to be sent.
#[derive(Default)]
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    pub(crate) fn push(&mut self, lines: &[u8]) {
        self.bytes.extend_from_slice(lines);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    fn advance(&mut self, sent: usize) {
        self.sent += sent;
        if self.rest().is_empty() {
            self.bytes.clear();
            self.sent = 0;
        }
    }
}

impl Wire {
    /// Connects, and shakes hands.
    pub(crate) async fn connect(endpoint: &Endpoint) -> io::Result<Wire> {
        match endpoint {
            Endpoint::Tcp { host, port } => Ok(Wire::Tcp(tcp(host, *port).await?)),
            Endpoint::Unix(path) => Ok(Wire::Unix(UnixStream::connect(path).await?)),
            #[cfg(feature = "websocket")]
            Endpoint::WebSocket { host, port, .. } => {
                let stream = tcp(host, *port).await?;
                // Listings may be long, and who connects to a server trusts it.
                let config = tungstenite::protocol::WebSocketConfig::default()
                    .read_buffer_size(READ)
                    .max_message_size(None)
                    .max_frame_size(None);
                let request = endpoint.to_string();
                let shaken =
                    tokio_tungstenite::client_async_with_config(request, stream, Some(config));
                let (session, _) = shaken.await.map_err(broken)?;
                Ok(Wire::WebSocket(Box::new(session)))
            }
            #[cfg(not(feature = "websocket"))]
            Endpoint::WebSocket { .. } => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "glockd-client was built without its feature `websocket`",
            )),
        }
    }

    /// Sends what there is to send, and appends what comes to `input`.
    ///
    /// Ready when something came (`Some`), or all was sent (`None`). Cancel-safe, as is whatever only polls.
    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
        outgoing: &mut Outgoing,
        input: &mut Vec<u8>,
    ) -> Poll<Result<Option<Received>, Lost>> {
        let had_some = !outgoing.is_empty();
        if had_some && let Poll::Ready(Err(error)) = self.poll_send(context, outgoing) {
            // It may have said why before it went.
            return Poll::Ready(match self.poll_receive(context, input) {
                Poll::Ready(Ok(received)) => Ok(Some(received)),
                Poll::Ready(Err(lost @ Lost::TooLong)) => Err(lost),
                _ => Err(error.into()),
            });
        }
        match self.poll_receive(context, input)? {
            Poll::Ready(received) => Poll::Ready(Ok(Some(received))),
            Poll::Pending if had_some && outgoing.is_empty() => Poll::Ready(Ok(None)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        outgoing: &mut Outgoing,
    ) -> Poll<io::Result<()>> {
        match self {
            Wire::Tcp(stream) => write(Pin::new(stream), context, outgoing),
            Wire::Unix(stream) => write(Pin::new(stream), context, outgoing),
            #[cfg(feature = "websocket")]
            Wire::WebSocket(session) => {
                let mut session = Pin::new(session.as_mut());
                while !outgoing.is_empty() {
                    ready!(session.as_mut().poll_ready(context)).map_err(broken)?;
                    let rest = outgoing.rest();
                    let end = rest.iter().position(|&byte| byte == b'\n');
                    let end = end.unwrap_or(rest.len());
                    // Text where it is text, so that whoever watches the wire can read it.
                    let message = match str::from_utf8(&rest[..end]) {
                        Ok(text) => tungstenite::Message::text(text),
                        Err(_) => tungstenite::Message::binary(rest[..end].to_vec()),
                    };
                    outgoing.advance((end + 1).min(rest.len()));
                    session.as_mut().start_send(message).map_err(broken)?;
                }
                session.poll_flush(context).map_err(broken)
            }
        }
    }

    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        input: &mut Vec<u8>,
    ) -> Poll<Result<Received, Lost>> {
        match self {
            Wire::Tcp(stream) => read(Pin::new(stream), context, input).map_err(Lost::from),
            Wire::Unix(stream) => read(Pin::new(stream), context, input).map_err(Lost::from),
            #[cfg(feature = "websocket")]
            Wire::WebSocket(session) => loop {
                let mut session = Pin::new(session.as_mut());
                let message = match session.as_mut().poll_next(context) {
                    Poll::Ready(message) => message,
                    Poll::Pending => {
                        // Answers to pings, and what `poll_send` could not flush.
                        let _ = session.poll_flush(context).map_err(broken)?;
                        return Poll::Pending;
                    }
                };
                match message {
                    Some(Ok(tungstenite::Message::Text(text))) => {
                        input.extend_from_slice(text.as_bytes())
                    }
                    Some(Ok(tungstenite::Message::Binary(bytes))) => {
                        input.extend_from_slice(&bytes)
                    }
                    Some(Ok(tungstenite::Message::Close(reason))) => {
                        return Poll::Ready(Err(match reason {
                            Some(reason) if reason.code == CloseCode::Size => Lost::TooLong,
                            _ => Lost::Closed,
                        }));
                    }
                    None => return Poll::Ready(Err(Lost::Closed)),
                    Some(Ok(_)) => continue,
                    Some(Err(error)) => return Poll::Ready(Err(broken(error).into())),
                }
                return Poll::Ready(Ok(Received::Message));
            },
        }
    }
}

fn write(
    mut stream: Pin<&mut impl AsyncWrite>,
    context: &mut Context<'_>,
    outgoing: &mut Outgoing,
) -> Poll<io::Result<()>> {
    while !outgoing.is_empty() {
        let sent = ready!(stream.as_mut().poll_write(context, outgoing.rest()))?;
        if sent == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        outgoing.advance(sent);
    }
    Poll::Ready(Ok(()))
}

fn read(
    stream: Pin<&mut impl AsyncRead>,
    context: &mut Context<'_>,
    input: &mut Vec<u8>,
) -> Poll<io::Result<Received>> {
    let mut space = [0; READ];
    let mut space = ReadBuf::new(&mut space);
    ready!(stream.poll_read(context, &mut space))?;
    if space.filled().is_empty() {
        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
    }
    input.extend_from_slice(space.filled());
    Poll::Ready(Ok(Received::Bytes))
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let (time, interval, retries) = KEEPALIVE;
    let keepalive = TcpKeepalive::new()
        .with_time(time)
        .with_interval(interval)
        .with_retries(retries);
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(ACKNOWLEDGED_WITHIN))?;
    Ok(stream)
}

#[cfg(feature = "websocket")]
fn broken(error: tungstenite::Error) -> io::Error {
    use tungstenite::error::ProtocolError::ResetWithoutClosingHandshake;
    match error {
        tungstenite::Error::Io(error) => error,
        tungstenite::Error::ConnectionClosed
        | tungstenite::Error::AlreadyClosed
        | tungstenite::Error::Protocol(ResetWithoutClosingHandshake) => {
            io::ErrorKind::UnexpectedEof.into()
        }
        error => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn tcp_asks_whether_the_server_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = tcp("127.0.0.1", listener.local_addr().unwrap().port())
            .await
            .unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap() && stream.nodelay().unwrap());
        let asked =
            socket.tcp_keepalive_interval().unwrap() * socket.tcp_keepalive_retries().unwrap();
        assert_eq!(
            socket.tcp_keepalive_time().unwrap() + asked,
            ACKNOWLEDGED_WITHIN
        );
    }
}
