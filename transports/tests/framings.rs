//! Any framing over any byte stream, and wrappers around listeners and framings.

// Always so here; it tells clippy that not only the functions marked as tests may unwrap.
#![cfg(test)]

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use glockd_transports::{
    ByteStream, Channel, Established, Framed, Framing, Input, InputFrame, Limits, LineSession,
    Lines, Listen, Listener, Memory, Output, Peer, Pending, Session, Tcp, Transport, Unix,
    WebSocket, WebSocketFraming,
};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::tungstenite::Message;

/// Maximum time that a test may take.
const TIME_LIMIT: Duration = Duration::from_secs(60);

async fn bounded<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(TIME_LIMIT, test)
        .await
        .expect("the test takes too long")
}

async fn listen(transport: impl Transport + 'static) -> Listener {
    let transport: Box<dyn Transport> = Box::new(transport);
    transport.listen(Limits::default()).await.unwrap()
}

/// Returns the next connection.
async fn accept(listener: &mut Listener) -> Pending {
    listener.incoming.next().await.unwrap().unwrap()
}

async fn establish(pending: Pending) -> Box<dyn Session> {
    let established = pending.handshake.establish().await.unwrap();
    established.unwrap().session
}

/// Answers each frame with itself until the input ends, then closes.
async fn echo(mut session: Box<dyn Session>) {
    let mut input = Input::new();
    while session.recv(&mut input).await.unwrap() > 0 {
        let mut output = Output::new();
        for frame in input.iter() {
            match frame {
                InputFrame::Complete(frame) => output.push(frame),
                other => panic!("{other:?}"),
            }
        }
        session.send(&mut output).await.unwrap();
        input.clear();
    }
    session.close().await;
}

/// Sends a message over a WebSocket to a server that echoes it, and closes.
async fn check_websocket(listener: &mut Listener, client: impl AsyncRead + AsyncWrite + Unpin) {
    let server = async { echo(establish(accept(listener).await).await).await };
    let talk = async {
        let (mut client, _) = tokio_tungstenite::client_async("ws://localhost/", client)
            .await
            .unwrap();
        client.send(Message::text("g foo")).await.unwrap();
        let reply = client.next().await.unwrap().unwrap();
        assert_eq!(reply, Message::text("g foo"));
        client.close(None).await.unwrap();
        assert!(client.next().await.unwrap().unwrap().is_close());
    };
    bounded(async { tokio::join!(server, talk) }).await;
}

/// Sends a line to a server that echoes it.
async fn check_lines(listener: &mut Listener, mut client: impl AsyncRead + AsyncWrite + Unpin) {
    let server = async { echo(establish(accept(listener).await).await).await };
    let talk = async {
        client.write_all(b"g foo\n").await.unwrap();
        let mut reply = [0; 5];
        client.read_exact(&mut reply).await.unwrap();
        assert_eq!(&reply, b"g foo");
        client.shutdown().await.unwrap();
    };
    bounded(async { tokio::join!(server, talk) }).await;
}

#[tokio::test]
async fn websocket_runs_over_memory() {
    let (memory, connector) = Memory::new();
    let mut listener = listen(WebSocket::over(memory)).await;
    check_websocket(&mut listener, connector.connect().unwrap()).await;
}

#[tokio::test]
async fn websocket_runs_over_a_unix_socket() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("socket");
    let mut listener = listen(WebSocket::over(Unix::path(&path))).await;
    check_websocket(&mut listener, UnixStream::connect(&path).await.unwrap()).await;
}

#[tokio::test]
async fn websocket_runs_over_a_stream_from_outside_the_crate() {
    let (memory, connector) = Memory::new();
    let scrambled = memory.map_stream(Scrambled::new);
    let mut listener = listen(WebSocket::over(scrambled)).await;
    let client = Scrambled::new(connector.connect().unwrap());
    check_websocket(&mut listener, client).await;
}

#[tokio::test]
async fn refused_websocket_gets_503_over_any_stream() {
    let check = async |mut listener: Listener, mut client: Box<dyn AsyncStream>| {
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        bounded(accept(&mut listener)).await.refuse();
        let mut response = String::new();
        bounded(client.read_to_string(&mut response)).await.unwrap();
        assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
    };
    let (memory, connector) = Memory::new();
    let listener = listen(WebSocket::over(memory)).await;
    check(listener, Box::new(connector.connect().unwrap())).await;

    let directory = TempDir::new().unwrap();
    let path = directory.path().join("socket");
    let listener = listen(WebSocket::over(Unix::path(&path))).await;
    let client = UnixStream::connect(&path).await.unwrap();
    check(listener, Box::new(client)).await;

    let (memory, connector) = Memory::new();
    let scrambled = memory.map_stream(Scrambled::new);
    let listener = listen(WebSocket::over(scrambled)).await;
    let client = Scrambled::new(connector.connect().unwrap());
    check(listener, Box::new(client)).await;
}

/// Any stream, as one type.
trait AsyncStream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> AsyncStream for S {}

#[tokio::test]
async fn transport_is_named_after_its_framing_or_its_listener() {
    let name = |transport: &dyn Transport| transport.name().to_owned();
    assert_eq!(name(&Tcp::port(0)), "tcp");
    assert_eq!(name(&Unix::path("x")), "unix");
    assert_eq!(name(&WebSocket::port(0)), "websocket");
    assert_eq!(name(&WebSocket::over(Unix::path("x"))), "websocket");
    assert_eq!(name(&Framed::new(Tcp::port(0), Lines)), "tcp");
}

#[tokio::test]
async fn lines_refuse_http_where_a_browser_can_connect() {
    let tcp = Tcp::address(([127, 0, 0, 1], 0).into()).map_stream(|stream| Counted {
        stream,
        read: Arc::default(),
    });
    let mut tcp = listen(tcp).await;
    let _client = TcpStream::connect(tcp.address.ip().unwrap()).await.unwrap();
    assert!(establish(accept(&mut tcp).await).await.refuses_http());
    let (memory, connector) = Memory::new();
    let mut memory = listen(memory).await;
    let _client = connector.connect().unwrap();
    assert!(!establish(accept(&mut memory).await).await.refuses_http());
}

#[tokio::test]
async fn listener_wrapper_observes_every_stream() {
    let read = Arc::new(AtomicUsize::new(0));
    let (memory, connector) = Memory::new();
    let counter = Arc::clone(&read);
    let counted = memory.map_stream(move |stream| Counted {
        stream,
        read: Arc::clone(&counter),
    });
    let mut listener = listen(counted).await;
    for connections in 1..=3 {
        check_lines(&mut listener, connector.connect().unwrap()).await;
        assert_eq!(read.load(Relaxed), connections * b"g foo\n".len());
    }
}

/// The shape of TLS: a handshake over the stream, and then a new stream for the inner framing.
#[tokio::test]
async fn framing_wrapper_shakes_hands_before_the_inner_framing() {
    let (memory, connector) = Memory::new();
    let mut listener = listen(Framed::new(memory, Greeted(Lines))).await;
    let mut client = connector.connect().unwrap();
    client.write_all(b"hello").await.unwrap();
    check_lines(&mut listener, Scrambled::new(client)).await;

    let (memory, connector) = Memory::new();
    let framing = Greeted(WebSocketFraming::default());
    let mut listener = listen(Framed::new(memory, framing)).await;
    let mut client = connector.connect().unwrap();
    client.write_all(b"hello").await.unwrap();
    check_websocket(&mut listener, Scrambled::new(client)).await;

    let mut stranger = connector.connect().unwrap();
    stranger.write_all(b"other").await.unwrap();
    let refused = accept(&mut listener).await.handshake.establish().await;
    assert!(refused.unwrap().is_none());
}

#[tokio::test]
async fn channel_yields_the_connections_sent_to_it() {
    let (channel, sender) = Channel::new("elsewhere");
    let (client, server) = tokio::io::duplex(100);
    let session = LineSession::new(server, Limits::default());
    // It may be sent before the transport listens.
    sender
        .send(Pending::ready(Peer::new("a"), session))
        .unwrap();
    let mut listener = listen(channel).await;
    assert_eq!(listener.address.to_string(), "elsewhere");
    check_lines(&mut listener, client).await;
    drop(listener);
    let (_client, server) = tokio::io::duplex(100);
    let session = LineSession::new(server, Limits::default());
    let sent = sender.send(Pending::ready(Peer::new("b"), session));
    assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

/// Waits for a greeting, and continues with a [`Scrambled`] stream.
struct Greeted<F>(F);

impl<F: Framing> Framing for Greeted<F> {
    const NAME: Option<&'static str> = Some("greeted");

    async fn establish<S: ByteStream>(
        &self,
        mut stream: S,
        limits: Limits,
    ) -> io::Result<Option<Established>> {
        let mut greeting = [0; 5];
        stream.read_exact(&mut greeting).await?;
        if &greeting != b"hello" {
            return Ok(None);
        }
        self.0.establish(Scrambled::new(stream), limits).await
    }
}

/// A stream all of whose bytes are inverted.
struct Scrambled<S> {
    stream: S,
    /// Inverted bytes that were accepted and are not written yet.
    unwritten: Vec<u8>,
}

impl<S> Scrambled<S> {
    fn new(stream: S) -> Scrambled<S> {
        Scrambled {
            stream,
            unwritten: Vec::new(),
        }
    }
}

impl<S: ByteStream> ByteStream for Scrambled<S> {}

impl<S: AsyncRead + Unpin> AsyncRead for Scrambled<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        buffer.filled_mut()[before..]
            .iter_mut()
            .for_each(|byte| *byte = !*byte);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Scrambled<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let flushed = self.as_mut().poll_flush(context)?;
        if flushed.is_pending() {
            return Poll::Pending;
        }
        self.unwritten.extend(bytes.iter().map(|byte| !byte));
        // What does not fit now is written by the next flush.
        let _ = self.poll_flush(context)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while !this.unwritten.is_empty() {
            match Pin::new(&mut this.stream).poll_write(context, &this.unwritten)? {
                Poll::Ready(written) => drop(this.unwritten.drain(..written)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Pin::new(&mut this.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A stream that counts the bytes read from it.
struct Counted<S> {
    stream: S,
    read: Arc<AtomicUsize>,
}

impl<S: ByteStream> ByteStream for Counted<S> {
    fn is_open_to_browsers(&self) -> bool {
        self.stream.is_open_to_browsers()
    }

    fn close_with(self, last_words: &[u8]) {
        self.stream.close_with(last_words);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.read.fetch_add(buffer.filled().len() - before, Relaxed);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
