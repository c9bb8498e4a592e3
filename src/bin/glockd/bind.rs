//! `-bind`: which of the addresses that it names are listened on.
//!
//! A default container has no `::1`, and a list for all hosts must work there, too. So an address may be named
//! as one that is passed over where it is missing. Whether it is missing is asked before anything is listened
//! on, so that whatever else goes wrong with it is an error.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::ConfigError;

/// An address that was named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bind {
    pub(crate) ip: IpAddr,
    /// A missing address is passed over, rather than an error.
    pub(crate) optional: bool,
}

/// Addresses to listen on, and those passed over.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// Addresses to listen on.
    pub(crate) listen: Vec<IpAddr>,
    /// Addresses that are missing on this host.
    pub(crate) missing: Vec<IpAddr>,
    /// Addresses that another one includes.
    pub(crate) included: Vec<IpAddr>,
}

/// Reads one element of a list: an address, one that may be missing, or `localhost`. `None` if it is none of
/// them.
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

/// Adds an address, once: one that must be there stays so if it is named again.
pub(crate) fn add(binds: &mut Vec<Bind>, new: Bind) {
    match binds.iter_mut().find(|bind| bind.ip == new.ip) {
        Some(bind) => bind.optional &= new.optional,
        None => binds.push(new),
    }
}

/// Chooses the addresses to listen on. A socket of all addresses includes each: a second one would be told that
/// the port is taken.
///
/// # Errors
///
/// If an address is missing that must be there, or all are.
pub(crate) fn choose(
    binds: &[Bind],
    is_missing: impl Fn(IpAddr) -> bool,
) -> Result<Chosen, ConfigError> {
    let mut chosen = Chosen::default();
    let mut present = Vec::new();
    for &Bind { ip, optional } in binds {
        match is_missing(ip) {
            false => present.push(ip),
            true if optional => chosen.missing.push(ip),
            true => return Err(ConfigError::Missing { ip }),
        }
    }
    if present.is_empty() {
        return Err(ConfigError::AllMissing);
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

/// Whether a socket of the one address also gets what is sent to the other. That of `::` takes both families.
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

    /// What comes of a list on a host that lacks these addresses, as `listen; missing; included`.
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
    fn an_address_that_may_be_missing_is_passed_over() {
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
    fn an_address_that_must_be_there_is_an_error_if_it_is_not() {
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
    fn one_address_at_least_must_be_there() {
        let none = "cannot listen on any address of -bind: this host has none of them";
        assert_eq!(chosen("-::1", "::1"), none);
        assert_eq!(chosen("localhost", "::1,127.0.0.1"), none);
    }

    #[test]
    fn an_address_that_another_includes_is_not_listened_on() {
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
    fn nothing_else_is_an_address() {
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
