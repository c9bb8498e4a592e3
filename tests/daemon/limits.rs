//! How much there may be of everything, and what becomes of what is too much.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use glockd_test_support::{Client, Daemon, PATIENCE, WebSocketClient, run_after};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use socket2::{Domain, Socket, Type};
use tempfile::tempdir;
use tokio_tungstenite::tungstenite::{self, Error, HandshakeError};

use crate::faults::connections;
use crate::witness::{repeat, witness};

/// A connection from this address, to a daemon that may turn it away.
fn connect(from: Ipv4Addr, port: u16) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // Without, the system has more ports to choose from.
    if from != HERE {
        socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    }
    let port = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    socket.connect(&port.into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

/// Whether the daemon answers, rather than hangs up.
fn is_let_in(mut stream: &TcpStream) -> bool {
    // It may have hung up before, or do so now.
    let _ = stream.write_all(b"i x\n");
    stream.read(&mut [0; 100]).is_ok_and(|read| read > 0)
}

/// The whole answer to a request to open a WebSocket that the daemon turns away.
fn refusal(mut stream: &TcpStream) -> String {
    // The daemon may have answered and hung up before.
    let _ = stream.write_all(
        b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\r\n",
    );
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

#[track_caller]
fn assert_unavailable(answer: &str) {
    assert!(
        answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n")
            && answer.contains("\r\nconnection: close\r\n")
            && answer.ends_with("\r\n\r\nToo many connections.\n"),
        "{answer:?}"
    );
}

/// Connects until one is let in.
fn await_place(from: Ipv4Addr, port: u16) -> TcpStream {
    let start = Instant::now();
    loop {
        let stream = connect(from, port);
        if is_let_in(&stream) {
            return stream;
        }
        assert!(start.elapsed() < PATIENCE, "no place for {from}");
        // Each attempt takes a port for a minute.
        thread::sleep(Duration::from_millis(10));
    }
}

/// The processor time that a daemon has taken.
fn processor_time(daemon: &Daemon) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    // User and system time, in hundredths of a second.
    let times = fields.split_whitespace().skip(11).take(2);
    let hundredths: u64 = times.map(|time| time.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * hundredths)
}

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[test]
fn connections_that_are_too_many_are_closed() {
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(
        dir.path(),
        "-port {port} -ws {ws} -unix {sock} -max-connections 3",
    );
    let mut first = Client::unix(&daemon);
    assert_eq!(first.ask("g x"), "1 Lock Get Success: x");
    let third = await_place(HERE, daemon.port);
    // One that has not shaken hands yet. It counts as soon as it is accepted, and that shows.
    let before = daemon.descriptors();
    let half = connect(HERE, daemon.ws);
    let start = Instant::now();
    while daemon.descriptors() == before {
        assert!(start.elapsed() < PATIENCE);
    }
    // Once more, for what is left to do of that.
    first.counter("connections");
    assert!(!is_let_in(&connect(HERE, daemon.port)));
    assert_unavailable(&refusal(&connect(HERE, daemon.ws)));
    daemon.await_line(&["WARN", "connection refused", "peer=127.0.0.1:"]);
    assert!(first.counter("refused_connections") >= 2);
    drop(third);
    let third = await_place(HERE, daemon.port);
    drop((half, third));
    let start = Instant::now();
    while first.counter("connections") > 1 {
        assert!(start.elapsed() < PATIENCE);
    }
    assert_eq!(first.ask("i x"), "1 Lock Is Locked: x");
    // Those that were refused later are untold.
    let log = daemon.stop();
    assert!(log.lines().count() < 10, "{log}");
}

#[test]
fn websockets_that_are_too_many_are_told_so() {
    let dir = tempdir().unwrap();
    let flags = "-port {port} -ws {ws} -unix {sock} -max-connections-per-ip 1";
    let daemon = Daemon::start(dir.path(), flags);
    let mut web = WebSocketClient::connect(&daemon);
    assert_unavailable(&refusal(&connect(HERE, daemon.ws)));
    // As a client of the usual kind sees it.
    let refused = tungstenite::client("ws://localhost/", connect(HERE, daemon.ws));
    match refused.unwrap_err() {
        HandshakeError::Failure(Error::Http(response)) => assert_eq!(response.status(), 503),
        other => panic!("{other}"),
    }
    // Where commands are lines, there is nothing to say.
    let mut line = connect(HERE, daemon.port);
    let mut answer = Vec::new();
    assert_eq!(line.read_to_end(&mut answer).unwrap(), 0);
    // Those that are refused take nothing from those that are not, even if they stay.
    let before = daemon.descriptors();
    let refused: Vec<_> = (0..500).map(|_| connect(HERE, daemon.ws)).collect();
    assert_eq!(web.ask("i x"), "0 Lock Not Locked: x\\n");
    refused
        .iter()
        .for_each(|stream| assert_unavailable(&refusal(stream)));
    assert!(daemon.descriptors() <= before);
    assert_eq!(Client::unix(&daemon).counter("refused_connections"), 503);
    drop(web);
    let start = Instant::now();
    while tungstenite::client("ws://localhost/", connect(HERE, daemon.ws)).is_err() {
        assert!(start.elapsed() < PATIENCE);
    }
    daemon.stop();
}

#[test]
fn connections_that_speak_http_are_closed() {
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path(), "-port {port} -ws 0 -unix {sock}");
    let mut observer = Client::unix(&daemon);
    assert!(!observer.ask_for_all("q").contains("refused"));
    for _ in 0..20 {
        let mut page = connect(HERE, daemon.port);
        page.write_all(b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\ng x\n")
            .unwrap();
        let mut answer = Vec::new();
        // It ends, by a reset if not everything had come when the first line was read.
        let _ = page.read_to_end(&mut answer);
        assert_eq!(answer.escape_ascii().to_string(), "");
    }
    assert_eq!(observer.ask("i x"), "0 Lock Not Locked: x");
    assert_eq!(observer.counter("refused_http"), 20);
    assert_eq!(observer.counter("invalid_commands"), 20);
    assert_eq!(observer.counter("command_g"), 0);
    daemon.await_line(&["WARN", "HTTP", "connection closed", "peer=127.0.0.1:"]);
    let log = daemon.stop();
    // More than one only if this took longer than 10 s.
    assert!(log.matches("HTTP").count() < 5, "{log}");
}

#[test]
fn connections_of_an_address_are_limited_by_themselves() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(
        dir.path(),
        "-port {port} -ws {ws} -unix {sock} -max-connections-per-ip 2",
    );
    let there = Ipv4Addr::new(127, 0, 0, 2);
    let mut web = WebSocketClient::connect(&daemon);
    let tcp = await_place(HERE, daemon.port);
    assert!(!is_let_in(&connect(HERE, daemon.port)));
    assert!(is_let_in(&connect(there, daemon.port)));
    let mut unix: Vec<_> = (0..5).map(|_| Client::unix(&daemon)).collect();
    for client in &mut unix {
        assert_eq!(client.ask("i x"), "0 Lock Not Locked: x");
    }
    drop(tcp);
    await_place(HERE, daemon.port);
    assert_eq!(web.ask("i x"), "0 Lock Not Locked: x\\n");
    daemon.stop();
}

#[test]
fn locks_that_are_too_many_are_not_given() {
    let dir = tempdir().unwrap();
    let flags = "-port {port} -ws 0 -unix {sock} -max-locks 4 -max-locks-per-connection 3";
    let daemon = Daemon::start(dir.path(), flags);
    let (mut one, mut two) = (Client::tcp(&daemon), Client::unix(&daemon));
    assert_eq!(one.ask("g a"), "1 Lock Get Success: a");
    assert_eq!(one.ask("sg a"), "1 Shared Lock Get Success: a");
    assert!(!one.ask_for_all("q").contains("refused"));
    assert_eq!(one.ask("g b"), "1 Lock Get Success: b");
    // One connection has as many as it may; what it has, it gets again.
    assert_eq!(one.ask("g c"), "0 Lock Get Failure: c");
    assert_eq!(one.ask("sg c"), "0 Shared Lock Get Failure: c");
    assert_eq!(one.ask("g a"), "1 Lock Get Success: a");
    assert_eq!(one.ask("sg a"), "1 Shared Lock Get Success: a");
    // There is one more for the other.
    assert_eq!(two.ask("sg a"), "2 Shared Lock Get Success: a");
    assert_eq!(two.ask("sg c"), "0 Shared Lock Get Failure: c");
    assert_eq!(two.ask("g c"), "0 Lock Get Failure: c");
    assert_eq!(two.ask("i c"), "0 Lock Not Locked: c");
    assert_eq!(two.ask("si c"), "0 Shared Lock Not Locked: c");
    assert_eq!(two.counter("refused_locks"), 4);
    assert_eq!(one.ask("r b"), "1 Lock Release Success: b");
    assert_eq!(two.ask("g c"), "1 Lock Get Success: c");
    drop(one);
    let start = Instant::now();
    while two.ask("sg d") != "1 Shared Lock Get Success: d" {
        assert!(start.elapsed() < PATIENCE);
    }
    daemon.stop();
}

#[test]
fn more_clients_than_descriptors_disturb_nobody() {
    let dir = tempdir().unwrap();
    let flags = "-port {port} -ws {ws} -unix {sock}";
    let mut daemon = Daemon::start_after("ulimit -n 100", dir.path(), flags);
    let line = daemon.await_line(&["open for ", " connections: tcp"]);
    let (_, places) = line.split_once("open for ").unwrap();
    let places: usize = places.split(' ').next().unwrap().parse().unwrap();
    assert!((60..80).contains(&places), "{places}");
    witness("more clients than descriptors", &daemon, || {
        let mut streams: Vec<_> = (0..200).map(|_| connect(HERE, daemon.port)).collect();
        let let_in = streams.iter().filter(|stream| is_let_in(stream)).count();
        // Less what it needs itself; and the witness is there already.
        assert_eq!(let_in, places - 1);
        assert!(!is_let_in(&connect(HERE, daemon.port)));
        streams.retain(is_let_in);
        drop(streams);
        drop(await_place(HERE, daemon.port));
    });
    assert!(Client::unix(&daemon).counter("refused_connections") > 100);
    let log = daemon.stop();
    assert!(log.lines().count() < 15, "{log}");
}

#[test]
fn thousands_of_handshakes_that_are_not_done_disturb_nobody() {
    let dir = tempdir().unwrap();
    let flags = "-port {port} -ws {ws} -unix {sock} -handshake-timeout 1s";
    let count = connections(3000);
    let before = format!("ulimit -n {}", count * 2 / 3);
    let daemon = Daemon::start_after(&before, dir.path(), flags);
    // Each has some 10 KiB, of which the allocator makes up to three times as much, and then no more: not what
    // it would be if they were kept.
    let memory = repeat(5, "more handshakes than descriptors", &daemon, || {
        let halves: Vec<_> = (0..count)
            .map(|_| {
                let mut stream = connect(HERE, daemon.ws);
                // It may have been turned away already.
                let _ = stream.write_all(b"GET / HTTP/1.1\r\n");
                stream
            })
            .collect();
        // There is one as soon as their time is over.
        drop(await_place(HERE, daemon.port));
        drop(halves);
    });
    let kept = 5 * 10 * (count * 2 / 3);
    assert!(memory[4] < kept, "{memory:?} KiB, of {kept}");
    let log = daemon.stop();
    assert!(log.lines().count() < 15, "{log}");
}

/// As when somebody else takes the system's last: the daemon has fewer than it knows of.
#[test]
fn without_descriptors_it_waits_and_does_not_spin() {
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path(), "-port {port} -ws {ws} -unix {sock}");
    let mut client = Client::unix(&daemon);
    client.ask("g x");
    let pid = Pid::from_raw(daemon.pid().try_into().unwrap());
    let limit = getrlimit(Resource::Nofile);
    let limited = |current| Rlimit { current, ..limit };
    prlimit(pid, Resource::Nofile, limited(Some(3))).unwrap();
    let waiting: Vec<_> = (0..20).map(|_| connect(HERE, daemon.port)).collect();
    daemon.await_line(&["WARN", "cannot accept", "tcp"]);
    let (start, before) = (Instant::now(), processor_time(&daemon));
    thread::sleep(Duration::from_secs(1));
    let busy = processor_time(&daemon) - before;
    let share = busy.as_secs_f64() / start.elapsed().as_secs_f64();
    assert!(share < 0.2, "it spins: {share} of a processor");
    assert_eq!(client.ask("i x"), "1 Lock Is Locked: x");
    prlimit(pid, Resource::Nofile, limited(limit.maximum)).unwrap();
    for stream in &waiting {
        assert!(is_let_in(stream));
    }
    let log = daemon.stop();
    let told = log.matches("cannot accept").count();
    assert!(told as u64 <= 1 + start.elapsed().as_secs() / 10, "{log}");
}

#[test]
fn more_connections_than_descriptors_are_not_promised() {
    let dir = tempdir().unwrap();
    let flags = "-port {port} -ws 0 -max-connections 1000";
    let daemon = Daemon::start_after("ulimit -n 100", dir.path(), flags);
    let log = daemon.stop();
    assert!(log.contains("there are descriptors for "), "{log}");
    assert!(log.contains(" connections, not for 1000"), "{log}");
}

#[test]
fn too_few_descriptors_are_a_clear_error() {
    let dir = tempdir().unwrap();
    for limit in [6, 7, 10, 14, 18] {
        let before = format!("ulimit -n {limit}");
        let finished = run_after(&before, dir.path(), "-port 0 -ws 0 -unix {dir}/sock");
        assert_eq!(finished.code(), Some(1), "{finished:?}");
        let message = format!(
            "glockd: cannot start: the limit of descriptors is {limit}, and the daemon needs "
        );
        assert!(finished.stderr.starts_with(&message), "{finished:?}");
    }
}

#[test]
fn descriptors_that_it_was_started_with_take_places() {
    let dir = tempdir().unwrap();
    let before = "for fd in 3 4 5 6 7 8 9; do eval \"exec $fd</dev/null\"; done";
    let flags = "-port {port} -ws 0 -max-connections 1000";
    let places = |before: &str| -> usize {
        let before = format!("ulimit -n 100; {before}");
        let mut daemon = Daemon::start_after(&before, dir.path(), flags);
        let line = daemon.await_line(&["open for "]);
        let (_, places) = line.split_once("open for ").unwrap();
        places.split(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(places(before) + 7, places(":"));
}
