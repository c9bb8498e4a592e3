//! Waiters: which tasks are woken, how many are served at a time, and what the end of a server means for them.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use glockd_protocol::LockKind;

use super::support::{Woken, assert_as_new, clients, disconnect, poll, wait_handle};
use crate::core::locks::{IfBusy, LockLimits, LockTable, WaitHandle};

#[test]
fn task_that_polled_last_is_woken() {
    let (table, clients) = (LockTable::new(), clients(2));
    assert!(table.get(clients[0], b"x"));
    let mut handle = wait_handle(table.get_or_wait(clients[1], b"x", IfBusy::Wait));
    let tasks = [(); 2].map(|()| Arc::new(Woken::default()));
    for task in &tasks {
        assert!(poll(&table, &mut handle, task).is_pending());
    }
    assert!(table.release(clients[0], b"x"));
    assert_eq!(tasks.map(|task| task.get()), [false, true]);
}

#[test]
fn no_wait_succeeds_after_stop_granting() {
    let table = LockTable::new();
    let [holder, waiter, watcher] = clients(3)[..] else {
        unreachable!()
    };
    for kind in [LockKind::Exclusive, LockKind::Shared] {
        let name = b"x";
        let mut waits = match kind {
            LockKind::Exclusive => {
                assert!(table.get(holder, name));
                [
                    wait_handle(table.get_or_wait(waiter, name, IfBusy::Wait)),
                    None,
                ]
            }
            LockKind::Shared => {
                assert_eq!(table.shared_get(holder, name), 1);
                // The waiter is in line behind the watcher, whose end makes it the first.
                let wait =
                    |client| wait_handle(table.shared_get_or_wait(client, name, 1, IfBusy::Wait));
                [wait(watcher), wait(waiter)]
            }
        };
        let mut watch = wait_handle(table.watch(watcher, kind, name, 1, IfBusy::Wait));
        table.stop_granting();
        let woken = Arc::<Woken>::default();
        assert!(match kind {
            LockKind::Exclusive => table.release(holder, name),
            LockKind::Shared => table.shared_release(holder, name),
        });
        for wait in waits.iter_mut().chain([&mut watch]) {
            if wait.is_some() {
                assert!(poll(&table, wait, &woken).is_pending());
            }
            assert_eq!(wait.take().and_then(|wait| table.end_wait(wait)), None);
        }
        assert!(!woken.take());
        assert_eq!(table.count(kind), 0);
    }
}

/// The client that releases the lock serves the first slice of the due waiters; the others are served in turns.
#[test]
fn due_waiters_are_served_in_slices() {
    const MANY: usize = 1000;
    const SLICE: usize = crate::core::locks::wait::SERVE_SLICE;
    let clients = clients(2 * MANY + 2);
    let table = LockTable::with_limits(LockLimits {
        max_locks: Some(10 * MANY),
        ..LockLimits::default()
    });
    let name = b"x";
    let woken: Vec<Arc<Woken>> = clients.iter().map(|_| Arc::default()).collect();
    assert_eq!(table.shared_get(clients[0], name), 1);
    let mut waits: Vec<Option<WaitHandle>> = (0..2 * MANY)
        .map(|number| match number % 2 {
            0 => {
                // All but the first may hold it already, but stand behind the first, which may not.
                let limit = if number == 0 { 1 } else { 1_000_000 };
                wait_handle(table.shared_get_or_wait(
                    clients[number + 1],
                    name,
                    limit,
                    IfBusy::Wait,
                ))
            }
            _ => wait_handle(table.watch(
                clients[number + 1],
                LockKind::Shared,
                name,
                1,
                IfBusy::Wait,
            )),
        })
        .collect();
    for (wait, woken) in waits.iter_mut().zip(&woken) {
        assert!(poll(&table, wait, woken).is_pending());
    }
    let server_task = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&server_task));
    assert!(
        table
            .poll_due_waiters(&Context::from_waker(&waker))
            .is_pending()
    );

    assert!(table.shared_release(clients[0], name));
    let served = || woken.iter().filter(|woken| woken.get()).count();
    assert_eq!(served(), SLICE);
    assert!(server_task.take());
    // A watcher that is polled before its turn has succeeded. A client in line ends its wait. Another has just come.
    let last = 2 * MANY - 1;
    assert_eq!(poll(&table, &mut waits[last], &woken[last]), Poll::Ready(0));
    assert_eq!(table.end_wait(waits[last - 1].take().unwrap()), None);
    let latest = table.shared_get_or_wait(clients[2 * MANY + 1], name, 1_000_000, IfBusy::Wait);
    let mut latest = wait_handle(latest);
    // The release and the two calls above served a slice each.
    let mut turns = 3;
    while table
        .poll_due_waiters(&Context::from_waker(&waker))
        .is_ready()
    {
        table.serve_due_waiters();
        turns += 1;
        assert!(served() <= turns * SLICE);
    }
    assert_eq!(served(), 2 * MANY - 2);
    assert_eq!(
        poll(&table, &mut latest, &woken[0]),
        Poll::Ready(MANY as u32)
    );
    for (number, wait) in waits[..last - 1].iter_mut().enumerate() {
        let holders = match number % 2 {
            0 => number / 2 + 1,
            _ => 0,
        };
        assert_eq!(
            poll(&table, wait, &woken[number]),
            Poll::Ready(holders as u32)
        );
    }
    for &client in &clients {
        disconnect(&table, client);
    }
    assert_as_new(&table, clients[0], 10 * MANY);
}
