//! The clients that wait for the locks of one shard.
//!
//! The queues are kept beside the locks and exist only while a client waits: a lock without waiters pays nothing for them,
//! neither memory nor time.
//!
//! A waiter is a node until its connection has learned how the wait ended. A wait may be ended by a grant, a time limit, its
//! client, or the end of its connection. The first of these decides, under the shard's mutex, and the connection learns of it
//! when it polls.
//!
//! A release may concern a hundred thousand waiters. What it means for them is decided at once but carried out in slices. The
//! line of clients that wait for a shared lock is marked as due and served from its start; no client can overtake. Watchers are
//! grouped by the number of holders that they wait for, and a whole group succeeds before its first member is woken.
//!
//! To add a kind of lock, decide two things. Does a release hand the lock over at once
//! ([`hand_over`](WaitQueues::hand_over)), or does it make the line due
//! ([`note_fewer_holders`](WaitQueues::note_fewer_holders))? And how does the caller of
//! [`serve_due`](WaitQueues::serve_due) grant it?

mod node;

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use glockd_protocol::LockKind;
use hashbrown::HashTable;

use super::arena::{Arena, Fifo, NONE};
use super::claim::Claim;
use super::key::Key;
use super::stamp::Stamp;
use crate::core::registry::ClientId;
use node::{Group, Queue, Waiter, WaiterState, Waiting};

/// The queues of one shard, and all their waiters.
#[derive(Debug, Default)]
pub(super) struct WaitQueues {
    index: HashTable<u32>,
    queues: Arena<Queue>,
    waiters: Arena<Waiter>,
    groups: Arena<Group>,
    /// Decisions that are still to be carried out.
    due: VecDeque<Due>,
    /// True while the table has this shard on its list of due shards.
    pub(super) is_listed: bool,
}

/// Waiters that are to be served.
#[derive(Clone, Copy, Debug)]
enum Due {
    /// The line of this queue: its clients may hold the lock as far as their limits allow.
    Line(u32),
    /// All members of this group of watchers: they are to be woken.
    Group(u32),
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitEnd {
    /// It had already succeeded, with this number of holders.
    Succeeded(u32),
    /// This client waited to hold the lock, and does not hold it.
    LeftLine(ClientId),
    /// The client watched the lock, in vain.
    LeftGroup,
}

/// Tasks to wake once no mutex is held.
#[derive(Default)]
pub(super) struct Wakes(Vec<Waker>);

impl Wakes {
    /// Wakes all of them.
    pub(super) fn wake_all(self) {
        self.0.into_iter().for_each(Waker::wake);
    }
}

impl WaitQueues {
    /// Returns the number of clients that wait to hold a lock.
    pub(super) fn line_len(&self, key: Key<'_>) -> u32 {
        self.find(key)
            .map_or(0, |queue| self.queues[queue].line.len())
    }

    /// Adds a client at the end of a lock's line. Returns the position of the waiter.
    pub(super) fn join_line(
        &mut self,
        key: Key<'_>,
        client: ClientId,
        limit: u32,
        since: Stamp,
    ) -> u32 {
        let queue = self.find_or_add(key);
        let waiter = self.waiters.insert(Waiter {
            state: WaiterState::InLine(queue),
            client: Some(client),
            limit,
            since,
            ..Waiter::default()
        });
        self.queues[queue].line.push_back(&mut self.waiters, waiter);
        waiter
    }

    /// Adds a client that waits until fewer than `below` clients hold a lock. Returns the position of the waiter.
    pub(super) fn join_watchers(
        &mut self,
        key: Key<'_>,
        client: ClientId,
        below: u32,
        since: Stamp,
    ) -> u32 {
        let queue = self.find_or_add(key);
        let groups = &mut self.groups;
        let group = *self.queues[queue].watchers.entry(below).or_insert_with(|| {
            groups.insert(Group {
                queue,
                below,
                members: Fifo::default(),
            })
        });
        let waiter = self.waiters.insert(Waiter {
            state: WaiterState::InGroup(group),
            client: Some(client),
            since,
            ..Waiter::default()
        });
        let members = &mut self.groups[group].members;
        members.push_back(&mut self.waiters, waiter);
        waiter
    }

    /// Records the release of an exclusive lock: its watchers succeed, and the first client of its line succeeds and is
    /// returned. It holds the lock from now on.
    pub(super) fn hand_over(&mut self, key: Key<'_>, wakes: &mut Wakes) -> Option<ClientId> {
        let queue = self.find(key)?;
        self.succeed_watchers(queue, 0);
        let first = self.first_in_line(queue);
        if let Some((waiter, _)) = first {
            self.take_out_of_line(queue, waiter, 1, wakes);
        }
        self.remove_if_idle(queue);
        first.map(|(_, client)| client)
    }

    /// Records that a shared lock has fewer holders than before: watchers that wait for this number succeed, and the line
    /// becomes due.
    pub(super) fn note_fewer_holders(&mut self, key: Key<'_>, holders: u32) {
        if let Some(queue) = self.find(key) {
            self.succeed_watchers(queue, holders);
            self.make_line_due(queue);
            self.remove_if_idle(queue);
        }
    }

    /// Serves waiters that are due: grants locks and wakes clients, about `budget` of them. Returns true if some are left.
    ///
    /// `grant` gets the lock, the client, and the maximum number of holders. It returns the number of holders if the client
    /// now holds the lock, or `None` if it cannot: then the rest of the line waits on.
    pub(super) fn serve_due(
        &mut self,
        budget: usize,
        mut grant: impl FnMut(Key<'_>, ClientId, u32) -> Option<u32>,
        wakes: &mut Wakes,
    ) -> bool {
        let mut left = budget;
        while left > 0
            && let Some(due) = self.due.pop_front()
        {
            let is_done = match due {
                Due::Line(queue) => self.serve_line(queue, &mut left, &mut grant, wakes),
                Due::Group(group) => self.serve_group(group, &mut left, wakes),
            };
            if !is_done {
                self.due.push_back(due);
            }
        }
        !self.due.is_empty()
    }

    /// Grants the lock to the clients of a line. Returns false if the budget did not suffice.
    fn serve_line(
        &mut self,
        queue: u32,
        budget: &mut usize,
        grant: &mut impl FnMut(Key<'_>, ClientId, u32) -> Option<u32>,
        wakes: &mut Wakes,
    ) -> bool {
        while let Some((first, client)) = self.first_in_line(queue) {
            if *budget == 0 {
                return false;
            }
            let limit = self.waiters[first].limit;
            let Some(holders) = grant(self.queues[queue].key(), client, limit) else {
                break;
            };
            *budget -= 1;
            self.take_out_of_line(queue, first, holders, wakes);
        }
        self.queues[queue].is_line_due = false;
        self.remove_if_idle(queue);
        true
    }

    /// Wakes the members of a group that has succeeded, and removes it. Returns false if the budget did not suffice.
    fn serve_group(&mut self, group: u32, budget: &mut usize, wakes: &mut Wakes) -> bool {
        while let Some(first) = self.groups[group].members.first() {
            if *budget == 0 {
                return false;
            }
            *budget -= 1;
            self.groups[group].members.remove(&mut self.waiters, first);
            self.succeed(first, 0, wakes);
        }
        self.groups.remove(group);
        true
    }

    /// Returns the number of holders if a wait has succeeded, and removes the waiter. Otherwise stores the task, which is
    /// woken when the wait succeeds.
    pub(super) fn poll_waiter(&mut self, waiter: u32, context: &Context<'_>) -> Poll<u32> {
        match self.outcome(waiter) {
            Some(holders) => {
                self.remove_waiter(waiter);
                Poll::Ready(holders)
            }
            None => {
                let waker = &mut self.waiters[waiter].waker;
                if waker
                    .as_ref()
                    .is_none_or(|waker| !waker.will_wake(context.waker()))
                {
                    *waker = Some(context.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// Returns the client and the lock of a waiter that is still in line.
    pub(super) fn in_line(&self, waiter: u32) -> Option<(ClientId, Key<'_>)> {
        let waiter = &self.waiters[waiter];
        match waiter.state {
            WaiterState::InLine(queue) => Some((waiter.client?, self.queues[queue].key())),
            _ => None,
        }
    }

    /// Ends a wait and removes the waiter.
    pub(super) fn end_wait(&mut self, waiter: u32) -> WaitEnd {
        let client = self.waiters[waiter].client;
        let end = match (self.outcome(waiter), self.waiters[waiter].state) {
            (Some(holders), _) => WaitEnd::Succeeded(holders),
            (None, WaiterState::InLine(_)) => client.map_or(WaitEnd::LeftGroup, WaitEnd::LeftLine),
            (None, _) => WaitEnd::LeftGroup,
        };
        self.remove_waiter(waiter);
        end
    }

    /// Returns true if nobody waits and nothing is due.
    pub(super) fn is_idle(&self) -> bool {
        self.waiters.is_empty() && self.due.is_empty()
    }

    /// Returns the claims of a lock's line, in its order: those behind `after`, or all if there is no `after` or that client
    /// no longer waits by that claim.
    pub(super) fn claims(
        &self,
        key: Key<'_>,
        after: Option<&Claim>,
    ) -> impl Iterator<Item = Claim> {
        let start = match after {
            Some(claim) if self.is_waiting(key, claim) => self.waiters[claim.waiter].links.next,
            _ => {
                let queue = self.find(key);
                let first = queue.and_then(|queue| self.queues[queue].line.first());
                first.unwrap_or(NONE)
            }
        };
        let kind = key.kind;
        let line = Arena::walk::<Waiting>(&self.waiters, start);
        line.filter_map(move |(position, waiter)| {
            Some(Claim {
                kind,
                waits: true,
                client: waiter.client?,
                stamp: waiter.since,
                waiter: position,
            })
        })
    }

    /// Returns true if the client of a claim, one of [`claims`](WaitQueues::claims), still waits by it.
    pub(super) fn is_waiting(&self, key: Key<'_>, claim: &Claim) -> bool {
        let Some(waiter) = self.waiters.slots().get(claim.waiter as usize) else {
            return false;
        };
        let is_same = waiter.client == Some(claim.client) && waiter.since == claim.stamp;
        is_same
            && matches!(waiter.state, WaiterState::InLine(queue) if self.find(key) == Some(queue))
    }

    /// Returns the clients that wait, and those whose connection has not learned yet how its wait ended.
    pub(super) fn clients(&self) -> impl Iterator<Item = ClientId> {
        let waiters = self.waiters.slots().iter();
        waiters.filter_map(|waiter| waiter.client)
    }

    fn find(&self, key: Key<'_>) -> Option<u32> {
        let is_it = |&queue: &u32| {
            let queue = &self.queues[queue];
            queue.kind == key.kind && *queue.name == *key.name.bytes
        };
        self.index.find(key.name.hash, is_it).copied()
    }

    fn find_or_add(&mut self, key: Key<'_>) -> u32 {
        if let Some(queue) = self.find(key) {
            return queue;
        }
        let queue = self.queues.insert(Queue::new(key));
        let queues = &self.queues;
        self.index
            .insert_unique(key.name.hash, queue, |&queue| queues[queue].hash);
        queue
    }

    fn first_in_line(&self, queue: u32) -> Option<(u32, ClientId)> {
        let first = self.queues[queue].line.first()?;
        Some((first, self.waiters[first].client?))
    }

    /// Lets the watchers succeed that wait for this number of holders, and makes their groups due.
    fn succeed_watchers(&mut self, queue: u32, holders: u32) {
        let groups = self.queues[queue].watchers.split_off(&(holders + 1));
        for group in groups.into_values() {
            self.groups[group].queue = NONE;
            self.due.push_back(Due::Group(group));
        }
    }

    fn make_line_due(&mut self, queue: u32) {
        let found = &mut self.queues[queue];
        if !found.is_line_due && found.line.len() > 0 {
            found.is_line_due = true;
            self.due.push_back(Due::Line(queue));
        }
    }

    /// Takes a client that was granted the lock out of its line.
    fn take_out_of_line(&mut self, queue: u32, waiter: u32, holders: u32, wakes: &mut Wakes) {
        self.queues[queue].line.remove(&mut self.waiters, waiter);
        self.succeed(waiter, holders, wakes);
    }

    fn succeed(&mut self, waiter: u32, holders: u32, wakes: &mut Wakes) {
        let waiter = &mut self.waiters[waiter];
        waiter.state = WaiterState::Succeeded(holders);
        wakes.0.extend(waiter.waker.take());
    }

    /// Returns the number of holders if the wait has succeeded.
    fn outcome(&self, waiter: u32) -> Option<u32> {
        match self.waiters[waiter].state {
            WaiterState::InLine(_) => None,
            WaiterState::InGroup(group) => self.groups[group].has_succeeded().then_some(0),
            WaiterState::Succeeded(holders) => Some(holders),
        }
    }

    /// Removes a waiter, and takes it out of its list.
    fn remove_waiter(&mut self, waiter: u32) {
        match self.waiters[waiter].state {
            WaiterState::InLine(queue) => self.leave_line(queue, waiter),
            WaiterState::InGroup(group) => self.leave_group(group, waiter),
            WaiterState::Succeeded(_) => {}
        }
        self.waiters.remove(waiter);
    }

    fn leave_line(&mut self, queue: u32, waiter: u32) {
        let was_first = self.queues[queue].line.first() == Some(waiter);
        self.queues[queue].line.remove(&mut self.waiters, waiter);
        // The next clients may have larger limits, and wait only because this one was in front of them. With an exclusive
        // lock, all wait for its holder.
        if was_first && self.queues[queue].kind != LockKind::Exclusive {
            self.make_line_due(queue);
        }
        self.remove_if_idle(queue);
    }

    fn leave_group(&mut self, group: u32, waiter: u32) {
        self.groups[group].members.remove(&mut self.waiters, waiter);
        let Group {
            queue,
            below,
            ref members,
        } = self.groups[group];
        // A group that has succeeded is removed when it is served.
        if members.len() == 0 && queue != NONE {
            self.groups.remove(group);
            self.queues[queue].watchers.remove(&below);
            self.remove_if_idle(queue);
        }
    }

    fn remove_if_idle(&mut self, queue: u32) {
        let found = &self.queues[queue];
        if !found.is_idle() {
            return;
        }
        if let Ok(entry) = self.index.find_entry(found.hash, |&other| other == queue) {
            entry.remove();
        }
        self.queues.remove(queue);
    }
}
