//! What others notice while something goes wrong, and what is left of it: nothing.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use glockd_test_support::{Client, Daemon, PATIENCE};

/// What a round trip may take while the machine is busy with the fault, and with other tests.
const LONGEST: Duration = Duration::from_secs(5);

/// How much more the allocator may keep the second time, in KiB: less than thousands of connections need, but
/// what it has freed lies about in other places.
const KEPT: u64 = 4096;

/// Lets something go wrong with a daemon on `{sock}`, and does so again. All the while another client gets and
/// releases a lock, and must not wait for long. Then the dead hold nothing, and the daemon has as many
/// descriptors as before; and the second time, as much memory as after the first, by when the allocator has
/// learnt how much is needed at once.
pub(crate) fn witness(what: &str, daemon: &Daemon, fault: impl FnMut()) {
    let memory = repeat(2, what, daemon, fault);
    let most = memory[0] + KEPT;
    assert!(memory[1] <= most, "{what}: {memory:?} KiB");
}

/// As [`witness`], so often, but for the memory: what there was of it after each time, in KiB.
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

/// Also if the fault panics, or the witness would go on for ever.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Gets and releases a lock until all is done: how often, and how long it took at most.
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

/// What a client leaves with the daemon as long as it is there.
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
