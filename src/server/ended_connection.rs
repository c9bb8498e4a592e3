//! A connection that has ended, and what is left to do for it: release its locks, then say goodbye.

use tracing::{Level, debug, enabled};

use crate::core::dispatcher::Dispatcher;
use crate::core::locks::Disconnection;
use crate::core::registry::ClientId;
use crate::server::admission::Admitted;
use crate::server::log_text::address;

/// A connection that has ended and may still hold locks.
///
/// Its session lives on until they are free, because the goodbye tells the peer that they are.
pub(crate) struct EndedConnection {
    disconnection: Disconnection,
    /// True once all locks are released; the id may already have been reused.
    released: bool,
    session: Admitted,
}

impl EndedConnection {
    pub(crate) fn new(client: ClientId, session: Admitted) -> EndedConnection {
        EndedConnection {
            disconnection: Disconnection::new(client),
            released: false,
            session,
        }
    }

    /// Releases up to about `budget` locks.
    pub(crate) fn release_locks(&mut self, dispatcher: &Dispatcher, budget: usize) {
        if self.released {
            return;
        }
        // Asked for first: the registry forgets the address with the last lock.
        let peer = enabled!(Level::DEBUG).then(|| address(dispatcher, self.disconnection.client()));
        self.released = dispatcher.disconnect(&mut self.disconnection, budget);
        if self.released
            && let Some(peer) = peer
        {
            let orphans = self.disconnection.orphans();
            debug!(
                %peer,
                orphans = orphans.exclusive,
                shared_orphans = orphans.shared,
                "disconnected"
            );
        }
    }

    /// Returns the session, to say goodbye to its peer, if all locks are released.
    pub(crate) fn into_session(self) -> Result<Admitted, EndedConnection> {
        if self.released {
            Ok(self.session)
        } else {
            Err(self)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use glockd_transports::{Input, Output, Peer, Session};

    use super::*;
    use crate::server::admission::{Admission, Capacity};

    struct Silent;

    #[async_trait::async_trait]
    impl Session for Silent {
        async fn recv(&mut self, _: &mut Input) -> io::Result<usize> {
            Ok(0)
        }

        async fn send(&mut self, _: &mut Output) -> io::Result<()> {
            Ok(())
        }
    }

    /// The connection that reuses the id must not be disconnected in its place.
    #[test]
    fn connection_is_disconnected_once() {
        let dispatcher = Dispatcher::default();
        let peer = Peer::new("a");
        let client = dispatcher.connect(peer.as_str().as_bytes());
        let permit = Admission::new(Capacity::default()).admit(&peer).unwrap();
        let mut ended = EndedConnection::new(client, Admitted::new(Box::new(Silent), permit));
        ended.release_locks(&dispatcher, 1);
        assert_eq!(dispatcher.connect(b"b"), client);
        ended.release_locks(&dispatcher, 1);
        assert_eq!(dispatcher.registry().connections(), 1);
        assert!(ended.into_session().is_ok());
    }
}
