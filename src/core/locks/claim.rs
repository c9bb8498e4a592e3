//! Claims on the locks of one name: their holders and waiters.

use glockd_protocol::LockKind;

use super::arena::NONE;
use super::grant::Grant;
use super::stamp::Stamp;
use crate::core::registry::ClientId;

/// A client's claim on a lock: the client holds it, or waits to hold it. See
/// [`LockTable::visit_claims`](super::LockTable::visit_claims).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The kind of lock.
    pub kind: LockKind,
    /// True if the client waits to hold the lock; false if it holds it.
    pub waits: bool,
    /// The client.
    pub client: ClientId,
    /// The moment of the grant, or the start of the wait.
    pub stamp: Stamp,
    /// Position of the waiter in its shard; `NONE` for a holder.
    pub(super) waiter: u32,
}

/// Number of claims on one name at some moment, and which claims these are. See
/// [`LockTable::visit_claims`](super::LockTable::visit_claims).
#[derive(Clone, Copy, Debug, Default)]
pub struct CountedClaims {
    /// Number of claims.
    pub count: usize,
    /// Last stamp of the shard at that moment. Later claims have larger stamps.
    pub(super) until: Stamp,
}

/// Position of a group of claims in the order of [`LockTable::visit_claims`](super::LockTable::visit_claims). Within a group,
/// claims are sorted by stamp.
pub(super) type Rank = u8;

pub(super) const EXCLUSIVE_HOLDER: Rank = 0;
pub(super) const SHARED_HOLDERS: Rank = 1;
pub(super) const EXCLUSIVE_WAITERS: Rank = 2;
pub(super) const SHARED_WAITERS: Rank = 3;

impl Claim {
    /// Makes the claim of a holder.
    pub(super) fn of_holder(kind: LockKind, Grant { client, stamp }: Grant) -> Claim {
        Claim {
            kind,
            waits: false,
            client,
            stamp,
            waiter: NONE,
        }
    }

    /// Returns the group that the claim belongs to.
    pub(super) fn rank(&self) -> Rank {
        match (self.waits, self.kind) {
            (false, LockKind::Exclusive) => EXCLUSIVE_HOLDER,
            (false, LockKind::Shared) => SHARED_HOLDERS,
            (true, LockKind::Exclusive) => EXCLUSIVE_WAITERS,
            (true, LockKind::Shared) => SHARED_WAITERS,
        }
    }
}
