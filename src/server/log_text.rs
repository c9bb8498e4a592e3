//! How the log shows peers, and the bytes that came from them.

use std::fmt::{self, Display};

use crate::core::dispatcher::Dispatcher;
use crate::core::registry::ClientId;

/// Bytes of a frame that the log shows: a peer must not fill the disk with one line.
const SHOWN: usize = 256;

/// Returns the address of a client; an empty one if it has disconnected.
pub(crate) fn address(dispatcher: &Dispatcher, client: ClientId) -> String {
    let address = dispatcher.registry().with_client(client, |client| {
        String::from_utf8_lossy(client.address()).into_owned()
    });
    address.unwrap_or_default()
}

/// Returns the first bytes of a frame, escaped.
pub(crate) fn excerpt(bytes: &[u8]) -> impl Display {
    let (shown, rest) = bytes.split_at(bytes.len().min(SHOWN));
    let mark = if rest.is_empty() { "" } else { "…" };
    fmt::from_fn(move |formatter| write!(formatter, "{}{mark}", shown.escape_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpt_is_the_escaped_beginning() {
        assert_eq!(excerpt(b"a\n\xFF").to_string(), "a\\n\\xff");
        let long = excerpt(&[b'x'; SHOWN + 1]).to_string();
        assert_eq!(long, format!("{}…", "x".repeat(SHOWN)));
    }
}
