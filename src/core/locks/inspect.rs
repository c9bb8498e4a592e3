//! Questions about the table that change nothing.

use std::iter;

use byteview::ByteView;
use glockd_protocol::LockKind;

use super::claim::{
    Claim, CountedClaims, EXCLUSIVE_HOLDER, EXCLUSIVE_WAITERS, Rank, SHARED_HOLDERS, SHARED_WAITERS,
};
use super::grant::Grant;
use super::key::{HashedName, Key};
use super::shard::ShardState;
use super::stamp::Stamp;
use super::table::LockTable;
use crate::core::registry::ClientId;

/// Cost of going to the next shard in a scan, as a number of slots: what a visit to an empty shard costs.
const SHARD_VISIT: usize = 8;

/// A position in a scan of the table, which is also that of a lock. See [`LockTable::scan`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ScanPosition {
    shard: u32,
    slot: u32,
}

impl ScanPosition {
    /// Returns the position as a number.
    pub fn to_bits(self) -> u64 {
        u64::from(self.shard) << 32 | u64::from(self.slot)
    }

    /// Returns the position of a number that [`to_bits`](ScanPosition::to_bits) has returned.
    pub fn from_bits(bits: u64) -> ScanPosition {
        ScanPosition {
            shard: (bits >> 32) as u32,
            slot: bits as u32,
        }
    }
}

impl LockTable {
    /// Returns the holder of an exclusive lock.
    pub fn holder(&self, name: &[u8]) -> Option<ClientId> {
        self.with_holder(name, |client| client)
    }

    /// Calls `visit` with the holder of an exclusive lock, which cannot lose it meanwhile. Returns `None` if the lock is free.
    pub fn with_holder<T>(&self, name: &[u8], visit: impl FnOnce(ClientId) -> T) -> Option<T> {
        let name = self.hasher.hash_name(name);
        let state = self.lock_shard(name.hash);
        state.exclusive.holder(name).map(visit)
    }

    /// Returns the number of holders of a shared lock.
    pub fn shared_holder_count(&self, name: &[u8]) -> u32 {
        let name = self.hasher.hash_name(name);
        self.lock_shard(name.hash).shared.holder_count(name)
    }

    /// Returns the holders of a shared lock, in the order of their grants.
    pub fn shared_holders(&self, name: &[u8]) -> Vec<ClientId> {
        let name = self.hasher.hash_name(name);
        let state = self.lock_shard(name.hash);
        let grants = state.shared.grants(name, None);
        grants.map(|grant| grant.client).collect()
    }

    /// Calls `visit` if a client holds a shared lock, which it cannot lose meanwhile. Returns `None` if it does not.
    pub fn with_shared_holder<T>(
        &self,
        name: &[u8],
        client: ClientId,
        visit: impl FnOnce() -> T,
    ) -> Option<T> {
        let name = self.hasher.hash_name(name);
        let state = self.lock_shard(name.hash);
        state.shared.is_held_by(name, client).then(visit)
    }

    /// Returns when a client was granted a lock that it holds.
    pub fn held_since(&self, client: ClientId, kind: LockKind, name: &[u8]) -> Option<Stamp> {
        let key = self.key(kind, name);
        self.lock_shard(key.name.hash).held_since(client, key)
    }

    /// Counts the claims on a name, and visits the first `most` of them, under one hold of a mutex: keep it short.
    ///
    /// The order is: the holder of the exclusive lock, the holders of the shared lock by their grants, the line of the
    /// exclusive lock, the line of the shared lock.
    pub fn visit_claims(
        &self,
        name: &[u8],
        most: usize,
        visit: impl FnMut(Claim),
    ) -> CountedClaims {
        let name = self.hasher.hash_name(name);
        let state = self.lock_shard(name.hash);
        let until = state.last_stamp;
        state.claims(name, None, until).take(most).for_each(visit);
        CountedClaims {
            count: state.count_claims(name),
            until,
        }
    }

    /// Visits at most `most` of the claims that were counted, from the one behind `after` on, and leaves out those that have
    /// ended. Returns the number of claims that it looked at: larger than the number of those visited only if `after` has
    /// ended.
    pub fn visit_claims_after(
        &self,
        name: &[u8],
        counted: CountedClaims,
        after: &Claim,
        most: usize,
        visit: impl FnMut(Claim),
    ) -> usize {
        let name = self.hasher.hash_name(name);
        let state = self.lock_shard(name.hash);
        let mut looked_at = 0;
        state
            .claims(name, Some(after), counted.until)
            .inspect(|_| looked_at += 1)
            .filter(|claim| claim.rank() > after.rank() || claim.stamp > after.stamp)
            .take(most)
            .for_each(visit);
        looked_at
    }

    /// Calls `visit` if a claim that was visited still stands; it cannot end meanwhile. Returns `None` if it has ended.
    pub fn with_claim<T>(
        &self,
        name: &[u8],
        claim: &Claim,
        visit: impl FnOnce() -> T,
    ) -> Option<T> {
        let key = self.key(claim.kind, name);
        let state = self.lock_shard(key.name.hash);
        let stands = match claim.waits {
            true => state.queues.as_ref()?.is_waiting(key, claim),
            false => state.held_since(claim.client, key) == Some(claim.stamp),
        };
        stands.then(visit)
    }

    /// Calls `visit` with the holder of a lock, which is at this position if it was held throughout since a
    /// [`scan`](LockTable::scan). The holder cannot lose it meanwhile. Returns `None` if the lock has moved, or has several
    /// holders.
    pub fn with_only_holder_at<T>(
        &self,
        kind: LockKind,
        position: ScanPosition,
        name: &[u8],
        visit: impl FnOnce(ClientId) -> T,
    ) -> Option<T> {
        let state = self.shards.get(position.shard as usize)?.lock();
        let slot = position.slot as usize;
        let holder = match kind {
            LockKind::Exclusive => state.exclusive.holder_in(slot, name),
            LockKind::Shared => state.shared.only_holder_in(slot, name),
        };
        holder.map(visit)
    }

    /// Returns the age of the table in milliseconds, the measure of [`Stamp::ms`].
    pub fn age_ms(&self) -> u64 {
        self.clock.age_ms()
    }

    /// Returns the number of times that a client did not get a lock because of a limit.
    pub fn refused_by_limits(&self) -> u64 {
        self.quota.refusals()
    }

    /// Returns the number of locked names.
    pub fn count(&self, kind: LockKind) -> usize {
        let shards = self.shards.iter().map(|shard| shard.lock());
        match kind {
            LockKind::Exclusive => shards.map(|state| state.exclusive.len()).sum(),
            LockKind::Shared => shards.map(|state| state.shared.len()).sum(),
        }
    }

    /// Visits at most `count` locked names from a position on, in no particular order. Returns the next position, or `None` at
    /// the end.
    ///
    /// A lock that is held throughout a series of calls is visited. One that is released and granted again may be visited
    /// twice.
    pub fn scan(
        &self,
        kind: LockKind,
        mut position: ScanPosition,
        count: usize,
        mut visit: impl FnMut(ScanPosition, &ByteView),
    ) -> Option<ScanPosition> {
        let mut left = count;
        while let Some(shard) = self.shards.get(position.shard as usize) {
            if left == 0 {
                return Some(position);
            }
            let at = |slot: usize| ScanPosition {
                slot: slot as u32,
                ..position
            };
            let mut visited = SHARD_VISIT;
            let visit = |slot, name: &ByteView| {
                visited += 1;
                visit(at(slot), name);
            };
            let state = shard.lock();
            let next_slot = match kind {
                LockKind::Exclusive => state.exclusive.scan(position.slot as usize, left, visit),
                LockKind::Shared => state.shared.scan(position.slot as usize, left, visit),
            };
            if let Some(slot) = next_slot {
                return Some(at(slot));
            }
            position = ScanPosition {
                shard: position.shard + 1,
                slot: 0,
            };
            left = left.saturating_sub(visited);
        }
        None
    }

    /// Calls `visit` with the name of the lock at a position where [`scan`](LockTable::scan) found one, which cannot be
    /// released meanwhile. Returns `None` if no lock is there any more. It may be another lock than at the time of the scan,
    /// but a lock that is held throughout stays at its position.
    pub fn with_name_at<T>(
        &self,
        kind: LockKind,
        position: ScanPosition,
        visit: impl FnOnce(&ByteView) -> T,
    ) -> Option<T> {
        let state = self.shards.get(position.shard as usize)?.lock();
        let slot = position.slot as usize;
        let name = match kind {
            LockKind::Exclusive => state.exclusive.name_in(slot),
            LockKind::Shared => state.shared.name_in(slot),
        };
        name.map(visit)
    }
}

impl ShardState {
    fn held_since(&self, client: ClientId, key: Key<'_>) -> Option<Stamp> {
        match key.kind {
            LockKind::Exclusive => {
                let grant = self.exclusive.grant(key.name)?;
                (grant.client == client).then_some(grant.stamp)
            }
            LockKind::Shared => self.shared.held_since(key.name, client),
        }
    }

    /// Returns the claims on a name in the order of [`LockTable::visit_claims`], except those that began after `until`: all,
    /// or those behind `after`, which takes no search. If `after` has ended, all claims of its group are returned again.
    fn claims<'a>(
        &'a self,
        name: HashedName<'a>,
        after: Option<&'a Claim>,
        until: Stamp,
    ) -> impl Iterator<Item = Claim> {
        // `None`: the group lies before `after`. `Some(None)`: it is returned as a whole.
        let start = move |rank: Rank| match after {
            Some(claim) if claim.rank() > rank => None,
            Some(claim) if claim.rank() == rank => Some(Some(claim)),
            _ => Some(None),
        };
        let is_counted = move |claim: &Claim| claim.stamp <= until;
        let exclusive_holder = match start(EXCLUSIVE_HOLDER) {
            Some(None) => self.exclusive.grant(name),
            _ => None,
        };
        let exclusive_holder =
            exclusive_holder.map(|grant| Claim::of_holder(LockKind::Exclusive, grant));
        let shared_holders = start(SHARED_HOLDERS).map(|after| {
            let after = after.map(|&Claim { client, stamp, .. }| Grant { client, stamp });
            let grants = self.shared.grants(name, after);
            grants.map(|grant| Claim::of_holder(LockKind::Shared, grant))
        });
        let line = move |rank, kind| {
            let queues = self.queues.as_ref()?;
            Some(queues.claims(Key { kind, name }, start(rank)?))
        };
        let exclusive_line = iter::once_with(move || line(EXCLUSIVE_WAITERS, LockKind::Exclusive));
        let shared_line = iter::once_with(move || line(SHARED_WAITERS, LockKind::Shared));
        // The latest of each group are at its end.
        let lines = exclusive_line.chain(shared_line).flatten();
        exclusive_holder
            .into_iter()
            .filter(is_counted)
            .chain(shared_holders.into_iter().flatten().take_while(is_counted))
            .chain(lines.flat_map(move |line| line.take_while(is_counted)))
    }

    fn count_claims(&self, name: HashedName<'_>) -> usize {
        let line_len = |kind| self.line_len(Key { kind, name }) as usize;
        usize::from(self.exclusive.holder(name).is_some())
            + self.shared.holder_count(name) as usize
            + line_len(LockKind::Exclusive)
            + line_len(LockKind::Shared)
    }
}
