//! Frees what ended connections held, when that is more than can be done at once.
//!
//! One task for a server. It works in short slices, one connection after the other, and lets others run
//! between them: a holder of a million locks that goes away neither stalls the others nor delays the
//! release of what smaller holders left.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::{JoinSet, yield_now};
use tracing::{Level, debug, enabled};

use crate::admission::Admitted;
use crate::connection::{address, say_goodbye};
use crate::dispatcher::{Departure, Dispatcher};
use crate::registry::ClientId;

/// Locks that are released before others get their turn: about 100 microseconds.
const SLICE: usize = 512;

/// What an ended connection has left behind.
pub(crate) struct Orphan {
    departure: Departure,
    /// Whether nothing is held any more. Then the identity may be another's already.
    free: bool,
    session: Admitted,
}

impl Orphan {
    pub(crate) fn new(client: ClientId, session: Admitted) -> Orphan {
        Orphan {
            departure: Departure::new(client),
            free: false,
            session,
        }
    }

    /// Releases up to (about) `budget` locks.
    pub(crate) fn release(&mut self, dispatcher: &Dispatcher, budget: usize) {
        if self.free {
            return;
        }
        // Its address is gone once it has left.
        let peer = enabled!(Level::DEBUG).then(|| address(dispatcher, self.departure.client()));
        self.free = dispatcher.disconnect(&mut self.departure, budget);
        if self.free
            && let Some(peer) = peer
        {
            let orphans = self.departure.orphans();
            debug!(
                %peer,
                orphans = orphans.exclusive,
                shared_orphans = orphans.shared,
                "disconnected"
            );
        }
    }

    /// The session, to say goodbye to its peer, once everything is free.
    pub(crate) fn into_session(self) -> Result<Admitted, Orphan> {
        if self.free {
            Ok(self.session)
        } else {
            Err(self)
        }
    }
}

/// Works until nobody is left who could send an orphan, and all are done.
pub(crate) async fn reap(
    dispatcher: Arc<Dispatcher>,
    mut arrivals: mpsc::UnboundedReceiver<Orphan>,
) {
    let mut queue = VecDeque::new();
    let mut goodbyes = JoinSet::new();
    loop {
        if queue.is_empty() {
            match arrivals.recv().await {
                Some(orphan) => queue.push_back(orphan),
                None => break,
            }
        }
        while let Ok(orphan) = arrivals.try_recv() {
            queue.push_back(orphan);
        }
        if let Some(mut orphan) = queue.pop_front() {
            orphan.release(&dispatcher, SLICE);
            match orphan.into_session() {
                Ok(session) => drop(goodbyes.spawn(say_goodbye(session))),
                Err(orphan) => queue.push_back(orphan),
            }
        }
        while goodbyes.try_join_next().is_some() {}
        yield_now().await;
    }
    // Not `join_all`, which passes a panic on: one session's must not cut the others short.
    while goodbyes.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use glockd_transports::{Frames, Peer, Session};

    use super::*;
    use crate::admission::{Admission, Capacity};
    use crate::policy::Policy;

    struct Silent;

    #[async_trait::async_trait]
    impl Session for Silent {
        async fn recv(&mut self, _: &mut Frames) -> std::io::Result<usize> {
            Ok(0)
        }

        async fn send(&mut self, _: &Frames) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// The connection that has its identity now must not be taken for it.
    #[test]
    fn a_connection_leaves_once() {
        let dispatcher = Dispatcher::new(Policy::default());
        let peer = Peer::new("a");
        let client = dispatcher.connect(&peer);
        let permit = Admission::new(Capacity::default()).admit(&peer).unwrap();
        let silent = Admitted::new(Box::new(Silent), permit);
        let mut orphan = Orphan::new(client, silent);
        orphan.release(&dispatcher, SLICE);
        assert_eq!(dispatcher.connect(&Peer::new("b")), client);
        orphan.release(&dispatcher, SLICE);
        assert_eq!(dispatcher.registry().connections(), 1);
        assert!(orphan.into_session().is_ok());
    }
}
