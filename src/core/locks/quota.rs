//! Counts of locks against their limits.
//!
//! Limits count what takes memory: an exclusive lock once, a shared
//! lock once for each of its holders.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::RwLock;

use super::limits::LockLimits;
use crate::core::registry::ClientId;
use crate::core::slots::Slots;

/// Locks that may still be granted. What is unlimited is not counted: a counter that every core writes would cost as much as
/// the lock itself.
#[derive(Debug)]
pub(super) struct Quota {
    in_all: Option<Slots>,
    by_client: Option<ClientQuotas>,
    refusals: AtomicU64,
}

/// Locks that each client may still be granted.
#[derive(Debug)]
struct ClientQuotas {
    limit: usize,
    /// By the index of the client.
    clients: RwLock<Vec<Slots>>,
}

impl Quota {
    /// Makes a quota of which nothing is used.
    pub(super) fn new(limits: LockLimits) -> Quota {
        Quota {
            in_all: limits.max_locks.map(|limit| Slots::new(Some(limit))),
            by_client: limits.max_locks_per_connection.map(|limit| ClientQuotas {
                limit,
                clients: RwLock::default(),
            }),
            refusals: AtomicU64::new(0),
        }
    }

    /// Counts one more lock of a client, until it is released. Returns false, and counts a refusal, if that would exceed a
    /// limit.
    pub(super) fn try_acquire(&self, client: ClientId) -> bool {
        // The client's own limit first. In the other order, a client at its limit would take the last lock of all for a
        // moment, and another client could be refused in that moment.
        let is_acquired = self.try_acquire_for_client(client) && {
            let is_acquired = self.in_all.as_ref().is_none_or(Slots::try_acquire);
            if !is_acquired {
                self.release_for_client(client, 1);
            }
            is_acquired
        };
        if !is_acquired {
            self.refusals.fetch_add(1, Relaxed);
        }
        is_acquired
    }

    /// Counts this many locks of a client as released.
    pub(super) fn release(&self, client: ClientId, count: usize) {
        if let Some(in_all) = &self.in_all {
            in_all.release(count);
        }
        self.release_for_client(client, count);
    }

    /// Returns the number of refusals.
    pub(super) fn refusals(&self) -> u64 {
        self.refusals.load(Relaxed)
    }

    fn try_acquire_for_client(&self, client: ClientId) -> bool {
        let Some(ClientQuotas { limit, clients }) = &self.by_client else {
            return true;
        };
        if let Some(of_client) = clients.read().get(client.index()) {
            return of_client.try_acquire();
        }
        let mut clients = clients.write();
        while clients.len() <= client.index() {
            clients.push(Slots::new(Some(*limit)));
        }
        clients[client.index()].try_acquire()
    }

    fn release_for_client(&self, client: ClientId, count: usize) {
        if let Some(quotas) = &self.by_client
            && let Some(of_client) = quotas.clients.read().get(client.index())
        {
            of_client.release(count);
        }
    }
}
