//! The table against a plain model, and the promises that a listing and a disconnect rest on.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::task::{Wake, Waker};

use proptest::prelude::*;

use super::*;
use crate::core::registry::Registry;

fn clients(count: usize) -> Vec<ClientId> {
    let registry = Registry::default();
    (0..count).map(|_| registry.add(b"x")).collect()
}

fn scanned(table: &LockTable, kind: LockKind) -> Vec<Vec<u8>> {
    let mut names = Vec::new();
    let mut place = Some(ScanPosition::default());
    while let Some(from) = place {
        place = table.scan(kind, from, 3, |name| names.push(name.to_vec()));
    }
    names.sort();
    names
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Get(usize, u8),
    Release(usize, u8),
    SharedGet(usize, u8),
    SharedRelease(usize, u8),
    End(usize, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let client = 0..4usize;
    let name = 0..12u8;
    let step = prop_oneof![
        4 => (client.clone(), name.clone()).prop_map(|(client, name)| Step::Get(client, name)),
        2 => (client.clone(), name.clone()).prop_map(|(client, name)| Step::Release(client, name)),
        4 => (client.clone(), name.clone()).prop_map(|(client, name)| Step::SharedGet(client, name)),
        2 => (client.clone(), name).prop_map(|(client, name)| Step::SharedRelease(client, name)),
        1 => (client, 1..4usize).prop_map(|(client, budget)| Step::End(client, budget)),
    ];
    prop::collection::vec(step, 0..200)
}

/// What the table should be, in the plainest form.
#[derive(Default)]
struct Model {
    exclusive: BTreeMap<Vec<u8>, ClientId>,
    shared: BTreeMap<Vec<u8>, Vec<ClientId>>,
    max: Option<usize>,
    max_each: Option<usize>,
    refused: u64,
}

impl Model {
    fn may_hold_more(&mut self, client: ClientId) -> bool {
        let shared = self.shared.values().flatten();
        let holders: Vec<_> = self.exclusive.values().chain(shared).collect();
        let of_client = holders.iter().filter(|holder| ***holder == client).count();
        let full = self.max.is_some_and(|max| holders.len() >= max)
            || self.max_each.is_some_and(|max| of_client >= max);
        self.refused += u64::from(full);
        !full
    }

    fn get(&mut self, client: ClientId, name: &[u8]) -> bool {
        if !self.exclusive.contains_key(name) && self.may_hold_more(client) {
            self.exclusive.insert(name.to_vec(), client);
        }
        self.exclusive.get(name) == Some(&client)
    }

    fn shared_get(&mut self, client: ClientId, name: &[u8]) -> usize {
        let holders = self.shared.get(name).cloned().unwrap_or_default();
        if !holders.contains(&client) {
            if !self.may_hold_more(client) {
                return 0;
            }
            self.shared.entry(name.to_vec()).or_default().push(client);
        }
        self.shared[name].len()
    }

    fn shared_release(&mut self, client: ClientId, name: &[u8]) -> bool {
        let Some(holders) = self.shared.get_mut(name) else {
            return false;
        };
        let before = holders.len();
        holders.retain(|&holder| holder != client);
        let held = holders.len() < before;
        self.shared.retain(|_, holders| !holders.is_empty());
        held
    }
}

proptest! {
    #[test]
    fn the_table_is_its_model(
        steps in steps(),
        max in prop::option::of(0..12usize),
        max_each in prop::option::of(0..6usize),
    ) {
        let (table, clients) = (LockTable::with_limits(LockLimits { max_locks: max, max_locks_per_connection: max_each, ..LockLimits::default() }), clients(4));
        let mut model = Model { max, max_each, ..Model::default() };
        for step in steps {
            match step {
                Step::Get(client, name) => {
                    let (client, name) = (clients[client], vec![name]);
                    prop_assert_eq!(table.get(client, &name), model.get(client, &name));
                }
                Step::Release(client, name) => {
                    let (client, name) = (clients[client], vec![name]);
                    let held = model.exclusive.get(&name) == Some(&client);
                    if held {
                        model.exclusive.remove(&name);
                    }
                    prop_assert_eq!(table.release(client, &name), held);
                }
                Step::SharedGet(client, name) => {
                    let (client, name) = (clients[client], vec![name]);
                    let holders = model.shared_get(client, &name);
                    prop_assert_eq!(table.shared_get(client, &name) as usize, holders);
                }
                Step::SharedRelease(client, name) => {
                    let (client, name) = (clients[client], vec![name]);
                    prop_assert_eq!(table.shared_release(client, &name), model.shared_release(client, &name));
                }
                Step::End(client, budget) => {
                    let client = clients[client];
                    let mut disconnection = Disconnection::new(client);
                    let mut total = OrphanCounts::default();
                    while !disconnection.is_complete() {
                        let released = table.release_some(&mut disconnection, budget);
                        prop_assert!(released.exclusive + released.shared <= budget);
                        total.exclusive += released.exclusive;
                        total.shared += released.shared;
                    }
                    prop_assert_eq!(disconnection.orphans(), total);
                    let before = model.exclusive.len();
                    model.exclusive.retain(|_, holder| *holder != client);
                    prop_assert_eq!(total.exclusive, before - model.exclusive.len());
                    let names: Vec<Vec<u8>> = model.shared.keys().cloned().collect();
                    let shared = names.iter().filter(|name| model.shared_release(client, name)).count();
                    prop_assert_eq!(total.shared, shared);
                }
            }
            for name in (0..12u8).map(|name| vec![name]) {
                prop_assert_eq!(table.holder(&name), model.exclusive.get(&name).copied());
                let holders = model.shared.get(&name).cloned().unwrap_or_default();
                prop_assert_eq!(table.shared_holder_count(&name) as usize, holders.len());
                for &client in &clients {
                    let holds = table.with_shared_holder(&name, client, || ()).is_some();
                    prop_assert_eq!(holds, holders.contains(&client));
                }
                prop_assert_eq!(table.shared_holders(&name), holders);
            }
            prop_assert_eq!(table.refused_by_limits(), model.refused);
            prop_assert_eq!(table.count(LockKind::Exclusive), model.exclusive.len());
            prop_assert_eq!(table.count(LockKind::Shared), model.shared.len());
            prop_assert_eq!(scanned(&table, LockKind::Exclusive), model.exclusive.keys().cloned().collect::<Vec<_>>());
            prop_assert_eq!(scanned(&table, LockKind::Shared), model.shared.keys().cloned().collect::<Vec<_>>());
        }
    }
}

#[test]
fn many_locks_come_and_go() {
    let (table, clients) = (LockTable::new(), clients(2));
    let names: Vec<Vec<u8>> = (0..50_000)
        .map(|n| format!("a rather long name of a lock {n}").into_bytes())
        .collect();
    for round in 0..2 {
        for name in &names {
            assert!(table.get(clients[0], name));
            assert!(!table.get(clients[1], name));
            assert_eq!(table.shared_get(clients[0], name), 1);
            assert_eq!(table.shared_get(clients[1], name), 2);
        }
        let found: HashSet<Vec<u8>> = scanned(&table, LockKind::Exclusive).into_iter().collect();
        assert_eq!(found.len(), names.len(), "round {round}");
        let mut disconnection = Disconnection::new(clients[0]);
        let released = table.release_some(&mut disconnection, usize::MAX);
        assert!(disconnection.is_complete());
        assert_eq!(
            (released.exclusive, released.shared),
            (names.len(), names.len())
        );
        assert_eq!(table.count(LockKind::Exclusive), 0);
        assert_eq!(table.count(LockKind::Shared), names.len());
        table.release_some(&mut Disconnection::new(clients[1]), usize::MAX);
        assert_eq!(table.count(LockKind::Shared), 0);
    }
}

#[test]
fn one_lock_of_many_holders() {
    let (table, clients) = (LockTable::new(), clients(10_000));
    for (index, &client) in clients.iter().enumerate() {
        assert_eq!(table.shared_get(client, b"x") as usize, index + 1);
    }
    assert_eq!(table.shared_holders(b"x"), clients);
    for &client in clients.iter().rev() {
        assert!(table.shared_release(client, b"x"));
    }
    assert_eq!(table.shared_holder_count(b"x"), 0);
}

#[test]
fn a_full_table_is_exactly_full() {
    const MAX: usize = 1000;
    let (table, clients) = (
        LockTable::with_limits(LockLimits {
            max_locks: Some(MAX),
            ..LockLimits::default()
        }),
        clients(4),
    );
    let got: usize = std::thread::scope(|scope| {
        let table = &table;
        let threads: Vec<_> = clients
            .iter()
            .map(|&client| {
                scope.spawn(move || {
                    let mut got = 0;
                    for number in 0..MAX {
                        let name = format!("{client:?} {number}");
                        got += usize::from(table.get(client, name.as_bytes()));
                        // What another holds takes nothing.
                        table.get(client, b"wanted by all");
                        table.release(client, b"wanted by all");
                    }
                    got
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert!((MAX - 1..=MAX).contains(&got), "{got}");
    table.release_some(&mut Disconnection::new(clients[0]), usize::MAX);
    let free = MAX - table.count(LockKind::Exclusive);
    let more = (0..MAX).filter(|n| table.shared_get(clients[1], n.to_string().as_bytes()) > 0);
    assert_eq!(more.count(), free);
}

/// A wait may move from task to task.
#[test]
fn the_task_that_polled_last_is_woken() {
    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    let (table, clients) = (LockTable::new(), clients(2));
    assert!(table.get(clients[0], b"x"));
    let Attempt::Waits(ticket) = table.get_or_wait(clients[1], b"x", IfBusy::Wait) else {
        panic!("it is held by another");
    };
    let mut ticket = Some(ticket);
    let tasks = [(); 2].map(|()| Arc::new(Woken::default()));
    for task in &tasks {
        let waker = Waker::from(Arc::clone(task));
        let polled = table.poll_wait(&mut ticket, &Context::from_waker(&waker));
        assert!(polled.is_pending());
    }
    assert!(table.release(clients[0], b"x"));
    let woken = tasks.map(|task| task.0.load(Ordering::SeqCst));
    assert_eq!(woken, [false, true]);
}
