//! Clients that do not read, or read and write slowly.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use glockd_test_support::{Client, Daemon, WebSocketClient, wait_until};
use tempfile::tempdir;

use crate::witness::witness;

#[test]
fn client_that_never_reads_is_disconnected_and_an_idle_one_is_not() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(
        dir.path(),
        "-port {port} -ws {ws} -unix {sock} -write-timeout 100ms",
    );
    let mut idle = Client::tcp(&daemon);
    idle.ask("g idle");
    let mut holder = Client::unix(&daemon);
    for number in 0..100 {
        holder.ask(format!("g {number:04}{}", "x".repeat(1000)));
    }
    // Each client asks for 20 MB, and reads none.
    let (mut tcp, mut unix, mut web) = (
        Client::tcp(&daemon),
        Client::unix(&daemon),
        WebSocketClient::connect(&daemon),
    );
    tcp.ask("g tcp");
    unix.ask("g unix");
    web.ask("g web");
    tcp.write(&b"d\n".repeat(200));
    unix.write(&b"d\n".repeat(200));
    for _ in 0..200 {
        web.send("d");
    }
    for name in ["tcp", "unix", "web"] {
        let free = format!("0 Lock Not Locked: {name}");
        wait_until(&format!("{name} still holds its lock"), || {
            holder.ask(format!("i {name}")) == free
        });
    }
    assert_eq!(holder.ask("i idle"), "1 Lock Is Locked: idle");
    assert_eq!(idle.ask("r idle"), "1 Lock Release Success: idle");
    assert_eq!(holder.counter("orphans"), 3);
    // By a reset. An ordinary end would come after what was sent, and a slow reader would learn of it late.
    let end = tcp.into_inner().read_to_end(&mut Vec::new());
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    daemon.stop();
}

/// Waits a little, and returns true if the daemon has not closed this connection, which has an unfinished request.
fn is_open(mut stream: &TcpStream) -> bool {
    let wait = Some(Duration::from_millis(1));
    stream.set_read_timeout(wait).unwrap();
    match stream.read(&mut [0]) {
        Ok(read) => assert_eq!(read, 0, "an answer to half a request"),
        Err(error) => return matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
    false
}

#[test]
fn slow_handshake_times_out_and_a_slow_line_does_not() {
    const LIMIT: Duration = Duration::from_millis(300);
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(
        dir.path(),
        "-port {port} -ws {ws} -unix {sock} -handshake-timeout 300ms",
    );
    witness("a slow loris", &daemon, || {
        let mut lines: Vec<_> = (0..100).map(|_| Client::tcp(&daemon)).collect();
        let start = Instant::now();
        let connect = |_| TcpStream::connect((Ipv4Addr::LOCALHOST, daemon.ws)).unwrap();
        let mut handshakes: Vec<TcpStream> = (0..100).map(connect).collect();
        let head = b"GET / HTTP/1.1\r\nX: "
            .iter()
            .chain(std::iter::repeat(&b'x'));
        let line = b"g ".iter().chain(std::iter::repeat(&b'x'));
        let mut length = 0;
        for (&head, &line) in head.zip(line) {
            lines.iter_mut().for_each(|client| client.write(&[line]));
            handshakes.retain_mut(|stream| stream.write_all(&[head]).is_ok() && is_open(stream));
            if handshakes.len() < 100 {
                assert!(start.elapsed() >= LIMIT, "{:?}", start.elapsed());
            }
            length += 1;
            if handshakes.is_empty() {
                break;
            }
        }
        eprintln!("all handshakes were over in {:?}", start.elapsed());
        let name = "x".repeat(length - 2);
        assert_eq!(lines[0].ask(""), format!("1 Lock Get Success: {name}"));
        for client in &mut lines[1..] {
            assert_eq!(client.ask(""), format!("0 Lock Get Failure: {name}"));
        }
    });
    daemon.stop();
}

#[test]
fn slow_reader_stays_connected() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), "-port {port} -ws 0 -write-timeout 2s");
    let mut holder = Client::tcp(&daemon);
    for number in 0..2000 {
        holder.ask(format!("g {number:04}{}", "x".repeat(1000)));
    }
    let mut reader = Client::tcp(&daemon);
    reader.ask("g slow");
    // The client asks for some 20 MB, and reads a hundredth of it each second.
    reader.write(&b"d\n".repeat(10));
    let mut stream = reader.into_inner();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        stream.read_exact(&mut [0; 10_000]).unwrap();
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(holder.ask("i slow"), "1 Lock Is Locked: slow");
    daemon.stop();
}
