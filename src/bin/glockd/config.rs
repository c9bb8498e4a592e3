//! What the flags ask for, as plain data, and the server's parts made of it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use glockd::transports::Origins;
use glockd::{Address, Limits, Policy, Tcp, Transport, Unix, WebSocket};

use crate::bind::{self, Bind, Chosen};
use crate::go_values::Typed;

/// What the daemon is to do. Every combination is a `Config`; whether it can be done shows in
/// [`transports`](Config::transports).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// TCP port; 0: no TCP.
    pub(crate) port: Typed<i64>,
    /// WebSocket port; 0: no WebSocket.
    pub(crate) ws: Typed<i64>,
    /// Addresses that both ports are opened on; none: all.
    pub(crate) bind: Vec<Bind>,
    /// Unix socket.
    pub(crate) unix: Option<UnixSocket>,
    /// Mode of its file.
    pub(crate) unix_mode: u32,
    /// The pages that may open a WebSocket.
    pub(crate) ws_origin: Origins,
    /// Where to write the process id.
    pub(crate) pidfile: Option<PathBuf>,
    /// Bytes of a line or a message.
    pub(crate) max_line: usize,
    /// Connections at a time; `None`: as many as there are descriptors for.
    pub(crate) max_connections: Option<usize>,
    /// Connections at a time from one IP address; `None`: any number.
    pub(crate) max_connections_per_ip: Option<usize>,
    /// Locks at a time; `None`: any number.
    pub(crate) max_locks: Option<usize>,
    /// Locks at a time of one connection; `None`: any number.
    pub(crate) max_locks_per_connection: Option<usize>,
    /// How many may wait to hold a lock; `None`: any number.
    pub(crate) max_waiters: Option<usize>,
    /// Where the high-water mark of fencing tokens is kept; `None`: nowhere.
    pub(crate) state_dir: Option<PathBuf>,
    /// How long a client may be silent before it is asked for; `None`: for ever.
    pub(crate) keepalive: Option<Duration>,
    /// How long a client may take nothing of its replies; `None`: for ever.
    pub(crate) write_timeout: Option<Duration>,
    /// How long a handshake may take.
    pub(crate) handshake_timeout: Duration,
    /// Whether clients may see what others hold.
    pub(crate) dump: bool,
    /// Whether clients may give themselves names.
    pub(crate) registry: bool,
    /// Whether there are more commands than the documented ones.
    pub(crate) extensions: bool,
    /// Whether to log what clients do.
    pub(crate) verbose: bool,
}

/// Where to listen for local clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UnixSocket {
    /// At a file of this path.
    Path(PathBuf),
    /// At this abstract name, which Go and most other programs write with a `@` in front.
    Abstract(String),
}

/// Why there is nothing to bind to.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("nothing to listen on: -port and -ws are 0, and there is no -unix")]
    AllOff,
    #[error("cannot listen on -{flag} {port}: a port is from 1 to 65535, or 0 for none")]
    Port { flag: &'static str, port: String },
    #[error(
        "cannot listen on {ip}: this host has no such address; if it may be missing, write -bind -{ip}"
    )]
    Missing { ip: IpAddr },
    #[error("cannot listen on any address of -bind: this host has none of them")]
    AllMissing,
}

impl Default for Config {
    fn default() -> Config {
        let limits = Limits::default();
        Config {
            port: 9999.into(),
            ws: 9998.into(),
            bind: Vec::new(),
            unix: None,
            unix_mode: 0o766,
            ws_origin: Origins::ANY,
            pidfile: None,
            max_line: limits.max_line,
            max_connections: None,
            max_connections_per_ip: None,
            max_locks: None,
            max_locks_per_connection: None,
            max_waiters: None,
            state_dir: None,
            keepalive: limits.keepalive,
            write_timeout: limits.write_timeout,
            handshake_timeout: limits.handshake_timeout,
            dump: true,
            registry: true,
            extensions: true,
            verbose: false,
        }
    }
}

impl Config {
    /// Returns what to listen on. Looks which addresses of `-bind` this host has, and logs which are passed
    /// over.
    pub(crate) fn transports(&self) -> Result<Vec<Box<dyn Transport>>, ConfigError> {
        let mut transports: Vec<Box<dyn Transport>> = Vec::new();
        let (tcp, ws) = (port("port", &self.port)?, port("ws", &self.ws)?);
        let addresses = match tcp.or(ws) {
            Some(_) if !self.bind.is_empty() => {
                let chosen = bind::choose(&self.bind, Tcp::is_missing)?;
                log_passed_over(&chosen);
                Some(chosen.listen)
            }
            _ => None,
        };
        if let Some(port) = tcp {
            let addresses = addresses.as_deref();
            transports.extend(doors(port, addresses, Tcp::port, Tcp::address));
        }
        if let Some(port) = ws {
            let origins = |socket: WebSocket| socket.origins(self.ws_origin.clone());
            transports.extend(doors(
                port,
                addresses.as_deref(),
                |port| origins(WebSocket::port(port)),
                |address| origins(WebSocket::address(address)),
            ));
        }
        match &self.unix {
            Some(UnixSocket::Path(path)) => {
                transports.push(Box::new(Unix::path(path).mode(self.unix_mode)));
            }
            Some(UnixSocket::Abstract(name)) => {
                transports.push(Box::new(Unix::abstract_name(name)));
            }
            None => {}
        }
        if transports.is_empty() {
            return Err(ConfigError::AllOff);
        }
        Ok(transports)
    }

    /// Who can come in where a transport of this kind listens.
    pub(crate) fn audience(&self, kind: &str, address: &Address) -> String {
        let ip = match address.ip() {
            Some(address) => address.ip().to_canonical(),
            None => {
                let users = match self.unix_mode {
                    _ if matches!(address, Address::Name(_)) => "every user of this host",
                    mode if mode & 0o002 != 0 => "every user of this host",
                    mode if mode & 0o220 == 0o220 => "its owner and its group",
                    mode if mode & 0o020 != 0 => "its group",
                    mode if mode & 0o200 != 0 => "its owner",
                    _ => "root",
                };
                return users.to_owned();
            }
        };
        let hosts = match ip {
            ip if ip.is_loopback() => "this host",
            ip if ip.is_unspecified() => "every host",
            _ => "every host that reaches it",
        };
        let pages = match kind {
            "websocket" if self.ws_origin == Origins::ANY => ", and every web page",
            "websocket" => ", and the web pages of -ws-origin",
            _ => "",
        };
        format!("{hosts}{pages}")
    }

    /// What clients may do.
    pub(crate) fn policy(&self) -> Policy {
        let policy = Policy::new(self.dump, self.registry)
            .with_max_locks(self.max_locks)
            .with_max_locks_per_connection(self.max_locks_per_connection)
            .with_max_waiters(self.max_waiters);
        match self.extensions {
            true => policy,
            false => policy.without_extensions(),
        }
    }

    /// How much of it.
    pub(crate) fn limits(&self) -> Limits {
        Limits::default()
            .with_max_line(self.max_line)
            .with_keepalive(self.keepalive)
            .with_write_timeout(self.write_timeout)
            .with_handshake_timeout(self.handshake_timeout)
    }
}

/// A port of all addresses, or of each of these.
fn doors<T: Transport + 'static>(
    port: u16,
    addresses: Option<&[IpAddr]>,
    of_all: impl Fn(u16) -> T,
    of: impl Fn(SocketAddr) -> T,
) -> Vec<Box<dyn Transport>> {
    let boxed = |transport| Box::new(transport) as Box<dyn Transport>;
    match addresses {
        None => vec![boxed(of_all(port))],
        Some(addresses) => addresses
            .iter()
            .map(|&ip| boxed(of(SocketAddr::new(ip, port))))
            .collect(),
    }
}

fn port(flag: &'static str, port: &Typed<i64>) -> Result<Option<u16>, ConfigError> {
    match u16::try_from(port.value) {
        Ok(0) => Ok(None),
        Ok(port) => Ok(Some(port)),
        Err(_) => Err(ConfigError::Port {
            flag,
            port: port.to_string(),
        }),
    }
}

/// Logs, on one line, the addresses that were named and are not listened on.
fn log_passed_over(chosen: &Chosen) {
    let missing = chosen.missing.iter();
    let included = chosen.included.iter();
    let passed_over: Vec<String> = missing
        .map(|ip| format!("{ip}, which this host does not have"))
        .chain(included.map(|ip| format!("{ip}, which another address includes")))
        .collect();
    if !passed_over.is_empty() {
        tracing::info!("passed over: {}", passed_over.join("; "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doors_are_open_to_those_who_reach_them() {
        let check = |flags: Config, kind: &str, address: &str, expect: &str| {
            let address = match address.parse() {
                Ok(address) => Address::Ip(address),
                Err(_) if address.starts_with('@') => Address::Name(address.into()),
                Err(_) => Address::Path(address.into()),
            };
            assert_eq!(flags.audience(kind, &address), expect);
        };
        let default = Config::default;
        check(default(), "tcp", "[::]:9999", "every host");
        check(default(), "tcp", "[::ffff:127.0.0.1]:1", "this host");
        check(default(), "tcp", "10.0.0.1:1", "every host that reaches it");
        check(
            default(),
            "websocket",
            "0.0.0.0:1",
            "every host, and every web page",
        );
        let origins = Config {
            ws_origin: Origins::parse("same").unwrap(),
            ..default()
        };
        let expect = "this host, and the web pages of -ws-origin";
        check(origins, "websocket", "[::1]:1", expect);
        for (unix_mode, expect) in [
            (0o766, "every user of this host"),
            (0o660, "its owner and its group"),
            (0o744, "its owner"),
            (0o020, "its group"),
            (0o400, "root"),
        ] {
            let unix = Config {
                unix_mode,
                ..default()
            };
            check(unix, "unix", "/s", expect);
        }
        check(default(), "unix", "@s", "every user of this host");
    }

    #[test]
    fn what_is_off_is_not_listened_on() {
        let check = |port: i64, ws: i64, unix: Option<&str>, expect: Result<&[&str], &str>| {
            let config = Config {
                port: port.into(),
                ws: ws.into(),
                unix: unix.map(|path| UnixSocket::Path(path.into())),
                ..Config::default()
            };
            let transports = config.transports();
            let names = transports.as_ref().map(|transports| {
                let names = transports.iter().map(|transport| transport.name());
                names.collect::<Vec<_>>()
            });
            assert_eq!(
                names.as_deref().map_err(|error| error.to_string()),
                expect.map_err(str::to_owned)
            );
        };
        check(9999, 9998, None, Ok(&["tcp", "websocket"]));
        let bound = |list: &str| Config {
            bind: list.split(',').flat_map(bind::parse).flatten().collect(),
            ..Config::default()
        };
        let two = bound("127.0.0.1,127.0.0.2");
        assert_eq!(two.transports().unwrap().len(), 4);
        // They are for documentation, so no host has them.
        let one = bound("127.0.0.1,-192.0.2.1,-2001:db8::1");
        assert_eq!(one.transports().unwrap().len(), 2);
        let error = bound("-192.0.2.1").transports().err();
        assert_eq!(error, Some(ConfigError::AllMissing));
        let off = Config {
            port: 0.into(),
            ws: 0.into(),
            unix: Some(UnixSocket::Abstract("x".to_owned())),
            ..bound("-192.0.2.1")
        };
        assert_eq!(off.transports().unwrap().len(), 1);
        check(1, 0, Some("/s"), Ok(&["tcp", "unix"]));
        check(0, 65535, None, Ok(&["websocket"]));
        check(0, 0, Some("/s"), Ok(&["unix"]));
        check(
            0,
            0,
            None,
            Err("nothing to listen on: -port and -ws are 0, and there is no -unix"),
        );
        check(
            70000,
            0,
            None,
            Err("cannot listen on -port 70000: a port is from 1 to 65535, or 0 for none"),
        );
        check(
            0,
            -1,
            Some("/s"),
            Err("cannot listen on -ws -1: a port is from 1 to 65535, or 0 for none"),
        );
    }
}
