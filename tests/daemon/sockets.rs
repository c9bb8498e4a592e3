//! `-unix`: the file of the socket, and files that are in its place.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;

use glockd_test_support::{Client, Daemon, PATIENCE, run};
use rustix::process::Signal;
use tempfile::tempdir;

const SOCK: &str = "-port 0 -ws 0 -unix {sock}";

/// Runs a daemon on `{dir}/sock`, where it cannot listen. Checks that it says so, and leaves the file as it is.
#[track_caller]
fn check_refused(dir: &Path) {
    let sock = dir.join("sock");
    let before = fs::metadata(&sock).unwrap();
    let finished = run(dir, "-port 0 -ws 0 -unix {dir}/sock -pidfile {dir}/pid");
    assert_eq!(finished.code(), Some(1), "{finished:?}");
    let start = format!("glockd: cannot listen on {}: ", sock.display());
    assert!(finished.stderr.starts_with(&start), "{finished:?}");
    let after = fs::metadata(&sock).unwrap();
    assert_eq!((before.ino(), before.mode()), (after.ino(), after.mode()));
    assert!(!dir.join("pid").exists());
}

#[test]
fn unix_mode_sets_who_can_connect() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &format!("{SOCK} -unix-mode 0700"));
    let metadata = fs::metadata(&daemon.sock).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o700);
    daemon.stop();
}

#[test]
fn any_user_can_connect_by_default() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = tempdir().unwrap();
        let daemon = Daemon::start(dir.path(), SOCK);
        let metadata = fs::metadata(&daemon.sock).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.mode() & 0o7777, 0o766);
        let sock = daemon.sock.clone();
        daemon.signal(signal);
        let (status, log) = daemon.finish();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(!sock.exists());
    }
}

#[test]
fn stale_socket_is_replaced() {
    let dir = tempdir().unwrap();
    drop(UnixListener::bind(dir.path().join("sock")).unwrap());
    let daemon = Daemon::start(dir.path(), SOCK);
    assert_eq!(
        Client::unix(&daemon).ask("g foo"),
        "1 Lock Get Success: foo"
    );
    // And one that a killed daemon left.
    daemon.signal(Signal::KILL);
    daemon.finish();
    assert!(dir.path().join("sock").exists());
    let daemon = Daemon::start(dir.path(), SOCK);
    assert_eq!(
        Client::unix(&daemon).ask("g foo"),
        "1 Lock Get Success: foo"
    );
    assert_eq!(Client::unix(&daemon).ask("me"), "1 unix:2 unix:2");
}

#[test]
fn live_socket_is_left_alone() {
    let dir = tempdir().unwrap();
    let sock = dir.path().join("sock");
    let listener = UnixListener::bind(&sock).unwrap();
    check_refused(dir.path());
    let _client = UnixStream::connect(&sock).unwrap();
    listener.accept().unwrap();
}

#[test]
fn socket_of_another_daemon_is_left_alone() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), SOCK);
    let mut client = Client::unix(&daemon);
    assert_eq!(client.ask("g foo"), "1 Lock Get Success: foo");
    check_refused(dir.path());
    assert_eq!(client.ask("g foo"), "1 Lock Get Success: foo");
    assert_eq!(Client::unix(&daemon).ask("i foo"), "1 Lock Is Locked: foo");
    daemon.stop();
}

#[test]
fn file_that_is_not_a_socket_is_left_alone() {
    let dir = tempdir().unwrap();
    let sock = dir.path().join("sock");
    fs::write(&sock, "precious").unwrap();
    check_refused(dir.path());
    assert_eq!(fs::read_to_string(&sock).unwrap(), "precious");
    fs::remove_file(&sock).unwrap();
    fs::create_dir(&sock).unwrap();
    check_refused(dir.path());
}

#[test]
fn impossible_path_is_named_in_the_error() {
    let dir = tempdir().unwrap();
    let long = format!("/tmp/{}", "x".repeat(200));
    for path in ["/no/such/folder/sock", &long] {
        let flags = format!("-port 0 -ws 0 -pidfile {{dir}}/pid -unix {path}");
        let finished = run(dir.path(), &flags);
        assert_eq!(finished.code(), Some(1), "{finished:?}");
        let start = format!("glockd: cannot listen on {path}: ");
        assert!(finished.stderr.starts_with(&start), "{finished:?}");
        assert!(!dir.path().join("pid").exists());
    }
}

#[test]
fn path_that_is_too_long_is_refused_with_its_length() {
    let dir = tempdir().unwrap();
    for (path, length) in [
        (format!("/tmp/{}", "x".repeat(103)), 108),
        (format!("/tmp/{}", "x".repeat(195)), 200),
        (format!("@{}", "x".repeat(108)), 108),
    ] {
        let finished = run(dir.path(), &format!("-port 0 -ws 0 -unix {path}"));
        assert_eq!(finished.code(), Some(1), "{finished:?}");
        let error = format!(
            "glockd: cannot listen on {path}: it has {length} bytes, and a Unix socket takes at most 107\n"
        );
        assert_eq!(finished.stderr, error);
    }
}

#[test]
fn abstract_socket_needs_no_file() {
    let dir = tempdir().unwrap();
    let name = format!("glockd test {}", std::process::id()).replace(' ', "-");
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    // A name is free as soon as its daemon has ended, in whatever way.
    for signal in [Signal::KILL, Signal::TERM] {
        let mut daemon = Daemon::start(dir.path(), &format!("-port 0 -ws 0 -unix @{name}"));
        daemon.await_line(&["listening on unix @", &name]);
        daemon.await_line(&["open for ", &name, " to every user of this host"]);
        let stream = UnixStream::connect_addr(&address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Client::new(stream);
        assert_eq!(client.ask("g foo"), "1 Lock Get Success: foo");
        assert_eq!(client.ask("me"), "1 unix:1 unix:1");
        let second = run(dir.path(), &format!("-port 0 -ws 0 -unix @{name}"));
        assert_eq!(second.code(), Some(1), "{second:?}");
        let error = format!("glockd: cannot listen on @{name}: another process listens there\n");
        assert_eq!(second.stderr, error);
        daemon.signal(signal);
        daemon.finish();
        assert!(UnixStream::connect_addr(&address).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
