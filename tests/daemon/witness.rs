//! Checks that a fault does not disturb other clients, and that it leaves nothing behind.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use glockd_test_support::{Client, Daemon, PATIENCE};

/// Maximum time of a round trip while the machine is busy with the fault and with other tests.
const LONGEST: Duration = Duration::from_secs(5);

/// Maximum growth of the daemon's memory from the first fault to the second, in KiB: less than thousands of connections
/// take. It is not 0 because freed memory is fragmented.
const KEPT: u64 = 4096;

/// Causes a fault twice, with a daemon on `{sock}`. Meanwhile another client gets and releases a lock, and must never
/// wait long. After each fault, no locks are left, and the daemon has as many descriptors as before. After the second
/// one, it has as much memory as after the first, by when the allocator has reserved what it needs.
pub(crate) fn witness(what: &str, daemon: &Daemon, fault: impl FnMut()) {
    let memory = repeat(2, what, daemon, fault);
    let most = memory[0] + KEPT;
    assert!(memory[1] <= most, "{what}: {memory:?} KiB");
}

/// Causes a fault this many times, with the same checks except for the memory. Returns the memory after each time, in
/// KiB.
pub(crate) fn repeat(
    times: usize,
    what: &str,
    daemon: &Daemon,
    mut fault: impl FnMut(),
) -> Vec<u64> {
    let mut client = Client::unix(daemon);
    let before = Footprint::of(daemon, &mut client);
    let mut memory = Vec::new();
    for _ in 0..times {
        let done = AtomicBool::new(false);
        let (trips, longest) = thread::scope(|scope| {
            let trips = scope.spawn(|| trips(&mut client, &done));
            let done = SetOnDrop(&done);
            fault();
            drop(done);
            trips.join().unwrap()
        });
        let start = Instant::now();
        loop {
            let now = Footprint::of(daemon, &mut client);
            if now == before {
                break;
            }
            let patient = start.elapsed() < PATIENCE;
            assert!(patient, "{what}: {now:?}, not {before:?}");
        }
        let now = daemon.memory("VmRSS");
        eprintln!("{what}: of {trips} round trips the longest was {longest:?}; then {now} KiB");
        assert!(longest < LONGEST, "{what}: {longest:?} for a round trip");
        memory.push(now);
    }
    memory
}

/// Ends the witness even if the fault panics.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Gets and releases a lock until `done` is set. Returns the number of round trips and the time of the longest.
fn trips(client: &mut Client<UnixStream>, done: &AtomicBool) -> (u32, Duration) {
    let (mut trips, mut longest) = (0, Duration::ZERO);
    while !done.load(Relaxed) {
        for (command, answer) in [("g", "Get"), ("r", "Release")] {
            let start = Instant::now();
            let reply = client.ask(format!("{command} witness"));
            longest = longest.max(start.elapsed());
            assert_eq!(reply, format!("1 Lock {answer} Success: witness"));
            trips += 1;
        }
    }
    (trips, longest)
}

/// What connected clients occupy in the daemon.
#[derive(Debug, PartialEq)]
struct Footprint {
    connections: u64,
    locks: u64,
    shared_locks: u64,
    descriptors: usize,
}

impl Footprint {
    fn of(daemon: &Daemon, client: &mut Client<UnixStream>) -> Footprint {
        Footprint {
            connections: client.counter("connections"),
            locks: client.counter("locks"),
            shared_locks: client.counter("shared_locks"),
            descriptors: daemon.descriptors(),
        }
    }
}
