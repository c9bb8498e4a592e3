//! Clients that are killed, stopped or reset, and other faults: their locks are free at once, and other clients are not
//! disturbed.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use glockd_test_support::{Client, Daemon, PATIENCE, Process, WebSocketClient, wait_until};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tempfile::tempdir;

use crate::witness::witness;

const EVERYWHERE: &str = "-port {port} -ws {ws} -unix {sock}";

/// A process that holds the client's end of a connection, and sends the lines that it is given. Killed when dropped.
struct Holder(Process);

impl Holder {
    /// Moves a connection to a new process.
    fn new(connection: impl Into<OwnedFd>) -> Holder {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(connection.into());
        Holder(Process::start(&mut command))
    }

    /// Gives the process a line to send.
    fn give(&mut self, line: &str) {
        let input = self.0.child().stdin.as_mut().unwrap();
        input.write_all(line.as_bytes()).unwrap();
    }
}

#[test]
fn killed_client_loses_its_locks_at_once() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), EVERYWHERE);
    let mut other = Client::tcp(&daemon);
    other.ask("i x");
    witness("clients killed", &daemon, || {
        let mut holders = Vec::new();
        for number in 0..20 {
            let mut tcp = Client::tcp(&daemon);
            tcp.ask(format!("g tcp {number}"));
            holders.push(Holder::new(tcp.into_inner()));
            let mut unix = Client::unix(&daemon);
            unix.ask(format!("sg unix {number}"));
            holders.push(Holder::new(unix.into_inner()));
            let mut web = WebSocketClient::connect(&daemon);
            web.ask(&format!("g web {number}"));
            holders.push(Holder::new(web.into_inner()));
        }
        assert_eq!(other.ask("g tcp 7"), "0 Lock Get Failure: tcp 7");
        for holder in &holders {
            holder.0.signal(Signal::KILL);
        }
    });
    assert_eq!(other.counter("orphans"), 2 * 40);
    assert_eq!(other.counter("shared_orphans"), 2 * 20);
    daemon.stop();
}

#[test]
fn stopped_client_keeps_its_lock() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), EVERYWHERE);
    let mut other = Client::tcp(&daemon);
    other.ask("i stopped");
    witness("a client stopped", &daemon, || {
        let mut client = Client::tcp(&daemon);
        client.ask("g stopped");
        let mut holder = Holder::new(client.into_inner());
        holder.0.pause();
        for _ in 0..1000 {
            assert_eq!(other.ask("g stopped"), "0 Lock Get Failure: stopped");
        }
        // It sends the lines that it is given meanwhile when it continues.
        holder.give("r stopped\n");
        assert_eq!(other.ask("i stopped"), "1 Lock Is Locked: stopped");
        holder.0.signal(Signal::CONT);
        await_reply(&mut other, "i stopped", "0 Lock Not Locked: stopped");
        holder.give("g stopped\n");
        await_reply(&mut other, "i stopped", "1 Lock Is Locked: stopped");
        holder.0.pause();
        drop(holder);
        await_reply(&mut other, "g stopped", "1 Lock Get Success: stopped");
        other.ask("r stopped");
    });
    daemon.stop();
}

/// Sends a command again and again, until this is the reply.
fn await_reply<S: Read + Write>(client: &mut Client<S>, command: &str, expect: &str) {
    let start = Instant::now();
    loop {
        let reply = client.ask(command);
        if reply == expect {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{reply}, not {expect}");
    }
}

/// Returns the number of connections wanted, or the number that the limit of descriptors of this process and of a
/// daemon allows. Panics if that is too few for a meaningful test.
pub(crate) fn connections(wanted: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    // Some are left for the other tests.
    let possible = limit.maximum.unwrap_or(u64::MAX).saturating_sub(500);
    assert!(
        possible >= 100,
        "the hard limit of descriptors (`ulimit -Hn`) is too low for this test"
    );
    if possible < wanted {
        eprintln!("{possible} connections instead of {wanted}, by the limit of descriptors");
    }
    wanted.min(possible)
}

#[test]
fn thousands_of_reset_connections_lose_their_locks() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), EVERYWHERE);
    let count = connections(5000);
    witness("resets", &daemon, || {
        let mut clients = Vec::new();
        for number in 0..count {
            let mut client = Client::tcp(&daemon);
            assert!(client.ask(format!("g {number}")).starts_with("1 "));
            clients.push(client);
        }
        clients.into_iter().for_each(Client::reset);
    });
    assert_eq!(Client::tcp(&daemon).counter("orphans"), 2 * count);
    daemon.stop();
}

#[test]
fn gigabyte_without_a_line_end_takes_no_memory() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), EVERYWHERE);
    let mut client = Client::tcp(&daemon);
    client.ask("i x");
    let megabyte = vec![b'x'; 1 << 20];
    let before = daemon.memory("VmHWM");
    witness("half a gigabyte", &daemon, || {
        for _ in 0..512 {
            client.write(&megabyte);
        }
    });
    // It is still one line.
    assert_eq!(client.ask(""), "0 Line Too Long: limit 131072");
    assert_eq!(client.ask("g x"), "1 Lock Get Success: x");
    let grown = daemon.memory("VmHWM") - before;
    assert!(grown < 2048, "grown by {grown} KiB");
    daemon.stop();
}

#[test]
fn log_on_a_full_disk_does_not_disturb_clients() {
    let dir = tempdir().unwrap();
    let flags = "-port 0 -ws 0 -unix {sock} -verbose -pidfile {dir}/pid";
    let daemon = Daemon::start_without_log("exec 2> /dev/full", dir.path(), flags);
    witness("a log on a full disk", &daemon, || {
        for number in 0..200 {
            let mut client = Client::unix(&daemon);
            assert!(client.ask(format!("g {number}")).starts_with("1 "));
            client.send("no command");
        }
    });
    daemon.stop();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn first_clients_after_the_start_are_answered() {
    for _ in 0..20 {
        let dir = tempdir().unwrap();
        let sock = dir.path().join("sock");
        thread::scope(|scope| {
            let early: Vec<_> = (0..4)
                .map(|number| {
                    let sock = &sock;
                    scope.spawn(move || {
                        let mut stream = None;
                        wait_until("the daemon does not listen", || {
                            stream = UnixStream::connect(sock).ok();
                            stream.is_some()
                        });
                        let stream = stream.unwrap();
                        stream.set_read_timeout(Some(PATIENCE)).unwrap();
                        let reply = Client::new(stream).ask(format!("g {number}"));
                        assert_eq!(reply, format!("1 Lock Get Success: {number}"));
                    })
                })
                .collect();
            let daemon = Daemon::start(dir.path(), "-port 0 -ws 0 -unix {sock}");
            for client in early {
                client.join().unwrap();
            }
            daemon.stop();
        });
    }
}
