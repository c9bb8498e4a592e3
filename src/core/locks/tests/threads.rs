//! Threads that race for locks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use glockd_protocol::LockKind;

use super::support::{assert_as_new, clients, disconnect};
use crate::core::locks::{Attempt, IfBusy, LockLimits, LockTable};

/// Longer than anything takes on the slowest machine: a test that waits for so long fails.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn racing_gets_reach_the_limit_and_never_exceed_it() {
    const MAX: usize = 1000;
    let clients = clients(4);
    let table = LockTable::with_limits(LockLimits {
        max_locks: Some(MAX),
        ..LockLimits::default()
    });
    let got: usize = thread::scope(|scope| {
        let table = &table;
        let threads: Vec<_> = clients
            .iter()
            .map(|&client| {
                scope.spawn(move || {
                    let mut got = 0;
                    for number in 0..MAX {
                        let name = format!("{client:?} {number}");
                        got += usize::from(table.get(client, name.as_bytes()));
                        // A get that fails because another client holds the lock does not count.
                        table.get(client, b"wanted by all");
                        table.release(client, b"wanted by all");
                    }
                    got
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    // The lock that all want may have taken the place of one.
    assert!((MAX - 1..=MAX).contains(&got), "{got}");
    disconnect(&table, clients[0]);
    let free = MAX - table.count(LockKind::Exclusive);
    let more = (0..MAX).filter(|n| table.shared_get(clients[1], n.to_string().as_bytes()) > 0);
    assert_eq!(more.count(), free);
}

/// Blocks the thread until a wait succeeds, and returns the number of holders. Ends the wait after this time.
fn block_on(table: &LockTable, attempt: Attempt, time: Duration) -> Option<u32> {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let mut handle = match attempt {
        Attempt::Done(holders) => return Some(holders),
        Attempt::Waits(handle) => Some(handle),
        other => panic!("{other:?}"),
    };
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let deadline = Instant::now() + time;
    loop {
        if let Poll::Ready(holders) = table.poll_wait(&mut handle, &Context::from_waker(&waker)) {
            return Some(holders);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return table.end_wait(handle?);
        }
        thread::park_timeout(left);
    }
}

/// Grants, time-outs and disconnects at the same moments: no lock has too many holders, and every wait ends.
#[test]
fn racing_waits_neither_exceed_limits_nor_hang() {
    const THREADS: usize = 6;
    const ROUNDS: usize = 2000;
    let clients = clients(THREADS);
    let table = LockTable::with_limits(LockLimits {
        max_locks: Some(THREADS * 2),
        ..LockLimits::default()
    });
    let (exclusive, shared) = (AtomicU32::new(0), AtomicU32::new(0));
    let hold = |holders: &AtomicU32, most: u32| {
        assert!(holders.fetch_add(1, SeqCst) < most);
        thread::yield_now();
        holders.fetch_sub(1, SeqCst);
    };
    thread::scope(|scope| {
        for (number, &client) in clients.iter().enumerate() {
            let (table, exclusive, shared) = (&table, &exclusive, &shared);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    // Some waits end after about the time for which a lock is usually held.
                    let is_hasty = (round + number) % 3 == 0;
                    let time = if is_hasty {
                        Duration::from_micros(20)
                    } else {
                        PATIENCE
                    };
                    let got = block_on(table, table.get_or_wait(client, b"x", IfBusy::Wait), time);
                    assert!(is_hasty || got.is_some(), "the wait was forgotten");
                    if got.is_some() {
                        hold(exclusive, 1);
                        match round % 2 {
                            0 => assert!(table.release(client, b"x")),
                            _ => {
                                disconnect(table, client);
                            }
                        }
                    }
                    let attempt = table.shared_get_or_wait(client, b"x", 2, IfBusy::Wait);
                    let got = block_on(table, attempt, time);
                    assert!(is_hasty || got.is_some(), "the wait was forgotten");
                    if let Some(holders) = got {
                        assert!((1..=2).contains(&holders));
                        hold(shared, 2);
                        assert!(table.shared_release(client, b"x"));
                    }
                }
            });
        }
    });
    assert_as_new(&table, clients[0], THREADS * 2);
}
