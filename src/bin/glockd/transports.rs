//! The transports that the flags ask for. Only this file names concrete transports.

use std::net::{IpAddr, SocketAddr};

use glockd::{Tcp, Transport, Unix, WebSocket};

use crate::bind::{self, BindError, Chosen};
use crate::flags::Flags;
use crate::go_values::Typed;
use crate::values::UnixSocket;

/// The reason why there is nothing to listen on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TransportsError {
    #[error("nothing to listen on: -port and -ws are 0, and there is no -unix")]
    AllOff,
    #[error("cannot listen on -{flag} {port}: a port is from 1 to 65535, or 0 for none")]
    Port { flag: &'static str, port: String },
    #[error(transparent)]
    Bind(#[from] BindError),
}

/// Returns the transports to listen on. Checks which addresses of `-bind` this host has, and logs which ones are skipped.
pub(crate) fn all(flags: &Flags) -> Result<Vec<Box<dyn Transport>>, TransportsError> {
    let mut transports: Vec<Box<dyn Transport>> = Vec::new();
    let (tcp, ws) = (port("port", &flags.port)?, port("ws", &flags.ws)?);
    let named = flags.addresses();
    let addresses = match tcp.or(ws) {
        Some(_) if !named.is_empty() => {
            let chosen = bind::choose(&named, Tcp::is_missing)?;
            log_skipped(&chosen);
            Some(chosen.listen)
        }
        _ => None,
    };
    let addresses = addresses.as_deref();
    if let Some(port) = tcp {
        transports.extend(on_each(port, addresses, Tcp::port, Tcp::address));
    }
    if let Some(port) = ws {
        let origins = |socket: WebSocket| socket.origins(flags.ws_origin.clone());
        transports.extend(on_each(
            port,
            addresses,
            |port| origins(WebSocket::port(port)),
            |address| origins(WebSocket::address(address)),
        ));
    }
    match &flags.unix {
        Some(UnixSocket::Path(path)) => {
            transports.push(Box::new(Unix::path(path).mode(flags.unix_mode)));
        }
        Some(UnixSocket::Abstract(name)) => {
            transports.push(Box::new(Unix::abstract_name(name)));
        }
        None => {}
    }
    if transports.is_empty() {
        return Err(TransportsError::AllOff);
    }
    Ok(transports)
}

/// Returns transports for a port of all addresses, or of each of these.
fn on_each<T: Transport + 'static>(
    port: u16,
    addresses: Option<&[IpAddr]>,
    on_all: impl Fn(u16) -> T,
    on_one: impl Fn(SocketAddr) -> T,
) -> Vec<Box<dyn Transport>> {
    let boxed = |transport| Box::new(transport) as Box<dyn Transport>;
    match addresses {
        None => vec![boxed(on_all(port))],
        Some(addresses) => addresses
            .iter()
            .map(|&ip| boxed(on_one(SocketAddr::new(ip, port))))
            .collect(),
    }
}

fn port(flag: &'static str, port: &Typed<i64>) -> Result<Option<u16>, TransportsError> {
    match u16::try_from(port.value) {
        Ok(0) => Ok(None),
        Ok(port) => Ok(Some(port)),
        Err(_) => Err(TransportsError::Port {
            flag,
            port: port.to_string(),
        }),
    }
}

/// Logs, on one line, the named addresses that the daemon does not listen on.
fn log_skipped(chosen: &Chosen) {
    let missing = chosen.missing.iter();
    let included = chosen.included.iter();
    let skipped: Vec<String> = missing
        .map(|ip| format!("{ip}, which this host does not have"))
        .chain(included.map(|ip| format!("{ip}, which another address includes")))
        .collect();
    if !skipped.is_empty() {
        tracing::info!("skipped: {}", skipped.join("; "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags;
    use crate::values::addresses;

    fn default() -> Flags {
        flags::parse(&[]).unwrap()
    }

    #[test]
    fn transports_that_are_off_do_not_listen() {
        let check = |port: i64, ws: i64, unix: Option<&str>, expect: Result<&[&str], &str>| {
            let flags = Flags {
                port: port.into(),
                ws: ws.into(),
                unix: unix.map(|path| UnixSocket::Path(path.into())),
                ..default()
            };
            let transports = all(&flags);
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
        let bound = |list: &str| Flags {
            bind: vec![addresses(list).unwrap()],
            ..default()
        };
        let two = bound("127.0.0.1,127.0.0.2");
        assert_eq!(all(&two).unwrap().len(), 4);
        // They are reserved for documentation, so no host has them.
        let one = bound("127.0.0.1,-192.0.2.1,-2001:db8::1");
        assert_eq!(all(&one).unwrap().len(), 2);
        let error = all(&bound("-192.0.2.1")).err();
        assert_eq!(error, Some(BindError::AllMissing.into()));
        let off = Flags {
            port: 0.into(),
            ws: 0.into(),
            unix: Some(UnixSocket::Abstract("x".to_owned())),
            ..bound("-192.0.2.1")
        };
        assert_eq!(all(&off).unwrap().len(), 1);
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
