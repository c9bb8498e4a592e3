//! Detects that the server cannot be reached, well before the server grants the client's locks to others.
//!
//! The server disconnects a silent client no sooner than a *peer timeout* after it last heard from it; the reply to
//! `hello` states that time. An answer proves that the server heard the request. If a request that was sent at `t` was
//! answered, the server keeps the locks of this connection until `t` plus the peer timeout, even if the network fails
//! after that, in whichever direction. The client therefore sends a ping when no other
//! request was answered for a while, and declares the connection lost once its last answered request is half a peer
//! timeout old, or a reply timeout if that is shorter. The rest of the time is left for the client to stop its work.
//!
//! Turned down: TCP keepalive. A probe of the client's kernel does not restart the server's clock. And a kernel that
//! gives up resets the connection, which frees the lock before the client has stopped its work.

use std::time::Duration;

use tokio::time::Instant;

/// Assumed peer timeout of a server that does not state one: that of glockd with default flags.
const USUAL_PEER_TIMEOUT: Duration = Duration::from_secs(30);

/// Shortest time after which a connection is declared lost. Ordinary pauses of a busy host are shorter.
const SHORTEST_PATIENCE: Duration = Duration::from_secs(3);

/// Longest such time. Server and caller may state any number.
const LONGEST_PATIENCE: Duration = Duration::from_secs(3600);

/// Number of pings within the patience, so that one lost packet does not end a connection.
const TRIES: u32 = 3;

/// Longest time between two pings. Routers forget connections that are idle for longer.
const LONGEST_INTERVAL: Duration = Duration::from_secs(15);

/// Time to read an answer that arrived while this process was stopped. A stop of this length may go unnoticed.
const READ_WITHIN: Duration = Duration::from_millis(500);

/// Time for the server to answer a ping that is sent after a longer stop.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Time that must be left, once all work has stopped, before the server may grant the lock to another client.
const MARGIN: Duration = Duration::from_secs(2);

/// Returns the time without an answered request after which a connection is lost.
fn patience(peer_timeout: Option<Duration>, reply_timeout: Duration) -> Duration {
    let half = peer_timeout.unwrap_or(USUAL_PEER_TIMEOUT) / 2;
    let patience = half.min(reply_timeout);
    patience.clamp(SHORTEST_PATIENCE, LONGEST_PATIENCE)
}

/// Returns the time that is left to stop work from the moment at which a lock is reported lost.
pub(crate) fn time_to_stop(peer_timeout: Duration, reply_timeout: Duration) -> Duration {
    let reported = patience(Some(peer_timeout), reply_timeout) + 2 * READ_WITHIN;
    peer_timeout.saturating_sub(reported + MARGIN)
}

/// The action that is due.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// None yet.
    Nothing,
    /// Send a ping.
    Ping,
    /// Declare the connection lost.
    Lost,
}

/// The clock of one connection.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    patience: Duration,
    interval: Duration,
    /// Time at which the last answered request was sent.
    confirmed: Instant,
    /// Extended deadline after this process was stopped.
    extended: Option<Instant>,
    /// Whether a ping is unanswered.
    is_asking: bool,
}

impl Heartbeat {
    /// Starts the clock of a server that has answered a request sent at `confirmed`.
    pub(crate) fn new(
        peer_timeout: Option<Duration>,
        reply_timeout: Duration,
        confirmed: Instant,
    ) -> Heartbeat {
        let patience = patience(peer_timeout, reply_timeout);
        Heartbeat {
            patience,
            interval: (patience / TRIES).min(LONGEST_INTERVAL),
            confirmed,
            extended: None,
            is_asking: false,
        }
    }

    /// Returns the time without an answered request after which the connection is lost.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// Records that a request sent at `sent` was answered.
    pub(crate) fn confirm(&mut self, sent: Instant) {
        self.confirmed = self.confirmed.max(sent);
    }

    /// Records that the ping sent at `sent` was answered.
    pub(crate) fn ponged(&mut self, sent: Instant) {
        self.is_asking = false;
        self.confirm(sent);
    }

    /// Records that a ping was sent.
    pub(crate) fn pinged(&mut self) {
        self.is_asking = true;
    }

    /// Returns the time of the next action.
    pub(crate) fn next(&self) -> Instant {
        match (self.extended, self.is_asking) {
            (Some(extended), true) => extended,
            (None, true) => self.confirmed + self.patience,
            (_, false) => self.confirmed + self.interval,
        }
    }

    /// Returns the action that is due at `now`.
    pub(crate) fn due(&mut self, now: Instant) -> Due {
        let deadline = self.confirmed + self.patience;
        if now < deadline {
            self.extended = None;
            return match !self.is_asking && now >= self.confirmed + self.interval {
                true => Due::Ping,
                false => Due::Nothing,
            };
        }
        // An answer that arrived while this process was stopped was sent long ago. Only the answer to another ping
        // shows that the server can still be reached.
        if !self.is_asking {
            self.extended = Some(now + ANSWER_WITHIN);
            return Due::Ping;
        }
        match self.extended {
            Some(extended) if now < extended => Due::Nothing,
            Some(_) => Due::Lost,
            None if now < deadline + READ_WITHIN => Due::Lost,
            None => {
                self.extended = Some(now + READ_WITHIN);
                Due::Nothing
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Reply timeout of a client with default settings.
    const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

    fn heartbeat(peer_timeout: Duration, start: Instant) -> Heartbeat {
        Heartbeat::new(Some(peer_timeout), REPLY_TIMEOUT, start)
    }

    /// Runs a heartbeat with a server that answers each ping within `delay`, until the network fails at `cut`. The
    /// process is stopped for `pause` just before its patience ends. Returns when the connection was reported lost, and
    /// when the last request that the server heard had been sent.
    fn run(
        peer_timeout: Duration,
        cut: Duration,
        delay: Duration,
        pause: Duration,
    ) -> (Duration, Duration) {
        let start = Instant::now();
        let mut heartbeat = heartbeat(peer_timeout, start);
        let mut has_paused = false;
        let mut heard = Duration::ZERO;
        let mut pong = None;
        let mut time = Duration::ZERO;
        loop {
            if let Some((sent, comes)) = pong
                && comes <= time
            {
                heartbeat.ponged(start + sent);
                pong = None;
            }
            match heartbeat.due(start + time) {
                Due::Lost => return (time, heard),
                Due::Ping => {
                    heartbeat.pinged();
                    if time < cut {
                        heard = time;
                    }
                    if time + delay < cut {
                        pong = Some((time, time + delay));
                    }
                }
                Due::Nothing => {}
            }
            time += Duration::from_millis(20);
            let ends = heartbeat.confirmed + heartbeat.patience;
            if !has_paused && start + time + Duration::from_millis(20) >= ends {
                has_paused = true;
                time += pause;
            }
        }
    }

    #[test]
    fn loss_is_reported_in_time_whenever_the_network_fails() {
        for peer_timeout in [15, 16, 30, 75].map(Duration::from_secs) {
            for phase in (0..200).step_by(7) {
                let cut = peer_timeout + peer_timeout * phase / 100;
                for delay in [Duration::ZERO, SECOND / 2, 2 * SECOND] {
                    for pause in [Duration::ZERO, SECOND / 4, SECOND / 2] {
                        let (lost, heard) = run(peer_timeout, cut, delay, pause);
                        assert!(lost >= cut, "{peer_timeout:?} {phase}: lost before the cut");
                        let stopped = lost + time_to_stop(peer_timeout, REPLY_TIMEOUT);
                        let given_away = heard + peer_timeout;
                        assert!(
                            stopped + MARGIN <= given_away,
                            "{peer_timeout:?} {phase} {delay:?} {pause:?}: {stopped:?} {given_away:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn time_to_stop_is_the_rest_of_the_peer_timeout() {
        let check = |peer_timeout: u32, reply_timeout: u32, expect: u32| {
            let left = time_to_stop(peer_timeout * SECOND, reply_timeout * SECOND);
            assert_eq!(left, expect * SECOND);
        };
        check(30, 30, 12);
        check(16, 30, 5);
        check(2, 30, 0);
        check(75, 30, 42);
        check(30, 5, 22);
        check(30, 1, 24);
    }

    #[test]
    fn connection_survives_a_stop_of_this_process() {
        let start = Instant::now();
        let mut heartbeat = heartbeat(30 * SECOND, start);
        assert_eq!(heartbeat.due(start + 5 * SECOND), Due::Ping);
        heartbeat.pinged();
        // Stopped for an hour. The pong arrived long ago.
        let now = start + Duration::from_secs(3600);
        assert_eq!(heartbeat.due(now), Due::Nothing);
        heartbeat.ponged(start + 5 * SECOND);
        assert_eq!(heartbeat.due(now), Due::Ping);
        heartbeat.pinged();
        assert_eq!(heartbeat.due(now + SECOND / 2), Due::Nothing);
        heartbeat.ponged(now);
        assert_eq!(heartbeat.due(now + SECOND / 2), Due::Nothing);
        assert_eq!(heartbeat.next(), now + 5 * SECOND);
    }

    #[test]
    fn silent_server_is_declared_lost_soon_after_a_stop() {
        let start = Instant::now();
        let mut heartbeat = heartbeat(30 * SECOND, start);
        heartbeat.pinged();
        let now = start + Duration::from_secs(3600);
        assert_eq!(heartbeat.due(now), Due::Nothing);
        assert_eq!(heartbeat.next(), now + READ_WITHIN);
        assert_eq!(heartbeat.due(now + READ_WITHIN), Due::Lost);
    }

    #[test]
    fn answered_requests_replace_pings() {
        let start = Instant::now();
        let mut heartbeat = heartbeat(30 * SECOND, start);
        heartbeat.confirm(start + 4 * SECOND);
        assert_eq!(heartbeat.due(start + 8 * SECOND), Due::Nothing);
        assert_eq!(heartbeat.due(start + 9 * SECOND), Due::Ping);
    }
}
