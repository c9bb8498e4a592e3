//! The table of all locks, in shards.
//!
//! A shard is found by a keyed hash of the name and holds everything about its names behind one short
//! mutex: which are locked, by whom, and for each holder a list of what it holds *in this shard*. So no
//! operation ever needs two mutexes, and what a connection held is found without searching when it
//! ends. Who waits for a lock stands beside it, and is given it by whoever releases it. The names come from
//! strangers and their order can be listed, so the hash is SipHash with random keys; a faster hash would let
//! a client put all its names into one bucket.
//!
//! Turned down: one map with a lock each in it (an allocation a lock, and a second map to find what a
//! connection holds: four times the memory), and a task that owns the table (a channel round trip a
//! command costs more than the command).

mod arena;
mod exclusive;
mod quota;
mod shared;
mod stamp;
mod waiting;

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::thread::available_parallelism;

use byteview::ByteView;
use futures_util::task::AtomicWaker;
use glockd_protocol::LockKind;
use parking_lot::{Mutex, MutexGuard};
use siphasher::sip::SipHasher13;

use crate::core::registry::ClientId;
use exclusive::Exclusive;
use quota::Quota;
use shared::Shared;
use stamp::Clock;
pub use stamp::Stamp;
use waiting::{Key, Waiting, Wakes};

/// Shards for each processor: enough that two threads seldom meet, few enough that visiting all when a
/// connection ends takes a microsecond.
const SHARDS_PER_CORE: usize = 16;

/// At least this many shards, so that growing one of a million locks is a short stall. Fewer stay in the cache
/// better, which gained little that could be measured; at four million locks, sixteen stalled three times as
/// long.
const MIN_SHARDS: usize = 64;

/// Going to a shard, in places looked at: what a visit to an empty one costs.
const SHARD_VISIT: usize = 8;

/// How many locks are released under one hold of a shard's mutex: some ten microseconds.
const RELEASE_SLICE: usize = 64;

/// How many waiters are given what they wait for under one hold of a shard's mutex: some ten microseconds.
const SERVE_SLICE: usize = 64;

/// All locks of a server.
#[derive(Debug)]
pub struct LockTable {
    shards: Box<[Shard]>,
    // std's, of the same strength, takes a name in pieces, and twice the time.
    hasher: SipHasher13,
    quota: Quota,
    max_waiters: u32,
    clock: Clock,
    due: Due,
    /// Whether nothing is granted any more to who waits.
    closed: AtomicBool,
}

/// The shards where waiters are yet to be served, and who is to do it.
#[derive(Debug, Default)]
struct Due {
    shards: Mutex<VecDeque<usize>>,
    server: AtomicWaker,
}

/// Two cache lines apart, because processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    exclusive: Exclusive,
    // Boxed, so that the mutex and all of `exclusive` are near each other.
    shared: Box<Shared>,
    /// The last that was given.
    stamp: Stamp,
    /// There while somebody waits.
    waiting: Option<Box<Waiting>>,
}

impl State {
    fn waiting(&mut self) -> &mut Waiting {
        self.waiting.get_or_insert_default()
    }

    /// How many wait to hold a lock.
    fn line(&self, key: Key<'_>) -> u32 {
        let waiting = self.waiting.as_ref();
        waiting.map_or(0, |waiting| waiting.line(key))
    }

    /// The owners of a name, in the order of [`LockTable::visit_claims`], except those that became owners after `until`.
    /// With `after`, only those behind it, which takes no search; but if it is no owner any more, all of its rank
    /// come again.
    fn owners<'a>(
        &'a self,
        exclusive: Key<'a>,
        after: Option<&'a Claim>,
        until: Stamp,
    ) -> impl Iterator<Item = Claim> {
        let shared = Key {
            kind: LockKind::Shared,
            ..exclusive
        };
        // Behind which of its owners a rank is to be visited; `None`: not at all.
        let start = move |rank| match after {
            Some(owner) if owner.rank() > rank => None,
            Some(owner) if owner.rank() == rank => Some(Some(owner)),
            _ => Some(None),
        };
        let is_counted = move |owner: &Claim| owner.stamp <= until;
        let holder = match start(HOLDER) {
            Some(None) => self.exclusive.holding(exclusive.hash, exclusive.name),
            _ => None,
        };
        let holder = holder.map(|holding| Claim::holder(LockKind::Exclusive, holding));
        let holders = start(SHARED_HOLDERS).map(|after| {
            let after = after.map(|owner| (owner.client, owner.stamp));
            let holdings = self.shared.holdings(shared.hash, shared.name, after);
            holdings.map(|holding| Claim::holder(LockKind::Shared, holding))
        });
        let waiters = self.waiting.iter().flat_map(move |waiting| {
            let lines = [(WAITERS, exclusive), (SHARED_WAITERS, shared)].into_iter();
            let line = move |(rank, key)| Some(waiting.list(key, start(rank)?));
            // Of each line, who came later is at its end.
            lines
                .filter_map(line)
                .flat_map(move |line| line.take_while(is_counted))
        });
        holder
            .into_iter()
            .filter(is_counted)
            .chain(holders.into_iter().flatten().take_while(is_counted))
            .chain(waiters)
    }

    fn count_owners(&self, exclusive: Key<'_>) -> usize {
        let Key { hash, name, .. } = exclusive;
        let shared = Key {
            kind: LockKind::Shared,
            ..exclusive
        };
        let holder = self.exclusive.holder(hash, name);
        let holders = self.shared.holders(hash, name);
        let waiters = self.line(exclusive) as usize + self.line(shared) as usize;
        usize::from(holder.is_some()) + holders as usize + waiters
    }
}

impl Claim {
    fn holder(kind: LockKind, (client, stamp): (ClientId, Stamp)) -> Claim {
        Claim {
            kind,
            waits: false,
            client,
            stamp,
            waiter: arena::NONE,
        }
    }

    fn rank(&self) -> Rank {
        match (self.waits, self.kind) {
            (false, LockKind::Exclusive) => HOLDER,
            (false, LockKind::Shared) => SHARED_HOLDERS,
            (true, LockKind::Exclusive) => WAITERS,
            (true, LockKind::Shared) => SHARED_WAITERS,
        }
    }
}

/// What owners are sorted by, before their stamps.
type Rank = u8;

const HOLDER: Rank = 0;
const SHARED_HOLDERS: Rank = 1;
const WAITERS: Rank = 2;
const SHARED_WAITERS: Rank = 3;

/// Why a client does not get a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Denied {
    /// By who holds it.
    Held,
    /// It would be one too many.
    TooMany,
}

/// What came of asking for a lock, by one who is ready to wait.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a wait goes on until it is ended"]
pub enum Attempt {
    /// It is there; so many hold it.
    Done(u32),
    /// It is not there, and there was to be no wait.
    Busy,
    /// Too many wait for it already, or the client may hold no more.
    Full,
    /// The client waits now.
    Waits(WaitHandle),
}

/// A wait under way. It must be ended by [`LockTable::poll_wait`] or by [`LockTable::end_wait`], before its client
/// holds other locks, and before that client's end.
#[derive(Debug, PartialEq, Eq)]
pub struct WaitHandle {
    shard: u32,
    waiter: u32,
}

/// One who holds a lock, or waits to hold it. See [`LockTable::visit_claims`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The kind of lock.
    pub kind: LockKind,
    /// Whether it is waited for, rather than held.
    pub waits: bool,
    /// Who it is.
    pub client: ClientId,
    /// When it was granted, or the wait began.
    pub stamp: Stamp,
    /// Of one who waits.
    waiter: u32,
}

/// How many owners a name had at some moment, and which. See [`LockTable::visit_claims`].
#[derive(Clone, Copy, Debug, Default)]
pub struct CountedClaims {
    /// How many.
    pub count: usize,
    /// Whoever became an owner later has a later stamp.
    until: Stamp,
}

/// The disconnect of one client, in steps: releases all locks that it holds. See [`LockTable::release_some`].
#[derive(Debug)]
pub struct Disconnection {
    client: ClientId,
    /// The shard to go on with. `None`: all locks are released.
    next_shard: Option<usize>,
    orphans: OrphanCounts,
}

impl Disconnection {
    /// The disconnect of this client, before its first step.
    pub fn new(client: ClientId) -> Disconnection {
        Disconnection {
            client,
            next_shard: Some(0),
            orphans: OrphanCounts::default(),
        }
    }

    /// The client that disconnects.
    pub fn client(&self) -> ClientId {
        self.client
    }

    /// Locks released so far.
    pub fn orphans(&self) -> OrphanCounts {
        self.orphans
    }

    /// True once all locks are released; the client's id may already have been reused.
    pub fn is_complete(&self) -> bool {
        self.next_shard.is_none()
    }
}

/// Numbers of orphans: locks that a client still held when it disconnected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrphanCounts {
    /// Exclusive locks.
    pub exclusive: usize,
    /// Shared locks.
    pub shared: usize,
}

/// Limits of a [`LockTable`]. `None`, the default, means unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockLimits {
    /// Maximum number of locks in all.
    pub max_locks: Option<usize>,
    /// Maximum number of locks of one client.
    pub max_locks_per_connection: Option<usize>,
    /// Maximum number of clients that wait to hold one lock.
    pub max_waiters: Option<usize>,
}

/// What a get or a watch does if it cannot succeed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfBusy {
    /// It fails.
    Refuse,
    /// It waits.
    Wait,
}

/// A place in the table. See [`LockTable::scan`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ScanPosition {
    shard: usize,
    slot: usize,
}

impl LockTable {
    /// An empty table, with as many shards as this machine's processors can make use of, for any number of
    /// locks.
    pub fn new() -> LockTable {
        LockTable::with_limits(LockLimits::default())
    }

    /// An empty table for so many locks in all, and so many of one client; `None`: any number. An exclusive
    /// lock counts once, a shared one once for each of its holders; and each who waits to hold one counts as
    /// if it did. So many may wait for one lock.
    pub fn with_limits(limits: LockLimits) -> LockTable {
        let LockLimits {
            max_locks,
            max_locks_per_connection,
            max_waiters,
        } = limits;
        let cores = available_parallelism().map_or(1, usize::from);
        let shards = (cores * SHARDS_PER_CORE)
            .max(MIN_SHARDS)
            .next_power_of_two();
        let random = RandomState::new();
        LockTable {
            shards: (0..shards).map(|_| Shard::default()).collect(),
            hasher: SipHasher13::new_with_keys(random.hash_one(0), random.hash_one(1)),
            quota: Quota::new(max_locks, max_locks_per_connection),
            max_waiters: max_waiters.map_or(u32::MAX, |max| u32::try_from(max).unwrap_or(u32::MAX)),
            clock: Clock::new(),
            due: Due::default(),
            closed: AtomicBool::new(false),
        }
    }

    /// Gets an exclusive lock. Whether the client holds it now; not if another does, or if that would be one
    /// too many.
    pub fn get(&self, client: ClientId, name: &[u8]) -> bool {
        let key = self.key(LockKind::Exclusive, name);
        self.get_in(&mut self.shard(key.hash), client, key).is_ok()
    }

    /// Gets an exclusive lock, or waits for it, if that is wanted.
    pub fn get_or_wait(&self, client: ClientId, name: &[u8], if_busy: IfBusy) -> Attempt {
        let key = self.key(LockKind::Exclusive, name);
        let mut state = self.shard(key.hash);
        match self.get_in(&mut state, client, key) {
            Ok(()) => Attempt::Done(1),
            Err(Denied::TooMany) => Attempt::Full,
            Err(Denied::Held) if if_busy == IfBusy::Refuse => Attempt::Busy,
            Err(Denied::Held) => self.queue_up(&mut state, client, key, 1),
        }
    }

    /// Releases an exclusive lock, which the first who waits for it holds then. Whether the client held it.
    pub fn release(&self, client: ClientId, name: &[u8]) -> bool {
        let key = self.key(LockKind::Exclusive, name);
        let mut state = self.shard(key.hash);
        let mut wakes = Wakes::default();
        let State {
            exclusive,
            waiting,
            stamp,
            ..
        } = &mut *state;
        let released = exclusive.release(key.hash, name, client, || {
            self.heir(waiting, stamp, key, &mut wakes)
        });
        if released {
            // Under the mutex: whoever sees that the lock is free may count on it.
            self.quota.give_back(client, 1);
            self.settle(key.hash, state, wakes);
        }
        released
    }

    /// Who holds an exclusive lock.
    pub fn holder(&self, name: &[u8]) -> Option<ClientId> {
        self.with_holder(name, |client| client)
    }

    /// Looks at who holds an exclusive lock, while it is certain to be held.
    pub fn with_holder<T>(&self, name: &[u8], look: impl FnOnce(ClientId) -> T) -> Option<T> {
        let hash = self.hash(name);
        let shard = self.shard(hash);
        shard.exclusive.holder(hash, name).map(look)
    }

    /// Gets a shared lock, whoever waits for it. How many hold it now; 0 if this client does not, since that
    /// would be one too many.
    pub fn shared_get(&self, client: ClientId, name: &[u8]) -> u32 {
        let key = self.key(LockKind::Shared, name);
        let mut state = self.shard(key.hash);
        self.shared_get_in(&mut state, client, key, u32::MAX)
            .unwrap_or(0)
    }

    /// Gets a shared lock that fewer than `limit` hold, or waits for that, if that is wanted. Where others wait
    /// already, it has to.
    pub fn shared_get_or_wait(
        &self,
        client: ClientId,
        name: &[u8],
        limit: u32,
        if_busy: IfBusy,
    ) -> Attempt {
        let key = self.key(LockKind::Shared, name);
        let mut state = self.shard(key.hash);
        let now = if state.line(key) == 0 { limit } else { 0 };
        match self.shared_get_in(&mut state, client, key, now) {
            Ok(holders) => Attempt::Done(holders),
            Err(Denied::TooMany) => Attempt::Full,
            Err(Denied::Held) if if_busy == IfBusy::Refuse => Attempt::Busy,
            Err(Denied::Held) => self.queue_up(&mut state, client, key, limit),
        }
    }

    /// Releases a shared lock. Whether the client held it.
    pub fn shared_release(&self, client: ClientId, name: &[u8]) -> bool {
        let key = self.key(LockKind::Shared, name);
        let mut state = self.shard(key.hash);
        let Some(holders) = state.shared.release(key.hash, name, client) else {
            return false;
        };
        if let Some(waiting) = self.served(&mut state.waiting) {
            waiting.fewer_hold(key, holders);
        }
        self.quota.give_back(client, 1);
        self.settle(key.hash, state, Wakes::default());
        true
    }

    /// Sees whether fewer than `below` hold a lock, or waits for that, if that is wanted. What is seen is the
    /// moment of a release, even if the lock is another's in the next.
    pub fn watch(
        &self,
        client: ClientId,
        kind: LockKind,
        name: &[u8],
        below: u32,
        if_busy: IfBusy,
    ) -> Attempt {
        let key = self.key(kind, name);
        let mut state = self.shard(key.hash);
        let holders = match kind {
            LockKind::Exclusive => u32::from(state.exclusive.holder(key.hash, name).is_some()),
            LockKind::Shared => state.shared.holders(key.hash, name),
        };
        if holders < below {
            return Attempt::Done(holders);
        }
        if if_busy == IfBusy::Refuse {
            return Attempt::Busy;
        }
        let since = self.stamp(&mut state.stamp);
        let waiter = state.waiting().watch(key, client, below, since);
        Attempt::Waits(self.ticket(key.hash, waiter))
    }

    /// Whether a wait has ended with what it was for, and how many hold the lock then. If so, the ticket is
    /// used up; if not, the task is woken when it is.
    ///
    /// # Panics
    ///
    /// If there is no ticket.
    pub fn poll_wait(&self, ticket: &mut Option<WaitHandle>, context: &Context<'_>) -> Poll<u32> {
        let Some(WaitHandle { shard, waiter }) = *ticket else {
            panic!("a wait that has ended is not asked for");
        };
        let mut state = self.shards[shard as usize].0.lock();
        let polled = state.waiting().poll(waiter, context);
        if polled.is_ready() {
            *ticket = None;
            self.settle_in(shard as usize, state, Wakes::default());
        }
        polled
    }

    /// Ends a wait. If it had got before what it was for, this says how many held the lock then.
    pub fn end_wait(&self, ticket: WaitHandle) -> Option<u32> {
        let shard = ticket.shard as usize;
        let mut state = self.shards[shard].0.lock();
        let (outcome, client) = state.waiting().give_up(ticket.waiter);
        if let Some(client) = client {
            self.quota.give_back(client, 1);
        }
        self.settle_in(shard, state, Wakes::default());
        outcome
    }

    /// Grants nothing more to who waits, and tells watchers nothing more. For a server's end: its connections
    /// end one by one, and what one of them held must not be granted in passing to another that is to end as
    /// well.
    pub fn stop_granting(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Who waits in a shard, as far as they are still served.
    #[inline(always)]
    fn served<'a>(&self, waiting: &'a mut Option<Box<Waiting>>) -> Option<&'a mut Waiting> {
        let waiting = waiting.as_mut()?;
        (!self.closed.load(Ordering::Acquire)).then_some(waiting)
    }

    /// Waits until there are more waiters to serve than whoever released their lock did at once: then
    /// [`serve`](LockTable::serve_due_waiters) is to be called. For one task alone.
    pub fn poll_due_waiters(&self, context: &Context<'_>) -> Poll<()> {
        self.due.server.register(context.waker());
        match self.due.shards.lock().is_empty() {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }

    /// Serves some of the waiters that are due, in some ten microseconds.
    pub fn serve_due_waiters(&self) {
        let next = self.due.shards.lock().pop_front();
        if let Some(shard) = next {
            let mut state = self.shards[shard].0.lock();
            if let Some(waiting) = &mut state.waiting {
                waiting.listed = false;
            }
            self.settle_in(shard, state, Wakes::default());
        }
    }

    /// How many hold a shared lock.
    pub fn shared_holder_count(&self, name: &[u8]) -> u32 {
        let hash = self.hash(name);
        self.shard(hash).shared.holders(hash, name)
    }

    /// Who holds a shared lock, in the order in which they came.
    pub fn shared_holders(&self, name: &[u8]) -> Vec<ClientId> {
        let hash = self.hash(name);
        let state = self.shard(hash);
        let holdings = state.shared.holdings(hash, name, None);
        holdings.map(|(client, _)| client).collect()
    }

    /// Looks at one holder of a shared lock, while it is certain to hold it.
    pub fn with_shared_holder<T>(
        &self,
        name: &[u8],
        client: ClientId,
        look: impl FnOnce() -> T,
    ) -> Option<T> {
        let hash = self.hash(name);
        let shard = self.shard(hash);
        shard.shared.holds(hash, name, client).then(look)
    }

    /// When a client was granted a lock that it holds.
    pub fn held_since(&self, client: ClientId, kind: LockKind, name: &[u8]) -> Option<Stamp> {
        let hash = self.hash(name);
        let state = self.shard(hash);
        match kind {
            LockKind::Exclusive => {
                let (holder, stamp) = state.exclusive.holding(hash, name)?;
                (holder == client).then_some(stamp)
            }
            LockKind::Shared => state.shared.held_since(hash, name, client),
        }
    }

    /// Counts the owners of a name and visits the first `most` of them, under one hold of a mutex: keep it short.
    /// First comes the holder of the exclusive lock, then the holders of the shared one in the order in which
    /// they came, then the waiters for either as they stand in line.
    pub fn visit_claims(
        &self,
        name: &[u8],
        most: usize,
        visit: impl FnMut(Claim),
    ) -> CountedClaims {
        let key = self.key(LockKind::Exclusive, name);
        let state = self.shard(key.hash);
        let until = state.stamp;
        state.owners(key, None, until).take(most).for_each(visit);
        CountedClaims {
            count: state.count_owners(key),
            until,
        }
    }

    /// Visits up to `most` of the owners that a census has counted, from the one behind `after` on, as far as they
    /// still are owners. Returns how many owners it looked at for that: more than it visits only if `after` is
    /// none any more.
    pub fn visit_claims_after(
        &self,
        name: &[u8],
        census: CountedClaims,
        after: &Claim,
        most: usize,
        visit: impl FnMut(Claim),
    ) -> usize {
        let key = self.key(LockKind::Exclusive, name);
        let state = self.shard(key.hash);
        let mut looked_at = 0;
        state
            .owners(key, Some(after), census.until)
            .inspect(|_| looked_at += 1)
            .filter(|owner| owner.rank() > after.rank() || owner.stamp > after.stamp)
            .take(most)
            .for_each(visit);
        looked_at
    }

    /// Looks at an owner that was visited, while it is certain to hold the lock, or to wait for it, as it did.
    pub fn with_claim<T>(&self, name: &[u8], owner: &Claim, look: impl FnOnce() -> T) -> Option<T> {
        let key = self.key(owner.kind, name);
        let state = self.shard(key.hash);
        let since = match (owner.waits, owner.kind) {
            (true, _) => {
                let waiting = state.waiting.as_ref()?;
                return waiting.still_waits(key, owner).then(look);
            }
            (false, LockKind::Exclusive) => state.exclusive.holding(key.hash, name),
            (false, LockKind::Shared) => state
                .shared
                .held_since(key.hash, name, owner.client)
                .map(|stamp| (owner.client, stamp)),
        };
        (since == Some((owner.client, owner.stamp))).then(look)
    }

    /// How old the table is, in milliseconds. What is measured by [`Stamp::ms`] is that.
    pub fn age_ms(&self) -> u64 {
        self.clock.age()
    }

    /// How often a client got no lock because that would have been one too many.
    pub fn refused_by_limits(&self) -> u64 {
        self.quota.refused()
    }

    /// How many names are locked.
    pub fn count(&self, kind: LockKind) -> usize {
        let count = |shard: &Shard| match kind {
            LockKind::Exclusive => shard.0.lock().exclusive.len(),
            LockKind::Shared => shard.0.lock().shared.len(),
        };
        self.shards.iter().map(count).sum()
    }

    /// Visits the names in (about) `count` places from `place` on, in no order that means anything.
    /// Returns the place to go on from; `None` at the end. A lock that is held throughout a series of
    /// calls is visited; one that is released and taken again may be visited twice.
    pub fn scan(
        &self,
        kind: LockKind,
        mut place: ScanPosition,
        count: usize,
        mut visit: impl FnMut(&ByteView),
    ) -> Option<ScanPosition> {
        let mut left = count;
        while let Some(shard) = self.shards.get(place.shard) {
            if left == 0 {
                return Some(place);
            }
            let state = shard.0.lock();
            let end = match kind {
                LockKind::Exclusive => state.exclusive.scan(place.slot, left, &mut visit),
                LockKind::Shared => state.shared.scan(place.slot, left, &mut visit),
            };
            match end {
                Some(slot) => return Some(ScanPosition { slot, ..place }),
                None => {
                    place = ScanPosition {
                        shard: place.shard + 1,
                        slot: 0,
                    }
                }
            }
            left = left.saturating_sub(SHARD_VISIT);
        }
        None
    }

    /// Takes one more step of a disconnect: releases up to (about) `budget` of the client's locks. Returns how
    /// many it released. Further calls release the rest, until the disconnection is
    /// [complete](Disconnection::is_complete). The client must not get locks meanwhile.
    pub fn release_some(&self, disconnection: &mut Disconnection, budget: usize) -> OrphanCounts {
        let client = disconnection.client;
        let mut released = OrphanCounts::default();
        while let Some(index) = disconnection.next_shard {
            let left = budget.saturating_sub(released.exclusive + released.shared);
            if left == 0 {
                break;
            }
            let slice = left.min(RELEASE_SLICE);
            let mut guard = self.shards[index].0.lock();
            let mut wakes = Wakes::default();
            let State {
                exclusive,
                shared,
                stamp,
                waiting,
            } = &mut *guard;
            let kind = LockKind::Exclusive;
            let exclusive = exclusive.release_some(
                client,
                slice,
                |name| self.hash(name),
                |hash, name| self.heir(waiting, stamp, Key { hash, kind, name }, &mut wakes),
            );
            let kind = LockKind::Shared;
            let shared = shared.release_some(
                client,
                slice - exclusive,
                |name| self.hash(name),
                |hash, name, holders| {
                    if let Some(waiting) = self.served(waiting) {
                        waiting.fewer_hold(Key { hash, kind, name }, holders);
                    }
                },
            );
            released.exclusive += exclusive;
            released.shared += shared;
            self.quota.give_back(client, exclusive + shared);
            self.settle_in(index, guard, wakes);
            if exclusive + shared < slice {
                disconnection.next_shard = Some(index + 1).filter(|&next| next < self.shards.len());
            }
        }
        disconnection.orphans.exclusive += released.exclusive;
        disconnection.orphans.shared += released.shared;
        released
    }

    #[inline(always)]
    fn get_in(&self, state: &mut State, client: ClientId, key: Key<'_>) -> Result<(), Denied> {
        let State {
            exclusive, stamp, ..
        } = state;
        exclusive.get(
            key.hash,
            key.name,
            client,
            |name| self.hash(name),
            || self.grant(client, stamp),
        )
    }

    fn shared_get_in(
        &self,
        state: &mut State,
        client: ClientId,
        key: Key<'_>,
        limit: u32,
    ) -> Result<u32, Denied> {
        let State { shared, stamp, .. } = state;
        shared.get(
            key.hash,
            key.name,
            client,
            limit,
            |name| self.hash(name),
            || self.grant(client, stamp),
        )
    }

    /// Puts a client in line for a lock, if there is room. What it will hold is counted from now on, so that
    /// nothing stands against it once it is its turn.
    fn queue_up(&self, state: &mut State, client: ClientId, key: Key<'_>, limit: u32) -> Attempt {
        if state.line(key) >= self.max_waiters || !self.quota.take(client) {
            return Attempt::Full;
        }
        let since = self.stamp(&mut state.stamp);
        let waiter = state.waiting().queue_up(key, client, limit, since);
        Attempt::Waits(self.ticket(key.hash, waiter))
    }

    /// Who is to have an exclusive lock that is released.
    #[inline(always)]
    fn heir(
        &self,
        waiting: &mut Option<Box<Waiting>>,
        stamp: &mut Stamp,
        key: Key<'_>,
        wakes: &mut Wakes,
    ) -> Option<(ClientId, Stamp)> {
        let heir = self.served(waiting)?.pass_on(key, wakes)?;
        Some((heir, self.stamp(stamp)))
    }

    /// The stamp of a grant, if the client may hold one more.
    fn grant(&self, client: ClientId, last: &mut Stamp) -> Option<Stamp> {
        self.quota.take(client).then(|| self.stamp(last))
    }

    fn stamp(&self, last: &mut Stamp) -> Stamp {
        *last = last.next(self.clock.age());
        *last
    }

    #[inline(always)]
    fn settle(&self, hash: u64, state: MutexGuard<'_, State>, wakes: Wakes) {
        if state.waiting.is_some() {
            self.settle_in(self.index(hash), state, wakes);
        }
    }

    /// Serves waiters of a shard that are due, as many as may be at once, leaves the others to
    /// [`serve`](LockTable::serve_due_waiters), and then wakes who is to be woken.
    fn settle_in(&self, shard: usize, mut guard: MutexGuard<'_, State>, mut wakes: Wakes) {
        let State {
            shared,
            stamp,
            waiting: place,
            ..
        } = &mut *guard;
        let Some(waiting) = self.served(place) else {
            return;
        };
        let more = waiting.serve(
            shared,
            SERVE_SLICE,
            || self.stamp(stamp),
            |name| self.hash(name),
            &mut wakes,
        );
        let is_news = more && !std::mem::replace(&mut waiting.listed, more);
        if waiting.is_idle() && !waiting.listed {
            *place = None;
        }
        drop(guard);
        if is_news {
            self.due.shards.lock().push_back(shard);
            self.due.server.wake();
        }
        wakes.wake();
    }

    fn ticket(&self, hash: u64, waiter: u32) -> WaitHandle {
        WaitHandle {
            shard: self.index(hash) as u32,
            waiter,
        }
    }

    fn key<'a>(&self, kind: LockKind, name: &'a [u8]) -> Key<'a> {
        Key {
            hash: self.hash(name),
            kind,
            name,
        }
    }

    fn hash(&self, name: &[u8]) -> u64 {
        self.hasher.hash(name)
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, State> {
        self.shards[self.index(hash)].0.lock()
    }

    fn index(&self, hash: u64) -> usize {
        // The lowest and the highest bits choose the bucket within the shard.
        (hash >> 32) as usize & (self.shards.len() - 1)
    }
}

impl Default for LockTable {
    fn default() -> LockTable {
        LockTable::new()
    }
}

#[cfg(test)]
mod tests;
