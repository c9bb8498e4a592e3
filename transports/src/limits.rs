//! Limits on one connection.

use std::time::Duration;

/// Number of probes that a silent peer may leave unanswered before its connection is ended.
pub(crate) const KEEPALIVE_PROBES: u32 = 3;

/// Time between two probes of a silent peer.
pub(crate) const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Longest [`keepalive`](Limits::keepalive) time that Linux accepts for a TCP socket.
pub(crate) const MAX_KEEPALIVE: Duration = Duration::from_secs(32767);

/// Limits that a server sets on each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Maximum length of a line, without its line end, or of a message, in bytes. At most 2³⁰.
    pub max_line: usize,
    /// Maximum duration of a handshake.
    pub handshake_timeout: Duration,
    /// Maximum time that a peer may take nothing of the output sent to it; `None` means unlimited. Measured by
    /// [`Session::send`](crate::Session::send), which then fails with [`TimedOut`](std::io::ErrorKind::TimedOut).
    pub write_timeout: Option<Duration>,
    /// Time after which a silent peer is probed, on transports that can lose a peer without notice. A peer that
    /// answers no probe is disconnected about 15 s later. `None` means that peers are never probed.
    pub keepalive: Option<Duration>,
}

impl Limits {
    /// Largest [`max_line`](Limits::max_line): positions in a batch have 32 bits.
    pub const MAX_LINE_CEILING: usize = 1 << 30;

    /// Returns the shortest time after which a client over TCP or WebSocket can be disconnected because nothing is
    /// heard from it; `None` means never. With [`keepalive`](Limits::keepalive) that is the end of its probes,
    /// otherwise the end of [`write_timeout`](Limits::write_timeout), if there is output that the client does not
    /// take.
    ///
    /// A client that knows this time can stop working under its locks before another client gets them.
    pub fn peer_timeout(&self) -> Option<Duration> {
        let probed = self.keepalive.map(|keepalive| {
            // The kernel counts whole seconds.
            let seconds = keepalive.as_secs().min(MAX_KEEPALIVE.as_secs());
            Duration::from_secs(seconds) + KEEPALIVE_PROBES * PROBE_INTERVAL
        });
        probed.or(self.write_timeout)
    }

    /// Sets [`max_line`](Limits::max_line), clamped to `1..=2³⁰`.
    pub fn with_max_line(self, bytes: usize) -> Limits {
        let max_line = bytes.clamp(1, Self::MAX_LINE_CEILING);
        Limits { max_line, ..self }
    }

    /// Sets [`handshake_timeout`](Limits::handshake_timeout).
    pub fn with_handshake_timeout(self, handshake_timeout: Duration) -> Limits {
        Limits {
            handshake_timeout,
            ..self
        }
    }

    /// Sets [`write_timeout`](Limits::write_timeout).
    pub fn with_write_timeout(self, write_timeout: Option<Duration>) -> Limits {
        Limits {
            write_timeout,
            ..self
        }
    }

    /// Sets [`keepalive`](Limits::keepalive).
    pub fn with_keepalive(self, keepalive: Option<Duration>) -> Limits {
        Limits { keepalive, ..self }
    }
}

impl Default for Limits {
    /// Returns 131,072 bytes for a line, 10 s for a handshake, 30 s for a write, and 15 s until a probe.
    fn default() -> Limits {
        Limits {
            max_line: 131_072,
            handshake_timeout: Duration::from_secs(10),
            write_timeout: Some(Duration::from_secs(30)),
            keepalive: Some(Duration::from_secs(15)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_timeout_is_the_earliest_disconnect() {
        let check = |keepalive: Option<u64>, write: Option<u64>, expect: Option<u64>| {
            let limits = Limits::default()
                .with_keepalive(keepalive.map(Duration::from_millis))
                .with_write_timeout(write.map(Duration::from_millis));
            assert_eq!(limits.peer_timeout(), expect.map(Duration::from_millis));
        };
        check(Some(15_000), Some(30_000), Some(30_000));
        check(Some(60_000), Some(30_000), Some(75_000));
        check(Some(1_900), None, Some(16_000));
        check(Some(1), Some(1), Some(15_000));
        check(Some(u64::MAX), None, Some(32_782_000));
        check(None, Some(2_000), Some(2_000));
        check(None, None, None);
    }
}
