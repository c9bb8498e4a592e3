//! The two traits, and the plain values that pass between a transport and the server.

use std::fmt;
use std::future::ready;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use tokio_stream::Stream;

use crate::tcp::{LONGEST_IDLE, PROBE_INTERVAL, PROBES};
use crate::{Input, Output};

/// A way in: listens, and gives a stream of connections that are about to be sessions.
///
/// Object-safe, so that a server takes any number of `Box<dyn Transport>` of any kind.
#[async_trait]
pub trait Transport: Send {
    /// What kind of transport this is, for the log: `tcp`, `unix`.
    fn name(&self) -> &str;

    /// Starts to listen. When this returns, clients can connect.
    ///
    /// Called once, from within a tokio runtime with I/O and time enabled. Everything that a transport
    /// claims for itself (a port, a socket file) it gives back when the [`Incoming`] stream is dropped,
    /// or this future before it is done.
    ///
    /// # Errors
    ///
    /// [`BindError`] ends the start of the server. It must leave nothing behind.
    async fn listen(self: Box<Self>, limits: Limits) -> Result<Listener, BindError>;
}

/// One connection, past its handshake: receives and sends frames, a batch at a time.
#[async_trait]
pub trait Session: Send {
    /// Waits for input and appends to `input` (which is empty) what one read brought, in order: as
    /// many complete frames as there are, but no more than about 128 KiB and a thousand frames beyond the first. Returns how
    /// many frames it appended; 0 means that the peer has closed its sending side and everything it sent
    /// has been handed over.
    ///
    /// A frame is handed over whole, without its line end. One that is longer than
    /// [`Limits::max_line`] is replaced by [`InputFrame::Oversized`](crate::InputFrame::Oversized) as soon as that
    /// is known, and its bytes are dropped as they come: memory stays bounded.
    ///
    /// Cancel-safe: dropping the future loses no input.
    ///
    /// # Errors
    ///
    /// An error ends the session; no other method but [`close`](Session::close) is called after it.
    async fn recv(&mut self, input: &mut Input) -> io::Result<usize>;

    /// Sends a batch of replies, one frame for each frame received, in order: with one write, if the
    /// peer takes it. Returns when everything is handed to the operating system; waits while the peer
    /// takes nothing. A frame may be empty (a message-based transport sends an empty message, a
    /// byte stream sends nothing) or an [`OutputFrame::Part`](crate::OutputFrame::Part), which the next frame, maybe
    /// of the next batch, continues. It waits no longer than [`Limits::write_timeout`] without progress.
    ///
    /// Not cancel-safe: after dropping the future only [`close`](Session::close) may be called.
    ///
    /// # Errors
    ///
    /// As for [`recv`](Session::recv).
    async fn send(&mut self, output: &Output) -> io::Result<()>;

    /// Whether a line of HTTP ends the session. Then the server runs nothing from that line on, and closes.
    ///
    /// To be true where a web page can have a browser connect and send what the page likes, line by line: on a bare
    /// TCP port. Not on a Unix socket, which no browser connects to, nor where a handshake shuts out other
    /// protocols. Such a session also says how an oversized line began and ended, by
    /// [`InputFrame::OversizedEnds`](crate::InputFrame::OversizedEnds) after the
    /// [`InputFrame::Oversized`](crate::InputFrame::Oversized), as soon as
    /// that is known.
    fn refuses_http(&self) -> bool {
        false
    }

    /// Says goodbye, where the transport has a way to (a WebSocket close frame).
    ///
    /// Called at most once, after everything the connection held is free, under a time limit of the
    /// caller's: it may be dropped at any point, or never be called.
    async fn close(self: Box<Self>) {}
}

/// A transport that has started to listen.
///
/// A transport yields [`Pending`] connections; other items are steps on the way there, such as byte streams.
pub struct Listener<T = Pending> {
    /// The actual address: with the port that the system chose for port 0.
    pub address: Address,
    /// Connections that arrive.
    pub incoming: Incoming<T>,
}

/// Connections that arrive.
///
/// An error is one failed accept (out of descriptors, or a peer that reset the connection before it was accepted).
/// The server logs it, pauses and polls again, so a transport must not retry, log, or end its stream for it. The end
/// of the stream means that no more connections will arrive; the server then continues with its other transports.
pub type Incoming<T = Pending> = Pin<Box<dyn Stream<Item = io::Result<T>> + Send>>;

/// An accepted connection before its handshake.
///
/// Dropping it closes the connection without telling the peer why.
pub struct Pending {
    /// Where it comes from.
    pub peer: Peer,
    /// What makes it a session.
    pub handshake: Box<dyn Handshake>,
}

impl Pending {
    /// Returns a connection that needs a handshake.
    pub fn new(peer: Peer, handshake: impl Handshake + 'static) -> Pending {
        Pending {
            peer,
            handshake: Box::new(handshake),
        }
    }

    /// Returns a connection that needs no handshake. A refusal just closes it.
    pub fn ready(peer: Peer, session: impl Session + 'static) -> Pending {
        Pending::new(peer, ready(Ok(Some(Established::new(session)))))
    }

    /// Refuses the connection because a limit is reached: see [`Handshake::refuse`].
    pub fn refuse(self) {
        self.handshake.refuse();
    }
}

/// The step that makes an accepted connection a session, or refuses it.
#[async_trait]
pub trait Handshake: Send {
    /// Makes the connection a session. `None` means that the peer asked for something else and was answered, as a
    /// plain HTTP request on a WebSocket port is.
    ///
    /// The server runs it apart from accepting, and under a time limit, so it may be dropped at any point. A
    /// handshake that is ready at the first poll costs no task.
    ///
    /// # Errors
    ///
    /// The server logs the error and drops the connection.
    async fn establish(self: Box<Self>) -> io::Result<Option<Established>>;

    /// Closes the connection because the server has reached a limit. A transport that can tell its peer the reason
    /// (a WebSocket by status 503) does so here. Must not block: the server calls this between two accepts.
    fn refuse(self: Box<Self>) {}
}

/// Result of a handshake: the session, and who the peer is.
pub struct Established {
    /// The session.
    pub session: Box<dyn Session>,
    /// The peer's identity.
    pub identity: Identity,
}

impl Established {
    /// Returns a session whose peer has not identified itself.
    pub fn new(session: impl Session + 'static) -> Established {
        Established {
            session: Box::new(session),
            identity: Identity::default(),
        }
    }

    /// Sets the peer's identity.
    pub fn with_identity(self, identity: Identity) -> Established {
        Established { identity, ..self }
    }
}

/// A future is a handshake that tells a refused peer nothing.
#[async_trait]
impl<F: Future<Output = io::Result<Option<Established>>> + Send> Handshake for F {
    async fn establish(self: Box<Self>) -> io::Result<Option<Established>> {
        (*self).await
    }
}

/// Who a peer is, as far as its handshake has settled it.
///
/// Empty for now: no handshake authenticates a peer yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {}

/// Where a connection comes from, as clients are shown it: `127.0.0.1:57871`, `unix:3`.
///
/// It is shown, never compared: connections are told apart by an identity of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    name: Box<str>,
    ip: Option<IpAddr>,
}

impl Peer {
    /// The peer of that name. White space is left out, since it would break the lines of a listing.
    pub fn new(name: &str) -> Peer {
        Peer {
            name: name.split_whitespace().collect::<String>().into(),
            ip: None,
        }
    }

    /// This peer as one that comes from this IP address: whose connections a server may limit.
    pub fn with_ip(self, ip: IpAddr) -> Peer {
        let ip = Some(ip.to_canonical());
        Peer { ip, ..self }
    }

    /// The peer's name.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The IP address it comes from, if it does; of an IPv4 peer, the IPv4 address.
    pub fn ip(&self) -> Option<IpAddr> {
        self.ip
    }
}

impl From<SocketAddr> for Peer {
    /// `ip:port`; an IPv4 peer of a dual-stack socket is shown as plain IPv4.
    fn from(address: SocketAddr) -> Peer {
        let plain = SocketAddr::new(address.ip().to_canonical(), address.port());
        let shown = match plain {
            SocketAddr::V4(_) => plain,
            // `SocketAddr::new` forgets the zone, which is part of a link-local peer.
            SocketAddr::V6(_) => address,
        };
        Peer {
            name: shown.to_string().into(),
            ip: Some(plain.ip()),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}

/// Where a transport listens.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Address {
    /// An IP address and a port.
    Ip(SocketAddr),
    /// A file.
    Path(PathBuf),
    /// Anything else that has a name.
    Name(String),
}

impl Address {
    /// The IP address and port, if that is what it is.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Address::Ip(address) => Some(*address),
            Address::Path(_) | Address::Name(_) => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(address) => address.fmt(formatter),
            Address::Path(path) => path.display().fmt(formatter),
            Address::Name(name) => name.fmt(formatter),
        }
    }
}

/// What a server allows a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of a line without its line end, or of a message. At most 2³⁰.
    pub max_line: usize,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// How long a peer may take nothing of what is sent to it; `None`: for ever. To be timed within
    /// [`Session::send`], which then fails with [`TimedOut`](io::ErrorKind::TimedOut).
    pub write_timeout: Option<Duration>,
    /// How long a peer may be silent before a transport that could lose it without a word asks whether it
    /// is there, and gives it up if it does not answer within about another 15 s; `None`: for ever.
    pub keepalive: Option<Duration>,
}

impl Limits {
    /// The largest [`max_line`](Limits::max_line): positions in a batch are 32-bit.
    pub const MAX_LINE_CEILING: usize = 1 << 30;

    /// Shortest time after which a client over TCP or WebSocket is given up that is not heard of: at the end of the
    /// probes that follow [`keepalive`](Limits::keepalive); without these, at the end of
    /// [`write_timeout`](Limits::write_timeout), if there is something that it does not take. `None`: never.
    ///
    /// A client that knows this can stop in time to work under locks that may be another's.
    pub fn peer_timeout(&self) -> Option<Duration> {
        let probed = self.keepalive.map(|keepalive| {
            // The kernel takes whole seconds, and not any number of them.
            let seconds = keepalive.as_secs().min(LONGEST_IDLE.as_secs());
            Duration::from_secs(seconds) + PROBES * PROBE_INTERVAL
        });
        probed.or(self.write_timeout)
    }

    /// These limits with another [`max_line`](Limits::max_line), brought into `1..=2³⁰`.
    pub fn with_max_line(self, bytes: usize) -> Limits {
        let max_line = bytes.clamp(1, Self::MAX_LINE_CEILING);
        Limits { max_line, ..self }
    }

    /// These limits with another [`handshake_timeout`](Limits::handshake_timeout).
    pub fn with_handshake_timeout(self, handshake_timeout: Duration) -> Limits {
        Limits {
            handshake_timeout,
            ..self
        }
    }

    /// These limits with another [`write_timeout`](Limits::write_timeout).
    pub fn with_write_timeout(self, write_timeout: Option<Duration>) -> Limits {
        Limits {
            write_timeout,
            ..self
        }
    }

    /// These limits with another [`keepalive`](Limits::keepalive).
    pub fn with_keepalive(self, keepalive: Option<Duration>) -> Limits {
        Limits { keepalive, ..self }
    }
}

impl Default for Limits {
    /// 131,072 bytes, and 10, 30 and 15 seconds.
    fn default() -> Limits {
        Limits {
            max_line: 131_072,
            handshake_timeout: Duration::from_secs(10),
            write_timeout: Some(Duration::from_secs(30)),
            keepalive: Some(Duration::from_secs(15)),
        }
    }
}

/// Why a transport could not listen. Names what it could not listen on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The operating system refused.
    #[error("cannot listen on {address}: {source}")]
    Refused {
        /// Where it was to listen.
        address: Address,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another process answers on this socket file.
    #[error("cannot listen on {address}: another process listens there")]
    InUse {
        /// Where it was to listen.
        address: Address,
    },
    /// There is a file of that name which is no socket. It was left alone.
    #[error("cannot listen on {address}: there is a file that is no socket")]
    NoSocket {
        /// Where it was to listen.
        address: Address,
    },
    /// The path or the abstract name of a Unix socket is longer than the kernel takes.
    #[error(
        "cannot listen on {address}: it has {length} bytes, and a Unix socket takes at most {limit}"
    )]
    TooLong {
        /// Where it was to listen.
        address: Address,
        /// Bytes that it has.
        length: usize,
        /// Bytes that it may have.
        limit: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_shown_as_go_prints_them() {
        let check = |address: &str, expect: &str| {
            let address: SocketAddr = address.parse().unwrap();
            let peer = Peer::from(address);
            assert_eq!(peer.as_str(), expect);
            let ip = peer.ip().unwrap().to_string();
            assert!(expect.trim_start_matches('[').starts_with(&ip), "{ip}");
        };
        check("127.0.0.1:57871", "127.0.0.1:57871");
        check("[::1]:57871", "[::1]:57871");
        check("[::ffff:10.1.2.3]:80", "10.1.2.3:80");
        check("[fe80::1%2]:80", "[fe80::1%2]:80");
    }

    #[test]
    fn peer_timeout_is_the_soonest_that_a_client_is_given_up() {
        let check = |keepalive: Option<u64>, write: Option<u64>, expect: Option<u64>| {
            let limits = Limits::default()
                .with_keepalive(keepalive.map(Duration::from_millis))
                .with_write_timeout(write.map(Duration::from_millis));
            assert_eq!(limits.peer_timeout(), expect.map(Duration::from_millis));
        };
        check(Some(15_000), Some(30_000), Some(30_000));
        check(Some(60_000), Some(30_000), Some(75_000));
        check(Some(1_900), None, Some(16_000));
        check(Some(1), Some(1), Some(15_000));
        check(Some(u64::MAX), None, Some(32_782_000));
        check(None, Some(2_000), Some(2_000));
        check(None, None, None);
    }

    #[test]
    fn peers_have_no_white_space() {
        assert_eq!(Peer::new(" child\t1\u{A0}of 2\n").as_str(), "child1of2");
    }

    #[test]
    fn an_ipv4_address_is_one_however_it_came() {
        let peer = |ip: &str| Peer::new("x").with_ip(ip.parse().unwrap());
        assert_eq!(peer("::ffff:10.1.2.3"), peer("10.1.2.3"));
        assert_eq!(Peer::new("x").ip(), None);
    }
}
