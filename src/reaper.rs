//! Frees what ended connections held, when that is more than can be done at once.
//!
//! One task for a server. It works in short slices, one connection after the other, and lets others run
//! between them: a holder of a million locks that goes away neither stalls the others nor delays the
//! release of what smaller holders left.

use std::collections::VecDeque;
use std::sync::Arc;

use glockd_transports::Session;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, yield_now};
use tracing::{Level, debug, enabled};

use crate::connection::{address, say_goodbye};
use crate::dispatcher::{Departure, Dispatcher};
use crate::registry::ClientId;

/// Locks that are released before others get their turn: about 100 microseconds.
const SLICE: usize = 512;

/// What an ended connection has left behind.
pub(crate) struct Orphan {
    departure: Departure,
    /// There if nobody has said goodbye to the peer yet.
    session: Option<Box<dyn Session>>,
}

impl Orphan {
    pub(crate) fn new(client: ClientId, session: Option<Box<dyn Session>>) -> Orphan {
        Orphan {
            departure: Departure::new(client),
            session,
        }
    }

    /// Releases up to (about) `budget` locks. Whether all are free.
    pub(crate) fn release(&mut self, dispatcher: &Dispatcher, budget: usize) -> bool {
        // Its address is gone once it has left.
        let peer = enabled!(Level::DEBUG).then(|| address(dispatcher, self.departure.client()));
        let free = dispatcher.disconnect(&mut self.departure, budget);
        if free && let Some(peer) = peer {
            let orphans = self.departure.orphans();
            debug!(
                %peer,
                orphans = orphans.exclusive,
                shared_orphans = orphans.shared,
                "disconnected"
            );
        }
        free
    }

    pub(crate) fn has_session(&self) -> bool {
        self.session.is_some()
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
            if !orphan.release(&dispatcher, SLICE) {
                queue.push_back(orphan);
            } else if let Some(session) = orphan.session {
                goodbyes.spawn(say_goodbye(session));
            }
        }
        while goodbyes.try_join_next().is_some() {}
        yield_now().await;
    }
    goodbyes.join_all().await;
}
