//! What commands cost the built daemon, in instructions: a measure that is the same on a busy machine.
//!
//! The daemon runs under callgrind, with one worker, and has connections on its Unix socket. In each round
//! it is stopped, a batch is written to every connection, and it goes on: so all are ready at once, and
//! who was faster hardly matters. A run of twice the rounds has the same start and end, so what it costs
//! more is what those rounds cost.
//!
//! It takes valgrind and an optimised build of the daemon, so the test is ignored unless asked for, and then fails
//! where one of the two is missing:
//!
//! ```text
//! cargo test --release --test instructions -- --ignored --nocapture
//! ```
//!
//! Another build of the daemon is measured if `GLOCKD_BINARY` is its path; then the test itself need not
//! be optimised.

// Always so here; it tells clippy that not only the functions marked as tests may unwrap.
#![cfg(test)]
// The ceilings are those of x86-64.
#![cfg(target_arch = "x86_64")]

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tempfile::tempdir;

/// Commands a batch, and the most instructions that a command may then cost: about 5 % above what it did
/// when this was last recorded. That depends a little on the compiler and on the processor's vector
/// instructions; and on one processor, where the daemon has one thread, it is less.
///
/// To renew it, run the test as above on several processors, and add 5 % to what it prints.
const CEILINGS: [(usize, u64); 3] = [(1, 3270), (16, 1065), (64, 955)];

const CONNECTIONS: usize = 40;

/// Commands of a connection in the shorter run, whatever the depth.
const COMMANDS: usize = 256;

/// Longer than anything takes on the slowest of machines: to reach it is to fail.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs valgrind and an optimised daemon: run by .ci/run"]
fn commands_cost_no_more_than_they_did() {
    assert!(
        !cfg!(debug_assertions) || other_binary().is_some(),
        "this build is not optimised: use `cargo test --release`, or set GLOCKD_BINARY"
    );
    let mut exceeded = Vec::new();
    for (depth, ceiling) in CEILINGS {
        let rounds = COMMANDS.div_ceil(depth);
        let difference = instructions(depth, 2 * rounds) - instructions(depth, rounds);
        let cost = difference / (rounds * CONNECTIONS * depth) as u64;
        let found = format!("depth {depth}: {cost} instructions a command, ceiling {ceiling}");
        println!("{found}");
        assert!(cost > ceiling / 2, "renew it, or nothing was run: {found}");
        if cost > ceiling {
            exceeded.push(found);
        }
    }
    assert!(exceeded.is_empty(), "commands cost too much: {exceeded:#?}");
}

/// The daemon to measure, if it is not the one that was built with this test.
fn other_binary() -> Option<OsString> {
    env::var_os("GLOCKD_BINARY")
}

/// What a daemon executes from its start to its end, with these rounds between them.
fn instructions(depth: usize, rounds: usize) -> u64 {
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path());
    let mut connections: Vec<_> = (0..CONNECTIONS).map(|_| daemon.connect()).collect();
    for round in 0..rounds {
        daemon.pause();
        let batches: Vec<_> = (0..CONNECTIONS)
            .map(|connection| Batch::new(connection, depth, round))
            .collect();
        for (connection, batch) in connections.iter_mut().zip(&batches) {
            connection.write_all(batch.commands.as_bytes()).unwrap();
        }
        daemon.signal(Signal::CONT);
        for (connection, batch) in connections.iter_mut().zip(&batches) {
            let mut replies = vec![0; batch.replies.len()];
            connection.read_exact(&mut replies).unwrap();
            assert_eq!(replies.escape_ascii().to_string(), batch.expected());
        }
    }
    let log = daemon.stop();
    let total = log
        .lines()
        .find_map(|line| line.split("Collected : ").nth(1));
    total
        .unwrap_or_else(|| panic!("no count in {log}"))
        .parse()
        .unwrap()
}

/// Locks of a connection's own, each got and released.
struct Batch {
    commands: String,
    replies: String,
}

impl Batch {
    /// The next `depth` commands of a connection.
    fn new(connection: usize, depth: usize, round: usize) -> Batch {
        let (mut commands, mut replies) = (String::new(), String::new());
        for command in round * depth..(round + 1) * depth {
            let name = format!("lock-{connection:04}-{:06}", command % depth / 2);
            let (verb, answer) = match command % 2 {
                0 => ("g", "Get"),
                _ => ("r", "Release"),
            };
            commands += &format!("{verb} {name}\n");
            replies += &format!("1 Lock {answer} Success: {name}\n");
        }
        Batch { commands, replies }
    }

    fn expected(&self) -> String {
        self.replies.escape_default().to_string()
    }
}

/// A daemon under callgrind. Killed when dropped.
struct Daemon<'a> {
    dir: &'a Path,
    child: Child,
}

impl Daemon<'_> {
    fn start(dir: &Path) -> Daemon<'_> {
        let log = File::create(dir.join("log")).unwrap();
        let child = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(other_binary().unwrap_or_else(|| env!("CARGO_BIN_EXE_glockd").into()))
            .args(["-port", "0", "-ws", "0", "-unix"])
            .arg(dir.join("sock"))
            .env("TOKIO_WORKER_THREADS", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("valgrind can be run");
        Daemon { dir, child }
    }

    /// A new connection, as soon as the daemon listens.
    fn connect(&mut self) -> UnixStream {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match UnixStream::connect(self.dir.join("sock")) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    stream.set_write_timeout(Some(PATIENCE)).unwrap();
                    return stream;
                }
                Err(error) => {
                    let runs = self.child.try_wait().unwrap().is_none();
                    let waits = runs && Instant::now() < deadline;
                    assert!(waits, "{error}: {}", self.log());
                }
            }
            thread::yield_now();
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap()).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Stops all of its threads, and waits until they are.
    fn pause(&self) {
        self.signal(Signal::STOP);
        let (_, status) = waitpid(Some(self.pid()), WaitOptions::UNTRACED)
            .unwrap()
            .unwrap();
        assert!(status.stopped(), "it has ended: {}", self.log());
    }

    /// Ends it, and gives back what it and callgrind have said.
    fn stop(mut self) -> String {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "it does not end: {}", self.log());
            thread::yield_now();
        }
        self.log()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap()
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
