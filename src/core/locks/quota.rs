//! How many locks may be held.
//!
//! What a client is given costs memory until it gives it back, so that is what counts: an exclusive lock
//! once, a shared one once for each of its holders.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::RwLock;

use crate::core::registry::ClientId;
use crate::core::slots::Slots;

/// Counts what is held, where that is limited. Where it is not, nothing is counted: a number that every core
/// writes would cost as much as the lock.
#[derive(Debug, Default)]
pub(super) struct Quota {
    in_all: Option<Slots>,
    /// By the index of the client.
    by_client: Option<(usize, RwLock<Vec<Slots>>)>,
    refused: AtomicU64,
}

impl Quota {
    pub(super) fn new(in_all: Option<usize>, by_client: Option<usize>) -> Quota {
        Quota {
            in_all: in_all.map(|limit| Slots::new(Some(limit))),
            by_client: by_client.map(|limit| (limit, RwLock::default())),
            refused: AtomicU64::new(0),
        }
    }

    /// Takes one more, if that may be; then the caller must hold it, until it gives it back.
    pub(super) fn take(&self, client: ClientId) -> bool {
        let taken = self.take_from_client(client) && {
            let taken = self.in_all.as_ref().is_none_or(Slots::try_acquire);
            if !taken {
                self.give_back_to_client(client, 1);
            }
            taken
        };
        if !taken {
            self.refused.fetch_add(1, Relaxed);
        }
        taken
    }

    /// Gives back what was taken.
    pub(super) fn give_back(&self, client: ClientId, number: usize) {
        if let Some(in_all) = &self.in_all {
            in_all.release(number);
        }
        self.give_back_to_client(client, number);
    }

    /// How often one more was refused.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    fn take_from_client(&self, client: ClientId) -> bool {
        let Some((limit, clients)) = &self.by_client else {
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

    fn give_back_to_client(&self, client: ClientId, number: usize) {
        if let Some((_, clients)) = &self.by_client
            && let Some(of_client) = clients.read().get(client.index())
        {
            of_client.release(number);
        }
    }
}
