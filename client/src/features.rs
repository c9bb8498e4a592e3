//! The extensions that a server announces.

use std::time::Duration;

use glockd_protocol::features;

/// What a server offers beyond the original's commands, as its reply to `hello` says.
///
/// The original offers none of it, and neither does glockd with `-extensions=false`. This crate then does as much as it
/// can without: each field says how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Features {
    /// Clients can wait in a queue. Without it, the client tries again and again.
    pub wait: bool,
    /// The server enforces a limit of holders. Without it, the client gets the lock, compares the number of holders and
    /// releases the lock if there are too many.
    pub limit: bool,
    /// The server issues fencing tokens. Without it, there are none.
    pub fence: bool,
    /// The server marks the end of listings. Without it, the client waits for a pause.
    pub list: bool,
    /// The server lists the holders and waiters of one lock.
    pub own: bool,
    /// The server answers `ping`.
    pub ping: bool,
    /// The server states the length of each lock name in a listing. Without it, names of locks and holders are
    /// ambiguous if they contain `: `.
    pub lengths: bool,
    /// Shortest time without a sign of life after which the server disconnects a TCP or WebSocket client and frees its
    /// locks. `None` if the server does not say, or never disconnects silent clients.
    pub peer_timeout: Option<Duration>,
}

impl Features {
    /// Reads a reply to `hello`. Ignores unknown words, which may come from a newer server.
    pub(crate) fn read(line: &[u8]) -> Features {
        let mut found = Features::default();
        for word in features(line).into_iter().flatten() {
            match word {
                b"wait" => found.wait = true,
                b"limit" => found.limit = true,
                b"fence" => found.fence = true,
                b"list" => found.list = true,
                b"own" => found.own = true,
                b"ping" => found.ping = true,
                b"lengths" => found.lengths = true,
                _ => {
                    if let Some(ms) = word.strip_prefix(b"timeout=") {
                        found.peer_timeout = milliseconds(ms);
                    }
                }
            }
        }
        found
    }

    /// Returns true if the server announced no features, so that it may be the original.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Features::default()
    }
}

/// Reads a number of milliseconds. 0 means never.
fn milliseconds(digits: &[u8]) -> Option<Duration> {
    let ms = str::from_utf8(digits).ok()?.parse().ok()?;
    (ms > 0).then(|| Duration::from_millis(ms))
}
