//! How the daemon is stopped, and what does not stop it.

use std::fs::{self, File};

use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;
use tempfile::tempdir;

use crate::clients::{Client, Web};
use crate::process::Daemon;

const EVERYWHERE: &str = "-port {port} -ws {ws} -unix {sock} -pidfile {dir}/pid";

#[test]
fn sigterm_and_sigint_stop_it_and_leave_nothing() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = tempdir().unwrap();
        let daemon = Daemon::start(dir.path(), EVERYWHERE);
        let mut clients = (
            Client::tcp(&daemon),
            Client::unix(&daemon),
            Web::connect(&daemon),
        );
        assert_eq!(clients.0.ask("g a"), "1 Lock Get Success: a");
        assert_eq!(clients.1.ask("g b"), "1 Lock Get Success: b");
        assert_eq!(clients.2.ask("g c"), "1 Lock Get Success: c\\n");
        daemon.signal(signal);
        clients.0.await_end();
        clients.1.await_end();
        let (status, log) = daemon.finish();
        assert_eq!(status.code(), Some(0), "{signal:?} {status}\n{log}");
        let left = fs::read_dir(dir.path()).unwrap();
        assert_eq!(left.count(), 0, "{signal:?}");
    }
}

#[test]
fn a_signal_as_soon_as_it_listens_is_a_clean_stop() {
    for _ in 0..20 {
        let dir = tempdir().unwrap();
        let daemon = Daemon::start(dir.path(), "-port 0 -ws 0 -unix {sock} -pidfile {dir}/pid");
        daemon.stop();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

/// A Unix socket's folder is locked while the file is made, and whoever starts has to wait for that.
#[test]
fn a_signal_before_it_listens_is_a_clean_stop() {
    let dir = tempdir().unwrap();
    let busy = dir.path().join("busy");
    fs::create_dir(&busy).unwrap();
    let lock = File::open(&busy).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();

    let flags = "-port 0 -ws 0 -unix {dir}/busy/sock -pidfile {dir}/pid";
    let daemon = Daemon::start(dir.path(), flags);
    // From here on signals are caught.
    daemon.await_file(&dir.path().join("pid"));
    daemon.signal(Signal::TERM);
    let (status, log) = daemon.finish();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!log.contains("listening"), "{log}");
    assert!(!busy.join("sock").exists());
    assert!(!dir.path().join("pid").exists());
}

#[test]
fn sighup_does_not_end_it() {
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path(), EVERYWHERE);
    let mut client = Client::tcp(&daemon);
    for _ in 0..3 {
        daemon.signal(Signal::HUP);
        assert_eq!(client.ask("g foo"), "1 Lock Get Success: foo");
    }
    assert_eq!(Client::unix(&daemon).ask("i foo"), "1 Lock Is Locked: foo");
    assert!(daemon.runs());
    daemon.stop();
}

#[test]
fn a_log_that_nobody_reads_does_not_end_it() {
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path(), "-port {port} -ws 0 -verbose");
    let mut client = Client::tcp(&daemon);
    daemon.close_log(|| assert_eq!(client.ask("g foo"), "1 Lock Get Success: foo"));
    for _ in 0..10 {
        assert_eq!(client.ask("g foo"), "1 Lock Get Success: foo");
        assert_eq!(Client::tcp(&daemon).ask("i foo"), "1 Lock Is Locked: foo");
    }
    assert!(daemon.runs());
    daemon.signal(Signal::TERM);
    client.await_end();
    let (status, _) = daemon.finish();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_log_that_is_not_read_holds_up_nothing() {
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path(), "-port 0 -ws 0 -unix {sock} -verbose");
    let (mut client, mut other) = (Client::unix(&daemon), Client::unix(&daemon));
    let long = "x".repeat(1000);
    // More than a pipe holds.
    for number in 0..1000 {
        let lock = format!("{number} {long}");
        let reply = client.ask(format!("g {lock}"));
        assert_eq!(reply, format!("1 Lock Get Success: {lock}"));
    }
    assert_eq!(other.ask("i foo"), "0 Lock Not Locked: foo");
    daemon.signal(Signal::TERM);
    client.await_end();
    assert_eq!(daemon.await_end().code(), Some(0));
    let (_, log) = daemon.finish();
    assert!(log.contains("…"), "a name was logged whole: {log}");
}
