//! The order in which a disconnection and the statistics touch the state.

use std::thread;

use super::*;
use crate::testing::spawn_until_blocked;

/// Runs `blocked` in a thread of its own while the registry is locked, and `meanwhile` once that thread waits for
/// the registry. Unlocks the registry and returns the result of `blocked`.
fn with_locked_registry<T: Send>(
    dispatcher: &Dispatcher,
    client: ClientId,
    blocked: impl FnOnce() -> T + Send,
    meanwhile: impl FnOnce(),
) -> T {
    thread::scope(|scope| {
        let locked = dispatcher.registry().with_client(client, |_| {
            let thread = spawn_until_blocked(scope, blocked);
            meanwhile();
            thread
        });
        locked.unwrap().join().unwrap()
    })
}

/// If `q` does not count a connection any more, it must count that connection's orphans. So it reads the connections
/// before the orphans.
#[test]
fn statistics_count_orphans_after_connections() {
    let dispatcher = Dispatcher::default();
    let client = dispatcher.connect(b"a");
    let statistics = with_locked_registry(
        &dispatcher,
        client,
        || dispatcher.statistics(),
        || dispatcher.state.counters.count_orphans(3, 5),
    );
    assert_eq!(statistics.connections, 1);
    assert_eq!((statistics.orphans, statistics.shared_orphans), (3, 5));
}

/// For the same reason, a disconnection counts orphans before it removes the connection.
#[test]
fn connection_is_removed_after_its_orphans_are_counted() {
    let dispatcher = Dispatcher::default();
    let State {
        locks, counters, ..
    } = &dispatcher.state;
    let client = dispatcher.connect(b"a");
    assert!(locks.get(client, b"x"));
    assert_eq!(locks.shared_get(client, b"x"), 1);
    let mut disconnection = Disconnection::new(client);
    let is_done = with_locked_registry(
        &dispatcher,
        client,
        || dispatcher.disconnect(&mut disconnection, usize::MAX),
        || {
            assert_eq!(counters.exclusive_orphans(), 1);
            assert_eq!(counters.shared_orphans(), 1);
            assert_eq!(locks.holder(b"x"), None);
        },
    );
    assert!(is_done);
    assert_eq!(dispatcher.registry().connections(), 0);
}
