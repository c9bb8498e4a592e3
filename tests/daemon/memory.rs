//! What peers cannot make the daemon do: take memory without bound.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::Instant;

use glockd_test_support::{Client, Daemon, PATIENCE};
use tempfile::tempdir;

/// The most memory that the daemon has ever had, in KiB.
fn peak(daemon: &Daemon) -> u64 {
    daemon.memory("VmHWM")
}

#[test]
fn a_line_without_an_end_costs_no_more_than_the_limit() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), "-port {port} -ws 0 -unix {sock}");
    let (mut tcp, mut unix) = (Client::tcp(&daemon), Client::unix(&daemon));
    tcp.ask("i x");
    unix.ask("i x");
    let before = peak(&daemon);
    let megabyte = vec![b'x'; 1 << 20];
    for _ in 0..10 {
        tcp.write(&megabyte);
        unix.write(&megabyte);
    }
    assert_eq!(tcp.receive(), "0 Line Too Long: limit 131072");
    assert_eq!(unix.receive(), "0 Line Too Long: limit 131072");
    let grown = peak(&daemon) - before;
    assert!(grown < 2048, "grown by {grown} KiB");
    daemon.stop();
}

#[test]
fn a_peer_that_never_reads_costs_no_more_than_a_chunk() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), "-port {port} -ws 0");
    let mut holder = Client::tcp(&daemon);
    for number in 0..2000 {
        holder.ask(format!("g {number:04}{}", "x".repeat(1000)));
    }
    let before = peak(&daemon);
    // Each asks for 200 listings of 2 MB, and reads none.
    let deaf: Vec<_> = (0..10)
        .map(|_| {
            let mut client = Client::tcp(&daemon);
            client.write(&b"d\n".repeat(200));
            client
        })
        .collect();
    // They were all heard once the commands are counted, and none could get further than its first few.
    while holder.counter("command_d") < deaf.len() as u64 {}
    for number in 0..1000 {
        assert_eq!(
            holder.ask(format!("i {number}")),
            format!("0 Lock Not Locked: {number}")
        );
    }
    assert!(
        holder.counter("command_d") < 200,
        "it went on, with nobody to read"
    );
    let grown = peak(&daemon) - before;
    assert!(grown < 10 * 1024, "grown by {grown} KiB");
    drop(deaf);
    daemon.stop();
}

/// A WebSocket past its handshake, to which bytes can be written that no client library would.
fn open_websocket(daemon: &Daemon) -> TcpStream {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, daemon.ws)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    assert!(
        head.starts_with(b"HTTP/1.1 101 "),
        "{}",
        head.escape_ascii()
    );
    stream
}

#[test]
fn a_message_without_an_end_costs_no_more_than_the_limit() {
    /// The head of a frame that is masked, with zeros.
    fn head(first: u8, length: u64) -> Vec<u8> {
        let mut head = vec![first, 0x80 | 127];
        head.extend(length.to_be_bytes());
        head.extend([0; 4]);
        head
    }
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), "-port {port} -ws {ws}");
    let mut other = Client::tcp(&daemon);
    drop(open_websocket(&daemon));
    let before = peak(&daemon);

    let mut claims = open_websocket(&daemon);
    claims.write_all(&head(0x81, 1 << 62)).unwrap();
    let mut fragments = open_websocket(&daemon);
    let fragment = [head(0x00, 1 << 16), vec![b'x'; 1 << 16]].concat();
    fragments.write_all(&head(0x01, 0)).unwrap();
    // The close frame comes long before; the daemon hears out a bounded rest, and hangs up.
    for _ in 0..160 {
        if fragments.write_all(&fragment).is_err() {
            break;
        }
    }
    let mut said = Vec::new();
    claims.read_to_end(&mut said).unwrap();
    assert_eq!(said, b"\x88\x02\x03\xF1", "{}", said.escape_ascii());
    assert_eq!(other.counter("invalid_commands"), 2);
    let grown = peak(&daemon) - before;
    assert!(grown < 2048, "grown by {grown} KiB");
    daemon.stop();
}

/// Waiters behind whose waits as much is sent as may queue.
const WAITERS: usize = 48;

/// Flags for a bound that is reached soon.
const SHORT_LINES: &str = "-port {port} -ws 0 -max-line 8192";

/// Bytes that may queue behind a wait then: those of the longest line, and 64 KiB.
const BOUND: usize = (8 + 64) * 1024;

/// Connects waiters for `wanted`, and sends `lines` behind each wait.
fn connect_waiters(daemon: &Daemon, lines: &str) -> Vec<Client<TcpStream>> {
    assert!(lines.len() <= BOUND, "the wait would be cancelled");
    let mut waiters: Vec<_> = (0..WAITERS).map(|_| Client::tcp(daemon)).collect();
    // Several at a time, as a flood comes.
    thread::scope(|scope| {
        for some in waiters.chunks_mut(WAITERS / 4) {
            scope.spawn(move || {
                for waiter in some {
                    waiter.send("gw 4000000000 wanted");
                    waiter.write(lines.as_bytes());
                    // Once it is answered, all before it has queued.
                    assert_eq!(waiter.ask("ping"), "1 pong: ");
                }
            });
        }
    });
    waiters
}

/// Waits until the daemon has no more than `limit` KiB of memory.
fn await_memory(daemon: &Daemon, what: &str, limit: u64) {
    let start = Instant::now();
    loop {
        let now = daemon.memory("VmRSS");
        if now <= limit {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: {now} KiB, not {limit}");
        thread::yield_now();
    }
}

#[test]
fn what_queues_behind_a_wait_costs_no_more_than_its_bound() {
    let kinds = [
        ("empty lines", "\n".to_owned()),
        ("short lines", "i\n".to_owned()),
        ("waits", "gw 1 a\n".to_owned()),
        ("long lines", format!("i {}\n", "x".repeat(5000))),
    ];
    for (what, line) in kinds {
        let dir = tempdir().unwrap();
        let daemon = Daemon::start(dir.path(), SHORT_LINES);
        let mut holder = Client::tcp(&daemon);
        holder.ask("g wanted");
        let before = daemon.memory("VmRSS");
        let waiters = connect_waiters(&daemon, &line.repeat(BOUND / line.len()));
        let grown = peak(&daemon) - before;
        // Half as much again, and what a few connections and an allocator take anyway.
        let allowed = (WAITERS * BOUND * 3 / 2 / 1024) as u64 + 2048;
        eprintln!("{what}: {grown} KiB of {allowed}");
        assert!(grown <= allowed, "{what}: {grown} KiB, not {allowed}");
        drop(waiters);
        daemon.stop();
    }
}

#[test]
#[cfg_attr(
    not(feature = "jemalloc"),
    ignore = "the system's allocator keeps what was free once"
)]
fn memory_is_given_back_after_floods_of_waiters() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), SHORT_LINES);
    let mut holder = Client::tcp(&daemon);
    holder.ask("g wanted");
    let before = daemon.memory("VmRSS");
    let mut rounds = Vec::new();
    // Without pauses: some of a round are still there when the next one comes.
    for _ in 0..4 {
        let waiters = connect_waiters(&daemon, &"\n".repeat(BOUND));
        rounds.push(daemon.memory("VmRSS"));
        drop(waiters);
    }
    eprintln!("{before} KiB, then {rounds:?}");
    assert!(rounds[3] <= rounds[0] * 13 / 10 + 2048, "{rounds:?}");
    await_memory(
        &daemon,
        "after the waiters have gone",
        before + (rounds[0] - before) / 4,
    );
    daemon.stop();
}

#[test]
#[cfg_attr(
    not(feature = "jemalloc"),
    ignore = "the system's allocator keeps what was free once"
)]
fn memory_is_given_back_after_floods_of_half_handshakes() {
    const HANDSHAKES: usize = 500;
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), "-port {port} -ws {ws}");
    let mut client = Client::tcp(&daemon);
    client.ask("i x");
    let idle = daemon.descriptors();
    let before = daemon.memory("VmRSS");
    let mut rounds = Vec::new();
    for _ in 0..4 {
        let half = format!("GET / HTTP/1.1\r\nCookie: {}", "x".repeat(3000));
        let handshakes: Vec<_> = (0..HANDSHAKES)
            .map(|_| {
                let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, daemon.ws)).unwrap();
                stream.write_all(half.as_bytes()).unwrap();
                stream
            })
            .collect();
        let start = Instant::now();
        // All were accepted; those before the last have been read, too.
        while daemon.descriptors() < idle + HANDSHAKES {
            assert!(start.elapsed() < PATIENCE, "they are not accepted");
            thread::yield_now();
        }
        rounds.push(daemon.memory("VmRSS"));
        drop(handshakes);
        while daemon.descriptors() > idle {
            assert!(start.elapsed() < PATIENCE, "they are kept");
            thread::yield_now();
        }
    }
    eprintln!("{before} KiB, then {rounds:?}");
    assert!(rounds[3] <= rounds[0] * 13 / 10 + 2048, "{rounds:?}");
    await_memory(&daemon, "after the handshakes have gone", before + 2048);
    daemon.stop();
}
