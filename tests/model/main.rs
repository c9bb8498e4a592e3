//! A model of the locks, compared with a server under real concurrency.
//!
//! Clients on real sockets contend for a few locks, with single commands and batches, and disconnect in every possible
//! way: they close, close only their sending side, reset, or disconnect while commands are under way. The test records
//! each command, its reply, and the times of both. Whenever all clients rest, it checks the records against the rules
//! of a lock ([`checker`]), and the listings and counters of the server against the state that must be there.
//!
//! The commands follow from a seed, which is printed if the test fails. Their timing does not, so it may take some
//! runs to reproduce a failure.
//!
//! ```text
//! GLOCKD_MODEL_SEED=7 cargo test --test model
//! GLOCKD_MODEL_SECONDS=300 cargo test --test model -- --nocapture
//! ```

// Always true here. It tells clippy that helper functions may unwrap, too.
#![cfg(test)]

mod checker;
mod claim;
mod client;
mod command;
mod connection;
mod disconnected;
mod history;
mod tally;
mod wire;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use glockd::{LockLimits, Policy, Server, Tcp, Unix, WebSocket};
use glockd_test_support::within;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::checker::Past;
use crate::claim::{Claim, record_token};
use crate::client::Client;
use crate::command::{Command, registered};
use crate::connection::Connection;
use crate::history::{Act, Lock, NAMES, Operation};
use crate::wire::{Addresses, Via};
use crate::world::World;

/// Number of servers that are tested, one after the other, unless a time is given.
const SERVERS: u64 = 3;

/// Number of times that all clients of a server rest.
const PHASES: usize = 8;

const CLIENTS: u64 = 12;

/// Number of acts of a client before it rests.
const ACTS: usize = 40;

/// Maximum number of locks of a connection, for each server. A wait counts as a lock; if the server did not give that
/// back, later gets would be refused.
const MAX_LOCKS: [Option<usize>; 3] = [None, Some(4), Some(6)];

/// There are more threads than processors, so that threads are preempted anywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn locks_follow_the_model_whatever_clients_do() {
    let number = |name| {
        env::var(name)
            .ok()
            .map(|value| value.parse::<u64>().unwrap())
    };
    let first = number("GLOCKD_MODEL_SEED").unwrap_or(0);
    let seconds = number("GLOCKD_MODEL_SECONDS");
    let start = Instant::now();
    let mut operations = 0;
    for seed in first.. {
        let _seed = PrintIfFailing(seed);
        operations += within(run(seed)).await;
        let enough = match seconds {
            Some(seconds) => start.elapsed().as_secs() >= seconds,
            None => seed + 1 == first + SERVERS,
        };
        if enough {
            break;
        }
    }
    let rate = operations as f64 / start.elapsed().as_secs_f64();
    eprintln!("{operations} operations on locks, {rate:.0} a second");
}

/// Prints the seed if the test fails.
struct PrintIfFailing(u64);

impl Drop for PrintIfFailing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with GLOCKD_MODEL_SEED={}", self.0);
        }
    }
}

/// Runs a server and its clients. Returns the number of operations on locks.
async fn run(seed: u64) -> usize {
    let max_locks = MAX_LOCKS[seed as usize % MAX_LOCKS.len()];
    let directory = tempfile::tempdir().unwrap();
    let unix = directory.path().join("socket");
    let local = (Ipv4Addr::LOCALHOST, 0).into();
    let server = Server::builder()
        .transport(Tcp::address(local))
        .transport(WebSocket::address(local))
        .transport(Unix::path(&unix))
        .policy(Policy {
            limits: LockLimits {
                max_locks_per_connection: max_locks,
                ..LockLimits::default()
            },
            ..Policy::default()
        })
        .bind()
        .await
        .unwrap();
    let bound = server.addresses();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(server.run(async { drop(stopped.await) }));

    let addresses = Addresses {
        tcp: bound[0].ip().unwrap(),
        websocket: bound[1].ip().unwrap(),
        unix,
    };
    let world = Arc::new(World::new(addresses, max_locks));
    let mut witness = Witness {
        connection: Connection::open_unregistered(&world, Via::Tcp).await,
        past: BTreeMap::new(),
        operations: 0,
    };
    let mut clients = Vec::new();
    for (number, via) in (0..CLIENTS).zip(Via::ALL.into_iter().cycle()) {
        clients.push(Client::connect(&world, via, seed, number).await);
    }
    for phase in 0..PHASES {
        // Every second time, all commands are answered, so that the state is known exactly.
        let polite = phase % 2 == 0;
        let acting: JoinSet<Client> = clients
            .into_iter()
            .map(|client| client.act(ACTS, polite))
            .collect();
        clients = acting.join_all().await;
        witness.check(&world, &clients).await;
    }
    let leaving: JoinSet<()> = clients.into_iter().map(Client::leave).collect();
    leaving.join_all().await;
    witness.check(&world, &[]).await;

    drop(stop);
    running.await.unwrap();
    witness.operations
}

/// A client that checks the state of the server whenever all others rest.
struct Witness {
    /// The connection. It has no name, so it is not in `who`.
    connection: Connection,
    /// The state of each lock at the last check.
    past: BTreeMap<Lock, Past>,
    /// Number of operations on locks so far.
    operations: usize,
}

impl Witness {
    async fn check(&mut self, world: &World, clients: &[Client]) {
        let clients: Vec<&Connection> = clients.iter().map(|client| &client.connection).collect();
        let mut holders: BTreeMap<Lock, BTreeSet<u32>> = BTreeMap::new();
        for client in &clients {
            for &lock in client.held.keys() {
                holders.entry(lock).or_default().insert(client.number);
            }
        }
        self.compare_statistics(world, clients.len(), &holders)
            .await;
        self.compare_listings(&clients, &holders).await;
        self.compare_claims(&clients).await;
        for lock in Lock::all() {
            self.ask(Command::Lock(lock, Act::Inspect)).await;
        }

        let mut history: BTreeMap<Lock, Vec<Operation>> = BTreeMap::new();
        for (lock, operation) in world.history.lock().drain(..) {
            history.entry(lock).or_default().push(operation);
        }
        for (lock, operations) in history {
            let past = self.past.entry(lock).or_default();
            if let Err(wrong) = checker::check(lock.shared, past, &operations) {
                panic!("{lock:?}: {wrong}");
            }
            let tokens = operations.iter().filter_map(|it| it.token.get());
            past.token = tokens.fold(past.token, |most, &token| most.max(token));
            past.holders = holders.remove(&lock).unwrap_or_default();
            self.operations += operations.len();
        }
    }

    async fn ask(&mut self, command: Command) -> Vec<String> {
        self.connection.ask(vec![command]).await
    }

    async fn compare_statistics(
        &mut self,
        world: &World,
        clients: usize,
        holders: &BTreeMap<Lock, BTreeSet<u32>>,
    ) {
        // Connections may still be ending.
        loop {
            self.ask(Command::Statistics { counted: false }).await;
            if self.connection.statistics["connections"] == clients as u64 + 1 {
                break;
            }
        }
        let statistics = &self.connection.statistics;
        for (gauge, shared) in [("locks", false), ("shared_locks", true)] {
            let held = holders.keys().filter(|lock| lock.shared == shared);
            assert_eq!(statistics[gauge], held.count() as u64, "{gauge}");
        }
        world.tally.lock().check(statistics);
    }

    async fn compare_listings(
        &mut self,
        clients: &[&Connection],
        holders: &BTreeMap<Lock, BTreeSet<u32>>,
    ) {
        let registered_ones = clients
            .iter()
            .map(|client| format!("{}: {}", client.address, registered(client.number)));
        let registered_ones = sorted(registered_ones);
        for counted in [false, true] {
            let who = self.ask(Command::Who { of: None, counted }).await;
            assert_eq!(sorted(who), registered_ones);
        }

        let addresses: BTreeMap<String, &str> = clients
            .iter()
            .map(|client| (registered(client.number), client.address.as_str()))
            .collect();
        for shared in [false, true] {
            let lines = holders.iter().filter(|(lock, _)| lock.shared == shared);
            let lines = lines.flat_map(|(lock, holders)| {
                let line = |holder: &u32| format!("{}: {}", lock.name(), registered(*holder));
                holders.iter().map(line)
            });
            let counted = false;
            let listed = self.ask(Command::List { shared, counted }).await;
            assert_eq!(sorted(listed.clone()), sorted(lines));
            let counted = true;
            assert_eq!(self.ask(Command::List { shared, counted }).await, listed);
            let with_lengths = Command::ListWithLengths { shared };
            assert_eq!(self.ask(with_lengths).await, listed);
            // The same locks, and the holders of each in the same order.
            let mut held_by: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for line in &listed {
                let (name, holder) = line.split_once(": ").unwrap();
                held_by.entry(name).or_default().push(addresses[holder]);
            }
            let entry = |(name, holders): (&str, Vec<&str>)| match shared {
                true => format!("{name}:[{}]", holders.join(" ")),
                false => format!("{name}:{}", holders.join(" ")),
            };
            let entries: Vec<String> = held_by.into_iter().map(entry).collect();
            let map = self.ask(Command::Dump { shared }).await;
            assert_eq!(map, [format!("map[{}]", entries.join(" "))]);
        }
    }

    /// Checks that all claims are those of clients, which learn their tokens from them, and that no client waits.
    async fn compare_claims(&mut self, clients: &[&Connection]) {
        let clients: BTreeMap<String, &Connection> = clients
            .iter()
            .map(|&client| (registered(client.number), client))
            .collect();
        for number in 0..NAMES {
            let lines = self.ask(Command::Claims(number)).await;
            let claims = Claim::parse(number, &lines);
            for claim in &claims {
                assert!(!claim.waits, "{lines:#?}");
                record_token(&clients[claim.name].held[&claim.lock], claim.token);
            }
            let held = clients.values().flat_map(|client| client.held.keys());
            let held = held.filter(|lock| lock.number == number).count();
            assert_eq!(claims.len(), held, "{lines:#?}");
        }
    }
}

fn sorted(lines: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<String> = lines.into_iter().collect();
    lines.sort();
    lines
}
