//! Who waits for the locks of one shard.
//!
//! This stands beside the locks, not in them, and is there only while somebody waits: a lock that nobody waits
//! for pays nothing, neither in memory nor in time.
//!
//! A waiter is a node until its connection has taken note of how its wait ended. So whatever ends it (a
//! grant, the time, its client's will or end) is decided here, under the shard's mutex, by whoever comes
//! first; and the connection learns of it whenever it looks.
//!
//! What a release brings about may concern a hundred thousand waiters. It is decided at once, but carried out
//! in slices: a line of getters is marked as due, and served from its head, which nobody overtakes; watchers
//! stand in groups by what they wait for, and a group is told as a whole, before any of its members is woken.

use std::collections::{BTreeMap, VecDeque};
use std::task::{Context, Poll, Waker};

use byteview::ByteView;
use glockd_protocol::LockKind;
use hashbrown::HashTable;

use super::arena::{Arena, NONE, Node};
use super::shared::Shared;
use super::{Claim, Stamp};
use crate::core::registry::ClientId;

#[derive(Debug, Default)]
pub(super) struct Waiting {
    index: HashTable<u32>,
    queues: Arena<Queue>,
    waiters: Arena<Waiter>,
    groups: Arena<Group>,
    /// What is decided and yet to be carried out.
    due: VecDeque<Due>,
    /// Whether the table knows that something is due here.
    pub(super) listed: bool,
}

/// All who wait for one lock.
#[derive(Debug)]
struct Queue {
    hash: u64,
    name: ByteView,
    kind: LockKind,
    /// Who waits to hold it, in the order in which they came. Of a free slot, `first` is the next free one.
    line: List,
    /// Groups of those who wait until fewer than so many hold it.
    watchers: BTreeMap<u32, u32>,
    /// Whether the line is due.
    due: bool,
}

/// Watchers who wait for the same.
#[derive(Debug, Default)]
struct Group {
    /// `NONE`: they are told, and new ones join another group.
    queue: u32,
    below: u32,
    members: List,
}

#[derive(Debug)]
struct Waiter {
    place: Place,
    client: Option<ClientId>,
    /// How many may hold the lock, this one included.
    limit: u32,
    previous: u32,
    /// Of a free slot, the next free one.
    next: u32,
    since: Stamp,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    /// In the line of a queue.
    Line(u32),
    /// In a group of watchers.
    Group(u32),
    /// Nowhere: it has what it waited for, and this is how many held the lock then.
    Done(u32),
}

#[derive(Clone, Copy, Debug)]
enum Due {
    Line(u32),
    Group(u32),
}

/// Waiters, linked.
#[derive(Clone, Copy, Debug)]
struct List {
    first: u32,
    last: u32,
    len: u32,
}

impl Default for List {
    fn default() -> List {
        List {
            first: NONE,
            last: NONE,
            len: 0,
        }
    }
}

impl Default for Queue {
    fn default() -> Queue {
        Queue {
            hash: 0,
            name: ByteView::default(),
            kind: LockKind::Exclusive,
            line: List::default(),
            watchers: BTreeMap::new(),
            due: false,
        }
    }
}

impl Default for Waiter {
    fn default() -> Waiter {
        Waiter {
            place: Place::Done(0),
            client: None,
            limit: 0,
            previous: NONE,
            next: NONE,
            since: Stamp::default(),
            waker: None,
        }
    }
}

impl Node for Queue {
    fn next_free(&mut self) -> &mut u32 {
        &mut self.line.first
    }
}

impl Node for Group {
    fn next_free(&mut self) -> &mut u32 {
        &mut self.members.first
    }
}

impl Node for Waiter {
    fn next_free(&mut self) -> &mut u32 {
        &mut self.next
    }
}

/// A lock, by all that is needed to find it.
#[derive(Clone, Copy)]
pub(super) struct Key<'a> {
    pub(super) hash: u64,
    pub(super) kind: LockKind,
    pub(super) name: &'a [u8],
}

/// Tasks to wake, once no mutex is held.
#[derive(Default)]
pub(super) struct Wakes(Vec<Waker>);

impl Wakes {
    pub(super) fn wake(self) {
        self.0.into_iter().for_each(Waker::wake);
    }
}

impl Waiting {
    /// How many wait to hold a lock.
    pub(super) fn line(&self, key: Key<'_>) -> u32 {
        self.find(key)
            .map_or(0, |queue| self.queues[queue].line.len)
    }

    /// Puts a client at the end of those who wait to hold a lock.
    pub(super) fn queue_up(
        &mut self,
        key: Key<'_>,
        client: ClientId,
        limit: u32,
        since: Stamp,
    ) -> u32 {
        let queue = self.find_or_add(key);
        let waiter = self.waiters.insert(Waiter {
            place: Place::Line(queue),
            client: Some(client),
            limit,
            since,
            ..Waiter::default()
        });
        self.queues[queue].line.push(&mut self.waiters, waiter);
        waiter
    }

    /// Puts a client among those who wait until fewer than so many hold a lock.
    pub(super) fn watch(
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
                members: List::default(),
            })
        });
        let waiter = self.waiters.insert(Waiter {
            place: Place::Group(group),
            client: Some(client),
            since,
            ..Waiter::default()
        });
        self.groups[group].members.push(&mut self.waiters, waiter);
        waiter
    }

    /// An exclusive lock is released: tells its watchers, and takes the first out of the line, who is to hold
    /// it now.
    pub(super) fn pass_on(&mut self, key: Key<'_>, wakes: &mut Wakes) -> Option<ClientId> {
        let queue = self.find(key)?;
        self.tell(queue, 0);
        let heir = match self.queues[queue].line.first {
            NONE => None,
            first => {
                let client = self.waiters[first].client;
                self.grant(queue, first, 1, wakes);
                client
            }
        };
        self.remove_if_empty(queue);
        heir
    }

    /// A shared lock is held by fewer than before: tells its watchers, and makes its line due.
    pub(super) fn fewer_hold(&mut self, key: Key<'_>, holders: u32) {
        if let Some(queue) = self.find(key) {
            self.tell(queue, holders);
            self.make_due(queue);
            self.remove_if_empty(queue);
        }
    }

    /// Carries out what is due, up to about `budget` grants and wakes. Whether something is left.
    pub(super) fn serve(
        &mut self,
        shared: &mut Shared,
        budget: usize,
        mut stamp: impl FnMut() -> Stamp,
        rehash: impl Fn(&[u8]) -> u64,
        wakes: &mut Wakes,
    ) -> bool {
        let mut left = budget;
        while left > 0
            && let Some(due) = self.due.pop_front()
        {
            let more = match due {
                Due::Line(queue) => {
                    self.serve_line(queue, shared, &mut left, &mut stamp, &rehash, wakes)
                }
                Due::Group(group) => self.serve_group(group, &mut left, wakes),
            };
            if more {
                self.due.push_back(due);
            }
        }
        !self.due.is_empty()
    }

    fn serve_line(
        &mut self,
        queue: u32,
        shared: &mut Shared,
        left: &mut usize,
        stamp: &mut impl FnMut() -> Stamp,
        rehash: &impl Fn(&[u8]) -> u64,
        wakes: &mut Wakes,
    ) -> bool {
        while let Some((first, client)) = self.first(queue) {
            if *left == 0 {
                return true;
            }
            let Queue { hash, name, .. } = &self.queues[queue];
            let limit = self.waiters[first].limit;
            let got = shared.get(*hash, name, client, limit, rehash, || Some(stamp()));
            let Ok(holders) = got else {
                break;
            };
            *left -= 1;
            self.grant(queue, first, holders, wakes);
        }
        self.queues[queue].due = false;
        self.remove_if_empty(queue);
        false
    }

    fn serve_group(&mut self, group: u32, left: &mut usize, wakes: &mut Wakes) -> bool {
        loop {
            let first = self.groups[group].members.first;
            if first == NONE {
                self.groups.remove(group);
                return false;
            }
            if *left == 0 {
                return true;
            }
            *left -= 1;
            self.groups[group].members.remove(&mut self.waiters, first);
            self.finish(first, 0, wakes);
        }
    }

    /// Whether a wait has ended with what it was for, and how many held the lock then. If so, the waiter is no
    /// more; if not, the task is woken when it is.
    pub(super) fn poll(&mut self, waiter: u32, context: &Context<'_>) -> Poll<u32> {
        match self.outcome(waiter) {
            Some(holders) => {
                self.leave(waiter);
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

    /// Ends a wait, whether or not it has got what it was for: that is in the first part of the result, as
    /// [`poll`](Waiting::poll) has it. The second is the client if it waited to hold a lock, and does not.
    pub(super) fn give_up(&mut self, waiter: u32) -> (Option<u32>, Option<ClientId>) {
        let outcome = self.outcome(waiter);
        let Waiter { place, client, .. } = self.waiters[waiter];
        self.leave(waiter);
        match place {
            Place::Line(_) => (outcome, client),
            Place::Group(_) | Place::Done(_) => (outcome, None),
        }
    }

    /// Whether nobody is here, and nothing is to be done.
    pub(super) fn is_idle(&self) -> bool {
        self.waiters.is_empty() && self.due.is_empty()
    }

    /// Those who wait to hold a lock, in the order in which they came: all, or those behind `after`, if that one
    /// still waits.
    pub(super) fn list(&self, key: Key<'_>, after: Option<&Claim>) -> impl Iterator<Item = Claim> {
        let line = self
            .find(key)
            .map_or(List::default(), |queue| self.queues[queue].line);
        let kind = key.kind;
        let mut next = match after {
            Some(owner) if self.still_waits(key, owner) => self.waiters[owner.waiter].next,
            _ => line.first,
        };
        std::iter::from_fn(move || {
            let waiter = (next != NONE).then(|| &self.waiters[next])?;
            let owner = Claim {
                kind,
                waits: true,
                client: waiter.client?,
                stamp: waiter.since,
                waiter: next,
            };
            next = waiter.next;
            Some(owner)
        })
    }

    /// Whether this one, which [`list`](Waiting::list) has found, still waits for the same.
    pub(super) fn still_waits(&self, key: Key<'_>, owner: &Claim) -> bool {
        let Some(waiter) = self.waiters.slots().get(owner.waiter as usize) else {
            return false;
        };
        let same = waiter.client == Some(owner.client) && waiter.since == owner.stamp;
        same && matches!(waiter.place, Place::Line(queue) if self.find(key) == Some(queue))
    }

    fn find(&self, key: Key<'_>) -> Option<u32> {
        let is_it = |&queue: &u32| {
            let queue = &self.queues[queue];
            queue.kind == key.kind && *queue.name == *key.name
        };
        self.index.find(key.hash, is_it).copied()
    }

    fn find_or_add(&mut self, key: Key<'_>) -> u32 {
        if let Some(queue) = self.find(key) {
            return queue;
        }
        let queue = self.queues.insert(Queue {
            hash: key.hash,
            name: ByteView::from(key.name),
            kind: key.kind,
            ..Queue::default()
        });
        let queues = &self.queues;
        self.index
            .insert_unique(key.hash, queue, |&queue| queues[queue].hash);
        queue
    }

    fn first(&self, queue: u32) -> Option<(u32, ClientId)> {
        let first = self.queues[queue].line.first;
        (first != NONE)
            .then(|| self.waiters[first].client)?
            .map(|client| (first, client))
    }

    /// Tells the watchers that so many hold the lock, and more did: they are due.
    fn tell(&mut self, queue: u32, holders: u32) {
        let told = self.queues[queue].watchers.split_off(&(holders + 1));
        for group in told.into_values() {
            self.groups[group].queue = NONE;
            self.due.push_back(Due::Group(group));
        }
    }

    fn make_due(&mut self, queue: u32) {
        let found = &mut self.queues[queue];
        if !found.due && found.line.len > 0 {
            found.due = true;
            self.due.push_back(Due::Line(queue));
        }
    }

    /// Gives the lock to a waiter of its line.
    fn grant(&mut self, queue: u32, waiter: u32, holders: u32, wakes: &mut Wakes) {
        self.queues[queue].line.remove(&mut self.waiters, waiter);
        self.finish(waiter, holders, wakes);
    }

    fn finish(&mut self, waiter: u32, holders: u32, wakes: &mut Wakes) {
        let waiter = &mut self.waiters[waiter];
        waiter.place = Place::Done(holders);
        wakes.0.extend(waiter.waker.take());
    }

    fn outcome(&self, waiter: u32) -> Option<u32> {
        match self.waiters[waiter].place {
            Place::Line(_) => None,
            Place::Group(group) => (self.groups[group].queue == NONE).then_some(0),
            Place::Done(holders) => Some(holders),
        }
    }

    /// Takes a waiter out of wherever it is.
    fn leave(&mut self, waiter: u32) {
        match self.waiters[waiter].place {
            Place::Line(queue) => {
                let first = self.queues[queue].line.first == waiter;
                self.queues[queue].line.remove(&mut self.waiters, waiter);
                if first && self.queues[queue].kind == LockKind::Shared {
                    // Those behind it may have waited for nothing but it.
                    self.make_due(queue);
                }
                self.remove_if_empty(queue);
            }
            Place::Group(group) => {
                let Group { queue, below, .. } = self.groups[group];
                self.groups[group].members.remove(&mut self.waiters, waiter);
                if self.groups[group].members.len == 0 && queue != NONE {
                    self.groups.remove(group);
                    self.queues[queue].watchers.remove(&below);
                    self.remove_if_empty(queue);
                }
            }
            Place::Done(_) => {}
        }
        self.waiters.remove(waiter);
    }

    fn remove_if_empty(&mut self, queue: u32) {
        let found = &self.queues[queue];
        if found.line.len > 0 || !found.watchers.is_empty() || found.due {
            return;
        }
        if let Ok(entry) = self.index.find_entry(found.hash, |&other| other == queue) {
            entry.remove();
        }
        self.queues.remove(queue);
    }
}

impl List {
    fn push(&mut self, waiters: &mut Arena<Waiter>, waiter: u32) {
        waiters[waiter].previous = self.last;
        match self.last {
            NONE => self.first = waiter,
            last => waiters[last].next = waiter,
        }
        self.last = waiter;
        self.len += 1;
    }

    fn remove(&mut self, waiters: &mut Arena<Waiter>, waiter: u32) {
        let Waiter { previous, next, .. } = waiters[waiter];
        match previous {
            NONE => self.first = next,
            _ => waiters[previous].next = next,
        }
        match next {
            NONE => self.last = previous,
            _ => waiters[next].previous = previous,
        }
        waiters[waiter].previous = NONE;
        waiters[waiter].next = NONE;
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests;
