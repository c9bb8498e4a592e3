//! The clients that hold no lock and wait for none, which a draining server disconnects.
//!
//! A client has its locks in any number of shards, and each shard is locked by itself. So a client that gets the next
//! lock before it releases the last can look idle to a visitor that goes from shard to shard: it gets the next lock
//! in a shard that was already visited, and releases the last one before its shard is visited. Clients that look idle are
//! therefore checked once more while all shards are locked, a few at a time.

use parking_lot::MutexGuard;

use super::shard::Shard;
use super::table::LockTable;
use crate::core::registry::ClientId;

/// Checks made while all shards are locked: some ten microseconds.
const CHECKS: usize = 1024;

impl LockTable {
    /// Visits the clients that hold or wait for a lock in one shard, some of them more than once. The shard is locked
    /// meanwhile. Returns false if there is no shard of that number.
    pub fn visit_clients(&self, shard: usize, mut visit: impl FnMut(ClientId)) -> bool {
        let Some(shard) = self.shards.get(shard) else {
            return false;
        };
        let state = shard.lock();
        let waiting = state.queues.iter().flat_map(|queues| queues.clients());
        let holders = state.exclusive.clients().chain(state.shared.clients());
        holders.chain(waiting).for_each(&mut visit);
        true
    }

    /// Returns the most clients that [`visit_idle`](LockTable::visit_idle) should be given at once.
    pub fn idle_batch(&self) -> usize {
        (CHECKS / self.shards.len()).max(1)
    }

    /// Visits those of the clients that hold no lock. All shards are locked meanwhile, so none of them gets one before
    /// this returns. Whether they wait is not checked.
    pub fn visit_idle(&self, clients: &[ClientId], visit: impl FnMut(ClientId)) {
        // In order. Nothing else locks more than one shard at a time.
        let states: Vec<MutexGuard<'_, _>> = self.shards.iter().map(Shard::lock).collect();
        let is_idle = |&client: &ClientId| {
            states.iter().all(|state| {
                !state.exclusive.has_client(client) && !state.shared.has_client(client)
            })
        };
        clients.iter().copied().filter(is_idle).for_each(visit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::locks::{Attempt, IfBusy};
    use crate::core::registry::Registry;

    fn visited(locks: &LockTable) -> Vec<ClientId> {
        let mut found = Vec::new();
        let mut shard = 0;
        while locks.visit_clients(shard, |client| found.push(client)) {
            shard += 1;
        }
        found.sort();
        found.dedup();
        found
    }

    #[test]
    fn holders_and_waiters_are_visited() {
        let (locks, registry) = (LockTable::new(), Registry::default());
        let clients = [b"a", b"b", b"c", b"d"].map(|address| registry.add(address));
        let [holder, sharer, waiter, _] = clients;
        assert!(locks.get(holder, b"x"));
        assert_eq!(locks.shared_get(sharer, b"y"), 1);
        let Attempt::Waits(wait) = locks.get_or_wait(waiter, b"x", IfBusy::Wait) else {
            panic!("it is held");
        };
        assert_eq!(visited(&locks), [holder, sharer, waiter]);
        // The waiter holds it now, and does not know yet.
        assert!(locks.release(holder, b"x"));
        assert_eq!(visited(&locks), [sharer, waiter]);
        locks.end_wait(wait);
        assert!(locks.release(waiter, b"x"));
        assert!(locks.shared_release(sharer, b"y"));
        assert_eq!(visited(&locks), []);
    }

    #[test]
    fn clients_without_locks_are_idle() {
        let (locks, registry) = (LockTable::new(), Registry::default());
        let clients = [b"a", b"b", b"c"].map(|address| registry.add(address));
        assert!(locks.get(clients[0], b"x"));
        assert_eq!(locks.shared_get(clients[1], b"x"), 1);
        let idle = |locks: &LockTable| {
            let mut idle = Vec::new();
            locks.visit_idle(&clients, |client| idle.push(client));
            idle
        };
        assert_eq!(idle(&locks), clients[2..]);
        assert!(locks.release(clients[0], b"x"));
        assert!(locks.shared_release(clients[1], b"x"));
        assert_eq!(idle(&locks), clients);
    }
}
