//! Where a server is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use http::Uri;

/// Where a server is: `tcp://HOST[:PORT]`, `unix:PATH`, or `ws://HOST[:PORT][/PATH]`.
///
/// Ports are those of a glockd that was told nothing: 9999, and 9998 for WebSockets. IPv6 addresses stand in
/// brackets, `tcp://[::1]:9999`; `unix:///run/glockd.sock` is as good as `unix:/run/glockd.sock`. A path that begins with
/// `@`, as in `unix:@glockd`, names a socket in the abstract namespace of Linux.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Endpoint {
    /// Lines over TCP.
    Tcp {
        /// A name or an IP address, without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// Lines over a Unix socket. In the abstract namespace of Linux, the path begins with a NUL.
    Unix(PathBuf),
    /// A WebSocket.
    WebSocket {
        /// A name or an IP address, without brackets.
        host: String,
        /// The port.
        port: u16,
        /// What is asked for there, from its `/` on.
        path: String,
    },
}

/// Why a text is no [`Endpoint`].
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no server: {problem} (tcp://HOST[:PORT], unix:PATH or ws://HOST[:PORT]/)")]
pub struct EndpointError {
    text: String,
    problem: &'static str,
}

impl fmt::Debug for EndpointError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Endpoint, EndpointError> {
        parse(text).map_err(|problem| EndpointError {
            text: text.to_owned(),
            problem,
        })
    }
}

fn parse(text: &str) -> Result<Endpoint, &'static str> {
    if let Some(path) = text.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        return match path {
            "" => Err("it lacks the path of the socket"),
            path => Ok(Endpoint::Unix(match path.strip_prefix('@') {
                Some(name) => format!("\0{name}").into(),
                None => path.into(),
            })),
        };
    }
    let Some((scheme, _)) = text.split_once("://") else {
        return Err("it does not begin with a scheme");
    };
    let default = match scheme {
        "tcp" => 9999,
        "ws" => 9998,
        "wss" => return Err("glockd speaks no TLS"),
        _ => return Err("its scheme is unknown"),
    };
    let uri: Uri = text
        .parse()
        .map_err(|_| "it lacks a host, or has a bad one")?;
    let authority = uri.authority().ok_or("it lacks a host")?;
    if authority.as_str().contains('@') {
        return Err("glockd knows no users");
    }
    let host = authority.host();
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let port = match &authority.as_str()[host.len()..] {
        "" => default,
        port => port[1..].parse().map_err(|_| "its port is no port")?,
    };
    let host = bare.unwrap_or(host).to_owned();
    if host.is_empty() {
        return Err("it lacks a host");
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    match scheme {
        "ws" => Ok(Endpoint::WebSocket {
            host,
            port,
            path: path.to_owned(),
        }),
        _ if path == "/" => Ok(Endpoint::Tcp { host, port }),
        _ => Err("a tcp:// has no path"),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp { host, port } => write!(formatter, "tcp://{}", Authority(host, *port)),
            Endpoint::Unix(path) => {
                let path = path.to_string_lossy();
                match path.strip_prefix('\0') {
                    Some(name) => write!(formatter, "unix:@{name}"),
                    None => write!(formatter, "unix:{path}"),
                }
            }
            Endpoint::WebSocket { host, port, path } => {
                write!(formatter, "ws://{}{path}", Authority(host, *port))
            }
        }
    }
}

struct Authority<'a>(&'a str, u16);

impl fmt::Display for Authority<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Authority(host, port) = self;
        match host.contains(':') {
            true => write!(formatter, "[{host}]:{port}"),
            false => write!(formatter, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        for (text, full) in [
            ("tcp://localhost", "tcp://localhost:9999"),
            ("tcp://localhost/", "tcp://localhost:9999"),
            ("tcp://10.0.0.7:1", "tcp://10.0.0.7:1"),
            ("tcp://[::1]:77", "tcp://[::1]:77"),
            ("unix:/run/g.sock", "unix:/run/g.sock"),
            ("unix:///run/g.sock", "unix:/run/g.sock"),
            ("unix:g.sock", "unix:g.sock"),
            ("unix:@glockd", "unix:@glockd"),
            ("ws://host", "ws://host:9998/"),
            ("ws://[::1]/a?b=c", "ws://[::1]:9998/a?b=c"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), full);
            assert_eq!(full.parse(), Ok(endpoint));
        }
    }

    #[test]
    fn what_is_none_says_why() {
        for (text, problem) in [
            ("", "scheme"),
            ("localhost:9999", "scheme"),
            ("unix:", "path"),
            ("http://host", "scheme is unknown"),
            ("wss://host", "TLS"),
            ("tcp://", "host"),
            ("tcp://:9999", "host"),
            ("tcp://a b", "host"),
            ("tcp://me@host", "users"),
            ("tcp://host:port", "port"),
            ("tcp://host:70000", "port"),
            ("tcp://host:", "port"),
            ("tcp://host/path", "no path"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
            assert!(error.contains("tcp://HOST[:PORT]"), "{error}");
        }
    }
}
