//! TCP: lines on a socket, on all addresses unless told otherwise.
//!
//! Any web page can have a browser connect here, and send an HTTP request whose body it chooses. So these sessions
//! [refuse HTTP](crate::Session::refuses_http).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use async_trait::async_trait;
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;

use crate::tcp_socket::TcpSocket;
use crate::{Address, BindError, Limits, LineSession, Listener, Peer, Pending, Transport};

/// Connections that may wait to be accepted: a whole site may reconnect at once. The kernel lowers it to
/// its own limit.
const BACKLOG: i32 = 4096;

/// What may wait for a peer in the kernel, which doubles it. Left alone, it would be megabytes, and the kernel
/// says that there is room only once a third of it has gone: a slow reader would look like one that does not
/// read at all, and would answer no ping before it had read them all.
const SEND_BUFFER: usize = 128 * 1024;

/// A peer that has been silent for as long as the limits say is asked whether it is there, so often, before
/// it is given up.
pub(crate) const PROBES: u32 = 3;
pub(crate) const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// What the kernel can be told, in whole seconds.
const SHORTEST_IDLE: Duration = Duration::from_secs(1);
pub(crate) const LONGEST_IDLE: Duration = Duration::from_secs(32767);

/// What it can be told here, in milliseconds.
const LONGEST_USER_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);

/// Listens on a TCP port. A peer that sends a line of HTTP is disconnected.
#[derive(Clone, Debug)]
pub struct Tcp {
    on: On,
}

/// Where a TCP socket is to listen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum On {
    /// All addresses, IPv4 and IPv6.
    Port(u16),
    /// This address.
    Address(SocketAddr),
}

impl Tcp {
    /// On this port of all addresses: IPv4 and IPv6, or IPv4 alone on a host that has no IPv6. Port 0
    /// lets the system choose one.
    pub fn port(port: u16) -> Tcp {
        Tcp { on: On::Port(port) }
    }

    /// On this address alone.
    pub fn address(address: SocketAddr) -> Tcp {
        Tcp {
            on: On::Address(address),
        }
    }

    /// Returns whether this host has no such address, or has nothing of its family. A port that is taken, or
    /// may not be had, is another matter, and shows only when it is listened on.
    pub fn is_missing(ip: IpAddr) -> bool {
        let address = SocketAddr::new(ip, 0);
        let bound = socket(address).and_then(|socket| socket.bind(&address.into()));
        bound.is_err_and(|error| says_missing(&error))
    }
}

#[async_trait]
impl Transport for Tcp {
    fn name(&self) -> &str {
        "tcp"
    }

    async fn listen(self: Box<Self>, limits: Limits) -> Result<Listener, BindError> {
        let (address, listener) = listen(self.on)?;
        let incoming = TcpListenerStream::new(listener).map(move |accepted| {
            let (peer, stream) = tune(accepted?, limits)?;
            let session = LineSession::new(stream, limits).refuse_http();
            Ok(Pending::ready(peer, session))
        });
        Ok(Listener {
            address: Address::Ip(address),
            incoming: Box::pin(incoming),
        })
    }
}

/// A listening socket, and the address it got.
pub(crate) fn listen(on: On) -> Result<(SocketAddr, TcpListener), BindError> {
    let any_v6 = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let any_v4 = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let (asked, listener) = match on {
        On::Address(address) => (address, bind(address)),
        On::Port(port) => match bind(any_v6(port)) {
            Err(error) if says_missing(&error) => (any_v4(port), bind(any_v4(port))),
            bound => (any_v6(port), bound),
        },
    };
    listener
        .and_then(|listener| Ok((listener.local_addr()?, listener)))
        .map_err(|source| BindError::Refused {
            address: Address::Ip(asked),
            source,
        })
}

/// Sets an accepted socket's options, and says who is behind it.
pub(crate) fn tune(stream: TcpStream, limits: Limits) -> io::Result<(Peer, TcpSocket)> {
    let peer = stream.peer_addr()?;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    if let Some(idle) = limits.keepalive {
        let keepalive = TcpKeepalive::new()
            .with_time(idle.clamp(SHORTEST_IDLE, LONGEST_IDLE))
            .with_interval(PROBE_INTERVAL)
            .with_retries(PROBES);
        socket.set_tcp_keepalive(&keepalive)?;
    }
    socket.set_tcp_user_timeout(user_timeout(limits))?;
    Ok((Peer::from(peer), TcpSocket::new(stream)))
}

/// How long what was sent may go unacknowledged, which is also how long a peer may take nothing (RFC 5482).
/// On Linux it ends an unanswered keepalive too, so it must not be less than all of that takes.
fn user_timeout(limits: Limits) -> Option<Duration> {
    let keepalive = limits
        .keepalive
        .map(|idle| idle.saturating_add(PROBES * PROBE_INTERVAL));
    let write_timeout = limits.write_timeout?;
    let longer = write_timeout.max(keepalive.unwrap_or_default());
    Some(longer.min(LONGEST_USER_TIMEOUT))
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address)?;
    // A restart must not wait for the last one's connections to time out.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Accepted sockets inherit it.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Whether a failed bind means that this host lacks the address or its family, as opposed to a port that is
/// taken.
fn says_missing(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn accepted_sockets_are_tuned() {
        let (address, listener) = listen(On::Port(0)).unwrap();
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, address.port()))
            .await
            .unwrap();
        let accepted = listener.accept().await.unwrap().0;
        let (peer, stream) = tune(accepted, Limits::default()).unwrap();
        assert_eq!(peer.as_str(), client.local_addr().unwrap().to_string());
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        let seconds = Duration::from_secs;
        assert_eq!(socket.tcp_keepalive_time().unwrap(), seconds(15));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), seconds(5));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(seconds(30)));
    }

    #[tokio::test]
    async fn no_limit_is_too_long_for_a_socket() {
        let (address, listener) = listen(On::Port(0)).unwrap();
        for limit in [Duration::MAX, Duration::from_nanos(1)] {
            let limits = Limits::default()
                .with_keepalive(Some(limit))
                .with_write_timeout(Some(limit));
            let to = (Ipv4Addr::LOCALHOST, address.port());
            let _client = TcpStream::connect(to).await.unwrap();
            tune(listener.accept().await.unwrap().0, limits).unwrap();
        }
    }

    #[test]
    fn what_is_unacknowledged_lasts_as_long_as_the_longer_limit() {
        let check = |write_timeout: Option<u64>, keepalive: Option<u64>, expect: Option<u64>| {
            let limits = Limits::default()
                .with_write_timeout(write_timeout.map(Duration::from_secs))
                .with_keepalive(keepalive.map(Duration::from_secs));
            assert_eq!(user_timeout(limits), expect.map(Duration::from_secs));
        };
        check(Some(30), Some(60), Some(75));
        check(Some(90), Some(60), Some(90));
        check(Some(90), None, Some(90));
        check(None, Some(60), None);
        check(None, None, None);
    }

    #[tokio::test]
    async fn a_taken_address_is_named() {
        let (address, _listener) = listen(On::Address((Ipv4Addr::LOCALHOST, 0).into())).unwrap();
        let error = listen(On::Address(address)).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("cannot listen on {address}: ")),
            "{error}"
        );
    }

    #[tokio::test]
    async fn an_address_of_another_host_is_missing_and_a_taken_port_is_not() {
        let loopback = Ipv4Addr::LOCALHOST;
        let (_, _listener) = listen(On::Address((loopback, 0).into())).unwrap();
        assert!(!Tcp::is_missing(loopback.into()));
        assert!(!Tcp::is_missing(Ipv4Addr::UNSPECIFIED.into()));
        // It is for documentation.
        assert!(Tcp::is_missing(Ipv4Addr::new(192, 0, 2, 1).into()));
    }
}
