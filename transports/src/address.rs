//! Names of peers and of the places where transports listen.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Where a connection comes from, as clients see it: `127.0.0.1:57871`, `unix:3`.
///
/// The name is for display only. The server tells connections apart by ids of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    name: Box<str>,
    ip: Option<IpAddr>,
}

impl Peer {
    /// Returns a peer with this name. White space is removed, since it would break the lines of a listing.
    pub fn new(name: &str) -> Peer {
        Peer {
            name: name.split_whitespace().collect::<String>().into(),
            ip: None,
        }
    }

    /// Sets the IP address that the peer comes from. A server can limit the number of connections from one address.
    pub fn with_ip(self, ip: IpAddr) -> Peer {
        let ip = Some(ip.to_canonical());
        Peer { ip, ..self }
    }

    /// Returns the peer's name.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// Returns the peer's IP address, if it has one. For an IPv4 peer it is always an IPv4 address.
    pub fn ip(&self) -> Option<IpAddr> {
        self.ip
    }
}

impl From<SocketAddr> for Peer {
    /// Returns a peer named `ip:port`. An IPv4 peer of a dual-stack socket is shown as plain IPv4.
    fn from(address: SocketAddr) -> Peer {
        let plain = SocketAddr::new(address.ip().to_canonical(), address.port());
        let shown = match plain {
            SocketAddr::V4(_) => plain,
            // `SocketAddr::new` drops the zone, which is part of a link-local address.
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
    /// A socket file.
    Path(PathBuf),
    /// Any other name.
    Name(String),
}

impl Address {
    /// Returns the IP address and port, if it has them.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_is_shown_as_go_prints_it() {
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
    fn peer_name_has_no_white_space() {
        assert_eq!(Peer::new(" child\t1\u{A0}of 2\n").as_str(), "child1of2");
    }

    #[test]
    fn mapped_ipv4_address_equals_the_plain_one() {
        let peer = |ip: &str| Peer::new("x").with_ip(ip.parse().unwrap());
        assert_eq!(peer("::ffff:10.1.2.3"), peer("10.1.2.3"));
        assert_eq!(Peer::new("x").ip(), None);
    }
}
