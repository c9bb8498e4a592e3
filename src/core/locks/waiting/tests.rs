//! Waits against a plain model, in numbers that are served in slices, and by threads that race.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use glockd_protocol::LockKind;
use proptest::prelude::*;

use crate::core::locks::{
    Attempt, Disconnection, IfBusy, LockLimits, LockTable, Stamp, WaitHandle,
};
use crate::core::registry::{ClientId, Registry};

/// Longer than anything takes on the slowest of machines: to reach it is to fail.
const PATIENCE: Duration = Duration::from_secs(60);

const NAMES: [&[u8]; 3] = [b"a", b"b", b"a rather long name of a lock"];

fn clients(count: usize) -> Vec<ClientId> {
    let registry = Registry::default();
    (0..count).map(|_| registry.add(b"x")).collect()
}

/// Whether it was woken since it was last asked.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

impl Woken {
    fn take(&self) -> bool {
        self.0.swap(false, SeqCst)
    }
}

/// Looks whether a wait has ended, with a waker that tells when to look again.
fn poll(table: &LockTable, ticket: &mut Option<WaitHandle>, woken: &Arc<Woken>) -> Poll<u32> {
    let waker = Waker::from(Arc::clone(woken));
    table.poll_wait(ticket, &Context::from_waker(&waker))
}

fn ticket(attempt: Attempt) -> Option<WaitHandle> {
    match attempt {
        Attempt::Waits(ticket) => Some(ticket),
        other => panic!("no wait: {other:?}"),
    }
}

fn if_busy(wait: bool) -> IfBusy {
    match wait {
        true => IfBusy::Wait,
        false => IfBusy::Refuse,
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Get {
        limit: Option<u32>,
        wait: bool,
    },
    Watch {
        below: Option<u32>,
        wait: bool,
    },
    Release(LockKind),
    Poll,
    GiveUp,
    /// All that the client holds.
    End,
}

fn steps() -> impl Strategy<Value = Vec<(usize, usize, Step)>> {
    let number = || prop::option::of(0..4u32);
    let kind = prop::sample::select(vec![LockKind::Exclusive, LockKind::Shared]);
    let step = prop_oneof![
        6 => (number(), prop::bool::weighted(0.8)).prop_map(|(limit, wait)| Step::Get { limit, wait }),
        2 => (number(), prop::bool::weighted(0.8)).prop_map(|(below, wait)| Step::Watch { below, wait }),
        6 => kind.prop_map(Step::Release),
        3 => Just(Step::Poll),
        2 => Just(Step::GiveUp),
        1 => Just(Step::End),
    ];
    prop::collection::vec((0..6usize, 0..NAMES.len(), step), 0..120)
}

/// A lock as plainly as it can be written.
#[derive(Default)]
struct Model {
    /// Clients that hold it, and when each was granted it.
    holders: Vec<(usize, u32)>,
    /// Clients in line, and how many may hold it then.
    line: Vec<(usize, usize)>,
    /// Watchers, and what they wait for.
    watchers: Vec<(usize, usize)>,
    grants: u32,
}

impl Model {
    fn holds(&self, client: usize) -> bool {
        self.holders.iter().any(|(holder, _)| *holder == client)
    }

    fn grant(&mut self, client: usize) -> usize {
        self.grants += 1;
        self.holders.push((client, self.grants));
        self.holders.len()
    }

    /// Who has got what they wait for, and how many held the lock then.
    fn release(&mut self, client: usize) -> Vec<(usize, usize)> {
        self.holders.retain(|(holder, _)| *holder != client);
        let left = self.holders.len();
        let told = self.watchers.extract_if(.., |(_, below)| left < *below);
        let mut done: Vec<_> = told.map(|(client, _)| (client, 0)).collect();
        done.extend(self.serve());
        done
    }

    fn serve(&mut self) -> Vec<(usize, usize)> {
        let mut done = Vec::new();
        while let Some(&(first, limit)) = self.line.first()
            && self.holders.len() < limit
        {
            self.line.remove(0);
            done.push((first, self.grant(first)));
        }
        done
    }

    fn leave(&mut self, client: usize) -> Vec<(usize, usize)> {
        self.line.retain(|(waiter, _)| *waiter != client);
        self.watchers.retain(|(watcher, _)| *watcher != client);
        self.serve()
    }
}

type Key = (bool, usize);

/// What a client waits for, and how that has ended, if it has.
type Wait = (Key, Option<WaitHandle>, Option<usize>);

fn key(kind: LockKind, name: usize) -> Key {
    (kind == LockKind::Shared, name)
}

fn kind((shared, _): Key) -> LockKind {
    match shared {
        true => LockKind::Shared,
        false => LockKind::Exclusive,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn waits_are_their_model(steps in steps(), max_waiters in prop::option::of(0..3usize)) {
        let clients = clients(6);
        let table = LockTable::with_limits(LockLimits { max_locks: Some(100), max_waiters, ..LockLimits::default() });
        let mut locks: BTreeMap<Key, Model> = BTreeMap::new();
        let mut waits: Vec<Option<Wait>> = (0..6).map(|_| None).collect();
        let woken: Vec<Arc<Woken>> = (0..6).map(|_| Arc::default()).collect();
        let mut stamps: BTreeMap<Key, Vec<(u32, Stamp)>> = BTreeMap::new();
        for (client, name, step) in steps {
            let id = clients[client];
            let mut done = Vec::new();
            if let Some((key, mut ticket, reached)) = waits[client].take() {
                match step {
                    Step::GiveUp | Step::End => {
                        let found = table.end_wait(ticket.unwrap());
                        prop_assert_eq!(found.map(|holders| holders as usize), reached);
                        done = locks.entry(key).or_default().leave(client);
                    }
                    _ => match poll(&table, &mut ticket, &woken[client]) {
                        Poll::Ready(holders) => prop_assert_eq!(Some(holders as usize), reached),
                        Poll::Pending => {
                            prop_assert_eq!(reached, None);
                            waits[client] = Some((key, ticket, None));
                        }
                    },
                }
            } else {
                let (attempt, expect, key) = match step {
                    Step::Get { limit, wait } => {
                        let key = (limit.is_some(), name);
                        let most = limit.map_or(1, |limit| limit as usize);
                        let lock = locks.entry(key).or_default();
                        let full = max_waiters.is_some_and(|max| lock.line.len() >= max);
                        let free = lock.line.is_empty() && lock.holders.len() < most;
                        let expect = match (lock.holds(client) || free, wait) {
                            (true, _) if lock.holds(client) => Some(Ok(lock.holders.len())),
                            (true, _) => Some(Ok(lock.grant(client))),
                            (false, false) => Some(Err(Attempt::Busy)),
                            (false, true) if full => Some(Err(Attempt::Full)),
                            (false, true) => {
                                lock.line.push((client, most));
                                None
                            }
                        };
                        let name = NAMES[name];
                        let attempt = match limit {
                            Some(limit) => table.shared_get_or_wait(id, name, limit, if_busy(wait)),
                            None => table.get_or_wait(id, name, if_busy(wait)),
                        };
                        (attempt, expect, key)
                    }
                    Step::Watch { below, wait } => {
                        let key = (below.is_some(), name);
                        let lock = locks.entry(key).or_default();
                        let limit = below.map_or(1, |below| below as usize);
                        let expect = match (lock.holders.len() < limit, wait) {
                            (true, _) => Some(Ok(lock.holders.len())),
                            (false, false) => Some(Err(Attempt::Busy)),
                            (false, true) => {
                                lock.watchers.push((client, limit));
                                None
                            }
                        };
                        let below = below.unwrap_or(1);
                        (table.watch(id, kind(key), NAMES[name], below, if_busy(wait)), expect, key)
                    }
                    Step::Release(kind) => {
                        let lock = locks.entry(key(kind, name)).or_default();
                        let held = lock.holds(client);
                        let released = match kind {
                            LockKind::Exclusive => table.release(id, NAMES[name]),
                            LockKind::Shared => table.shared_release(id, NAMES[name]),
                        };
                        prop_assert_eq!(released, held);
                        if held {
                            done = lock.release(client);
                        }
                        (Attempt::Busy, Some(Err(Attempt::Busy)), key(kind, name))
                    }
                    Step::End => {
                        table.release_some(&mut Disconnection::new(id), usize::MAX);
                        for lock in locks.values_mut().filter(|lock| lock.holds(client)) {
                            done.extend(lock.release(client));
                        }
                        (Attempt::Busy, Some(Err(Attempt::Busy)), (false, name))
                    }
                    Step::Poll | Step::GiveUp => continue,
                };
                match (attempt, expect) {
                    (Attempt::Waits(ticket), None) => {
                        let mut ticket = Some(ticket);
                        prop_assert!(poll(&table, &mut ticket, &woken[client]).is_pending());
                        waits[client] = Some((key, ticket, None));
                    }
                    (Attempt::Done(found), Some(Ok(expect))) => prop_assert_eq!(found as usize, expect),
                    (found, expect) => prop_assert_eq!(Some(Err(found)), expect),
                }
            }
            for (client, holders) in done {
                prop_assert!(woken[client].take(), "{} was not woken", client);
                waits[client].as_mut().unwrap().2 = Some(holders);
            }
            prop_assert!(woken.iter().all(|woken| !woken.take()), "one was woken for nothing");

            for (&key, lock) in &locks {
                let name = NAMES[key.1];
                let kind = kind(key);
                let owners = table.owners_of(name, kind);
                let expect = (lock.holders.iter().map(|(client, _)| (clients[*client], false)))
                    .chain(lock.line.iter().map(|(client, _)| (clients[*client], true)));
                prop_assert_eq!(owners, expect.collect::<Vec<_>>());
                let stamps = stamps.entry(key).or_default();
                for &(client, grant) in &lock.holders {
                    let stamp = table.held_since(clients[client], kind, name).unwrap();
                    let later = stamps.iter().find(|(other, _)| *other >= grant);
                    match later {
                        Some((other, known)) if *other == grant => prop_assert_eq!(*known, stamp),
                        Some((_, known)) => prop_assert!(stamp < *known),
                        None => {
                            prop_assert!(stamps.last().is_none_or(|(_, known)| *known < stamp));
                            stamps.push((grant, stamp));
                        }
                    }
                }
            }
        }
        for (client, wait) in waits.into_iter().enumerate() {
            if let Some((_, Some(ticket), _)) = wait {
                table.end_wait(ticket);
            }
            table.release_some(&mut Disconnection::new(clients[client]), usize::MAX);
        }
        is_as_new(&table, clients[0], 100);
    }
}

/// Nothing is held, and so many can be.
#[track_caller]
fn is_as_new(table: &LockTable, client: ClientId, room: usize) {
    for kind in [LockKind::Exclusive, LockKind::Shared] {
        assert_eq!(table.count(kind), 0);
    }
    assert!(
        table
            .shards
            .iter()
            .all(|shard| shard.0.lock().waiting.is_none())
    );
    let got = (0..=room).filter(|number| table.get(client, number.to_string().as_bytes()));
    assert_eq!(got.count(), room);
}

impl LockTable {
    fn owners_of(&self, name: &[u8], kind: LockKind) -> Vec<(ClientId, bool)> {
        let mut owners = Vec::new();
        self.visit_claims(name, usize::MAX, |owner| {
            if owner.kind == kind {
                owners.push((owner.client, owner.waits));
            }
        });
        owners
    }
}

/// A server's connections end one by one: none of them may be granted what another held.
#[test]
fn nothing_is_granted_once_it_is_closed() {
    let table = LockTable::new();
    let [holder, waiter, watcher] = clients(3)[..] else {
        unreachable!()
    };
    for kind in [LockKind::Exclusive, LockKind::Shared] {
        let name = b"x";
        let mut waits = match kind {
            LockKind::Exclusive => {
                assert!(table.get(holder, name));
                [ticket(table.get_or_wait(waiter, name, IfBusy::Wait)), None]
            }
            LockKind::Shared => {
                assert_eq!(table.shared_get(holder, name), 1);
                // In line behind the other, whose end makes it the first.
                let wait = |client| ticket(table.shared_get_or_wait(client, name, 1, IfBusy::Wait));
                [wait(watcher), wait(waiter)]
            }
        };
        let mut watch = ticket(table.watch(watcher, kind, name, 1, IfBusy::Wait));
        table.stop_granting();
        let woken = Arc::<Woken>::default();
        assert!(match kind {
            LockKind::Exclusive => table.release(holder, name),
            LockKind::Shared => table.shared_release(holder, name),
        });
        for wait in waits.iter_mut().chain([&mut watch]) {
            if wait.is_some() {
                assert!(poll(&table, wait, &woken).is_pending());
            }
            assert_eq!(wait.take().and_then(|wait| table.end_wait(wait)), None);
        }
        assert!(!woken.take());
        assert_eq!(table.count(kind), 0);
    }
}

/// Of all who are due, the releaser serves a slice, and the others are served in turns.
#[test]
fn many_are_served_in_slices() {
    const MANY: usize = 1000;
    const SLICE: usize = crate::core::locks::SERVE_SLICE;
    let clients = clients(2 * MANY + 2);
    let table = LockTable::with_limits(LockLimits {
        max_locks: Some(10 * MANY),
        ..LockLimits::default()
    });
    let name = b"x";
    let woken: Vec<Arc<Woken>> = clients.iter().map(|_| Arc::default()).collect();
    assert_eq!(table.shared_get(clients[0], name), 1);
    let mut waits: Vec<Option<WaitHandle>> = (0..2 * MANY)
        .map(|number| match number % 2 {
            0 => {
                // Who would fit, but stands behind one who does not.
                let limit = if number == 0 { 1 } else { 1_000_000 };
                ticket(table.shared_get_or_wait(clients[number + 1], name, limit, IfBusy::Wait))
            }
            _ => ticket(table.watch(clients[number + 1], LockKind::Shared, name, 1, IfBusy::Wait)),
        })
        .collect();
    for (wait, woken) in waits.iter_mut().zip(&woken) {
        assert!(poll(&table, wait, woken).is_pending());
    }
    let server = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&server));
    assert!(
        table
            .poll_due_waiters(&Context::from_waker(&waker))
            .is_pending()
    );

    assert!(table.shared_release(clients[0], name));
    let served = || woken.iter().filter(|woken| woken.0.load(SeqCst)).count();
    assert_eq!(served(), SLICE);
    assert!(server.take());
    // One who looks before its turn is told that it was free; another gives up; a third has just come.
    let last = 2 * MANY - 1;
    assert_eq!(poll(&table, &mut waits[last], &woken[last]), Poll::Ready(0));
    assert_eq!(table.end_wait(waits[last - 1].take().unwrap()), None);
    let latest = table.shared_get_or_wait(clients[2 * MANY + 1], name, 1_000_000, IfBusy::Wait);
    let mut latest = ticket(latest);
    // Each of the first two has served a slice, too.
    let mut turns = 3;
    while table
        .poll_due_waiters(&Context::from_waker(&waker))
        .is_ready()
    {
        table.serve_due_waiters();
        turns += 1;
        assert!(served() <= turns * SLICE);
    }
    assert_eq!(served(), 2 * MANY - 2);
    assert_eq!(
        poll(&table, &mut latest, &woken[0]),
        Poll::Ready(MANY as u32)
    );
    for (number, wait) in waits[..last - 1].iter_mut().enumerate() {
        let holders = match number % 2 {
            0 => number / 2 + 1,
            _ => 0,
        };
        assert_eq!(
            poll(&table, wait, &woken[number]),
            Poll::Ready(holders as u32)
        );
    }
    for &client in &clients {
        table.release_some(&mut Disconnection::new(client), usize::MAX);
    }
    is_as_new(&table, clients[0], 10 * MANY);
}

/// Waits on a thread that sleeps meanwhile. What it got, or `None` after that time.
fn block_on(table: &LockTable, attempt: Attempt, time: Duration) -> Option<u32> {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let mut ticket = match attempt {
        Attempt::Done(holders) => return Some(holders),
        Attempt::Waits(ticket) => Some(ticket),
        other => panic!("{other:?}"),
    };
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let deadline = Instant::now() + time;
    loop {
        if let Poll::Ready(holders) = table.poll_wait(&mut ticket, &Context::from_waker(&waker)) {
            return Some(holders);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return table.end_wait(ticket?);
        }
        thread::park_timeout(left);
    }
}

/// Grants, time-outs and ends of connections at the same moments: each lock is held by as many as may, and
/// nobody waits for ever.
#[test]
fn threads_that_race_lose_nothing() {
    const THREADS: usize = 6;
    const ROUNDS: usize = 2000;
    let clients = clients(THREADS);
    let table = LockTable::with_limits(LockLimits {
        max_locks: Some(THREADS * 2),
        ..LockLimits::default()
    });
    let (exclusive, shared) = (AtomicU32::new(0), AtomicU32::new(0));
    let enter = |holders: &AtomicU32, most: u32| {
        assert!(holders.fetch_add(1, SeqCst) < most);
        thread::yield_now();
        holders.fetch_sub(1, SeqCst);
    };
    thread::scope(|scope| {
        for (number, &client) in clients.iter().enumerate() {
            let (table, exclusive, shared) = (&table, &exclusive, &shared);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    // Now and then somebody has hardly any patience, as long as a lock is usually held.
                    let hasty = (round + number) % 3 == 0;
                    let time = if hasty {
                        Duration::from_micros(20)
                    } else {
                        PATIENCE
                    };
                    let got = block_on(table, table.get_or_wait(client, b"x", IfBusy::Wait), time);
                    assert!(hasty || got.is_some(), "forgotten");
                    if got.is_some() {
                        enter(exclusive, 1);
                        match round % 2 {
                            0 => assert!(table.release(client, b"x")),
                            _ => {
                                table.release_some(&mut Disconnection::new(client), 100);
                            }
                        }
                    }
                    let attempt = table.shared_get_or_wait(client, b"x", 2, IfBusy::Wait);
                    let got = block_on(table, attempt, time);
                    assert!(hasty || got.is_some(), "forgotten");
                    if let Some(holders) = got {
                        assert!((1..=2).contains(&holders));
                        enter(shared, 2);
                        assert!(table.shared_release(client, b"x"));
                    }
                }
            });
        }
    });
    is_as_new(&table, clients[0], THREADS * 2);
}
