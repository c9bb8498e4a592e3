//! Gets, watches, waits and releases against a plain model.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Poll;

use glockd_protocol::LockKind;
use proptest::prelude::*;

use super::support::{Woken, assert_as_new, clients, disconnect, poll};
use crate::core::locks::{Attempt, IfBusy, LockLimits, LockTable, Stamp, WaitHandle};
use crate::core::registry::ClientId;

const NAMES: [&[u8]; 3] = [b"a", b"b", b"a rather long name of a lock"];

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
    EndWait,
    /// Ends the wait, or releases all locks of the client.
    Disconnect,
}

fn steps() -> impl Strategy<Value = Vec<(usize, usize, Step)>> {
    let number = || prop::option::of(0..4u32);
    let kind = prop::sample::select(vec![LockKind::Exclusive, LockKind::Shared]);
    let step = prop_oneof![
        6 => (number(), prop::bool::weighted(0.8)).prop_map(|(limit, wait)| Step::Get { limit, wait }),
        2 => (number(), prop::bool::weighted(0.8)).prop_map(|(below, wait)| Step::Watch { below, wait }),
        6 => kind.prop_map(Step::Release),
        3 => Just(Step::Poll),
        2 => Just(Step::EndWait),
        1 => Just(Step::Disconnect),
    ];
    prop::collection::vec((0..6usize, 0..NAMES.len(), step), 0..120)
}

/// A lock in its plainest form.
#[derive(Default)]
struct Model {
    /// Holders, and the number of the grant of each.
    holders: Vec<(usize, u32)>,
    /// Clients in line, and the maximum number of holders of each.
    line: Vec<(usize, usize)>,
    /// Watchers, and the number of holders below which the wait of each succeeds.
    watchers: Vec<(usize, usize)>,
    /// Number of grants.
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

    /// Returns the clients whose waits succeed, and the number of holders at that moment.
    fn release(&mut self, client: usize) -> Vec<(usize, usize)> {
        self.holders.retain(|(holder, _)| *holder != client);
        let left = self.holders.len();
        let succeeded = self.watchers.extract_if(.., |(_, below)| left < *below);
        let mut done: Vec<_> = succeeded.map(|(client, _)| (client, 0)).collect();
        done.extend(self.serve_line());
        done
    }

    /// The same, of the clients in line.
    fn serve_line(&mut self) -> Vec<(usize, usize)> {
        let mut done = Vec::new();
        while let Some(&(first, limit)) = self.line.first()
            && self.holders.len() < limit
        {
            self.line.remove(0);
            done.push((first, self.grant(first)));
        }
        done
    }

    /// Ends the wait of a client. Returns the clients whose waits succeed by that.
    fn end_wait(&mut self, client: usize) -> Vec<(usize, usize)> {
        self.line.retain(|(waiter, _)| *waiter != client);
        self.watchers.retain(|(watcher, _)| *watcher != client);
        self.serve_line()
    }
}

/// A lock: true if it is shared, and the index of its name.
type Key = (bool, usize);

/// The lock that a client waits for, the wait, and the number of holders if the wait has succeeded.
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
    fn waits_agree_with_the_model(steps in steps(), max_waiters in prop::option::of(0..3usize)) {
        let clients = clients(6);
        let limits = LockLimits { max_locks: Some(100), max_locks_per_connection: None, max_waiters };
        let table = LockTable::with_limits(limits);
        let mut locks: BTreeMap<Key, Model> = BTreeMap::new();
        let mut waits: Vec<Option<Wait>> = (0..6).map(|_| None).collect();
        let woken: Vec<Arc<Woken>> = (0..6).map(|_| Arc::default()).collect();
        let mut stamps: BTreeMap<Key, Vec<(u32, Stamp)>> = BTreeMap::new();
        for (client, name, step) in steps {
            let id = clients[client];
            let mut done = Vec::new();
            if let Some((key, mut handle, reached)) = waits[client].take() {
                match step {
                    Step::EndWait | Step::Disconnect => {
                        let found = table.end_wait(handle.unwrap());
                        prop_assert_eq!(found.map(|holders| holders as usize), reached);
                        done = locks.entry(key).or_default().end_wait(client);
                    }
                    _ => match poll(&table, &mut handle, &woken[client]) {
                        Poll::Ready(holders) => prop_assert_eq!(Some(holders as usize), reached),
                        Poll::Pending => {
                            prop_assert_eq!(reached, None);
                            waits[client] = Some((key, handle, None));
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
                    Step::Disconnect => {
                        disconnect(&table, id);
                        for lock in locks.values_mut().filter(|lock| lock.holds(client)) {
                            done.extend(lock.release(client));
                        }
                        (Attempt::Busy, Some(Err(Attempt::Busy)), (false, name))
                    }
                    Step::Poll | Step::EndWait => continue,
                };
                match (attempt, expect) {
                    (Attempt::Waits(handle), None) => {
                        let mut handle = Some(handle);
                        prop_assert!(poll(&table, &mut handle, &woken[client]).is_pending());
                        waits[client] = Some((key, handle, None));
                    }
                    (Attempt::Done(found), Some(Ok(expect))) => prop_assert_eq!(found as usize, expect),
                    (found, expect) => prop_assert_eq!(Some(Err(found)), expect),
                }
            }
            for (client, holders) in done {
                prop_assert!(woken[client].take(), "client {} was not woken", client);
                waits[client].as_mut().unwrap().2 = Some(holders);
            }
            prop_assert!(woken.iter().all(|woken| !woken.take()), "a task was woken without reason");

            for (&key, lock) in &locks {
                let name = NAMES[key.1];
                let kind = kind(key);
                let claims = claims_of(&table, name, kind);
                let expect = (lock.holders.iter().map(|(client, _)| (clients[*client], false)))
                    .chain(lock.line.iter().map(|(client, _)| (clients[*client], true)));
                prop_assert_eq!(claims, expect.collect::<Vec<_>>());
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
            if let Some((_, Some(handle), _)) = wait {
                table.end_wait(handle);
            }
            disconnect(&table, clients[client]);
        }
        assert_as_new(&table, clients[0], 100);
    }
}

fn if_busy(wait: bool) -> IfBusy {
    match wait {
        true => IfBusy::Wait,
        false => IfBusy::Refuse,
    }
}

/// Returns the clients that hold a lock, and then those in its line; true if the client waits.
fn claims_of(table: &LockTable, name: &[u8], kind: LockKind) -> Vec<(ClientId, bool)> {
    let mut claims = Vec::new();
    table.visit_claims(name, usize::MAX, |claim| {
        if claim.kind == kind {
            claims.push((claim.client, claim.waits));
        }
    });
    claims
}
