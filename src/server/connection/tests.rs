//! A connection on a runtime of one thread: there, how much is done between two turns of another task
//! can be counted.

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

/// How long a test may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a session saw, and what it is to do.
#[derive(Default)]
struct Script {
    /// Batches that are there at once, one after the other.
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

/// Serves a session to its end, and looks at it whenever it is another task's turn, and once more.
async fn serve(script: &Arc<Script>, mut look: impl FnMut(&Dispatcher)) {
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
            look(&dispatcher);
            yield_now().await;
        }
    };
    timeout(PATIENCE, serving).await.expect("the test hangs");
    reaper.await.unwrap();
    look(&dispatcher);
}

fn lines(line: impl Fn(usize) -> String, count: usize) -> Vec<u8> {
    let lines: Vec<String> = (0..count).map(line).collect();
    lines.join("\n").into_bytes()
}

/// Input that never ends, and is answered by little or nothing, is no reason to wait for anything; nor are
/// a few cheap commands one to stop.
#[tokio::test]
async fn a_flood_passes_its_turn_on() {
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
    // On an empty table, which adds no byte to the output.
    check("d", 4000, 50..=100).await;
    check("who", 4000, 50..=100).await;
    check("d x", 4000, 10..=20).await;
    check("q", 400, 12..=20).await;
}

/// A reply of 128 KiB is a turn's work, however short the command is.
#[tokio::test]
async fn long_replies_pass_the_turn_on() {
    const COMMANDS: usize = 10;
    let name = "x".repeat(BYTES_PER_UNIT * BUDGET as usize);
    // A turn each, and not many more: before the batch, after it, and for what a listing takes.
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
    // Run after it.
    check("iw 60000 lock\n", "me").await;
}

/// Waits that end at once, one after the other, pass the turn on and send their replies as other commands do.
#[tokio::test]
async fn waits_that_end_at_once_pass_the_turn_on() {
    const WAITS: usize = 20_000;
    // It holds the lock itself, and its input ends.
    let script = Arc::new(Script {
        batches: 1,
        batch: [b"g x\n", &lines(|_| "iw 60000 x".to_owned(), WAITS)[..]].concat(),
        ..Script::default()
    });
    let mut passed = 0;
    serve(&script, |_| passed += 1).await;
    // Each is queued, and then run; but for those that find no room any more.
    assert!(
        (WAITS / 1024..4 * WAITS / 1024).contains(&passed),
        "{passed}"
    );
    let longest = script.longest_send.load(SeqCst);
    assert!(longest < CHUNK + 100, "{longest}");
}

/// The search of a backlog for what is cancelled is charged to the turn.
#[tokio::test]
async fn a_search_for_what_is_cancelled_passes_the_turn_on() {
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
async fn output_is_sent_as_soon_as_it_is_a_chunk() {
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
async fn many_locks_are_released_in_slices_and_the_goodbye_is_said_after_them() {
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
            // Two tasks may have had a turn since: the connection's and the reaper's.
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
