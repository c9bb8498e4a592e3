//! Gets and releases.

use glockd_protocol::LockKind;

use super::grant::Denied;
use super::key::Key;
use super::queue::Wakes;
use super::shard::ShardState;
use super::stamp::Stamp;
use super::table::LockTable;
use super::wait::{Attempt, IfBusy};
use crate::core::observer::{Event, GrantDelay, LockLimit};
use crate::core::registry::ClientId;

impl LockTable {
    /// Gets an exclusive lock. Returns true if the client now holds it, and false if another client does or a limit is
    /// reached.
    pub fn get(&self, client: ClientId, name: &[u8]) -> bool {
        let key = self.key(LockKind::Exclusive, name);
        let mut state = self.lock_shard(key.name.hash);
        self.get_exclusive(&mut state, client, key).is_ok()
    }

    /// Gets an exclusive lock. If another client holds it, may wait for it.
    pub fn get_or_wait(&self, client: ClientId, name: &[u8], if_busy: IfBusy) -> Attempt {
        let key = self.key(LockKind::Exclusive, name);
        let mut state = self.lock_shard(key.name.hash);
        match self.get_exclusive(&mut state, client, key) {
            Ok(()) => Attempt::Done(1),
            Err(Denied::OverLimit) => Attempt::Full,
            Err(Denied::Held) if if_busy == IfBusy::Refuse => Attempt::Busy,
            Err(Denied::Held) => self.join_line(&mut state, client, key, 1),
        }
    }

    /// Releases an exclusive lock, and grants it to the first client in its line. Returns false if the client did not hold
    /// it.
    pub fn release(&self, client: ClientId, name: &[u8]) -> bool {
        let key = self.key(LockKind::Exclusive, name);
        let mut guard = self.lock_shard(key.name.hash);
        let mut wakes = Wakes::default();
        let ShardState {
            exclusive,
            queues,
            last_stamp,
            ..
        } = &mut *guard;
        let is_released = exclusive.release(key.name, client, || {
            self.emit_released(client, key);
            self.hand_over(queues, last_stamp, key, &mut wakes)
        });
        if is_released {
            if !self.is_plain {
                // Under the mutex: a client that sees the lock free may rely on the quota.
                self.quota.release(client, 1);
            }
            self.finish_release(key.name.hash, guard, wakes);
        }
        is_released
    }

    /// Gets a shared lock, even if others wait for it. Returns the number of holders, or 0 if a limit is reached and the
    /// client does not hold it.
    pub fn shared_get(&self, client: ClientId, name: &[u8]) -> u32 {
        let key = self.key(LockKind::Shared, name);
        let mut state = self.lock_shard(key.name.hash);
        let got = self.get_shared(&mut state, client, key, u32::MAX);
        got.unwrap_or(0)
    }

    /// Gets a shared lock that fewer than `limit` clients hold. Otherwise, or if others are in line already, may wait for it.
    pub fn shared_get_or_wait(
        &self,
        client: ClientId,
        name: &[u8],
        limit: u32,
        if_busy: IfBusy,
    ) -> Attempt {
        let key = self.key(LockKind::Shared, name);
        let mut state = self.lock_shard(key.name.hash);
        let limit_now = match state.line_len(key) {
            0 => limit,
            // Only a client that already holds the lock succeeds.
            _ => 0,
        };
        match self.get_shared(&mut state, client, key, limit_now) {
            Ok(holders) => Attempt::Done(holders),
            Err(Denied::OverLimit) => Attempt::Full,
            Err(Denied::Held) if if_busy == IfBusy::Refuse => Attempt::Busy,
            Err(Denied::Held) => self.join_line(&mut state, client, key, limit),
        }
    }

    /// Releases a shared lock. Returns false if the client did not hold it.
    pub fn shared_release(&self, client: ClientId, name: &[u8]) -> bool {
        let key = self.key(LockKind::Shared, name);
        let mut guard = self.lock_shard(key.name.hash);
        let Some(holders) = guard.shared.release(key.name, client) else {
            return false;
        };
        self.emit_released(client, key);
        self.note_fewer_holders(&mut guard.queues, key, holders);
        self.quota.release(client, 1);
        self.finish_release(key.name.hash, guard, Wakes::default());
        true
    }

    #[inline(always)]
    fn get_exclusive(
        &self,
        state: &mut ShardState,
        client: ClientId,
        key: Key<'_>,
    ) -> Result<(), Denied> {
        let ShardState {
            exclusive,
            last_stamp,
            ..
        } = state;
        exclusive.get(key.name, client, &self.hasher, || {
            self.stamp_grant(client, key, last_stamp)
        })
    }

    fn get_shared(
        &self,
        state: &mut ShardState,
        client: ClientId,
        key: Key<'_>,
        limit: u32,
    ) -> Result<u32, Denied> {
        let ShardState {
            shared, last_stamp, ..
        } = state;
        shared.get(key.name, client, limit, &self.hasher, || {
            self.stamp_grant(client, key, last_stamp)
        })
    }

    /// Returns the stamp of a grant, or `None` if a limit is reached.
    #[inline(always)]
    fn stamp_grant(&self, client: ClientId, key: Key<'_>, last: &mut Stamp) -> Option<Stamp> {
        match self.is_plain || self.count_grant(client, key) {
            true => Some(self.next_stamp(last)),
            false => None,
        }
    }

    /// Counts a grant against the limits, and lets it be observed. Returns false if a limit is reached.
    #[cold]
    fn count_grant(&self, client: ClientId, key: Key<'_>) -> bool {
        let Key { kind, name } = key;
        let name = name.bytes;
        let is_granted = self.quota.try_acquire(client);
        self.events.emit(client, |connection| match is_granted {
            true => Event::Granted {
                connection,
                kind,
                name,
                delay: GrantDelay::Immediate,
            },
            false => Event::LockRefused {
                connection,
                kind,
                name,
                limit: LockLimit::Locks,
            },
        });
        is_granted
    }

    #[inline(always)]
    fn emit_released(&self, client: ClientId, key: Key<'_>) {
        if !self.is_plain {
            self.events.emit(client, |connection| Event::Released {
                connection,
                kind: key.kind,
                name: key.name.bytes,
            });
        }
    }
}
