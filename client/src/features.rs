//! What a server can do beyond the original.

use std::time::Duration;

use glockd_protocol::features;

/// What a server can do beyond the documented commands, by its answer to `hello`. The original can do none of it,
/// nor can a glockd under `-extensions=false`; this crate then does without, as well as that goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Features {
    /// It lets clients wait in line. Without, they ask again and again.
    pub wait: bool,
    /// It limits how many share a lock. Without, clients get it, count, and give it back.
    pub limit: bool,
    /// It gives fencing tokens. Without, there are none.
    pub fence: bool,
    /// It says where listings end. Without, some silence does.
    pub list: bool,
    /// It says who waits for a lock.
    pub own: bool,
    /// It says that it is there.
    pub ping: bool,
    /// It says how long the names of listed locks are. Otherwise, names of locks and holders are
    /// ambiguous if they contain `: `.
    pub lengths: bool,
    /// Shortest time after which it gives up a client over TCP or WebSocket that it hears nothing of, and frees its
    /// locks. `None` if it does not say, or never does.
    pub peer_timeout: Option<Duration>,
}

impl Features {
    /// Reads an answer to `hello`. Words that are not known are left to those who know them.
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
}

/// Reads a number of milliseconds, of which 0 means never.
fn milliseconds(digits: &[u8]) -> Option<Duration> {
    let ms = str::from_utf8(digits).ok()?.parse().ok()?;
    (ms > 0).then(|| Duration::from_millis(ms))
}
