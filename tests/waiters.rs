//! A hundred thousand waiters for one lock: the memory of each, how soon the first is granted the lock, and that no other is
//! woken by that.
//!
//! ```text
//! cargo test --release --test waiters -- --nocapture
//! ```
//!
//! The test over the memory transport has fewer waiters than the one in the table alone, so that it ends soon without
//! optimisation, too. `GLOCKD_WAITERS` sets the number for both.

// Always true here. It tells clippy that helper functions may unwrap, too.
#![cfg(test)]

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use allocation_counter::measure;
use glockd::internals::locks::{Attempt, IfBusy, LockTable};
use glockd::internals::registry::Registry;
use glockd::{Connector, Memory, Server};
use glockd_test_support::within;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime;

const LOCK: &[u8] = b"wanted by all";

/// Returns the number of waiters.
fn waiters(default: usize) -> usize {
    let number = env::var("GLOCKD_WAITERS").ok();
    number.map_or(default, |number| number.parse().unwrap())
}

/// A task that counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[test]
fn release_wakes_only_the_first_of_many_waiters() {
    let waiters = waiters(100_000);
    let (table, registry) = (LockTable::new(), Registry::default());
    let clients: Vec<_> = (0..=waiters)
        .map(|number| registry.add(format!("memory:{number}").as_bytes()))
        .collect();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let context = Context::from_waker(&waker);

    assert!(table.get(clients[0], LOCK));
    let mut handles = Vec::with_capacity(waiters);
    let queued = measure(|| {
        for &client in &clients[1..] {
            let Attempt::Waits(handle) = table.get_or_wait(client, LOCK, IfBusy::Wait) else {
                panic!("the lock is held by another client");
            };
            let mut handle = Some(handle);
            assert!(table.poll_wait(&mut handle, &context).is_pending());
            handles.push(handle);
        }
    });
    let bytes = queued.bytes_current / waiters as i64;

    let start = Instant::now();
    assert!(table.release(clients[0], LOCK));
    let release = start.elapsed();
    assert_eq!(
        woken.0.load(Relaxed),
        1,
        "other waiters than the first were woken"
    );
    assert_eq!(table.poll_wait(&mut handles[0], &context), Poll::Ready(1));
    assert_eq!(table.holder(LOCK), Some(clients[1]));
    println!(
        "{waiters} waiters in the table: {bytes} bytes each; a release that hands the lock on took {release:?}, \
         and woke 1"
    );
    // A node of 48 bytes, in a vector that has grown. The handles are not counted: their list was allocated before.
    assert!((48..=100).contains(&bytes), "{bytes} bytes a waiter");

    let start = Instant::now();
    for (handle, client) in handles.iter_mut().zip(&clients[1..]).skip(1) {
        assert_eq!(table.end_wait(handle.take().unwrap()), None);
        assert_ne!(table.holder(LOCK), Some(*client));
    }
    println!("to end a wait took {:?}", start.elapsed() / waiters as u32);
    assert!(table.release(clients[1], LOCK));
    assert_eq!(table.holder(LOCK), None);
}

struct Client(DuplexStream);

impl Client {
    fn connect(connector: &Connector) -> Client {
        Client(connector.connect().unwrap())
    }

    async fn say(&mut self, line: &str) {
        self.0.write_all(line.as_bytes()).await.unwrap();
    }

    /// Returns the number of clients that hold this lock or wait for it.
    async fn claims(&mut self, name: &str) -> usize {
        self.say(&format!("own {name}\nping\n")).await;
        let mut heard = Vec::new();
        while !heard.ends_with(b"\n1 pong: \n") {
            let read = within(self.0.read_buf(&mut heard)).await;
            assert_ne!(read.unwrap(), 0, "the server hung up");
        }
        let heard = String::from_utf8(heard).unwrap();
        heard.split(' ').next().unwrap().parse().unwrap()
    }

    async fn expect(&mut self, answer: &str) {
        let mut heard = vec![0; answer.len()];
        let heard_all = self.0.read_exact(&mut heard);
        within(heard_all).await.unwrap();
        assert_eq!(
            heard.escape_ascii().to_string(),
            answer.escape_default().to_string()
        );
    }
}

/// All on one thread, whose allocations are counted.
#[test]
fn waiting_connections_are_small_and_granted_at_once() {
    let waiters = waiters(10_000);
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (memory, connector) = Memory::new();
    let (mut holder, mut clients) = runtime.block_on(async {
        let server = Server::builder().transport(memory).bind().await.unwrap();
        tokio::spawn(server.run(std::future::pending()));
        let mut holder = Client::connect(&connector);
        holder.say("g wanted\n").await;
        holder.expect("1 Lock Get Success: wanted\n").await;
        let mut clients = Vec::with_capacity(waiters);
        for _ in 0..waiters {
            let mut client = Client::connect(&connector);
            // The first command allocates what later commands reuse.
            client.say("i not wanted at all\n").await;
            client
                .expect("0 Lock Not Locked: not wanted at all\n")
                .await;
            clients.push(client);
        }
        (holder, clients)
    });
    let waiting = measure(|| {
        runtime.block_on(async {
            for client in &mut clients {
                // Alone in its batch: a command behind it would make the server keep its buffers.
                client.say("gw 3600000 wanted\n").await;
            }
            while holder.claims("wanted").await <= waiters {}
        });
    });
    let bytes = waiting.bytes_current / waiters as i64;
    let queued = measure(|| {
        runtime.block_on(async {
            for client in &mut clients {
                // A client asks for the fencing token behind its wait. Once the `ping` is answered, the command has queued.
                client.say("f wanted\nping\n").await;
                client.expect("1 pong: \n").await;
            }
        });
    });
    let queued = queued.bytes_current / waiters as i64;
    runtime.block_on(async {
        let start = Instant::now();
        holder.say("r wanted\n").await;
        clients[0].expect("1 Lock Get Success: wanted\n").await;
        let granted = start.elapsed();
        holder.expect("1 Lock Release Success: wanted\n").await;
        println!(
            "{waiters} waiting connections: {bytes} bytes each beyond those of an idle one, and {queued} with a command \
             behind the wait; the first was granted the lock {granted:?} after its release"
        );
        assert!((250..=500).contains(&bytes), "{bytes} bytes a waiting connection");
        assert!((0..=100).contains(&queued), "{queued} bytes for a command behind the wait");

        // Each client that disconnects hands the lock over to the next, and the last one to the holder.
        holder.say("gw 3600000 wanted\nping\n").await;
        holder.expect("1 pong: \n").await;
        let start = Instant::now();
        drop(clients);
        holder.expect("1 Lock Get Success: wanted\n").await;
        println!("all of them disconnected within {:?}", start.elapsed());
    });
}
