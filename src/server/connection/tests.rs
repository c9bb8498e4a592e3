//! A connection on a runtime of one thread, where a test can count what it does between two turns of another task.

mod parking;

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;
use glockd_protocol::LockKind;
use glockd_transports::{Input, Limits, Output};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::budget::{BYTES_PER_UNIT, LIMIT as BUDGET};
use super::responder::CHUNK;
use super::*;
use crate::core::dispatcher::Dispatcher;
use crate::server::admission::Capacity;
use crate::server::reaper;

/// Time that a test may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a session receives, and what it has recorded.
#[derive(Default)]
struct Script {
    /// Number of batches, which arrive one after the other without a pause.
    batches: usize,
    batch: Vec<u8>,
    received: AtomicUsize,
    longest_send: AtomicUsize,
    closed: AtomicBool,
}

struct Scripted(Arc<Script>);

#[async_trait]
impl Session for Scripted {
    async fn recv(&mut self, frames: &mut Input) -> io::Result<usize> {
        if self.0.received.fetch_add(1, SeqCst) == self.0.batches {
            return Ok(0);
        }
        for line in self.0.batch.split(|&byte| byte == b'\n') {
            frames.push(line);
        }
        Ok(frames.len())
    }

    async fn send(&mut self, frames: &mut Output) -> io::Result<()> {
        let length = frames.as_bytes().len();
        self.0.longest_send.fetch_max(length, SeqCst);
        Ok(())
    }

    async fn close(self: Box<Self>) {
        self.0.closed.store(true, SeqCst);
    }
}

/// Serves a session to its end. Calls `observe` at each turn of another task, and once at the end.
async fn serve(script: &Arc<Script>, mut observe: impl FnMut(&Dispatcher)) {
    let dispatcher = Arc::new(Dispatcher::default());
    let (sender, ended) = mpsc::unbounded_channel();
    let context = Arc::new(Context::new(
        Arc::clone(&dispatcher),
        Limits::default(),
        Capacity::default(),
        sender,
    ));
    let reaper = tokio::spawn(reaper::reap(Arc::clone(&dispatcher), ended));
    let peer = Peer::new("test");
    let session = Box::new(Scripted(Arc::clone(script)));
    let permit = context.admit(&peer).unwrap();
    Connection::spawn(&peer, Admitted::new(session, permit), &context);
    drop(context);
    let serving = async {
        while !reaper.is_finished() {
            observe(&dispatcher);
            yield_now().await;
        }
    };
    timeout(PATIENCE, serving).await.expect("the test hangs");
    reaper.await.unwrap();
    observe(&dispatcher);
}

fn lines(line: impl Fn(usize) -> String, count: usize) -> Vec<u8> {
    let lines: Vec<String> = (0..count).map(line).collect();
    lines.join("\n").into_bytes()
}

/// The peer never makes it wait: its input never pauses, and there is little output. It must not yield too often either.
#[tokio::test]
async fn connection_yields_during_a_flood_of_commands() {
    async fn check(command: &str, frames: usize, turns: RangeInclusive<usize>) {
        let script = Arc::new(Script {
            batches: 4,
            batch: lines(|_| command.to_owned(), frames / 4),
            ..Script::default()
        });
        let mut passed = 0;
        serve(&script, |_| passed += 1).await;
        let command = &command[..command.len().min(10)];
        assert!(turns.contains(&passed), "{command}: {passed} turns");
    }
    check("nonsense", 40_000, 39..=50).await;
    check("i x", 40_000, 39..=50).await;
    check(&"x".repeat(12_800), 400, 38..=50).await;
    // The table is empty, so these add no bytes to the output.
    check("d", 4000, 50..=100).await;
    check("who", 4000, 50..=100).await;
    check("d x", 4000, 10..=20).await;
    check("q", 400, 12..=20).await;
}

/// A reply of 128 KiB spends the budget, however short its command is.
#[tokio::test]
async fn connection_yields_after_long_replies() {
    const COMMANDS: usize = 10;
    let name = "x".repeat(BYTES_PER_UNIT * BUDGET as usize);
    // One turn each, and a few more: before and after the batch, and for the steps of a listing.
    let check = async |before: &str, command: &str| {
        let commands = vec![command.to_owned(); COMMANDS].join("\n");
        let script = Arc::new(Script {
            batches: 1,
            batch: format!("iam {name}\ng lock\nsg lock\n{before}{commands}").into_bytes(),
            ..Script::default()
        });
        let mut passed = 0;
        serve(&script, |_| passed += 1).await;
        let turns = COMMANDS..3 * COMMANDS;
        let command = &command[..command.len().min(10)];
        assert!(turns.contains(&passed), "{command}: {passed} turns");
    };
    for command in ["me", "d lock", "sd lock", "own lock", "who"] {
        check("", command).await;
    }
    check("", &format!("i {name}")).await;
    // Answered during a wait, which ends with the input.
    check("iw 60000 lock\n", &format!("ping {name}")).await;
    check("iw 60000 lock\n", &format!("cancel {name}")).await;
    // Answered after it.
    check("iw 60000 lock\n", "me").await;
}

#[tokio::test]
async fn connection_yields_and_sends_between_waits_that_end_at_once() {
    const WAITS: usize = 20_000;
    // The client holds the lock itself, so these wait until its input ends.
    let script = Arc::new(Script {
        batches: 1,
        batch: [b"g x\n", &lines(|_| "iw 60000 x".to_owned(), WAITS)[..]].concat(),
        ..Script::default()
    });
    let mut passed = 0;
    serve(&script, |_| passed += 1).await;
    // Each is queued and then run, except those beyond the room for the backlog.
    assert!(
        (WAITS / 1024..4 * WAITS / 1024).contains(&passed),
        "{passed}"
    );
    let longest = script.longest_send.load(SeqCst);
    assert!(longest < CHUNK + 100, "{longest}");
}

/// The search of the backlog is charged to the budget.
#[tokio::test]
async fn connection_yields_during_searches_of_the_backlog() {
    const WAITS: usize = 10_000;
    const CANCELS: usize = 10;
    let waits = lines(|_| "iw 9 a".to_owned(), WAITS);
    let cancels = lines(|_| "cancel b".to_owned(), CANCELS);
    let script = Arc::new(Script {
        batches: 1,
        batch: [b"g a\niw 60000 a\n", &waits[..], b"\n", &cancels].concat(),
        ..Script::default()
    });
    let mut passed = 0;
    serve(&script, |_| passed += 1).await;
    let searches = CANCELS * WAITS / 1024;
    assert!((searches..3 * searches).contains(&passed), "{passed} turns");
}

#[tokio::test]
async fn output_is_sent_when_it_reaches_a_chunk() {
    let name = "x".repeat(1000);
    let script = Arc::new(Script {
        batches: 1,
        batch: lines(|_| format!("i {name}"), 1000),
        ..Script::default()
    });
    serve(&script, |_| ()).await;
    let longest = script.longest_send.load(SeqCst);
    let reply = format!("0 Lock Not Locked: {name}\n").len();
    assert!((CHUNK..CHUNK + reply).contains(&longest), "{longest}");
}

#[tokio::test]
async fn goodbye_follows_the_release_of_many_locks_in_slices() {
    const LOCKS: usize = 20_000;
    let script = Arc::new(Script {
        batches: 1,
        batch: lines(|number| format!("g lock {number}"), LOCKS),
        ..Script::default()
    });
    let (mut before, mut steps) = (0, 0);
    serve(&script, |dispatcher| {
        let held = dispatcher.locks().count(LockKind::Exclusive);
        if held < before {
            // Both the task of the connection and the reaper may have had a turn since.
            assert!(before - held <= 1024, "{} at once", before - held);
            steps += 1;
        }
        before = held;
        assert!(held == 0 || !script.closed.load(SeqCst));
    })
    .await;
    assert_eq!(before, 0);
    assert!(steps >= LOCKS / 1024, "{steps} steps");
}
