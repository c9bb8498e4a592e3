//! `-bind`: which of its addresses the daemon listens on.
//!
//! A container has no `::1` by default, and a list for all hosts must work there, too. So an address may be optional: it is
//! skipped if the host does not have it. That is checked before the daemon listens on anything, so any other problem
//! with an optional address is still an error.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bind {
    pub(crate) ip: IpAddr,
    /// True if the address is skipped where it is missing, rather than an error.
    pub(crate) optional: bool,
}

/// Addresses to listen on, and skipped addresses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// Addresses to listen on.
    pub(crate) listen: Vec<IpAddr>,
    /// Addresses that are missing on this host.
    pub(crate) missing: Vec<IpAddr>,
    /// Addresses that another address includes.
    pub(crate) included: Vec<IpAddr>,
}

/// The reason why an address of `-bind` cannot be listened on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BindError {
    #[error(
        "cannot listen on {ip}: this host has no such address; if it may be missing, write -bind -{ip}"
    )]
    Missing { ip: IpAddr },
    #[error("cannot listen on any address of -bind: this host has none of them")]
    AllMissing,
}

/// Reads one element of a list: an address, an optional address, or `localhost`. Returns `None` for anything else.
pub(crate) fn parse(text: &str) -> Option<Vec<Bind>> {
    let bind = |ip: IpAddr, optional| Bind {
        ip: ip.to_canonical(),
        optional,
    };
    let (text, optional) = match text.strip_prefix('-') {
        Some(text) => (text, true),
        None => (text, false),
    };
    if text == "localhost" {
        let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        return Some(loopback.map(|ip| bind(ip, true)).into());
    }
    let ip = text.parse().ok()?;
    Some(vec![bind(ip, optional)])
}

/// Adds an address, unless the list has it. An address that is named once as optional and once as not is not optional.
pub(crate) fn add(binds: &mut Vec<Bind>, new: Bind) {
    match binds.iter_mut().find(|bind| bind.ip == new.ip) {
        Some(bind) => bind.optional &= new.optional,
        None => binds.push(new),
    }
}

/// Chooses the addresses to listen on. A socket on all addresses includes every single address, and a second socket would
/// fail because the port is taken.
///
/// # Errors
///
/// If an address is missing that is not optional, or if all addresses are missing.
pub(crate) fn choose(
    binds: &[Bind],
    is_missing: impl Fn(IpAddr) -> bool,
) -> Result<Chosen, BindError> {
    let mut chosen = Chosen::default();
    let mut present = Vec::new();
    for &Bind { ip, optional } in binds {
        match is_missing(ip) {
            false => present.push(ip),
            true if optional => chosen.missing.push(ip),
            true => return Err(BindError::Missing { ip }),
        }
    }
    if present.is_empty() {
        return Err(BindError::AllMissing);
    }
    for &ip in &present {
        let is_included = present.iter().any(|&other| includes(other, ip));
        let list = match is_included {
            true => &mut chosen.included,
            false => &mut chosen.listen,
        };
        list.push(ip);
    }
    Ok(chosen)
}

/// Returns whether a socket on one address also receives connections to the other. A socket on `::` takes both families.
fn includes(one: IpAddr, other: IpAddr) -> bool {
    one != other
        && match one {
            IpAddr::V4(one) => one.is_unspecified() && other.is_ipv4(),
            IpAddr::V6(one) => one.is_unspecified(),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the choice for a list on a host that lacks these addresses, as `listen; missing; included`.
    fn chosen(list: &str, lacks: &str) -> String {
        let mut binds = Vec::new();
        for part in list.split(',') {
            for bind in parse(part).unwrap() {
                add(&mut binds, bind);
            }
        }
        let lacks: Vec<&str> = lacks.split(',').collect();
        let shown = |ips: &[IpAddr]| {
            let ips = ips.iter().map(IpAddr::to_string);
            ips.collect::<Vec<_>>().join(",")
        };
        match choose(&binds, |ip| lacks.contains(&&*ip.to_string())) {
            Ok(chosen) => [&chosen.listen, &chosen.missing, &chosen.included]
                .map(|ips| shown(ips))
                .join("; ")
                .trim_end_matches([';', ' '])
                .to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn missing_optional_address_is_skipped() {
        assert_eq!(chosen("127.0.0.1,-::1", ""), "127.0.0.1,::1");
        assert_eq!(chosen("127.0.0.1,-::1", "::1"), "127.0.0.1; ::1");
        assert_eq!(chosen("-10.0.0.1,-::1", "10.0.0.1"), "::1; 10.0.0.1");
        assert_eq!(chosen("localhost", ""), "127.0.0.1,::1");
        assert_eq!(chosen("-localhost", ""), "127.0.0.1,::1");
        assert_eq!(chosen("localhost", "::1"), "127.0.0.1; ::1");
        assert_eq!(chosen("localhost", "127.0.0.1"), "::1; 127.0.0.1");
        assert_eq!(
            chosen("10.0.0.1,localhost", "::1"),
            "10.0.0.1,127.0.0.1; ::1"
        );
    }

    #[test]
    fn missing_address_is_an_error_unless_optional() {
        let missing = "cannot listen on ::1: this host has no such address; if it may be missing, write -bind -::1";
        for list in [
            "127.0.0.1,::1",
            "::1",
            "-::1,::1",
            "::1,-::1",
            "localhost,::1",
            "::,::1",
        ] {
            assert_eq!(chosen(list, "::1"), missing, "{list}");
        }
    }

    #[test]
    fn at_least_one_address_must_exist() {
        let none = "cannot listen on any address of -bind: this host has none of them";
        assert_eq!(chosen("-::1", "::1"), none);
        assert_eq!(chosen("localhost", "::1,127.0.0.1"), none);
    }

    #[test]
    fn address_that_another_includes_is_skipped() {
        assert_eq!(chosen("0.0.0.0,::", ""), "::; ; 0.0.0.0");
        assert_eq!(chosen("::,0.0.0.0", ""), "::; ; 0.0.0.0");
        assert_eq!(chosen("::,::1,10.0.0.1", ""), "::; ; ::1,10.0.0.1");
        assert_eq!(chosen("127.0.0.1,0.0.0.0", ""), "0.0.0.0; ; 127.0.0.1");
        assert_eq!(chosen("0.0.0.0,::1", ""), "0.0.0.0,::1");
        assert_eq!(
            chosen("0.0.0.0,-::,localhost", "::,::1"),
            "0.0.0.0; ::,::1; 127.0.0.1"
        );
        assert_eq!(chosen("::,::", ""), "::");
        assert_eq!(chosen("127.0.0.1,::ffff:127.0.0.1", ""), "127.0.0.1");
    }

    #[test]
    fn other_texts_are_not_addresses() {
        for text in [
            "",
            "-",
            "--::1",
            "localhost.",
            "example.org",
            "[::1]",
            " ::1",
            "all",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
