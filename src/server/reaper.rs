//! Releases the locks of ended connections, if they hold more than can be released at once.
//!
//! One task for a server. It works in short slices, one connection after the other, and yields between them. So a client
//! that held a million locks neither stalls others when it disconnects nor delays the release of the locks of other
//! clients.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::{JoinSet, yield_now};

use crate::core::dispatcher::Dispatcher;
use crate::server::ended_connection::EndedConnection;

/// Locks that are released before the reaper yields: about 100 microseconds.
const SLICE: usize = 512;

/// Releases the locks of ended connections, and says goodbye to their peers. Ends when all senders of `ended` are gone
/// and all connections that they sent are done.
pub(crate) async fn reap(
    dispatcher: Arc<Dispatcher>,
    mut ended: mpsc::UnboundedReceiver<EndedConnection>,
) {
    let mut queue = VecDeque::new();
    let mut goodbyes = JoinSet::new();
    loop {
        if queue.is_empty() {
            match ended.recv().await {
                Some(connection) => queue.push_back(connection),
                None => break,
            }
        }
        while let Ok(connection) = ended.try_recv() {
            queue.push_back(connection);
        }
        if let Some(mut connection) = queue.pop_front() {
            connection.release_locks(&dispatcher, SLICE);
            match connection.into_session() {
                Ok(session) => drop(goodbyes.spawn(session.say_goodbye())),
                Err(connection) => queue.push_back(connection),
            }
        }
        while goodbyes.try_join_next().is_some() {}
        yield_now().await;
    }
    // Not `join_all`, which propagates a panic: that of one session must not cut the others short.
    while goodbyes.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::time::Duration;

    use glockd_protocol::LockKind;
    use glockd_transports::{Input, Output, Peer, Session};
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::server::admission::{Admission, Admitted, Capacity};

    /// Longer than anything takes on the slowest of machines: to reach it is to fail.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A session without input, whose goodbye takes some time.
    #[derive(Default)]
    struct Silent {
        goodbye: Duration,
        panics: bool,
        /// Number of goodbyes that have ended.
        said: Arc<AtomicUsize>,
    }

    #[async_trait::async_trait]
    impl Session for Silent {
        async fn recv(&mut self, _: &mut Input) -> std::io::Result<usize> {
            Ok(0)
        }

        async fn send(&mut self, _: &mut Output) -> std::io::Result<()> {
            Ok(())
        }

        async fn close(self: Box<Self>) {
            assert!(!self.panics, "as a bug in a transport would");
            sleep(self.goodbye).await;
            self.said.fetch_add(1, SeqCst);
        }
    }

    /// Connects a client, gives it this many locks, and ends its connection.
    fn ended_connection(
        dispatcher: &Dispatcher,
        name: &str,
        locks: usize,
        session: Silent,
    ) -> EndedConnection {
        let peer = Peer::new(name);
        let client = dispatcher.connect(peer.as_str().as_bytes());
        for number in 0..locks {
            assert!(
                dispatcher
                    .locks()
                    .get(client, format!("{name} {number}").as_bytes())
            );
        }
        let permit = Admission::new(Capacity::default()).admit(&peer).unwrap();
        EndedConnection::new(client, Admitted::new(Box::new(session), permit))
    }

    /// On one thread, where the turns of the reaper can be counted.
    #[tokio::test]
    async fn large_holder_does_not_delay_small_ones() {
        const SLICES: usize = 40;
        const SMALL: usize = 3;
        let dispatcher = Arc::new(Dispatcher::default());
        let (sender, ended) = mpsc::unbounded_channel();
        let large = ended_connection(&dispatcher, "large", SLICES * SLICE, Silent::default());
        sender.send(large).unwrap();
        for small in 0..SMALL {
            let name = format!("small{small}");
            let small = ended_connection(&dispatcher, &name, SLICE / 2, Silent::default());
            sender.send(small).unwrap();
        }
        drop(sender);
        let reaper = tokio::spawn(reap(Arc::clone(&dispatcher), ended));
        let small_are_gone = async {
            while dispatcher.registry().connections() > 1 {
                yield_now().await;
            }
        };
        timeout(PATIENCE, small_are_gone).await.unwrap();
        // The large one had its turns in between, and holds most of its locks still.
        let left = dispatcher.locks().count(LockKind::Exclusive);
        let least = SLICES * SLICE * 3 / 4;
        assert!(left > least, "{left} locks are left, not {least}");
        timeout(PATIENCE, reaper).await.unwrap().unwrap();
        assert_eq!(dispatcher.registry().connections(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn reaper_ends_after_every_goodbye() {
        const SLOW: usize = 5;
        let dispatcher = Arc::new(Dispatcher::default());
        let (sender, ended) = mpsc::unbounded_channel();
        let said = Arc::new(AtomicUsize::new(0));
        let slow = |tenths: usize| Silent {
            goodbye: Duration::from_millis(100 * tenths as u64),
            said: Arc::clone(&said),
            ..Silent::default()
        };
        for number in 0..SLOW {
            let slow = ended_connection(&dispatcher, "slow", 0, slow(1 + number));
            sender.send(slow).unwrap();
        }
        // A goodbye that panics must not cut the others short.
        let panics = Silent {
            panics: true,
            ..Silent::default()
        };
        sender
            .send(ended_connection(&dispatcher, "panics", 0, panics))
            .unwrap();
        drop(sender);
        let reaped = reap(Arc::clone(&dispatcher), ended);
        timeout(PATIENCE, reaped).await.unwrap();
        assert_eq!(said.load(SeqCst), SLOW);
    }
}
