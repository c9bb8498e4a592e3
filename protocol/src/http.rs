//! Recognizes lines of HTTP, which a web page can make a browser send to a command port.
//!
//! A page can make its browser `POST` a body of the page's choice to any port that the browser reaches. A line
//! `g prod-deploy` in that body would be a command like any other. But the page cannot leave out what comes before the
//! body: a request line (RFC 9112, section 3) and a `Host` field (section 3.2). An HTTPS request starts with a TLS
//! handshake record (RFC 8446, section 5.1), in which a page can also place bytes (a session ticket).
//!
//! Only lines that are not commands are looked at, so no command is ever taken for HTTP. Turned down: a list of HTTP
//! methods. The browser lets a page choose the method.

use crate::white;

/// Returns true if a line that is not a command is part of an HTTP or HTTPS request.
///
/// The caller makes sure that the line is not a command, because the name of a lock may contain `Host: a` or end in
/// `HTTP/1.1`. White space around the line is ignored, as for commands.
pub fn is_http(line: &[u8]) -> bool {
    let line = white::trim(line);
    is_request_line(line) || is_host_field(line) || is_client_hello(line)
}

/// `request-line = method SP request-target SP HTTP-version`, where
/// `HTTP-version = "HTTP/" DIGIT "." DIGIT`
///
/// Only the end is checked, because there is no limit to methods, and a target may contain spaces.
fn is_request_line(line: &[u8]) -> bool {
    matches!(
        line,
        [
            _,
            ..,
            b' ',
            b'H',
            b'T',
            b'T',
            b'P',
            b'/',
            b'0'..=b'9',
            b'.',
            b'0'..=b'9'
        ]
    )
}

/// `field-line = "Host" ":" OWS field-value OWS`, with the name in upper or lower case. No server accepts white space
/// before the colon.
fn is_host_field(line: &[u8]) -> bool {
    let name = line.first_chunk::<5>();
    name.is_some_and(|name| name.eq_ignore_ascii_case(b"Host:"))
}

/// The start of a TLS record of type handshake, version 3.x.
fn is_client_hello(line: &[u8]) -> bool {
    line.starts_with(b"\x16\x03")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Verb, parse};

    #[test]
    fn request_lines_are_http() {
        for line in [
            &b"GET / HTTP/1.1"[..],
            b"GET / HTTP/1.1\r",
            b"POST /any/path?g%20x HTTP/1.0",
            b"OPTIONS * HTTP/1.1",
            b"CONNECT localhost:9999 HTTP/1.1",
            b"GET http://localhost:9999/ HTTP/1.1",
            b"patch / HTTP/1.1",
            b"X-!#$%&'*+-.^_`|~9 / HTTP/1.1",
            b" \t GET / HTTP/1.1 \t",
            b"\xC2\xA0GET / HTTP/1.1\xE3\x80\x80",
            b"GET /a b c HTTP/1.1",
            b"GET  HTTP/1.1",
            b"GET HTTP/1.1",
            b"PRI * HTTP/2.0",
        ] {
            assert!(is_http(line), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn host_fields_are_http() {
        for line in [
            &b"Host: localhost:9999"[..],
            b"host: localhost",
            b"HOST:",
            b"hOsT:x\r",
            b"\t Host: x",
        ] {
            assert!(is_http(line), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn tls_handshakes_are_http() {
        for line in [
            &b"\x16\x03\x01\x02\0\x01\0"[..],
            b"\x16\x03\x03",
            b"\x16\x03",
        ] {
            assert!(is_http(line), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn other_lines_are_not_http() {
        for line in [
            &b""[..],
            b" ",
            b"GET /",
            b"HTTP/1.1",
            b" HTTP/1.1 ",
            b"HTTP/1.1 200 OK",
            b"GET / HTTP/1.1 x",
            b"GET / HTTP/1.",
            b"GET / HTTP/1.x",
            b"GET / HTTP/11",
            b"GET / HTTP/1.10",
            b"GET / http/1.1",
            b"GET /HTTP/1.1",
            b"Host",
            b"Host x",
            b"Host : x",
            b"Hosts: x",
            b"X-Host: x",
            b"User-Agent: x",
            b"\x16",
            b"\x17\x03\x01",
            b"\0\x16\x03\x01",
        ] {
            assert!(!is_http(line), "{}", line.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn every_request_is_http_and_not_a_command(
            method in "[A-Za-z!#$%&'*+.^_`|~0-9-]{1,20}",
            target in "[!-~]{1,40}",
            version in "HTTP/[0-9]\\.[0-9]",
            value in "[ -~]{0,40}",
            name in "[Hh][Oo][Ss][Tt]",
            end in "\r?",
        ) {
            prop_assume!(Verb::from_bytes(method.as_bytes()).is_none());
            for line in [format!("{method} {target} {version}{end}"), format!("{name}:{value}{end}")] {
                prop_assert!(is_http(line.as_bytes()), "{line}");
                prop_assert!(parse(line.as_bytes()).is_err(), "{line}");
            }
        }
    }
}
