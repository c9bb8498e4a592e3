//! A transport outside the crate that does all that the crate's own TCP transport does, and more: so all of that is
//! public. Both serve clients of a real server, and behave alike.

// Always so here; it tells clippy that not only the functions marked as tests may unwrap.
#![cfg(test)]

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use glockd::{Server, StopReason};
use glockd_transports::{
    Address, BindError, Established, Handshake, Input, Limits, Listener, Output, Peer, Pending,
    Session, Tcp, Transport, write_output,
};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{
    AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;

/// Maximum time that a test may take.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Reason sent to a client that is refused.
const BUSY: &str = "too many connections\n";

/// Sent to each client when its connection ends.
const GOODBYE: &str = "goodbye\n";

/// A TCP transport made of nothing but public parts.
struct OutsideTcp {
    address: SocketAddr,
}

#[async_trait]
impl Transport for OutsideTcp {
    fn name(&self) -> &str {
        "outside"
    }

    async fn listen(self: Box<Self>, limits: Limits) -> Result<Listener, BindError> {
        let refused = |source| BindError::Refused {
            address: Address::Ip(self.address),
            source,
        };
        let listener = TcpListener::bind(self.address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        // An error is one failed accept: the server logs it and polls again.
        let incoming = TcpListenerStream::new(listener).map(move |accepted| {
            let stream = accepted?;
            let peer = Peer::from(stream.peer_addr()?);
            let stream = Connection::new(stream, limits)?;
            Ok(Pending::new(peer, Arrival { stream, limits }))
        });
        Ok(Listener {
            address: Address::Ip(address),
            incoming: Box::pin(incoming),
        })
    }
}

/// A connection with the options that the limits ask for, reset if it is dropped while its peer takes nothing.
struct Connection {
    stream: TcpStream,
    blocked: bool,
}

impl Connection {
    fn new(stream: TcpStream, limits: Limits) -> io::Result<Connection> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(&stream);
        if let Some(idle) = limits.keepalive {
            let keepalive = TcpKeepalive::new().with_time(idle);
            socket.set_tcp_keepalive(&keepalive.with_interval(Duration::from_secs(5)))?;
        }
        socket.set_tcp_user_timeout(limits.write_timeout)?;
        Ok(Connection {
            stream,
            blocked: false,
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.blocked {
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.blocked = written.is_pending();
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// An accepted connection.
struct Arrival {
    stream: Connection,
    limits: Limits,
}

#[async_trait]
impl Handshake for Arrival {
    async fn establish(self: Box<Self>) -> io::Result<Option<Established>> {
        let Arrival { stream, limits } = *self;
        Ok(Some(Established::new(OutsideSession {
            stream,
            limits,
            unframed: Vec::new(),
            oversized: None,
        })))
    }

    fn refuse(self: Box<Self>) {
        let socket = SockRef::from(&self.stream.stream);
        let _ = socket.send(BUSY.as_bytes());
    }
}

/// Lines, framed in place.
struct OutsideSession {
    stream: Connection,
    limits: Limits,
    /// Received bytes behind the last line end.
    unframed: Vec<u8>,
    /// First and last bytes of an oversized line whose end has not arrived yet.
    oversized: Option<Vec<u8>>,
}

impl OutsideSession {
    /// Moves the complete lines into the batch. Drops an incomplete line that is too long.
    fn take_lines(&mut self, input: &mut Input) {
        let complete = self.unframed.iter().rposition(|&byte| byte == b'\n');
        let complete = complete.map_or(0, |end| end + 1);
        let rest = self.unframed.split_off(complete);
        let (bytes, mut marks) = input.split();
        bytes.append(&mut self.unframed);
        self.unframed = rest;
        let mut start = 0;
        while start < complete {
            let length = bytes[start..].iter().position(|&byte| byte == b'\n');
            let end = start + length.unwrap();
            let line = bytes[start..end].strip_suffix(b"\r");
            let length = line.map_or(end - start, <[u8]>::len);
            if let Some(mut ends) = self.oversized.take() {
                keep_ends(&mut ends, &bytes[start..end]);
                let kept = bytes.len()..bytes.len() + ends.len();
                bytes.extend_from_slice(&ends);
                marks.push_oversized_ends(kept);
            } else if length > self.limits.max_line {
                marks.push_oversized();
                marks.push_oversized_ends(start..end);
            } else {
                marks.push(start..start + length);
            }
            start = end + 1;
        }
        // A `\r` right behind the limit can still turn out to be part of the line end.
        if self.oversized.is_none() && self.unframed.len() > self.limits.max_line + 1 {
            marks.push_oversized();
            self.oversized = Some(Vec::new());
        }
        if let Some(ends) = &mut self.oversized {
            keep_ends(ends, &self.unframed);
            self.unframed.clear();
        }
    }
}

/// Adds bytes to the first and last bytes of an oversized line.
fn keep_ends(ends: &mut Vec<u8>, bytes: &[u8]) {
    ends.extend_from_slice(bytes);
    if ends.len() > 64 {
        ends.drain(32..ends.len() - 32);
    }
}

#[async_trait]
impl Session for OutsideSession {
    async fn recv(&mut self, input: &mut Input) -> io::Result<usize> {
        while input.is_empty() {
            if self.stream.read_buf(&mut self.unframed).await? == 0 {
                if !self.unframed.is_empty() {
                    input.push(&std::mem::take(&mut self.unframed));
                }
                break;
            }
            self.take_lines(input);
        }
        Ok(input.len())
    }

    async fn send(&mut self, output: &mut Output) -> io::Result<()> {
        let timeout = self.limits.write_timeout;
        write_output(&mut self.stream, output, timeout).await
    }

    fn refuses_http(&self) -> bool {
        true
    }

    async fn close(mut self: Box<Self>) {
        let _ = self.stream.write_all(GOODBYE.as_bytes()).await;
    }
}

/// A running server with one transport on a TCP port.
struct TestServer {
    kind: Kind,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    running: JoinHandle<StopReason>,
}

/// The transport under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Crate,
    Outside,
}

impl TestServer {
    async fn start(kind: Kind, limits: Limits, max_connections: Option<usize>) -> TestServer {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let transport: Box<dyn Transport> = match kind {
            Kind::Crate => Box::new(Tcp::address(address)),
            Kind::Outside => Box::new(OutsideTcp { address }),
        };
        let server = Server::builder()
            .boxed_transport(transport)
            .limits(limits)
            .max_connections(max_connections)
            .bind()
            .await
            .unwrap();
        let address = server.addresses()[0].ip().unwrap();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(server.run(async { drop(stopped.await) }));
        TestServer {
            kind,
            address,
            stop,
            running,
        }
    }

    async fn connect(&self) -> BufReader<TcpStream> {
        BufReader::new(TcpStream::connect(self.address).await.unwrap())
    }

    /// Returns the text if the transport under test is the one outside the crate, which alone sends it.
    fn if_outside<'a>(&self, text: &'a str) -> &'a str {
        match self.kind {
            Kind::Crate => "",
            Kind::Outside => text,
        }
    }

    async fn stop(self) {
        drop(self.stop);
        self.running.await.unwrap();
    }
}

/// Runs a test for each of the two transports.
async fn with_each(test: impl AsyncFn(Kind)) {
    for kind in [Kind::Crate, Kind::Outside] {
        timeout(TIME_LIMIT, test(kind))
            .await
            .expect("the test takes too long");
    }
}

async fn ask(client: &mut BufReader<TcpStream>, line: &str) -> String {
    client.write_all(line.as_bytes()).await.unwrap();
    read_line(client).await
}

async fn read_line(client: &mut BufReader<TcpStream>) -> String {
    let mut reply = String::new();
    client.read_line(&mut reply).await.unwrap();
    reply
}

async fn read_to_end(client: &mut BufReader<TcpStream>) -> String {
    let mut rest = String::new();
    client.read_to_string(&mut rest).await.unwrap();
    rest
}

fn short_lines() -> Limits {
    Limits::default().with_max_line(100)
}

#[tokio::test]
async fn client_is_served_and_shown_by_its_address() {
    with_each(async |kind| {
        let server = TestServer::start(kind, Limits::default(), None).await;
        let mut client = server.connect().await;
        let reply = ask(&mut client, "g foo\r\n").await;
        assert_eq!(reply, "1 Lock Get Success: foo\n");
        let address = client.get_ref().local_addr().unwrap();
        let reply = ask(&mut client, "d foo\n").await;
        assert_eq!(reply, format!("foo: {address}\n"));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn oversized_line_is_answered_and_the_next_line_runs() {
    with_each(async |kind| {
        let server = TestServer::start(kind, short_lines(), None).await;
        let mut client = server.connect().await;
        // The first line is no command, and has no reply. The second one is answered before its end has arrived.
        let start = format!("{}\r\n{}", "x".repeat(100), "x".repeat(200));
        let too_long = "0 Line Too Long: limit 100\n";
        assert_eq!(ask(&mut client, &start).await, too_long);
        let reply = ask(&mut client, "x\ng foo\n").await;
        assert_eq!(reply, "1 Lock Get Success: foo\n");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn line_of_http_ends_the_connection() {
    with_each(async |kind| {
        let server = TestServer::start(kind, short_lines(), None).await;
        let mut client = server.connect().await;
        let reply = ask(&mut client, "g foo\nPOST / HTTP/1.1\r\n").await;
        assert_eq!(reply, "1 Lock Get Success: foo\n");
        let end = read_to_end(&mut client).await;
        assert_eq!(end, server.if_outside(GOODBYE));

        let mut client = server.connect().await;
        let start = format!("GET /{}", "x".repeat(1000));
        let reply = ask(&mut client, &start).await;
        assert_eq!(reply, "0 Line Too Long: limit 100\n");
        client.write_all(b" HTTP/1.1\r\n").await.unwrap();
        let end = read_to_end(&mut client).await;
        assert_eq!(end, server.if_outside(GOODBYE));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn refused_client_is_told_the_reason() {
    with_each(async |kind| {
        let server = TestServer::start(kind, Limits::default(), Some(1)).await;
        let mut first = server.connect().await;
        ask(&mut first, "g foo\n").await;
        let mut second = server.connect().await;
        let end = read_to_end(&mut second).await;
        assert_eq!(end, server.if_outside(BUSY));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn stopped_server_says_goodbye() {
    with_each(async |kind| {
        let server = TestServer::start(kind, Limits::default(), None).await;
        let mut client = server.connect().await;
        ask(&mut client, "g foo\n").await;
        let goodbye = server.if_outside(GOODBYE);
        server.stop().await;
        assert_eq!(read_to_end(&mut client).await, goodbye);
    })
    .await;
}

/// A client that takes nothing is reset, so that it learns at once that its locks are gone.
#[tokio::test]
async fn client_that_takes_nothing_is_reset() {
    with_each(async |kind| {
        let limits = Limits::default().with_write_timeout(Some(Duration::from_millis(100)));
        let server = TestServer::start(kind, limits, None).await;
        let mut client = server.connect().await;
        // Replies that no socket buffer holds: 100 MB.
        let name = format!("iam {}\n", "x".repeat(100_000));
        assert_eq!(ask(&mut client, &name).await, "1 ok\n");
        ask(&mut client, "g foo\n").await;
        client
            .write_all("me\n".repeat(1000).as_bytes())
            .await
            .unwrap();
        // The lock is free once the server has given the client up.
        let mut observer = server.connect().await;
        while ask(&mut observer, "i foo\n").await.starts_with('1') {}
        let mut rest = Vec::new();
        let end = client.read_to_end(&mut rest).await.unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
        server.stop().await;
    })
    .await;
}
