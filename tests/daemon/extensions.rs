//! Commands that the original does not have, and their flags.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::Instant;

use glockd_test_support::{Client, Daemon, PATIENCE, WebSocketClient, run, wait_until};
use rustix::process::Signal;
use tempfile::tempdir;

const FLAGS: &str = "-port 0 -ws 0 -unix {sock}";

/// All extension commands, with valid and invalid arguments.
const EXTENSIONS: [&str; 22] = [
    "hello",
    "ping x",
    "gw 0 x",
    "gw x",
    "sgl 1 x",
    "sgl x",
    "sgw 0 1 x",
    "sgw 1",
    "cancel x",
    "iw 0 x",
    "iw",
    "siw 0 1 x",
    "siw x 1",
    "f x",
    "sf x",
    "own x",
    "ld",
    "lsd x",
    "ldl",
    "lsdl x",
    "lwho",
    "lq",
];

/// Asks for a fencing token, and returns it.
fn token(client: &mut Client<impl std::io::Read + std::io::Write>, command: &str) -> u64 {
    let answer = client.ask(command);
    let (token, _) = answer.split_once(" Lock Fence: ").expect(&answer);
    token.parse().unwrap()
}

#[test]
fn extension_commands_are_unknown_if_disabled() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &format!("{FLAGS} -extensions=false"));
    let mut client = Client::unix(&daemon);
    assert_eq!(client.ask("g x"), "1 Lock Get Success: x");
    let keys = |answer: String| -> Vec<String> {
        let keys = answer.lines().filter_map(|line| line.split_once(": "));
        keys.map(|(key, _)| key.to_owned()).collect()
    };
    let before = keys(client.ask_for_all("q"));
    for command in EXTENSIONS {
        assert_eq!(client.ask_for_all(command), "", "{command}");
    }
    let unknown = EXTENSIONS.len() as u64;
    assert_eq!(client.counter("invalid_commands"), unknown);
    assert_eq!(keys(client.ask_for_all("q")), before);
    daemon.stop();
}

#[test]
fn extension_commands_are_answered_by_default() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), FLAGS);
    let mut client = Client::unix(&daemon);
    for command in EXTENSIONS {
        let answer = client.ask_for_all(command);
        assert!(
            answer.starts_with(|first: char| first.is_ascii_digit()),
            "{command}: {answer}"
        );
    }
    assert_eq!(client.counter("invalid_commands"), 0);
    daemon.stop();
}

/// For a holder and a waiter over each kind of transport.
#[test]
fn lock_passes_to_the_waiter_whatever_ends_its_holder() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), "-port {port} -ws {ws} -unix {sock}");
    let mut observer = Client::unix(&daemon);
    let mut await_waiters = |waiters: usize| {
        wait_until("the number of waiters is wrong", || {
            observer.ask_for_all("own x").matches("xw ").count() == waiters
        });
    };
    let mut holder = Client::tcp(&daemon);
    let mut web = WebSocketClient::connect(&daemon);
    let mut tcp = Client::tcp(&daemon);
    let mut unix = Client::unix(&daemon);
    assert_eq!(holder.ask("g x"), "1 Lock Get Success: x");
    web.send("gw 60000 x");
    await_waiters(1);
    tcp.send("gw 60000 x");
    await_waiters(2);
    unix.send("gw 60000 x");
    await_waiters(3);
    holder.reset();
    // Sent after the wait, so answered after it.
    let answers = [web.ask("me"), web.ask("r x")].concat();
    assert!(
        answers.starts_with("1 Lock Get Success: x\\n1 127"),
        "{answers}"
    );
    assert_eq!(tcp.receive(), "1 Lock Get Success: x");
    drop(tcp);
    assert_eq!(unix.receive(), "1 Lock Get Success: x");
    daemon.stop();
}

/// The holder's connection ends first. That must not grant the lock to a waiter that is about to end as well.
#[test]
fn daemon_with_waiters_stops_at_once_and_grants_nothing() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), FLAGS);
    let mut holder = Client::unix(&daemon);
    assert_eq!(holder.ask("g x"), "1 Lock Get Success: x");
    assert_eq!(holder.ask("sg x"), "1 Shared Lock Get Success: x");
    let mut waiters: Vec<_> = (0..100).map(|_| Client::unix(&daemon)).collect();
    let waits = ["gw 4294967295 x", "sgw 4294967295 1 x", "iw 4294967295 x"];
    for (waiter, wait) in waiters.iter_mut().zip(waits.iter().cycle()) {
        waiter.send(wait);
        assert_eq!(waiter.ask("ping waits"), "1 pong: waits");
    }
    daemon.stop();
    waiters.into_iter().for_each(Client::await_end);
}

#[test]
fn wait_beyond_the_maximum_number_of_waiters_is_refused() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &format!("{FLAGS} -max-waiters 1"));
    let [mut holder, mut first, mut second] = [(); 3].map(|()| Client::unix(&daemon));
    assert_eq!(holder.ask("g x"), "1 Lock Get Success: x");
    first.send("gw 60000 x");
    wait_until("no client waits", || {
        holder.ask_for_all("own x").lines().count() == 3
    });
    assert_eq!(second.ask("gw 60000 x"), "0 Lock Get Queue Full: x");
    assert_eq!(second.ask("gw 0 x"), "0 Lock Get Timeout: x");
    assert_eq!(first.ask("cancel x"), "0 Lock Get Cancelled: x");
    assert_eq!(first.receive(), "1 Cancel Success: x");
    second.send("gw 60000 x");
    assert_eq!(holder.ask("r x"), "1 Lock Release Success: x");
    assert_eq!(second.receive(), "1 Lock Get Success: x");
    daemon.stop();
}

fn mark(state: &Path) -> u64 {
    let mark = fs::read_to_string(state.join("fence")).unwrap();
    mark.trim_end().parse().unwrap()
}

#[test]
fn fencing_tokens_grow_across_restarts() {
    let dir = tempdir().unwrap();
    let state = dir.path().join("state");
    fs::create_dir(&state).unwrap();
    // As if the clock had been set back since then.
    let future = 1u64 << 62;
    fs::write(state.join("fence"), format!("{future}\n")).unwrap();
    let mut last = future - 1;
    for _ in 0..3 {
        let flags = format!("{FLAGS} -state-dir {{dir}}/state");
        let daemon = Daemon::start(dir.path(), &flags);
        let mut client = Client::unix(&daemon);
        for command in ["f x", "sf x"] {
            client.ask("g x");
            client.ask("sg x");
            let found = token(&mut client, command);
            assert_eq!(token(&mut client, command), found);
            client.ask("r x");
            client.ask("sr x");
            assert!(found > last, "{found} after {last}");
            assert!(found < mark(&state));
            last = found;
        }
        daemon.signal(Signal::KILL);
        daemon.finish();
    }
}

/// In either order: the socket in the state directory, or the state in that of the socket.
#[test]
fn socket_and_state_can_share_a_directory() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &format!("{FLAGS} -state-dir {{dir}}"));
    let mut client = Client::unix(&daemon);
    assert_eq!(client.ask("g x"), "1 Lock Get Success: x");
    daemon.stop();
}

/// The clock alone does it: one millisecond advances the tokens by more than a run this short uses.
#[test]
fn fencing_tokens_grow_across_restarts_without_a_state_directory() {
    let dir = tempdir().unwrap();
    let mut last = 0;
    for _ in 0..2 {
        let daemon = Daemon::start(dir.path(), FLAGS);
        let mut client = Client::unix(&daemon);
        client.ask("g x");
        let found = token(&mut client, "f x");
        assert!(found > last && found < 1 << 63, "{found} after {last}");
        last = found;
        daemon.stop();
    }
}

#[test]
fn unusable_state_is_named_in_the_error() {
    let dir = tempdir().unwrap();
    let state = dir.path().join("state");
    let check = |expect: &str| {
        let flags = "-port 0 -ws 0 -unix {dir}/other -pidfile {dir}/pid -state-dir {dir}/state";
        let finished = run(dir.path(), flags);
        let start = format!("glockd: {}", expect.replace("{}", state.to_str().unwrap()));
        assert_eq!(finished.code(), Some(1), "{finished:?}");
        assert!(finished.stderr.starts_with(&start), "{finished:?}");
        assert!(!dir.path().join("pid").exists());
        assert!(!dir.path().join("other").exists());
    };
    check("cannot use {}: No such file or directory");
    fs::write(&state, "").unwrap();
    check("cannot use {}/lock: Not a directory");
    fs::remove_file(&state).unwrap();
    fs::create_dir(&state).unwrap();
    fs::write(state.join("fence"), "12").unwrap();
    check("{}/fence is damaged");
    fs::remove_file(state.join("fence")).unwrap();
    let daemon = Daemon::start(dir.path(), &format!("{FLAGS} -state-dir {{dir}}/state"));
    check("cannot use {}: another process uses it");
    daemon.stop();
    fs::remove_file(state.join("fence")).unwrap();
    symlink("nowhere", state.join("fence")).unwrap();
    check("{}/fence is a symbolic link, and links are not followed there; ");
}

/// A test cannot cause a power failure, but it can check the order of the system calls.
#[test]
#[ignore = "needs strace: run by .ci/run"]
fn state_is_synced_before_it_replaces_the_last_one() {
    let dir = tempdir().unwrap();
    let (state, trace) = (dir.path().join("state"), dir.path().join("trace"));
    fs::create_dir(&state).unwrap();
    // The tracer is a grandchild, so that the test stops the daemon and not the tracer.
    let before = format!(
        "set -- strace -D -f -o {} -e trace=openat,fsync,fdatasync,rename,renameat,renameat2",
        trace.display()
    );
    let flags = format!("{FLAGS} -state-dir {{dir}}/state");
    Daemon::start_after(&before, dir.path(), &flags).stop();
    let start = Instant::now();
    let trace = loop {
        let text = fs::read_to_string(&trace).unwrap();
        if text.contains("+++ exited with 0 +++") {
            break text;
        }
        assert!(start.elapsed() < PATIENCE, "{text}");
        thread::yield_now();
    };
    let calls: Vec<&str> = trace
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(_, call)| call.trim_start())
        .collect();
    let find = |start: &str, part: &str| {
        let found = |call: &&str| call.starts_with(start) && call.contains(part);
        let place = calls.iter().position(found);
        place.unwrap_or_else(|| panic!("no {start}…{part} in {trace}"))
    };
    let created = find("openat(", "\"fence.new\"");
    let (directory, _) = calls[created]["openat(".len()..].split_once(',').unwrap();
    let (_, file) = calls[created].rsplit_once("= ").unwrap();
    let synced = find(&format!("fsync({file})"), "= 0");
    let renamed = find("renameat", "\"fence.new\"");
    let directory_synced = find(&format!("fsync({directory})"), "= 0");
    let order = [created, synced, renamed, directory_synced];
    assert!(order.is_sorted(), "{order:?} in {trace}");
}
