//! Waits: how they begin, how they end, and how waiters are served.

use std::mem;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use glockd_protocol::LockKind;
use parking_lot::MutexGuard;

use super::grant::Grant;
use super::key::Key;
use super::queue::{WaitEnd, WaitQueues, Wakes};
use super::shard::ShardState;
use super::stamp::Stamp;
use super::table::LockTable;
use crate::core::observer::{Event, GrantDelay, LockLimit};
use crate::core::registry::ClientId;

/// Maximum number of waiters that are served under one hold of a shard's mutex: some ten microseconds.
pub(super) const SERVE_SLICE: usize = 64;

/// What to do if a lock is busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfBusy {
    /// Refuse the get or the watch.
    Refuse,
    /// Wait for the lock.
    Wait,
}

/// Outcome of a get or a watch that may wait.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a wait goes on until it is ended"]
pub enum Attempt {
    /// It has succeeded, with this number of holders.
    Done(u32),
    /// The lock is busy, and the caller asked to [refuse](IfBusy::Refuse).
    Busy,
    /// A limit is reached: that of the waiters for the lock, or one of held locks.
    Full,
    /// The client waits.
    Waits(WaitHandle),
}

/// A wait in the table. It must end, by [`LockTable::poll_wait`] or [`LockTable::end_wait`], before its client gets other
/// locks and before that client is disconnected.
#[derive(Debug, PartialEq, Eq)]
pub struct WaitHandle {
    shard: u32,
    waiter: u32,
}

impl LockTable {
    /// Succeeds if fewer than `below` clients hold a lock; otherwise, may wait for that. A wait succeeds at the moment of a
    /// release, even if another client is granted the lock in the next moment.
    pub fn watch(
        &self,
        client: ClientId,
        kind: LockKind,
        name: &[u8],
        below: u32,
        if_busy: IfBusy,
    ) -> Attempt {
        let key = self.key(kind, name);
        let mut state = self.lock_shard(key.name.hash);
        let holders = match kind {
            LockKind::Exclusive => u32::from(state.exclusive.holder(key.name).is_some()),
            LockKind::Shared => state.shared.holder_count(key.name),
        };
        if holders < below {
            return Attempt::Done(holders);
        }
        if if_busy == IfBusy::Refuse {
            return Attempt::Busy;
        }
        let since = self.next_stamp(&mut state.last_stamp);
        let queues = state.queues_mut();
        let waiter = queues.join_watchers(key, client, below, since);
        Attempt::Waits(self.wait_handle(key, waiter))
    }

    /// Returns the number of holders if a wait has succeeded, and uses up the handle. Otherwise stores the task, which is
    /// woken when the wait succeeds.
    ///
    /// # Panics
    ///
    /// If the handle has been used up.
    pub fn poll_wait(&self, handle: &mut Option<WaitHandle>, context: &Context<'_>) -> Poll<u32> {
        let Some(WaitHandle { shard, waiter }) = *handle else {
            panic!("a wait that has ended is not polled");
        };
        let mut guard = self.shards[shard as usize].lock();
        let polled = guard.queues_mut().poll_waiter(waiter, context);
        if polled.is_ready() {
            *handle = None;
            self.serve_waiters(shard as usize, guard, Wakes::default());
        }
        polled
    }

    /// Ends a wait. If it had already succeeded, returns the number of holders.
    pub fn end_wait(&self, handle: WaitHandle) -> Option<u32> {
        let shard = handle.shard as usize;
        let mut guard = self.shards[shard].lock();
        if self.events.are_observed()
            && let Some((client, key)) = guard.queues_mut().in_line(handle.waiter)
        {
            self.events.emit(client, |connection| Event::WaitEnded {
                connection,
                kind: key.kind,
                name: key.name.bytes,
            });
        }
        let end = guard.queues_mut().end_wait(handle.waiter);
        if let WaitEnd::LeftLine(client) = end {
            self.quota.release(client, 1);
        }
        self.serve_waiters(shard, guard, Wakes::default());
        match end {
            WaitEnd::Succeeded(holders) => Some(holders),
            WaitEnd::LeftLine(_) | WaitEnd::LeftGroup => None,
        }
    }

    /// Stops granting locks to waiters, and no watch succeeds any more. At shutdown, connections end one by one; a lock freed
    /// by one must not go to another that is about to end.
    pub fn stop_granting(&self) {
        self.has_stopped_granting.store(true, Ordering::Release);
    }

    /// Is ready when waiters are due whom the client that released their lock did not serve itself: then call
    /// [`serve_due_waiters`](LockTable::serve_due_waiters). Only one task may wait for this.
    pub fn poll_due_waiters(&self, context: &Context<'_>) -> Poll<()> {
        self.due.poll(context)
    }

    /// Serves some of the due waiters, for some ten microseconds.
    pub fn serve_due_waiters(&self) {
        if let Some(shard) = self.due.pop() {
            let mut guard = self.shards[shard].lock();
            if let Some(queues) = &mut guard.queues {
                queues.is_listed = false;
            }
            self.serve_waiters(shard, guard, Wakes::default());
        }
    }

    /// Adds a client to the line of a lock if the limits allow. The lock that it waits for counts as its own from now on, so
    /// the grant cannot fail later.
    pub(super) fn join_line(
        &self,
        state: &mut ShardState,
        client: ClientId,
        key: Key<'_>,
        limit: u32,
    ) -> Attempt {
        let limit_reached = if state.line_len(key) >= self.max_waiters {
            Some(LockLimit::Waiters)
        } else if !self.quota.try_acquire(client) {
            Some(LockLimit::Locks)
        } else {
            None
        };
        let (kind, name) = (key.kind, key.name.bytes);
        self.events.emit(client, |connection| match limit_reached {
            Some(limit) => Event::LockRefused {
                connection,
                kind,
                name,
                limit,
            },
            None => Event::WaitBegun {
                connection,
                kind,
                name,
            },
        });
        if limit_reached.is_some() {
            return Attempt::Full;
        }
        let since = self.next_stamp(&mut state.last_stamp);
        let waiter = state.queues_mut().join_line(key, client, limit, since);
        Attempt::Waits(self.wait_handle(key, waiter))
    }

    /// Returns the grant of a released exclusive lock to the first client in its line.
    #[inline(always)]
    pub(super) fn hand_over(
        &self,
        queues: &mut Option<Box<WaitQueues>>,
        last_stamp: &mut Stamp,
        key: Key<'_>,
        wakes: &mut Wakes,
    ) -> Option<Grant> {
        let client = self.queues_to_serve(queues)?.hand_over(key, wakes)?;
        self.emit_granted_waiter(client, key);
        Some(Grant {
            client,
            stamp: self.next_stamp(last_stamp),
        })
    }

    /// Records that a shared lock has fewer holders than before. Its waiters are served by
    /// [`finish_release`](LockTable::finish_release).
    #[inline(always)]
    pub(super) fn note_fewer_holders(
        &self,
        queues: &mut Option<Box<WaitQueues>>,
        key: Key<'_>,
        holders: u32,
    ) {
        if let Some(queues) = self.queues_to_serve(queues) {
            queues.note_fewer_holders(key, holders);
        }
    }

    /// Unlocks the shard with this hash after a release, and serves its waiters if there are any.
    #[inline(always)]
    pub(super) fn finish_release(
        &self,
        hash: u64,
        guard: MutexGuard<'_, ShardState>,
        wakes: Wakes,
    ) {
        if guard.queues.is_some() {
            self.serve_waiters(self.shard_index(hash), guard, wakes);
        }
    }

    /// Serves a slice of the due waiters of a shard, unlocks it, and wakes the tasks. Leaves the rest to
    /// [`serve_due_waiters`](LockTable::serve_due_waiters).
    pub(super) fn serve_waiters(
        &self,
        shard: usize,
        mut guard: MutexGuard<'_, ShardState>,
        mut wakes: Wakes,
    ) {
        let ShardState {
            shared,
            last_stamp,
            queues: slot,
            ..
        } = &mut *guard;
        let Some(queues) = self.queues_to_serve(slot) else {
            return;
        };
        let grant = |key: Key<'_>, client, limit| match key.kind {
            // Handed over when it is released, so its line is never due.
            LockKind::Exclusive => None,
            LockKind::Shared => {
                // The quota has counted it since the client joined the line.
                let stamp = || {
                    self.emit_granted_waiter(client, key);
                    Some(self.next_stamp(last_stamp))
                };
                let got = shared.get(key.name, client, limit, &self.hasher, stamp);
                got.ok()
            }
        };
        let are_some_left = queues.serve_due(SERVE_SLICE, grant, &mut wakes);
        let is_newly_due = are_some_left && !mem::replace(&mut queues.is_listed, true);
        if queues.is_idle() && !queues.is_listed {
            *slot = None;
        }
        drop(guard);
        if is_newly_due {
            self.due.push(shard);
        }
        wakes.wake_all();
    }

    /// Returns the queues of a shard, unless there are none or the table has stopped granting.
    #[inline(always)]
    fn queues_to_serve<'a>(
        &self,
        queues: &'a mut Option<Box<WaitQueues>>,
    ) -> Option<&'a mut WaitQueues> {
        let queues = queues.as_mut()?;
        (!self.has_stopped_granting.load(Ordering::Acquire)).then_some(queues)
    }

    fn emit_granted_waiter(&self, client: ClientId, key: Key<'_>) {
        self.events.emit(client, |connection| Event::Granted {
            connection,
            kind: key.kind,
            name: key.name.bytes,
            delay: GrantDelay::Waited,
        });
    }

    fn wait_handle(&self, key: Key<'_>, waiter: u32) -> WaitHandle {
        WaitHandle {
            shard: self.shard_index(key.name.hash) as u32,
            waiter,
        }
    }
}
