//! The byte stream to and from a server, over TCP, a Unix socket or a WebSocket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

#[cfg(feature = "websocket")]
use futures_util::{Sink, Stream};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::sleep;
#[cfg(feature = "websocket")]
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, protocol::frame::coding::CloseCode},
};

use crate::endpoint::Endpoint;
use crate::error::Lost;

/// TCP keepalive, for servers without `ping`, which the heartbeat cannot watch: idle time before the first probe, time
/// between probes, and number of probes.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 2);

/// Longest time for which data sent to such a server may stay unacknowledged: the sum of the above.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(20);

/// Time after which the next address is tried as well, if the last one has not answered (RFC 8305, section 8).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Size of one read, in bytes.
const READ_SIZE: usize = 16 * 1024;

/// A stream to a server. It sends lines; over a WebSocket, one line in each message.
pub(crate) enum Wire {
    Tcp(TcpStream),
    Unix(UnixStream),
    #[cfg(feature = "websocket")]
    WebSocket(Box<WebSocketStream<TcpStream>>),
}

/// The result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// Bytes, which may be any part of any number of replies.
    Bytes,
    /// One complete reply.
    Message,
}

/// Lines that are not sent yet.
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

    fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    fn advance(&mut self, sent: usize) {
        self.sent += sent;
        if self.unsent().is_empty() {
            self.bytes.clear();
            self.sent = 0;
        }
    }
}

impl Wire {
    /// Connects, including the WebSocket handshake.
    pub(crate) async fn connect(endpoint: &Endpoint) -> io::Result<Wire> {
        match endpoint {
            Endpoint::Tcp { host, port } => Ok(Wire::Tcp(connect_tcp(host, *port).await?)),
            Endpoint::Unix(path) => Ok(Wire::Unix(UnixStream::connect(path).await?)),
            #[cfg(feature = "websocket")]
            Endpoint::WebSocket { host, port, .. } => {
                let stream = connect_tcp(host, *port).await?;
                // Listings may be long, and a client trusts the server that it connects to.
                let config = tungstenite::protocol::WebSocketConfig::default()
                    .read_buffer_size(READ_SIZE)
                    .max_message_size(None)
                    .max_frame_size(None);
                let request = endpoint.to_string();
                let shaken =
                    tokio_tungstenite::client_async_with_config(request, stream, Some(config));
                let (session, _) = shaken.await.map_err(into_io)?;
                Ok(Wire::WebSocket(Box::new(session)))
            }
            #[cfg(not(feature = "websocket"))]
            Endpoint::WebSocket { .. } => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "glockd-client was built without its feature `websocket`",
            )),
        }
    }

    /// Returns true if there is a network between client and server, which can fail silently.
    pub(crate) fn can_fail_silently(&self) -> bool {
        !matches!(self, Wire::Unix(_))
    }

    /// Disables the kernel's own detection of a silent server. The kernel would reset the connection, which frees the
    /// locks at once; the heartbeat leaves the client time to stop its work.
    pub(crate) fn disable_kernel_timeouts(&self) -> io::Result<()> {
        let stream = match self {
            Wire::Unix(_) => return Ok(()),
            Wire::Tcp(stream) => stream,
            #[cfg(feature = "websocket")]
            Wire::WebSocket(session) => session.get_ref(),
        };
        let socket = SockRef::from(stream);
        socket.set_keepalive(false)?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(None)?;
        Ok(())
    }

    /// Sends `outgoing`, and appends what is received to `input`.
    ///
    /// Ready when something was received (`Some`) or everything was sent (`None`). Cancel-safe: all state is in the
    /// arguments.
    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
        outgoing: &mut Outgoing,
        input: &mut Vec<u8>,
    ) -> Poll<Result<Option<Received>, Lost>> {
        let had_unsent = !outgoing.is_empty();
        if had_unsent && let Poll::Ready(Err(error)) = self.poll_send(context, outgoing) {
            // The server may have sent its reason before it closed the connection.
            return Poll::Ready(match self.poll_receive(context, input) {
                Poll::Ready(Ok(received)) => Ok(Some(received)),
                Poll::Ready(Err(lost @ Lost::TooLong)) => Err(lost),
                _ => Err(error.into()),
            });
        }
        match self.poll_receive(context, input)? {
            Poll::Ready(received) => Poll::Ready(Ok(Some(received))),
            Poll::Pending if had_unsent && outgoing.is_empty() => Poll::Ready(Ok(None)),
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
                    ready!(session.as_mut().poll_ready(context)).map_err(into_io)?;
                    let unsent = outgoing.unsent();
                    let end = unsent.iter().position(|&byte| byte == b'\n');
                    let end = end.unwrap_or(unsent.len());
                    // A text message if the line is valid UTF-8, so that a person can read a capture of the traffic.
                    let message = match str::from_utf8(&unsent[..end]) {
                        Ok(text) => tungstenite::Message::text(text),
                        Err(_) => tungstenite::Message::binary(unsent[..end].to_vec()),
                    };
                    outgoing.advance((end + 1).min(unsent.len()));
                    session.as_mut().start_send(message).map_err(into_io)?;
                }
                session.poll_flush(context).map_err(into_io)
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
                        // Flushes replies to WebSocket pings, and what `poll_send` could not flush.
                        let _ = session.poll_flush(context).map_err(into_io)?;
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
                    Some(Err(error)) => return Poll::Ready(Err(into_io(error).into())),
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
        let sent = ready!(stream.as_mut().poll_write(context, outgoing.unsent()))?;
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
    let mut space = [0; READ_SIZE];
    let mut space = ReadBuf::new(&mut space);
    ready!(stream.poll_read(context, &mut space))?;
    if space.filled().is_empty() {
        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
    }
    input.extend_from_slice(space.filled());
    Poll::Ready(Ok(Received::Bytes))
}

/// Connects to the first address of a host that answers, without waiting for silent ones (RFC 8305).
async fn connect_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses = resolve(host, port).await?;
    let stream = connect_to_first(interleave_families(addresses)).await?;
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

/// Returns the addresses of a host.
///
/// `localhost` is not looked up: it always means the loopback addresses (RFC 6761, section 6.3). The lookup takes a
/// thread and reads several files, which would be a third of the time that `glock run` adds to a short command.
async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if host.eq_ignore_ascii_case("localhost") {
        let loopback = [
            IpAddr::from(Ipv6Addr::LOCALHOST),
            IpAddr::from(Ipv4Addr::LOCALHOST),
        ];
        return Ok(loopback.map(|ip| SocketAddr::new(ip, port)).to_vec());
    }
    Ok(lookup_host((host, port)).await?.collect())
}

/// Orders addresses so that IPv4 and IPv6 alternate, beginning with the family of the first address: if one family does
/// not work, it is not tried many times in a row.
fn interleave_families(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first() else {
        return addresses;
    };
    let first_is_ipv6 = first.is_ipv6();
    let (one, other): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_ipv6);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let pairs = std::iter::from_fn(|| match (one.next(), other.next()) {
        (None, None) => None,
        (one, other) => Some([one, other]),
    });
    pairs.flatten().flatten().collect()
}

/// Connects to the first address that answers. Starts the next attempt when one fails or has not answered for
/// [`ATTEMPT_DELAY`]; earlier attempts continue beside it.
async fn connect_to_first(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    let mut left = addresses.into_iter();
    let mut attempts = JoinSet::new();
    loop {
        if let Some(address) = left.next() {
            attempts.spawn(TcpStream::connect(address));
        }
        let next = sleep(ATTEMPT_DELAY);
        tokio::select! {
            ended = attempts.join_next() => match ended {
                Some(Ok(Ok(stream))) => return Ok(stream),
                Some(Ok(Err(error))) => failure = error,
                Some(Err(error)) => failure = io::Error::other(error),
                None => return Err(failure),
            },
            () = next, if left.len() > 0 => {}
        }
    }
}

#[cfg(feature = "websocket")]
fn into_io(error: tungstenite::Error) -> io::Error {
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
    use std::pin::pin;
    use std::task::Waker;

    use socket2::{Domain, Socket, Type};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn tcp_keepalive_is_on_and_fits_the_user_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = connect_tcp("127.0.0.1", listener.local_addr().unwrap().port())
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

    /// A lookup would not be ready at once, and would panic without a runtime.
    #[test]
    fn localhost_is_the_loopback_addresses_without_a_lookup() {
        for host in ["localhost", "LocalHost"] {
            let mut context = Context::from_waker(Waker::noop());
            let Poll::Ready(found) = pin!(resolve(host, 9999)).poll(&mut context) else {
                panic!("{host} is looked up");
            };
            let expect = ["[::1]:9999", "127.0.0.1:9999"];
            assert_eq!(
                found.unwrap(),
                expect.map(|address| address.parse().unwrap())
            );
        }
    }

    #[test]
    fn address_families_alternate() {
        let check = |addresses: &[&str], expect: &[&str]| {
            let parse = |addresses: &[&str]| -> Vec<SocketAddr> {
                let parsed = addresses.iter().map(|address| address.parse().unwrap());
                parsed.collect()
            };
            assert_eq!(interleave_families(parse(addresses)), parse(expect));
        };
        check(&[], &[]);
        check(&["10.0.0.1:1"], &["10.0.0.1:1"]);
        check(
            &["[::1]:1", "[::2]:1", "[::3]:1", "10.0.0.1:1", "10.0.0.2:1"],
            &["[::1]:1", "10.0.0.1:1", "[::2]:1", "10.0.0.2:1", "[::3]:1"],
        );
        check(
            &["10.0.0.1:1", "10.0.0.2:1", "[::1]:1"],
            &["10.0.0.1:1", "[::1]:1", "10.0.0.2:1"],
        );
    }

    /// Returns an address that does not answer, as its accept queue is full. It stays silent until the second value is
    /// dropped.
    fn silent_address() -> (SocketAddr, impl Drop) {
        struct Silence(
            #[expect(dead_code)] Socket,
            #[expect(dead_code)] Vec<Socket>,
        );
        impl Drop for Silence {
            fn drop(&mut self) {}
        }
        let socket = || Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).unwrap();
        let listener = socket();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        listener.bind(&any.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let waiting = (0..8).map(|_| {
            let client = socket();
            let _ = client.connect(&address.into());
            client
        });
        let waiting = waiting.collect();
        (address, Silence(listener, waiting))
    }

    #[tokio::test]
    async fn first_address_that_answers_is_used() {
        let (silent, _silence) = silent_address();
        let refused = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let live = listener.local_addr().unwrap();
        for addresses in [
            vec![live],
            vec![refused, live],
            vec![silent, live],
            vec![silent, refused, silent, refused, live],
            vec![live, silent],
        ] {
            let connected = connect_to_first(addresses.clone());
            // Far less than the minutes for which the kernel tries a silent address.
            let connected = tokio::time::timeout(Duration::from_secs(10), connected).await;
            let stream = connected.unwrap().unwrap();
            assert_eq!(stream.peer_addr().unwrap(), live, "{addresses:?}");
        }
        let error = connect_to_first(vec![refused, refused]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let error = connect_to_first(Vec::new()).await.unwrap_err();
        assert_eq!(error.to_string(), "the host has no address");
        // A silent address neither fails nor succeeds: the caller sets the time limit.
        let only = tokio::time::timeout(
            Duration::from_millis(50),
            connect_to_first(vec![silent, refused]),
        );
        assert!(only.await.is_err());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn abstract_socket_can_be_connected_to() {
        use std::os::linux::net::SocketAddrExt;
        let name = format!("glockd-client-test-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
        let endpoint = format!("unix:@{name}").parse().unwrap();
        assert!(Wire::connect(&endpoint).await.is_ok());
    }
}
