//! The cost of commands in the built daemon, in instructions: a measure that does not depend on the load of the
//! machine.
//!
//! The daemon runs under callgrind, with one worker, and has connections on its Unix socket. In each round it is
//! stopped, a batch is written to each connection, and it continues: so all connections are ready at once, and the
//! order of arrival hardly matters. A run of twice the rounds has the same start and end, so the difference is the
//! cost of the rounds.
//!
//! The test needs valgrind and an optimised build of the daemon. So it is ignored by default, and fails if one of the
//! two is missing:
//!
//! ```text
//! cargo test --release --test instructions -- --ignored --nocapture
//! ```
//!
//! If `GLOCKD_BINARY` is the path of another build of the daemon, that is measured, and the test need not be optimised.

// Always true here. It tells clippy that helper functions may unwrap, too.
#![cfg(test)]
// The ceilings are those of x86-64.
#![cfg(target_arch = "x86_64")]

use std::env;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

use glockd_test_support::{SocketDaemon, binary};
use rustix::process::Signal;
use tempfile::tempdir;

/// Commands in a batch, and the maximum number of instructions per command: about 5 % above the cost when this was last
/// recorded. The cost depends a little on the compiler and on the processor's vector instructions. It is lower on one
/// processor, where the daemon has one thread.
///
/// To renew it, run the test as above on several processors, and add 5 % to what it prints.
const CEILINGS: [(usize, u64); 3] = [(1, 3270), (16, 1065), (64, 955)];

const CONNECTIONS: usize = 40;

/// Commands per connection in the shorter run, for each depth.
const COMMANDS: usize = 256;

#[test]
#[ignore = "needs valgrind and an optimised daemon: run by .ci/run"]
fn commands_cost_no_more_than_recorded() {
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
        assert!(
            cost > ceiling / 2,
            "renew the ceiling, or nothing was run: {found}"
        );
        if cost > ceiling {
            exceeded.push(found);
        }
    }
    assert!(exceeded.is_empty(), "commands cost too much: {exceeded:#?}");
}

/// Returns the daemon to measure, if it is not the one that was built with this test.
fn other_binary() -> Option<OsString> {
    env::var_os("GLOCKD_BINARY")
}

/// Runs a daemon for this number of rounds. Returns the instructions that it executed from its start to its end.
fn instructions(depth: usize, rounds: usize) -> u64 {
    let dir = tempdir().unwrap();
    let daemon = start(dir.path());
    let mut connections: Vec<_> = (0..CONNECTIONS).map(|_| daemon.connect()).collect();
    for round in 0..rounds {
        daemon.process().pause();
        let batches: Vec<_> = (0..CONNECTIONS)
            .map(|connection| Batch::new(connection, depth, round))
            .collect();
        for (connection, batch) in connections.iter_mut().zip(&batches) {
            connection.write_all(batch.commands.as_bytes()).unwrap();
        }
        daemon.process().signal(Signal::CONT);
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

/// A batch: gets and releases locks that only one connection uses.
struct Batch {
    commands: String,
    replies: String,
}

impl Batch {
    /// Returns the next `depth` commands of a connection.
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

/// Starts a daemon under callgrind.
fn start(dir: &Path) -> SocketDaemon {
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(other_binary().unwrap_or_else(|| binary("glockd").into()))
        .args(["-port", "0", "-ws", "0"])
        .env("TOKIO_WORKER_THREADS", "1");
    SocketDaemon::start(command, dir)
}
