//! Allocations: a command makes none, and a batch of commands makes two, however long it is.
//!
//! Only the allocations of the test's own thread are counted, so tests can run in parallel.

// Always true here. It tells clippy that helper functions may unwrap, too.
#![cfg(test)]

use std::hint::black_box;

use allocation_counter::{AllocationInfo, measure};
use glockd::internals::dispatcher::{Dispatcher, Outcome};
use glockd::internals::locks::Disconnection;
use glockd::internals::registry::ClientId;
use glockd::protocol::{LockKind, parse};
use glockd::{Connector, Memory, Server, StopReason};
use glockd_test_support::{wait_until, within};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::{self, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Allocations of a batch: the boxed futures of `Session::recv` and `Session::send`.
const PER_BATCH: u64 = 2;

#[test]
fn allocations_are_counted() {
    let kept = measure(|| std::mem::forget(black_box(Box::new(1))));
    assert_eq!((kept.count_total, kept.count_current), (1, 1));
    let freed = measure(|| drop(black_box(Box::new(1))));
    assert_eq!((freed.count_total, freed.count_current), (1, 0));
}

/// Runs a command, from its line to the bytes of its reply.
fn answer(dispatcher: &Dispatcher, client: ClientId, line: &str, out: &mut Vec<u8>) {
    out.clear();
    let command = parse(line.as_bytes()).unwrap();
    match dispatcher.dispatch(client, &command) {
        Outcome::Reply(reply) => reply.encode(out),
        Outcome::List(_) | Outcome::Wait(_) => panic!("{line} is answered later"),
    }
}

#[test]
fn command_allocates_nothing() {
    let dispatcher = Dispatcher::default();
    let [one, two] = ["one", "two"].map(|name| dispatcher.connect(name.as_bytes()));
    let script = [
        (one, "i", "0 Lock Not Locked: "),
        (one, "g", "1 Lock Get Success: "),
        (one, "g", "1 Lock Get Success: "),
        (two, "g", "0 Lock Get Failure: "),
        (two, "i", "1 Lock Is Locked: "),
        (two, "r", "0 Lock Release Failure: "),
        (one, "r", "1 Lock Release Success: "),
        (one, "r", "0 Lock Release Failure: "),
        (one, "si", "0 Shared Lock Not Locked: "),
        (one, "sg", "1 Shared Lock Get Success: "),
        (one, "sg", "1 Shared Lock Get Success: "),
        (two, "sg", "2 Shared Lock Get Success: "),
        (two, "si", "2 Shared Lock Is Locked: "),
        (one, "sr", "1 Shared Lock Release Success: "),
        (one, "sr", "0 Shared Lock Release Failure: "),
        (two, "sr", "1 Shared Lock Release Success: "),
    ];
    let mut out = Vec::with_capacity(100);
    // In the first round the table grows. Then it has the space that it needs.
    for warm in [false, true] {
        // Names of at most 20 bytes are stored inline.
        for name in ["", "x", "a name with spaces", "lock-of-twenty-bytes"] {
            for (client, verb, reply) in script {
                let line = format!("{verb} {name}");
                let info = measure(|| answer(&dispatcher, client, &line, &mut out));
                assert_eq!(out.escape_ascii().to_string(), format!("{reply}{name}\\n"));
                if warm {
                    assert_eq!(info, AllocationInfo::default(), "{line}");
                }
            }
        }
    }
}

/// A client that sends `own` and reads nothing must not take memory for all claims, nor keep old names of clients that
/// have registered others since.
#[test]
fn list_of_claims_keeps_one_page_in_memory() {
    const OWNERS: usize = 3000;
    const MOST: i64 = 192 * 1024;
    let dispatcher = Dispatcher::default();
    let name = |of: &str, number| format!("{of} {number} {}", "x".repeat(1000));
    let connect = |number| {
        let client = dispatcher.connect(b"127.0.0.1:57871");
        let old = name("old", number);
        dispatcher.registry().rename(client, Some(old.as_bytes()));
        dispatcher.locks().shared_get(client, b"foo");
        client
    };
    let clients: Vec<ClientId> = (0..OWNERS).map(connect).collect();
    let command = parse(b"own foo").unwrap();
    let Outcome::List(mut cursor) = dispatcher.dispatch(clients[0], &command) else {
        panic!("it is no listing");
    };
    let mut out = Vec::with_capacity(256 * 1024);
    let (mut kept, mut done, mut lines, mut steps) = (0, false, 0, 0);
    while !done {
        let info = measure(|| done = cursor.step(dispatcher.state(), &mut out).done);
        kept += info.bytes_current;
        lines += out.iter().filter(|&&byte| byte == b'\n').count();
        out.clear();
        steps += 1;
        // Now the cursor alone keeps the old names in its page.
        if steps % 5 == 0 {
            let info = measure(|| {
                for (number, &client) in clients.iter().enumerate() {
                    let new = name("new", number);
                    dispatcher.registry().rename(client, Some(new.as_bytes()));
                }
            });
            kept += info.bytes_current;
        }
        assert!(kept < MOST, "{kept} bytes are kept");
    }
    assert_eq!(lines, 1 + OWNERS);
}

/// A server that runs on the test's thread, whenever one of its clients waits.
struct Running {
    runtime: Runtime,
    connector: Connector,
    stop: oneshot::Sender<()>,
    server: JoinHandle<StopReason>,
}

impl Running {
    fn start() -> Running {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let (memory, connector) = Memory::new();
        let bound = Server::builder().transport(memory).bind();
        let server = runtime.block_on(bound).unwrap();
        let (stop, stopped) = oneshot::channel();
        let server = runtime.spawn(server.run(async { drop(stopped.await) }));
        Running {
            runtime,
            connector,
            stop,
            server,
        }
    }

    fn connect(&self) -> Client<'_> {
        Client {
            server: self,
            stream: self.connector.connect().unwrap(),
            replies: Vec::with_capacity(64 * 1024),
        }
    }

    fn stop(self) {
        drop(self.stop);
        self.runtime.block_on(within(self.server)).unwrap();
    }
}

struct Client<'a> {
    server: &'a Running,
    stream: DuplexStream,
    replies: Vec<u8>,
}

impl Client<'_> {
    /// Sends commands at once, and waits for one line of reply to each. Allocates nothing itself.
    fn ask(&mut self, batch: &str) -> &[u8] {
        let Client {
            server,
            stream,
            replies,
        } = self;
        replies.clear();
        server.runtime.block_on(within(async {
            stream.write_all(batch.as_bytes()).await.unwrap();
            while lines(replies) < lines(batch.as_bytes()) {
                assert_ne!(stream.read_buf(replies).await.unwrap(), 0);
            }
        }));
        replies
    }
}

fn lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte == b'\n').count()
}

/// Returns this number of commands, which succeed each time they are sent.
fn batch(length: usize) -> String {
    let verbs = ["g", "i", "r", "sg", "si", "sr"];
    let line = |number: usize| format!("{} lock {}\n", verbs[number % 6], number / 6);
    (0..length).map(line).collect()
}

#[test]
fn batch_allocates_no_more_than_one_command() {
    let server = Running::start();
    let mut client = server.connect();
    for warm in [false, true] {
        for length in [64, 16, 1] {
            let batch = batch(length);
            let info = measure(|| {
                client.ask(&batch);
            });
            let granted = client.replies.split_inclusive(|&byte| byte == b'\n');
            assert!(granted.clone().all(|line| line.starts_with(b"1 ")));
            assert_eq!(granted.count(), length);
            if warm {
                assert_eq!(info.count_total, PER_BATCH, "of {length}");
                assert_eq!(info.count_current, 0, "of {length}");
            }
        }
    }
    drop(client);
    server.stop();
}

#[test]
fn ended_connection_leaves_no_memory() {
    let server = Running::start();
    let mut host = server.connect();
    let mut visit = || {
        let mut guest = server.connect();
        let replies =
            guest.ask("iam a guest of many words\ng the guest's lock\nsg the guest's lock\n");
        assert!(replies.ends_with(b"1 Shared Lock Get Success: the guest's lock\n"));
        assert!(host.ask("i the guest's lock\n").starts_with(b"1"));
        drop(guest);
        wait_until("the lock is kept", || {
            host.ask("i the guest's lock\n").starts_with(b"0")
        });
    };
    visit();
    let info = measure(visit);
    assert_ne!(info.count_total, 0);
    assert_eq!((info.count_current, info.bytes_current), (0, 0));
    drop(host);
    server.stop();
}

#[test]
fn stopped_server_leaves_no_memory() {
    let life = || {
        let server = Running::start();
        let mut client = server.connect();
        client.ask(&batch(64));
        let mut other = server.connect();
        other.ask("g another lock\n");
        drop(other);
        server.stop();
    };
    // The first time, the thread allocates memory that it keeps.
    life();
    let info = measure(life);
    assert_ne!(info.count_total, 0);
    assert_eq!((info.count_current, info.bytes_current), (0, 0));
}

/// Restricts this thread to one processor, with which a lock table has the smallest number of shards.
fn use_one_processor() {
    let allowed = sched_getaffinity(None).unwrap();
    let first = (0..CpuSet::MAX_CPU).find(|&cpu| allowed.is_set(cpu));
    let mut one = CpuSet::new();
    one.set(first.unwrap());
    sched_setaffinity(None, &one).unwrap();
}

/// The table shrinks again once no lock is held, after each of its shards was large.
#[test]
fn released_locks_leave_no_memory() {
    const LOCKS: usize = 200_000;
    /// Bytes that the whole table may keep.
    const KEPT: i64 = 10_000;
    use_one_processor();
    let dispatcher = Dispatcher::default();
    let [first, second] = ["a", "b"].map(|peer| dispatcher.connect(peer.as_bytes()));
    let locks = dispatcher.locks();
    let names: Vec<String> = (0..LOCKS).map(|number| format!("lock {number}")).collect();
    let left = measure(|| {
        for name in names.iter().map(String::as_bytes) {
            assert!(locks.get(first, name));
            assert_eq!(locks.shared_get(first, name), 1);
            assert_eq!(locks.shared_get(second, name), 2);
        }
        // One client releases its locks one by one, the other by its end.
        for name in names.iter().map(String::as_bytes) {
            assert!(locks.release(first, name));
            assert!(locks.shared_release(first, name));
        }
        while !dispatcher.disconnect(&mut Disconnection::new(second), usize::MAX) {}
        assert_eq!(locks.count(LockKind::Shared), 0);
    });
    let bytes = left.bytes_current;
    assert!(bytes < KEPT, "{bytes} bytes are left");
}
