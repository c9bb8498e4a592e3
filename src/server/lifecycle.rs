//! The phases of a server's life, and the moves between them.
//!
//! A server and its handles share one [`Lifecycle`]. Phases only advance, so the first request to end decides how the
//! server ends, and a later request changes nothing.

use tokio::sync::watch;

/// A phase of a server's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// It listens, but does not run yet.
    Bound,
    /// It accepts connections and serves them.
    Running,
    /// It is to drain, and its accept loops are ending.
    Closing,
    /// It accepts no more connections, and serves those that it has.
    Draining,
    /// No connection is left, and none can come.
    Drained,
    /// It ends its connections.
    Stopping,
    /// Its connections have ended and all locks are free.
    Ended,
}

/// The reason for which [`Server::run`](crate::Server::run) returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StopReason {
    /// The `shutdown` future that `run` was given completed.
    Shutdown,
    /// [`Handle::shutdown`](crate::Handle::shutdown) was called.
    Handle,
    /// [`Handle::drain`](crate::Handle::drain) left no connection.
    Drained,
}

/// The phase of one server, for all who wait for it or advance it.
#[derive(Debug)]
pub(super) struct Lifecycle(watch::Sender<Phase>);

impl Lifecycle {
    pub(super) fn new() -> Lifecycle {
        Lifecycle(watch::Sender::new(Phase::Bound))
    }

    /// Returns the current phase.
    pub(super) fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Enters a phase, unless the server is past it.
    pub(super) fn advance(&self, to: Phase) {
        self.0.send_if_modified(|phase| {
            let is_news = *phase < to;
            if is_news {
                *phase = to;
            }
            is_news
        });
    }

    /// Begins to drain. A server that does not run yet has no connections, so it is drained at once.
    pub(super) fn begin_drain(&self) {
        self.0.send_if_modified(|phase| {
            let next = match *phase {
                Phase::Bound => Phase::Drained,
                Phase::Running => Phase::Closing,
                _ => return false,
            };
            *phase = next;
            true
        });
    }

    /// Waits until the server has come to a phase, or is past it. Returns the phase it is in then.
    pub(super) async fn reached(&self, least: Phase) -> Phase {
        let mut phases = self.0.subscribe();
        match phases.wait_for(|&phase| phase >= least).await {
            Ok(phase) => *phase,
            Err(_) => unreachable!("`self` keeps the sender"),
        }
    }

    /// Waits until a handle has ended the server. Returns how.
    pub(super) async fn stopped(&self) -> StopReason {
        match self.reached(Phase::Drained).await {
            Phase::Drained => StopReason::Drained,
            _ => StopReason::Handle,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn phases_only_advance() {
        let lifecycle = Lifecycle::new();
        lifecycle.advance(Phase::Stopping);
        lifecycle.advance(Phase::Running);
        assert_eq!(lifecycle.phase(), Phase::Stopping);
        lifecycle.begin_drain();
        assert_eq!(lifecycle.phase(), Phase::Stopping);
    }

    #[test]
    fn server_that_does_not_run_is_drained_at_once() {
        let lifecycle = Lifecycle::new();
        assert!(lifecycle.stopped().now_or_never().is_none());
        lifecycle.begin_drain();
        assert_eq!(
            lifecycle.stopped().now_or_never(),
            Some(StopReason::Drained)
        );
    }

    #[test]
    fn running_server_is_drained_in_steps() {
        let lifecycle = Lifecycle::new();
        lifecycle.advance(Phase::Running);
        lifecycle.begin_drain();
        lifecycle.begin_drain();
        assert_eq!(lifecycle.phase(), Phase::Closing);
        assert!(lifecycle.stopped().now_or_never().is_none());
        lifecycle.advance(Phase::Ended);
        assert_eq!(lifecycle.stopped().now_or_never(), Some(StopReason::Handle));
    }
}
