//! TCP, on all addresses unless told otherwise.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;

use crate::address::{Address, Peer};
use crate::limits::Limits;
use crate::listen::tcp_connection::TcpConnection;
use crate::listen::{Accepted, Listen, std_socket};
use crate::transport::{BindError, Listener};

/// Maximum number of connections waiting to be accepted: a whole site may reconnect at once. The kernel lowers it to
/// its own limit.
const BACKLOG: i32 = 4096;

/// Size of the kernel's send buffer, which the kernel doubles. By default it grows to megabytes, and the kernel
/// reports room only once a third of it is free. A slow reader would then look like a peer that does not read at
/// all, and would answer no ping before it has read everything.
const SEND_BUFFER: usize = 128 * 1024;

/// Listens on a TCP port.
///
/// As a transport of lines it disconnects a peer that sends a line of HTTP: any web page can make a browser connect
/// here and send a request with a body of the page's choice.
#[derive(Debug)]
pub struct Tcp {
    endpoint: Endpoint,
}

/// Where a TCP socket listens.
#[derive(Debug)]
enum Endpoint {
    /// All addresses, IPv4 and IPv6.
    Port(u16),
    /// One address.
    Address(SocketAddr),
    /// Wherever this socket already listens.
    Std(std::net::TcpListener),
}

impl Tcp {
    /// Listens on this port of all addresses: IPv4 and IPv6, or IPv4 alone on a host without IPv6. For port 0 the
    /// system chooses a port.
    pub fn port(port: u16) -> Tcp {
        Tcp {
            endpoint: Endpoint::Port(port),
        }
    }

    /// Listens on this address alone.
    pub fn address(address: SocketAddr) -> Tcp {
        Tcp {
            endpoint: Endpoint::Address(address),
        }
    }

    /// Accepts from a socket that already listens, such as one passed by a service manager. `listen` checks that it
    /// is one, and sets the size of its send buffer.
    pub fn from_std(listener: std::net::TcpListener) -> Tcp {
        Tcp {
            endpoint: Endpoint::Std(listener),
        }
    }

    /// Returns true if this host does not have the address, or has no address of its family. A port that is taken or
    /// forbidden is another matter and shows only when the server starts to listen.
    pub fn is_missing(ip: IpAddr) -> bool {
        let address = SocketAddr::new(ip, 0);
        let bound = new_socket(address).and_then(|socket| socket.bind(&address.into()));
        bound.is_err_and(|error| is_missing_address(&error))
    }
}

impl Listen for Tcp {
    const NAME: &'static str = "tcp";

    type Stream = TcpConnection;

    async fn listen(self, limits: Limits) -> Result<Listener<Accepted<TcpConnection>>, BindError> {
        let (address, listener) = open(self.endpoint)?;
        let incoming = TcpListenerStream::new(listener).map(move |accepted| {
            let stream = accepted?;
            let peer = Peer::from(stream.peer_addr()?);
            let stream = TcpConnection::new(stream, limits)?;
            Ok(Accepted { peer, stream })
        });
        Ok(Listener {
            address: Address::Ip(address),
            incoming: Box::pin(incoming),
        })
    }
}

/// Returns a listening socket and its actual address.
fn open(endpoint: Endpoint) -> Result<(SocketAddr, TcpListener), BindError> {
    let any_v6 = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let any_v4 = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let (asked, listener) = match endpoint {
        Endpoint::Address(address) => (address, bind(address)),
        Endpoint::Port(port) => match bind(any_v6(port)) {
            Err(error) if is_missing_address(&error) => (any_v4(port), bind(any_v4(port))),
            bound => (any_v6(port), bound),
        },
        Endpoint::Std(listener) => {
            let socket = SockRef::from(&listener);
            std_socket::prepare(&socket, &[Domain::IPV4, Domain::IPV6], "TCP")?;
            let buffer = socket.set_send_buffer_size(SEND_BUFFER);
            let asked = listener.local_addr().unwrap_or_else(|_| any_v6(0));
            (asked, buffer.and_then(|()| TcpListener::from_std(listener)))
        }
    };
    listener
        .and_then(|listener| Ok((listener.local_addr()?, listener)))
        .map_err(|source| BindError::Refused {
            address: Address::Ip(asked),
            source,
        })
}

fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = new_socket(address)?;
    // A restart must not wait until the connections of the last run have timed out.
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

/// Returns true if binding failed because this host lacks the address or its family, rather than because the port is
/// taken.
fn is_missing_address(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)
    )
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use tokio::net::TcpStream;

    use super::*;

    fn local(port: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, port).into()
    }

    #[tokio::test]
    async fn peer_is_named_by_its_address() {
        let listener = Tcp::address(local(0)).listen(Limits::default()).await;
        let mut listener = listener.unwrap();
        let address = listener.address.ip().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        let accepted = listener.incoming.next().await.unwrap().unwrap();
        let name = client.local_addr().unwrap().to_string();
        assert_eq!(accepted.peer.as_str(), name);
    }

    #[tokio::test]
    async fn error_names_the_taken_address() {
        let (address, _listener) = open(Endpoint::Address(local(0))).unwrap();
        let error = open(Endpoint::Address(address)).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("cannot listen on {address}: ")),
            "{error}"
        );
    }

    #[tokio::test]
    async fn address_of_another_host_is_missing_and_a_taken_port_is_not() {
        let loopback = Ipv4Addr::LOCALHOST;
        let (_, _listener) = open(Endpoint::Address(local(0))).unwrap();
        assert!(!Tcp::is_missing(loopback.into()));
        assert!(!Tcp::is_missing(Ipv4Addr::UNSPECIFIED.into()));
        // This address is reserved for documentation.
        assert!(Tcp::is_missing(Ipv4Addr::new(192, 0, 2, 1).into()));
    }

    #[tokio::test]
    async fn std_listener_is_accepted_from() {
        let std_listener = std::net::TcpListener::bind(local(0)).unwrap();
        let address = std_listener.local_addr().unwrap();
        let listener = Tcp::from_std(std_listener).listen(Limits::default()).await;
        let mut listener = listener.unwrap();
        assert_eq!(listener.address, Address::Ip(address));
        let _client = TcpStream::connect(address).await.unwrap();
        let accepted = listener.incoming.next().await.unwrap().unwrap();
        let buffer = SockRef::from(&accepted.stream).send_buffer_size().unwrap();
        assert_eq!(buffer, 2 * SEND_BUFFER);
    }

    #[tokio::test]
    async fn std_socket_of_another_kind_is_an_error() {
        let check = async |socket: OwnedFd, problem: &str| {
            let listener = Tcp::from_std(socket.into()).listen(Limits::default()).await;
            let error = listener.err().unwrap().to_string();
            assert!(
                error.starts_with("cannot listen on file descriptor "),
                "{error}"
            );
            assert!(error.ends_with(problem), "{error}");
        };
        let udp = std::net::UdpSocket::bind(local(0)).unwrap();
        check(udp.into(), ": it is not a TCP socket").await;
        let (unix, _) = std::os::unix::net::UnixStream::pair().unwrap();
        check(unix.into(), ": it is not a TCP socket").await;
        let bound = new_socket(local(0)).unwrap();
        bound.bind(&local(0).into()).unwrap();
        check(bound.into(), ": the socket does not listen").await;
        let file = tempfile::tempfile().unwrap();
        check(file.into(), "Socket operation on non-socket (os error 88)").await;
    }
}
