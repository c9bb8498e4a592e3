//! Which web pages may open a WebSocket here.
//!
//! A browser lets any page that someone visits connect to any address that it can reach, and says in
//! `Origin` (RFC 6454) which page it is. So a server that trusts its network has to look at that.

use std::net::Ipv6Addr;

use hyper::HeaderMap;
use hyper::header::{HOST, ORIGIN};

/// The origins that are welcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    /// `None`: any.
    allowed: Option<Vec<Allowed>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Allowed {
    /// The host that the request itself is sent to; and requests that come from no page.
    Same,
    /// A host, on any port, or with its port.
    Host(Box<str>),
}

impl Origins {
    /// Any, or none.
    pub const ANY: Origins = Origins { allowed: None };

    /// Those of a list, separated by commas: hosts (`example.com`, then on any port and by any scheme, or
    /// `example.com:8080`), and `same`, the host that the request itself names, which also admits
    /// requests without an origin, as programs that are no browser send them.
    ///
    /// # Errors
    ///
    /// [`NoHost`] if a part of the list is none of these, and so would never be met.
    pub fn parse(list: &str) -> Result<Origins, NoHost> {
        let allowed = list.split(',').map(|part| match part.trim() {
            "same" => Ok(Allowed::Same),
            host if may_be_host(host) => Ok(Allowed::Host(host.into())),
            other => Err(NoHost(other.to_owned())),
        });
        Ok(Origins {
            allowed: Some(allowed.collect::<Result<_, _>>()?),
        })
    }

    /// Whether a request with these headers may become a WebSocket.
    pub(super) fn admit(&self, headers: &HeaderMap) -> bool {
        let Some(allowed) = &self.allowed else {
            return true;
        };
        let Some(origin) = headers.get(ORIGIN) else {
            return allowed.contains(&Allowed::Same);
        };
        // `null` is the origin of a page that has none, and nobody's.
        let origin = origin.to_str().unwrap_or_default();
        let Some((_, authority)) = origin.split_once("://") else {
            return false;
        };
        allowed.iter().any(|allowed| match allowed {
            Allowed::Same => headers
                .get(HOST)
                .is_some_and(|host| host.as_bytes().eq_ignore_ascii_case(authority.as_bytes())),
            Allowed::Host(host) => {
                host.eq_ignore_ascii_case(authority)
                    || host.eq_ignore_ascii_case(host_of(authority))
            }
        })
    }
}

/// That something in a list of [`Origins`] is no host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no host, nor a host and a port")]
pub struct NoHost(String);

/// Whether this may be a host, with or without a port, rather than a URL or a pattern.
fn may_be_host(text: &str) -> bool {
    let host = host_of(text);
    let port = text[host.len()..].strip_prefix(':');
    let of_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let name = match host.strip_prefix('[') {
        Some(address) => address
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => !host.is_empty() && host.bytes().all(of_host),
    };
    name && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// An authority without its port. The colons of an IPv6 address stand in brackets.
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

    #[track_caller]
    fn check(list: &str, origin: Option<&str>, expect: bool) {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("locks.example:9998"));
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

    #[test]
    fn no_list_admits_any() {
        for origin in [None, Some("https://evil.example"), Some("null"), Some("")] {
            check("", origin, true);
        }
    }

    #[test]
    fn what_would_never_be_met_is_a_mistake() {
        for part in [
            "", "*", "http://a", "a/b", "a:", "a:99999", "a b", "[::1", "::1",
        ] {
            let error = Origins::parse(&format!("same,{part}")).unwrap_err();
            assert_eq!(error, NoHost(part.to_owned()));
        }
    }

    #[test]
    fn a_list_admits_its_hosts() {
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
    fn same_is_the_host_of_the_request_or_no_page() {
        check("same", None, true);
        check("same", Some("http://locks.example:9998"), true);
        check("same", Some("https://LOCKS.example:9998"), true);
        check("same", Some("http://locks.example"), false);
        check("same", Some("http://evil.example"), false);
        check("same", Some("null"), false);
        check("same,evil.example", Some("http://evil.example"), true);
    }
}
