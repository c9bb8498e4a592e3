//! The address of a server.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use http::Uri;

/// The address of a server: `tcp://HOST[:PORT]`, `unix:PATH`, or `ws://HOST[:PORT][/PATH]`.
///
/// The default ports are those of glockd: 9999 for TCP and 9998 for WebSocket. IPv6 addresses are written in brackets,
/// as in `tcp://[::1]:9999`. `unix:///run/glockd.sock` means the same as `unix:/run/glockd.sock`. A path that begins
/// with `@`, as in `unix:@glockd`, names a socket in the abstract namespace of Linux.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Endpoint {
    /// The line protocol over TCP.
    Tcp {
        /// Host name or IP address, without brackets. `localhost` means `::1` and `127.0.0.1`, and is not looked up.
        host: String,
        /// Port.
        port: u16,
    },
    /// The line protocol over a Unix socket. A path that begins with a NUL byte is a name in the abstract namespace of
    /// Linux.
    Unix(PathBuf),
    /// The protocol over a WebSocket.
    WebSocket {
        /// Host name or IP address, as for TCP.
        host: String,
        /// Port.
        port: u16,
        /// Path and query of the HTTP request, beginning with `/`.
        path: String,
    },
}

/// The error for a text that is not an [`Endpoint`].
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a server address: {problem} \
     (expected tcp://HOST[:PORT], unix:PATH or ws://HOST[:PORT]/)"
)]
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
            "" => Err("the path of the socket is missing"),
            path => Ok(Endpoint::Unix(match path.strip_prefix('@') {
                Some(name) => format!("\0{name}").into(),
                None => path.into(),
            })),
        };
    }
    let Some((scheme, _)) = text.split_once("://") else {
        return Err("the scheme is missing");
    };
    let default = match scheme {
        "tcp" => 9999,
        "ws" => 9998,
        "wss" => return Err("glockd does not support TLS"),
        _ => return Err("the scheme is unknown"),
    };
    let uri: Uri = text.parse().map_err(|_| "the host is missing or invalid")?;
    let authority = uri.authority().ok_or("the host is missing")?;
    if authority.as_str().contains('@') {
        return Err("glockd does not support users");
    }
    let host = authority.host();
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let port = match &authority.as_str()[host.len()..] {
        "" => default,
        port => port[1..].parse().map_err(|_| "the port is invalid")?,
    };
    let host = bare.unwrap_or(host).to_owned();
    if host.is_empty() {
        return Err("the host is missing");
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    match scheme {
        "ws" => Ok(Endpoint::WebSocket {
            host,
            port,
            path: path.to_owned(),
        }),
        _ if path == "/" => Ok(Endpoint::Tcp { host, port }),
        _ => Err("a tcp:// address must not have a path"),
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
    fn endpoint_is_parsed_and_displayed_in_full() {
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
    fn invalid_endpoint_error_names_the_problem() {
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
            ("tcp://host/path", "not have a path"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
            assert!(error.contains("tcp://HOST[:PORT]"), "{error}");
        }
    }
}
