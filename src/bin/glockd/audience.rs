//! Who can reach a transport, for the log.

use glockd::Address;
use glockd::transports::Origins;

use crate::flags::Flags;

/// Returns who can connect where a transport of this kind listens.
pub(crate) fn of(flags: &Flags, kind: &str, address: &Address) -> String {
    let ip = match address.ip() {
        Some(address) => address.ip().to_canonical(),
        None => {
            let users = match flags.unix_mode {
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
        "websocket" if flags.ws_origin == Origins::ANY => ", and every web page",
        "websocket" => ", and the web pages of -ws-origin",
        _ => "",
    };
    format!("{hosts}{pages}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags;

    #[test]
    fn audience_follows_from_address_mode_and_origins() {
        let check = |flags: Flags, kind: &str, address: &str, expect: &str| {
            let address = match address.parse() {
                Ok(address) => Address::Ip(address),
                Err(_) if address.starts_with('@') => Address::Name(address.into()),
                Err(_) => Address::Path(address.into()),
            };
            assert_eq!(of(&flags, kind, &address), expect);
        };
        let default = || flags::parse(&[]).unwrap();
        check(default(), "tcp", "[::]:9999", "every host");
        check(default(), "tcp", "[::ffff:127.0.0.1]:1", "this host");
        check(default(), "tcp", "10.0.0.1:1", "every host that reaches it");
        check(
            default(),
            "websocket",
            "0.0.0.0:1",
            "every host, and every web page",
        );
        let origins = Flags {
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
            let unix = Flags {
                unix_mode,
                ..default()
            };
            check(unix, "unix", "/s", expect);
        }
        check(default(), "unix", "@s", "every user of this host");
    }
}
