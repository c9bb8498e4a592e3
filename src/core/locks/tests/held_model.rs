//! Gets, releases and disconnects against a plain model.

use std::collections::BTreeMap;

use glockd_protocol::LockKind;
use proptest::prelude::*;

use super::support::clients;
use crate::core::locks::{Disconnection, LockLimits, LockTable, OrphanCounts, ScanPosition};
use crate::core::registry::ClientId;

/// Returns all locked names, sorted.
fn scanned(table: &LockTable, kind: LockKind) -> Vec<Vec<u8>> {
    let mut names = Vec::new();
    let mut next = Some(ScanPosition::default());
    while let Some(from) = next {
        next = table.scan(kind, from, 3, |_, name| names.push(name.to_vec()));
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
    /// A disconnect in steps of this budget.
    Disconnect(usize, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let client = 0..4usize;
    let name = 0..12u8;
    let step = prop_oneof![
        4 => (client.clone(), name.clone()).prop_map(|(client, name)| Step::Get(client, name)),
        2 => (client.clone(), name.clone()).prop_map(|(client, name)| Step::Release(client, name)),
        4 => (client.clone(), name.clone()).prop_map(|(client, name)| Step::SharedGet(client, name)),
        2 => (client.clone(), name).prop_map(|(client, name)| Step::SharedRelease(client, name)),
        1 => (client, 1..4usize).prop_map(|(client, budget)| Step::Disconnect(client, budget)),
    ];
    prop::collection::vec(step, 0..200)
}

/// The table in its plainest form.
#[derive(Default)]
struct Model {
    exclusive: BTreeMap<Vec<u8>, ClientId>,
    shared: BTreeMap<Vec<u8>, Vec<ClientId>>,
    max_locks: Option<usize>,
    max_locks_per_connection: Option<usize>,
    refusals: u64,
}

impl Model {
    fn try_acquire(&mut self, client: ClientId) -> bool {
        let shared = self.shared.values().flatten();
        let holders: Vec<_> = self.exclusive.values().chain(shared).collect();
        let of_client = holders.iter().filter(|holder| ***holder == client).count();
        let is_full = self.max_locks.is_some_and(|max| holders.len() >= max)
            || self
                .max_locks_per_connection
                .is_some_and(|max| of_client >= max);
        self.refusals += u64::from(is_full);
        !is_full
    }

    fn get(&mut self, client: ClientId, name: &[u8]) -> bool {
        if !self.exclusive.contains_key(name) && self.try_acquire(client) {
            self.exclusive.insert(name.to_vec(), client);
        }
        self.exclusive.get(name) == Some(&client)
    }

    fn shared_get(&mut self, client: ClientId, name: &[u8]) -> usize {
        let holders = self.shared.get(name).cloned().unwrap_or_default();
        if !holders.contains(&client) {
            if !self.try_acquire(client) {
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
    fn gets_and_releases_agree_with_the_model(
        steps in steps(),
        max_locks in prop::option::of(0..12usize),
        max_locks_per_connection in prop::option::of(0..6usize),
    ) {
        let limits = LockLimits { max_locks, max_locks_per_connection, max_waiters: None };
        let (table, clients) = (LockTable::with_limits(limits), clients(4));
        let mut model = Model { max_locks, max_locks_per_connection, ..Model::default() };
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
                Step::Disconnect(client, budget) => {
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
            prop_assert_eq!(table.refused_by_limits(), model.refusals);
            prop_assert_eq!(table.count(LockKind::Exclusive), model.exclusive.len());
            prop_assert_eq!(table.count(LockKind::Shared), model.shared.len());
            prop_assert_eq!(scanned(&table, LockKind::Exclusive), model.exclusive.keys().cloned().collect::<Vec<_>>());
            prop_assert_eq!(scanned(&table, LockKind::Shared), model.shared.keys().cloned().collect::<Vec<_>>());
        }
    }
}
