//! Web pages that may open a WebSocket here.
//!
//! A browser lets any page connect to any address that the browser can reach, and names the page's site in `Origin`
//! (RFC 6454). So a server that trusts its network has to check `Origin`.
//!
//! An origin that equals the request's own host proves nothing by itself. By DNS rebinding, a page of `evil.example`
//! has that name resolved to this server, and the browser then sends the name in both `Origin` and `Host`. But no
//! attacker can choose what an IP address or `localhost` means, and no attacker owns a name that the operator
//! trusts. Therefore `same` holds for these hosts alone.

use std::net::{Ipv4Addr, Ipv6Addr};

use hyper::HeaderMap;
use hyper::header::{HOST, HeaderName, ORIGIN};

/// Origins that may open a WebSocket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    /// `None` means any.
    allowed: Option<Vec<Allowed>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Allowed {
    /// The host and port that the request is sent to, unless DNS rebinding could be behind them; and requests without
    /// an origin.
    Same,
    /// A host on any port, or a host and a port.
    Host(Box<str>),
}

impl Origins {
    /// Admits requests from any origin, and without one.
    pub const ANY: Origins = Origins { allowed: None };

    /// Parses a list, separated by commas, of
    ///
    /// - hosts: `example.com` (on any port and with any scheme) or `example.com:8080`;
    /// - `same`: an origin whose host and port are those in the request's `Host`, if that host is an IP address,
    ///   `localhost`, or also on this list; and a request without an origin, which programs other than browsers send;
    /// - or `all` alone: any origin.
    ///
    /// # Errors
    ///
    /// [`OriginError`] if an element is none of these, or `all` is not alone.
    pub fn parse(list: &str) -> Result<Origins, OriginError> {
        let parts: Vec<&str> = list.split(',').map(str::trim).collect();
        if parts == ["all"] {
            return Ok(Origins::ANY);
        }
        let allowed = parts.into_iter().map(|part| match part {
            "same" => Ok(Allowed::Same),
            "all" => Err(OriginError::AllAmongOthers),
            host if may_be_host(host) => Ok(Allowed::Host(host.into())),
            other => Err(OriginError::NoHost(other.to_owned())),
        });
        Ok(Origins {
            allowed: Some(allowed.collect::<Result<_, _>>()?),
        })
    }

    /// Returns true if a request with these headers may open a WebSocket.
    pub(super) fn admit(&self, headers: &HeaderMap) -> bool {
        let Some(allowed) = &self.allowed else {
            return true;
        };
        if !headers.contains_key(ORIGIN) {
            return allowed.contains(&Allowed::Same);
        }
        // `null` is what browsers send for pages without an origin, and matches no element.
        let Some((_, authority)) =
            only(headers, ORIGIN).and_then(|origin| origin.split_once("://"))
        else {
            return false;
        };
        allowed.iter().any(|allowed| match allowed {
            Allowed::Same => {
                only(headers, HOST).is_some_and(|host| host.eq_ignore_ascii_case(authority))
                    && self.trusts(host_of(authority))
            }
            Allowed::Host(host) => {
                host.eq_ignore_ascii_case(authority)
                    || host.eq_ignore_ascii_case(host_of(authority))
            }
        })
    }

    /// Returns true if DNS rebinding cannot be behind this host.
    ///
    /// An IP address counts only in the notation that browsers send, whatever the page wrote: `127.0.0.1`, not
    /// `0x7f.1`.
    fn trusts(&self, host: &str) -> bool {
        let is_address = host.parse::<Ipv4Addr>().is_ok() || is_ipv6_literal(host);
        let is_listed = |allowed: &Allowed| match allowed {
            Allowed::Same => false,
            Allowed::Host(listed) => host_of(listed).eq_ignore_ascii_case(host),
        };
        is_address
            || host.eq_ignore_ascii_case("localhost")
            || self.allowed.iter().flatten().any(is_listed)
    }
}

/// The reason why a list of [`Origins`] is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OriginError {
    /// An element is not a host, and so would never match.
    #[error("{0:?} is not a host, nor a host and a port")]
    NoHost(String),
    /// `all` is beside other elements, which it makes meaningless.
    #[error("\"all\" admits every page, so it cannot be combined with other hosts")]
    AllAmongOthers,
}

/// Returns the value of a header that is present once. Of several values, another program may use a different one.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).into_iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Returns true if this can be a host, with or without a port, rather than a URL or a pattern.
fn may_be_host(text: &str) -> bool {
    let host = host_of(text);
    let port = text[host.len()..].strip_prefix(':');
    let of_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let is_name = !host.is_empty() && host.bytes().all(of_host);
    (is_name || is_ipv6_literal(host)) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// Returns true if this is an IPv6 address in brackets.
fn is_ipv6_literal(host: &str) -> bool {
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
}

/// Returns an authority without its port. The colons of an IPv6 address are in brackets.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    #[track_caller]
    fn check(list: &str, origin: Option<&str>, expect: bool) {
        let mut headers = headers(&[(HOST, "locks.example:9998")]);
        if let Some(origin) = origin {
            headers.insert(ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        let origins = match list {
            "" => Origins::ANY,
            list => Origins::parse(list).unwrap(),
        };
        let admitted = origins.admit(&headers);
        assert_eq!(admitted, expect, "{list:?}, {origin:?}");
    }

    /// Checks a page whose host is the host of the request.
    #[track_caller]
    fn check_same(list: &str, host: &str, expect: bool) {
        for scheme in ["http", "https"] {
            let origin = format!("{scheme}://{host}");
            let headers = headers(&[(HOST, host), (ORIGIN, &origin)]);
            let admitted = Origins::parse(list).unwrap().admit(&headers);
            assert_eq!(admitted, expect, "{list:?}, {origin:?}");
        }
    }

    #[test]
    fn any_origin_is_admitted_without_a_list() {
        assert_eq!(Origins::parse("all"), Ok(Origins::ANY));
        for origin in [None, Some("https://evil.example"), Some("null"), Some("")] {
            check("", origin, true);
        }
    }

    #[test]
    fn elements_that_would_never_match_are_errors() {
        for part in [
            "",
            "*",
            "http://a",
            "a/b",
            "a:",
            "a:99999",
            "a b",
            "[::1",
            "::1",
            "[1.2.3.4]",
        ] {
            let error = Origins::parse(&format!("same,{part}")).unwrap_err();
            assert_eq!(error, OriginError::NoHost(part.to_owned()));
        }
    }

    #[test]
    fn all_among_others_is_an_error() {
        for list in ["same,all", "all,same", "a.example, all", "all,all", "all,"] {
            let error = Origins::parse(list).unwrap_err();
            assert_eq!(error, OriginError::AllAmongOthers, "{list}");
        }
    }

    #[test]
    fn listed_hosts_are_admitted() {
        let list = "example.com, Other.example:8080,[::1]";
        check(list, Some("https://example.com"), true);
        check(list, Some("http://EXAMPLE.com:81"), true);
        check(list, Some("http://other.example:8080"), true);
        check(list, Some("http://[::1]:3000"), true);
        check(list, Some("http://other.example"), false);
        check(list, Some("http://other.example:80"), false);
        check(list, Some("https://example.com.evil.example"), false);
        check(list, Some("https://evil.example/example.com"), false);
        check(list, Some("https://sub.example.com"), false);
        check(list, Some("example.com"), false);
        check(list, Some("null"), false);
        check(list, None, false);
    }

    #[test]
    fn same_admits_requests_without_origin_and_no_other_host() {
        check("same", None, true);
        check("same", Some("http://evil.example"), false);
        check("same", Some("null"), false);
        check("same", Some(""), false);
        check("same,evil.example", Some("http://evil.example"), true);
    }

    #[test]
    fn same_holds_for_addresses_and_localhost() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:9998",
            "10.1.2.3:80",
            "[::1]",
            "[::1]:9998",
            "[FE80::1]:9998",
            "[::ffff:127.0.0.1]",
            "localhost",
            "LocalHost:9998",
        ] {
            check_same("same", host, true);
        }
    }

    #[test]
    fn same_does_not_hold_for_names_that_dns_could_rebind() {
        for host in [
            "evil.example:9998",
            "evil.example",
            "localhost.:9998",
            "localhost.evil.example",
            "page.localhost",
            "evil-localhost",
            "127.0.0.1.",
            "127.0.0.1.evil.example",
            "127.1",
            "0x7f.1",
            "0177.0.0.1",
            "127.0.0.01",
            "2130706433",
            "[::1",
            "[::1%25lo]",
            "[127.0.0.1]",
            "::1",
            "1:9998",
            "me@127.0.0.1",
            "127.0.0.1:80@evil.example",
            "127.0.0.1/evil",
            "",
            ":9998",
        ] {
            check_same("same", host, false);
        }
    }

    #[test]
    fn same_holds_for_listed_names() {
        check_same("same,locks.example", "locks.example:9998", true);
        check_same("same,locks.example:80", "LOCKS.example:9998", true);
        check_same("same,locks.example", "locks.example.:9998", false);
        check_same("same,locks.example", "evil.example:9998", false);
        check_same("locks.example:80", "locks.example:9998", false);
    }

    #[test]
    fn same_compares_host_and_port() {
        let check = |host: &str, origin: &str, expect: bool| {
            let headers = headers(&[(HOST, host), (ORIGIN, origin)]);
            let admitted = Origins::parse("same").unwrap().admit(&headers);
            assert_eq!(admitted, expect, "{host:?}, {origin:?}");
        };
        check("127.0.0.1:9998", "http://127.0.0.1:9998", true);
        check("127.0.0.1:9998", "http://127.0.0.1:8080", false);
        check("127.0.0.1:9998", "http://127.0.0.1", false);
        check("127.0.0.1:9998", "http://127.0.0.2:9998", false);
        check("127.0.0.1:9998", "http://localhost:9998", false);
        check("[::1]:9998", "http://[0:0:0:0:0:0:0:1]:9998", false);
        check("127.0.0.1", "127.0.0.1", false);
    }

    #[test]
    fn ambiguous_headers_are_not_admitted() {
        const HERE: &str = "127.0.0.1:9998";
        const PAGE: &str = "http://127.0.0.1:9998";
        let list = Origins::parse("same,a.example").unwrap();
        for pairs in [
            &[(ORIGIN, PAGE)][..],
            &[(ORIGIN, PAGE), (HOST, HERE), (HOST, HERE)],
            &[(ORIGIN, PAGE), (HOST, HERE), (HOST, "evil.example")],
            &[(ORIGIN, PAGE), (ORIGIN, "null"), (HOST, HERE)],
            &[(ORIGIN, "http://a.example"), (ORIGIN, PAGE), (HOST, HERE)],
        ] {
            assert!(!list.admit(&headers(pairs)), "{pairs:?}");
        }
        assert!(list.admit(&headers(&[(ORIGIN, PAGE), (HOST, HERE)])));
    }
}
