//! Clients cannot make the daemon take memory without bound.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::Instant;

use glockd_test_support::{Client, Daemon, PATIENCE, wait_until};
use tempfile::tempdir;

/// Returns the largest memory of the daemon so far, in KiB.
fn peak(daemon: &Daemon) -> u64 {
    daemon.memory("VmHWM")
}

#[test]
fn endless_line_takes_no_more_memory_than_the_limit() {
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
fn client_that_never_reads_takes_no_more_memory_than_a_chunk() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), "-port {port} -ws 0");
    let mut holder = Client::tcp(&daemon);
    for number in 0..2000 {
        holder.ask(format!("g {number:04}{}", "x".repeat(1000)));
    }
    let before = peak(&daemon);
    // Each client asks for 200 listings of 2 MB, and reads none.
    let deaf: Vec<_> = (0..10)
        .map(|_| {
            let mut client = Client::tcp(&daemon);
            client.write(&b"d\n".repeat(200));
            client
        })
        .collect();
    // The counter shows that the daemon has read from each. It cannot run more than the first few commands of each.
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

/// Returns a WebSocket connection after its handshake, to which a test can write bytes that no client library would.
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
fn endless_message_takes_no_more_memory_than_the_limit() {
    /// Returns the head of a frame that is masked with zeros.
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
    // The close frame comes long before. The daemon then reads a bounded rest and closes the connection.
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

/// Number of clients that wait, and send as much behind the wait as may queue.
const WAITERS: usize = 48;

/// Flags with a bound that is reached soon.
const SHORT_LINES: &str = "-port {port} -ws 0 -max-line 8192";

/// Bytes that may queue behind a wait with these flags: those of the longest line, plus 64 KiB.
const BOUND: usize = (8 + 64) * 1024;

/// Connects waiters for `wanted`, and sends `lines` behind each wait.
fn connect_waiters(daemon: &Daemon, lines: &str) -> Vec<Client<TcpStream>> {
    assert!(lines.len() <= BOUND, "the wait would be cancelled");
    let mut waiters: Vec<_> = (0..WAITERS).map(|_| Client::tcp(daemon)).collect();
    // Several at a time, as in a flood.
    thread::scope(|scope| {
        for some in waiters.chunks_mut(WAITERS / 4) {
            scope.spawn(move || {
                for waiter in some {
                    waiter.send("gw 4000000000 wanted");
                    waiter.write(lines.as_bytes());
                    // Once this is answered, everything before it has queued.
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
fn commands_behind_a_wait_take_no_more_memory_than_their_bound() {
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
        // One and a half times the bound, plus what connections and the allocator take anyway.
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
    // Without pauses: some clients of a round are still connected when the next round begins.
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
fn memory_is_given_back_after_floods_of_unfinished_handshakes() {
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
        // All are accepted, and all but the last have been read from.
        wait_until("the connections are not accepted", || {
            daemon.descriptors() >= idle + HANDSHAKES
        });
        rounds.push(daemon.memory("VmRSS"));
        drop(handshakes);
        wait_until("the connections are kept", || daemon.descriptors() <= idle);
    }
    eprintln!("{before} KiB, then {rounds:?}");
    assert!(rounds[3] <= rounds[0] * 13 / 10 + 2048, "{rounds:?}");
    await_memory(&daemon, "after the handshakes have gone", before + 2048);
    daemon.stop();
}
