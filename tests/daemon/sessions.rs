//! Sessions over each transport, and flags that clients notice.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};

use glockd_test_support::{Client, Daemon, WebSocketClient, free_ports, knock, run, run_after};
use rustix::process::{Resource, getrlimit};
use tempfile::tempdir;

#[test]
fn all_transports_share_the_locks() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), "-port {port} -ws {ws} -unix {sock}");
    let mut tcp = Client::tcp(&daemon);
    let mut unix = Client::unix(&daemon);
    let mut web = WebSocketClient::connect(&daemon);

    assert_eq!(tcp.ask("g foo"), "1 Lock Get Success: foo");
    assert_eq!(unix.ask("g foo"), "0 Lock Get Failure: foo");
    assert_eq!(web.ask("g foo"), "0 Lock Get Failure: foo\\n");
    assert_eq!(web.ask("sg foo"), "1 Shared Lock Get Success: foo\\n");
    assert_eq!(unix.ask("sg foo"), "2 Shared Lock Get Success: foo");
    assert_eq!(tcp.ask("si foo"), "2 Shared Lock Is Locked: foo");
    assert_eq!(unix.ask("me"), "1 unix:1 unix:1");
    assert_eq!(unix.ask("iam me"), "1 ok");
    assert_eq!(tcp.ask("who"), "unix:1: me");
    assert_eq!(web.ask("bogus"), "");
    assert_eq!(tcp.ask("r foo"), "1 Lock Release Success: foo");
    assert_eq!(web.ask("g foo\n"), "1 Lock Get Success: foo\\n");
    assert_eq!(tcp.counter("connections"), 3);
    daemon.stop();
}

#[test]
fn ports_are_open_to_ipv4() {
    ports_are_open_to(Ipv4Addr::LOCALHOST.into());
}

#[test]
#[ignore = "needs IPv6: run by .ci/run"]
fn ports_are_open_to_ipv6() {
    ports_are_open_to(Ipv6Addr::LOCALHOST.into());
}

/// Checks that a daemon without `-bind` answers on this address.
fn ports_are_open_to(ip: IpAddr) {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), "-port {port} -ws {ws}");
    let stream = TcpStream::connect((ip, daemon.port)).unwrap();
    let address = stream.local_addr().unwrap();
    assert_eq!(
        Client::new(stream).ask("me"),
        format!("1 {address} {address}")
    );
    let stream = TcpStream::connect((ip, daemon.ws)).unwrap();
    let address = stream.local_addr().unwrap();
    assert_eq!(
        WebSocketClient::new(stream).ask("me"),
        format!("1 {address} {address}\\n")
    );
    daemon.stop();
}

#[test]
fn daemon_listens_on_the_bound_addresses_only() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(
        dir.path(),
        "-port {port} -ws {ws} -bind 127.0.0.1,127.0.0.3",
    );
    for port in [daemon.port, daemon.ws] {
        for (last, open) in [(1, true), (2, false), (3, true)] {
            let connected = TcpStream::connect((Ipv4Addr::new(127, 0, 0, last), port));
            assert_eq!(connected.is_ok(), open, "127.0.0.{last}:{port}");
        }
    }
    daemon.stop();
}

/// An address that no host has: it is reserved for documentation.
const MISSING: &str = "192.0.2.1";

#[test]
fn missing_optional_address_is_skipped() {
    let dir = tempdir().unwrap();
    let flags = format!("-port {{port}} -ws {{ws}} -bind -{MISSING},127.0.0.1");
    let daemon = Daemon::start(dir.path(), &flags);
    assert_eq!(Client::tcp(&daemon).ask("g x"), "1 Lock Get Success: x");
    assert_eq!(
        WebSocketClient::connect(&daemon).ask("g y"),
        "1 Lock Get Success: y\\n"
    );
    let log = daemon.stop();
    let line = format!("skipped: {MISSING}, which this host does not have");
    assert_eq!(log.matches("skipped").count(), 1, "{log}");
    assert!(log.contains(&line), "{log}");
}

#[test]
fn missing_required_address_is_an_error() {
    let (port, ws) = free_ports();
    for (list, error) in [
        (
            format!("127.0.0.1,{MISSING}"),
            format!(
                "{MISSING}: this host has no such address; if it may be missing, write -bind -{MISSING}\n"
            ),
        ),
        (
            format!("-{MISSING} -bind -2001:db8::1"),
            "any address of -bind: this host has none of them\n".to_owned(),
        ),
    ] {
        let dir = tempdir().unwrap();
        let flags = format!("-port {port} -ws {ws} -pidfile {{dir}}/pid -bind {list}");
        let finished = run(dir.path(), &flags);
        assert_eq!(finished.code(), Some(1), "{finished:?}");
        let error = format!("glockd: cannot listen on {error}");
        assert!(finished.stderr.ends_with(&error), "{finished:?}");
        assert!(!dir.path().join("pid").exists());
    }
}

#[test]
fn taken_port_of_an_optional_address_is_an_error() {
    let taken = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 2), 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let dir = tempdir().unwrap();
    let flags = format!("-port {port} -ws 0 -bind 127.0.0.1,-127.0.0.2");
    let finished = run(dir.path(), &flags);
    assert_eq!(finished.code(), Some(1), "{finished:?}");
    let error = format!("127.0.0.2:{port}: Address already in use");
    assert!(finished.stderr.contains(&error), "{finished:?}");
}

#[test]
fn address_included_in_another_is_bound_once() {
    for (list, included) in [
        ("0.0.0.0,-::", ""),
        ("127.0.0.1,0.0.0.0", "127.0.0.1, which another"),
        ("0.0.0.0,-::,localhost", "127.0.0.1, which another"),
    ] {
        let dir = tempdir().unwrap();
        let flags = format!("-port {{port}} -ws {{ws}} -bind {list}");
        let daemon = Daemon::start(dir.path(), &flags);
        assert_eq!(Client::tcp(&daemon).ask("g x"), "1 Lock Get Success: x");
        assert_eq!(
            WebSocketClient::connect(&daemon).ask("g y"),
            "1 Lock Get Success: y\\n"
        );
        let log = daemon.stop();
        assert_eq!(log.matches("skipped").count(), 1, "{list}: {log}");
        assert!(log.contains(included), "{list}: {log}");
    }
}

#[test]
#[ignore = "needs IPv6: run by .ci/run"]
fn unspecified_ipv6_address_includes_all_others() {
    for list in ["0.0.0.0,::", "::,0.0.0.0", "::,::1,127.0.0.1"] {
        let dir = tempdir().unwrap();
        let flags = format!("-port {{port}} -ws {{ws}} -bind {list}");
        let daemon = Daemon::start(dir.path(), &flags);
        assert_eq!(Client::tcp(&daemon).ask("g x"), "1 Lock Get Success: x");
        TcpStream::connect((Ipv6Addr::LOCALHOST, daemon.ws)).unwrap();
        daemon.stop();
    }
}

#[test]
fn localhost_listens_on_loopback_only() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), "-port {port} -ws {ws} -bind localhost");
    for port in [daemon.port, daemon.ws] {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let has_ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
        let connected = TcpStream::connect((Ipv6Addr::LOCALHOST, port));
        assert_eq!(connected.is_ok(), has_ipv6, "{connected:?}");
        let connected = TcpStream::connect((Ipv4Addr::new(127, 0, 0, 2), port));
        assert!(connected.is_err(), "{connected:?}");
    }
    daemon.stop();
}

/// As in a default container.
#[test]
#[ignore = "needs network namespaces: run by .ci/run"]
fn host_without_ipv6_is_served_on_ipv4() {
    const NO_IPV6: &str = "ip link set lo up; sysctl -qw net.ipv6.conf.all.disable_ipv6=1";
    let within = |setup: &str| format!("set -- unshare --net sh -c '{setup}; exec \"$@\"' sh");
    for flags in ["localhost", "127.0.0.1,-::1", "-::1 -bind 127.0.0.1"] {
        let dir = tempdir().unwrap();
        let flags = format!("-port {{port}} -ws {{ws}} -bind {flags}");
        let log = Daemon::start_after(&within(NO_IPV6), dir.path(), &flags).stop();
        assert!(log.contains("listening on tcp 127.0.0.1:"), "{log}");
        assert!(log.contains("listening on websocket 127.0.0.1:"), "{log}");
        assert_eq!(log.matches("listening on").count(), 2, "{log}");
        let line = "skipped: ::1, which this host does not have";
        assert_eq!(log.matches("skipped").count(), 1, "{log}");
        assert!(log.contains(line), "{log}");
    }
    for (setup, list, error) in [
        (
            NO_IPV6,
            "127.0.0.1,::1",
            "::1: this host has no such address; ",
        ),
        (
            NO_IPV6,
            "localhost,::1",
            "::1: this host has no such address; ",
        ),
        (NO_IPV6, "-::1", "any address of -bind: "),
    ] {
        let dir = tempdir().unwrap();
        let flags = format!("-port 9999 -ws 9998 -bind {list}");
        let finished = run_after(&within(setup), dir.path(), &flags);
        assert_eq!(finished.code(), Some(1), "{list}: {finished:?}");
        let error = format!("glockd: cannot listen on {error}");
        assert!(finished.stderr.starts_with(&error), "{list}: {finished:?}");
    }
}

#[test]
fn websocket_of_a_page_of_another_origin_is_refused() {
    /// Returns the response to a request for a WebSocket.
    fn answer(daemon: &Daemon, host: &str, origin: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, daemon.ws)).unwrap();
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n{origin}\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut status = String::new();
        BufReader::new(stream).read_line(&mut status).unwrap();
        status.trim_end().to_owned()
    }
    const OPEN: &str = "HTTP/1.1 101 Switching Protocols";
    const SHUT: &str = "HTTP/1.1 403 Forbidden";
    let dir = tempdir().unwrap();
    for (flags, ours, theirs, rebound, none) in [
        ("", OPEN, OPEN, OPEN, OPEN),
        ("-ws-origin same", OPEN, SHUT, SHUT, OPEN),
        ("-ws-origin same,evil.example:1", OPEN, SHUT, OPEN, OPEN),
        ("-ws-origin localhost,other.example", OPEN, SHUT, SHUT, SHUT),
    ] {
        let daemon = Daemon::start(dir.path(), &format!("-port {{port}} -ws {{ws}} {flags}"));
        let page =
            |host: &str, of: &str| answer(&daemon, host, &format!("Origin: http://{of}\r\n"));
        assert_eq!(page("localhost", "localhost"), ours, "{flags}");
        assert_eq!(page("localhost", "evil.example"), theirs, "{flags}");
        // DNS rebinding: the browser believes that this is the page's own host.
        let evil = format!("evil.example:{}", daemon.ws);
        assert_eq!(page(&evil, &evil), rebound, "{flags}");
        assert_eq!(answer(&daemon, "localhost", ""), none, "{flags}");
        daemon.stop();
    }
}

#[test]
fn daemon_raises_its_limit_of_descriptors() {
    let dir = tempdir().unwrap();
    // Lower than the hard limit.
    let most = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let lowered = format!("ulimit -S -n {}", most.min(1001) - 1);
    let daemon = Daemon::start_after(&lowered, dir.path(), "-port {port} -ws 0");
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let numbers: Vec<&str> = line.unwrap().split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1]);
    daemon.stop();
}

#[test]
fn locks_end_with_their_connection() {
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path(), "-port {port} -ws {ws} -unix {sock} -verbose");
    let mut watcher = Client::tcp(&daemon);
    let mut tcp = Client::tcp(&daemon);
    let mut web = WebSocketClient::connect(&daemon);
    let mut unix = Client::unix(&daemon);
    tcp.ask("g a");
    web.ask("g b");
    unix.ask("g c");
    let mut reset = Client::tcp(&daemon);
    reset.ask("g d");
    assert_eq!(watcher.counter("locks"), 4);
    drop((tcp, web, unix));
    reset.reset();
    for _ in 0..4 {
        daemon.await_line(&["disconnected", "orphans=1"]);
    }
    assert_eq!(watcher.counter("locks"), 0);
    assert_eq!(watcher.counter("orphans"), 4);
    assert_eq!(watcher.counter("connections"), 1);
    for name in ["a", "b", "c", "d"] {
        assert_eq!(
            watcher.ask(format!("g {name}")),
            format!("1 Lock Get Success: {name}")
        );
    }
    daemon.stop();
}

#[test]
fn verbose_log_shows_what_clients_do() {
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path(), "-port 0 -ws 0 -unix {sock} -verbose");
    let mut client = Client::unix(&daemon);
    client.ask("g foo");
    daemon.await_line(&["unix:1", "connected"]);
    daemon.await_line(&["unix:1", "1 Lock Get Success: foo"]);
    client.ask("r foo");
    daemon.await_line(&["unix:1", "1 Lock Release Success: foo"]);
    client.ask("sg foo");
    daemon.await_line(&["unix:1", "1 Shared Lock Get Success: foo"]);
    client.ask("g bar");
    client.send("bogus bar");
    daemon.await_line(&["unix:1", "bogus bar"]);
    drop(client);
    daemon.await_line(&["unix:1", "disconnected", "orphans=1", "shared_orphans=1"]);
    daemon.stop();
}

#[test]
fn default_log_is_about_the_daemon_only() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), "-port {port} -ws {ws} -unix {sock}");
    Client::tcp(&daemon).ask("g foo");
    WebSocketClient::connect(&daemon).ask("bogus");
    let mut client = Client::unix(&daemon);
    client.send("bogus");
    client.ask("g bar");
    drop(client);
    let log = daemon.stop();
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 6, "{log}");
    for (line, part) in lines.iter().zip([
        "listening on tcp ",
        "listening on websocket ",
        "listening on unix ",
        " connections: tcp [::]:",
        "SIGTERM: stopping",
        "stopped",
    ]) {
        assert!(line.contains(" INFO ") && line.contains(part), "{log}");
    }
}

#[test]
fn input_of_clients_is_logged_escaped() {
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path(), "-port {port} -ws {ws} -unix {sock} -verbose");
    let nasty = "a\x1B[31m\x07\x08\u{9B}2J\u{202E}z\0\u{7F}";
    let mut client = Client::unix(&daemon);
    for verb in ["g", "sg", "r", "sr", "i", "iam"] {
        client.ask(format!("{verb} {nasty}"));
    }
    client.send(format!("bogus {nasty}"));
    client.send([b"\xFF\xFE ", nasty.as_bytes()].concat());
    client.send(format!("{nasty}\r{nasty}"));
    WebSocketClient::connect(&daemon).ask(&format!("bogus\n{nasty}\nmade up line"));
    for request in [
        format!("GET /{nasty} HTTP/1.1\r\nHost: {nasty}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nUpgrade: websocket\r\n{nasty}: {nasty}\r\n\r\n"),
        format!("{nasty}\nmade up line\r\n\r\n"),
    ] {
        knock(daemon.ws, request.as_bytes());
    }
    client.ask(format!("g {nasty}2"));
    drop(client);
    daemon.await_line(&["unix:1", "disconnected", "orphans=1"]);
    let log = daemon.stop();
    assert!(
        !log.lines().any(|line| line.starts_with("made up line")),
        "{log}"
    );
    for line in log.lines() {
        let printable = line.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        assert!(printable, "{}", line.escape_debug());
    }
}

#[test]
fn disabled_commands_are_refused() {
    let check = |flags: &str, refused: &[&str], allowed: &[&str]| {
        let dir = tempdir().unwrap();
        let flags = format!("-port 0 -ws 0 -unix {{sock}} {flags}");
        let daemon = Daemon::start(dir.path(), &flags);
        let mut client = Client::unix(&daemon);
        client.ask("g foo");
        client.ask("sg foo");
        for command in refused {
            assert_eq!(client.ask(command), "0 disabled", "{flags}: {command}");
        }
        for command in allowed {
            assert_ne!(client.ask(command), "0 disabled", "{flags}: {command}");
        }
        daemon.stop();
    };
    check(
        "",
        &[],
        &["d", "sd", "dump", "dump shared", "iam me", "who", "me"],
    );
    check(
        "-dump=false",
        &["d", "sd", "dump", "who"],
        &["iam me", "me"],
    );
    check(
        "-registry=false",
        &["iam me", "who"],
        &["d", "sd", "dump", "me"],
    );
    check(
        "-dump=false -registry=false",
        &["d foo", "sd foo", "dump shared", "iam", "who x"],
        &["me", "i foo"],
    );
    check(
        "-dump=false -registry=F -dump -registry=true",
        &[],
        &["d", "iam me", "who"],
    );
}

#[test]
fn max_line_is_the_longest_accepted_line() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), "-port {port} -ws 0 -unix {sock} -max-line 10");
    let mut client = Client::tcp(&daemon);
    assert_eq!(client.ask("g 34567890"), "1 Lock Get Success: 34567890");
    assert_eq!(client.ask("g 34567890\r"), "1 Lock Get Success: 34567890");
    assert_eq!(client.ask("g 345678901"), "0 Line Too Long: limit 10");
    assert_eq!(client.counter("invalid_commands"), 1);
    daemon.stop();
}
