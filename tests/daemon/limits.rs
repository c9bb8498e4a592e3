//! Limits of connections, locks and descriptors, and what happens beyond them.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use glockd_test_support::{Client, Daemon, PATIENCE, WebSocketClient, run_after, wait_until};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use socket2::{Domain, Socket, Type};
use tempfile::tempdir;
use tokio_tungstenite::tungstenite::{self, Error, HandshakeError};

use crate::faults::connections;
use crate::witness::{repeat, witness};

/// Connects from this address to a daemon that may close the connection.
fn connect(from: Ipv4Addr, port: u16) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // An unbound socket can use any port that is free for this one peer.
    if from != HERE {
        socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    }
    let port = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    socket.connect(&port.into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

/// Returns true if the daemon answers, and false if it closes the connection.
fn is_let_in(mut stream: &TcpStream) -> bool {
    // It may have closed the connection before, or do so now.
    let _ = stream.write_all(b"i x\n");
    stream.read(&mut [0; 100]).is_ok_and(|read| read > 0)
}

/// Returns the whole response to a refused request for a WebSocket.
fn refusal(mut stream: &TcpStream) -> String {
    // The daemon may have answered and closed the connection before.
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

/// Connects again and again, until the daemon accepts one.
fn await_place(from: Ipv4Addr, port: u16) -> TcpStream {
    let start = Instant::now();
    loop {
        let stream = connect(from, port);
        if is_let_in(&stream) {
            return stream;
        }
        assert!(start.elapsed() < PATIENCE, "no place for {from}");
        // With a pause: each attempt occupies a port for a minute.
        thread::sleep(Duration::from_millis(10));
    }
}

/// Returns the processor time that a daemon has used.
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
fn connections_beyond_the_limit_are_closed() {
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(
        dir.path(),
        "-port {port} -ws {ws} -unix {sock} -max-connections 3",
    );
    let mut first = Client::unix(&daemon);
    assert_eq!(first.ask("g x"), "1 Lock Get Success: x");
    let third = await_place(HERE, daemon.port);
    // One that has not finished its handshake. It counts as soon as it is accepted, as the counter shows.
    let before = daemon.descriptors();
    let half = connect(HERE, daemon.ws);
    wait_until("the connection is not accepted", || {
        daemon.descriptors() > before
    });
    // One more round trip, for what the daemon does after it has accepted the handshake.
    first.counter("connections");
    assert!(!is_let_in(&connect(HERE, daemon.port)));
    assert_unavailable(&refusal(&connect(HERE, daemon.ws)));
    daemon.await_line(&["WARN", "connection refused", "peer=127.0.0.1:"]);
    assert!(first.counter("refused_connections") >= 2);
    drop(third);
    let third = await_place(HERE, daemon.port);
    drop((half, third));
    wait_until("a connection is left", || first.counter("connections") == 1);
    assert_eq!(first.ask("i x"), "1 Lock Is Locked: x");
    // Later refusals are not logged.
    let log = daemon.stop();
    assert!(log.lines().count() < 10, "{log}");
}

#[test]
fn websockets_beyond_the_limit_get_status_503() {
    let dir = tempdir().unwrap();
    let flags = "-port {port} -ws {ws} -unix {sock} -max-connections-per-ip 1";
    let daemon = Daemon::start(dir.path(), flags);
    let mut web = WebSocketClient::connect(&daemon);
    assert_unavailable(&refusal(&connect(HERE, daemon.ws)));
    // As a WebSocket library sees it.
    let refused = tungstenite::client("ws://localhost/", connect(HERE, daemon.ws));
    match refused.unwrap_err() {
        HandshakeError::Failure(Error::Http(response)) => assert_eq!(response.status(), 503),
        other => panic!("{other}"),
    }
    // The line protocol has no such status.
    let mut line = connect(HERE, daemon.port);
    let mut answer = Vec::new();
    assert_eq!(line.read_to_end(&mut answer).unwrap(), 0);
    // Refused connections that stay open do not reduce the number of accepted ones.
    let before = daemon.descriptors();
    let refused: Vec<_> = (0..500).map(|_| connect(HERE, daemon.ws)).collect();
    assert_eq!(web.ask("i x"), "0 Lock Not Locked: x\\n");
    refused
        .iter()
        .for_each(|stream| assert_unavailable(&refusal(stream)));
    assert!(daemon.descriptors() <= before);
    assert_eq!(Client::unix(&daemon).counter("refused_connections"), 503);
    drop(web);
    wait_until("the WebSocket is refused", || {
        tungstenite::client("ws://localhost/", connect(HERE, daemon.ws)).is_ok()
    });
    daemon.stop();
}

#[test]
fn http_on_the_tcp_port_closes_the_connection() {
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path(), "-port {port} -ws 0 -unix {sock}");
    let mut observer = Client::unix(&daemon);
    assert!(!observer.ask_for_all("q").contains("refused"));
    for _ in 0..20 {
        let mut page = connect(HERE, daemon.port);
        page.write_all(b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\ng x\n")
            .unwrap();
        let mut answer = Vec::new();
        // The connection ends, by a reset if the daemon had not received everything when it read the first line.
        let _ = page.read_to_end(&mut answer);
        assert_eq!(answer.escape_ascii().to_string(), "");
    }
    assert_eq!(observer.ask("i x"), "0 Lock Not Locked: x");
    assert_eq!(observer.counter("refused_http"), 20);
    assert_eq!(observer.counter("invalid_commands"), 20);
    assert_eq!(observer.counter("command_g"), 0);
    daemon.await_line(&["WARN", "HTTP", "connection closed", "peer=127.0.0.1:"]);
    let log = daemon.stop();
    // At most one line each 10 s.
    assert!(log.matches("HTTP").count() < 5, "{log}");
}

#[test]
fn connections_are_limited_by_address() {
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
fn locks_beyond_the_limits_are_refused() {
    let dir = tempdir().unwrap();
    let flags = "-port {port} -ws 0 -unix {sock} -max-locks 4 -max-locks-per-connection 3";
    let daemon = Daemon::start(dir.path(), flags);
    let (mut one, mut two) = (Client::tcp(&daemon), Client::unix(&daemon));
    assert_eq!(one.ask("g a"), "1 Lock Get Success: a");
    assert_eq!(one.ask("sg a"), "1 Shared Lock Get Success: a");
    assert!(!one.ask_for_all("q").contains("refused"));
    assert_eq!(one.ask("g b"), "1 Lock Get Success: b");
    // The connection has reached its limit. It may get a lock that it holds again.
    assert_eq!(one.ask("g c"), "0 Lock Get Failure: c");
    assert_eq!(one.ask("sg c"), "0 Shared Lock Get Failure: c");
    assert_eq!(one.ask("g a"), "1 Lock Get Success: a");
    assert_eq!(one.ask("sg a"), "1 Shared Lock Get Success: a");
    // One lock is left for the other connection.
    assert_eq!(two.ask("sg a"), "2 Shared Lock Get Success: a");
    assert_eq!(two.ask("sg c"), "0 Shared Lock Get Failure: c");
    assert_eq!(two.ask("g c"), "0 Lock Get Failure: c");
    assert_eq!(two.ask("i c"), "0 Lock Not Locked: c");
    assert_eq!(two.ask("si c"), "0 Shared Lock Not Locked: c");
    assert_eq!(two.counter("refused_locks"), 4);
    assert_eq!(one.ask("r b"), "1 Lock Release Success: b");
    assert_eq!(two.ask("g c"), "1 Lock Get Success: c");
    drop(one);
    wait_until("the lock is refused", || {
        two.ask("sg d") == "1 Shared Lock Get Success: d"
    });
    daemon.stop();
}

#[test]
fn more_clients_than_descriptors_do_not_disturb_others() {
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
        // Fewer than the descriptors: the daemon needs some itself, and the witness has one.
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
fn thousands_of_unfinished_handshakes_do_not_disturb_others() {
    let dir = tempdir().unwrap();
    let flags = "-port {port} -ws {ws} -unix {sock} -handshake-timeout 1s";
    let count = connections(3000);
    let before = format!("ulimit -n {}", count * 2 / 3);
    let daemon = Daemon::start_after(&before, dir.path(), flags);
    // Each takes some 10 KiB, which the allocator rounds up to at most three times that. If they were kept, memory
    // would grow without end.
    let memory = repeat(5, "more handshakes than descriptors", &daemon, || {
        let halves: Vec<_> = (0..count)
            .map(|_| {
                let mut stream = connect(HERE, daemon.ws);
                // The daemon may have closed the connection already.
                let _ = stream.write_all(b"GET / HTTP/1.1\r\n");
                stream
            })
            .collect();
        // There is a free descriptor as soon as the handshakes have timed out.
        drop(await_place(HERE, daemon.port));
        drop(halves);
    });
    let kept = 5 * 10 * (count * 2 / 3);
    assert!(memory[4] < kept, "{memory:?} KiB, of {kept}");
    let log = daemon.stop();
    assert!(log.lines().count() < 15, "{log}");
}

/// Other processes may take the system's last descriptors, so that the daemon has fewer than its limit.
#[test]
fn daemon_without_descriptors_waits_and_does_not_spin() {
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
    assert!(share < 0.2, "the daemon spins: {share} of a processor");
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
fn limit_of_connections_beyond_the_descriptors_is_reported() {
    let dir = tempdir().unwrap();
    let flags = "-port {port} -ws 0 -max-connections 1000";
    let daemon = Daemon::start_after("ulimit -n 100", dir.path(), flags);
    let log = daemon.stop();
    assert!(log.contains("there are no descriptors for more"), "{log}");
    assert!(
        log.contains("-max-connections 1000 is lowered to "),
        "{log}"
    );
}

#[test]
fn too_few_descriptors_are_an_error_that_says_so() {
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
fn inherited_descriptors_count_against_the_limit() {
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
