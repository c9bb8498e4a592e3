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

use crate::core::dispatcher::{Departure, Dispatcher};
use crate::core::registry::ClientId;
use crate::server::admission::Admitted;
use crate::server::connection::{address, say_goodbye};

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
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::time::Duration;

    use glockd_protocol::LockKind;
    use glockd_transports::{Frames, Peer, Session};
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::core::policy::Policy;
    use crate::server::admission::{Admission, Capacity};

    /// Longer than anything takes on the slowest of machines: to reach it is to fail.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A session whose peer says nothing, and takes some time over its goodbye.
    #[derive(Default)]
    struct Silent {
        goodbye: Duration,
        panics: bool,
        /// Goodbyes that were said to their end.
        said: Arc<AtomicUsize>,
    }

    #[async_trait::async_trait]
    impl Session for Silent {
        async fn recv(&mut self, _: &mut Frames) -> std::io::Result<usize> {
            Ok(0)
        }

        async fn send(&mut self, _: &Frames) -> std::io::Result<()> {
            Ok(())
        }

        async fn close(self: Box<Self>) {
            assert!(!self.panics, "as a bug in a transport would");
            sleep(self.goodbye).await;
            self.said.fetch_add(1, SeqCst);
        }
    }

    /// Connects a client that holds this many locks, and ends at once.
    fn orphan(dispatcher: &Dispatcher, name: &str, locks: usize, session: Silent) -> Orphan {
        let peer = Peer::new(name);
        let client = dispatcher.connect(&peer);
        for number in 0..locks {
            assert!(
                dispatcher
                    .locks()
                    .get(client, format!("{name} {number}").as_bytes())
            );
        }
        let permit = Admission::new(Capacity::default()).admit(&peer).unwrap();
        Orphan::new(client, Admitted::new(Box::new(session), permit))
    }

    /// The connection that has its identity now must not be taken for it.
    #[test]
    fn a_connection_leaves_once() {
        let dispatcher = Dispatcher::new(Policy::default());
        let mut orphan = orphan(&dispatcher, "a", 0, Silent::default());
        let client = orphan.departure.client();
        orphan.release(&dispatcher, SLICE);
        assert_eq!(dispatcher.connect(&Peer::new("b")), client);
        orphan.release(&dispatcher, SLICE);
        assert_eq!(dispatcher.registry().connections(), 1);
        assert!(orphan.into_session().is_ok());
    }

    /// On one thread, where each turn of the reaper can be counted.
    #[tokio::test]
    async fn a_large_holder_does_not_delay_small_ones() {
        const SLICES: usize = 40;
        const SMALL: usize = 3;
        let dispatcher = Arc::new(Dispatcher::default());
        let (orphans, arrivals) = mpsc::unbounded_channel();
        let large = orphan(&dispatcher, "large", SLICES * SLICE, Silent::default());
        orphans.send(large).unwrap();
        for small in 0..SMALL {
            let name = format!("small{small}");
            let small = orphan(&dispatcher, &name, SLICE / 2, Silent::default());
            orphans.send(small).unwrap();
        }
        drop(orphans);
        let reaper = tokio::spawn(reap(Arc::clone(&dispatcher), arrivals));
        let small_are_gone = async {
            while dispatcher.registry().connections() > 1 {
                yield_now().await;
            }
        };
        timeout(PATIENCE, small_are_gone).await.unwrap();
        // The large one has had its turns in between, and is far from done.
        let left = dispatcher.locks().count(LockKind::Exclusive);
        let least = SLICES * SLICE * 3 / 4;
        assert!(left > least, "{left} locks are left, not {least}");
        timeout(PATIENCE, reaper).await.unwrap().unwrap();
        assert_eq!(dispatcher.registry().connections(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_waits_for_every_goodbye() {
        const SLOW: usize = 5;
        let dispatcher = Arc::new(Dispatcher::default());
        let (orphans, arrivals) = mpsc::unbounded_channel();
        let said = Arc::new(AtomicUsize::new(0));
        let slow = |tenths: usize| Silent {
            goodbye: Duration::from_millis(100 * tenths as u64),
            said: Arc::clone(&said),
            ..Silent::default()
        };
        for number in 0..SLOW {
            let slow = orphan(&dispatcher, "slow", 0, slow(1 + number));
            orphans.send(slow).unwrap();
        }
        // One that fails must not cut the others short.
        let panics = Silent {
            panics: true,
            ..Silent::default()
        };
        orphans
            .send(orphan(&dispatcher, "panics", 0, panics))
            .unwrap();
        drop(orphans);
        let reaped = reap(Arc::clone(&dispatcher), arrivals);
        timeout(PATIENCE, reaped).await.unwrap();
        assert_eq!(said.load(SeqCst), SLOW);
    }
}
