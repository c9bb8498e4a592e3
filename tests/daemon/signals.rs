//! Signals and other events that stop the daemon, and those that do not.

use std::fs::{self, File};
use std::process::Command;

use glockd_test_support::{Client, Daemon, WebSocketClient, run_after};
use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;
use tempfile::tempdir;

use crate::witness::witness;

const EVERYWHERE: &str = "-port {port} -ws {ws} -unix {sock} -pidfile {dir}/pid";

const STOP: [Signal; 3] = [Signal::TERM, Signal::INT, Signal::QUIT];

#[test]
fn sigterm_sigint_and_sigquit_stop_the_daemon_and_leave_no_files() {
    for signal in STOP {
        let dir = tempdir().unwrap();
        let daemon = Daemon::start(dir.path(), EVERYWHERE);
        let mut clients = (
            Client::tcp(&daemon),
            Client::unix(&daemon),
            WebSocketClient::connect(&daemon),
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
fn signal_right_after_the_start_stops_the_daemon_cleanly() {
    for _ in 0..20 {
        let dir = tempdir().unwrap();
        let daemon = Daemon::start(dir.path(), "-port 0 -ws 0 -unix {sock} -pidfile {dir}/pid");
        daemon.stop();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

/// The daemon locks the directory of a Unix socket while it creates the file. The test holds that lock.
#[test]
fn signal_before_the_daemon_listens_stops_it_cleanly() {
    let dir = tempdir().unwrap();
    let busy = dir.path().join("busy");
    fs::create_dir(&busy).unwrap();
    let lock = File::open(&busy).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();

    let flags = "-port 0 -ws 0 -unix {dir}/busy/sock -pidfile {dir}/pid";
    let daemon = Daemon::start(dir.path(), flags);
    // From here on, signals are caught.
    daemon.await_file(&dir.path().join("pid"));
    daemon.signal(Signal::TERM);
    let (status, log) = daemon.finish();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!log.contains("listening"), "{log}");
    assert!(!busy.join("sock").exists());
    assert!(!dir.path().join("pid").exists());
}

/// A parent process may leave them so: a supervisor with a signal mask, nohup(1), a shell that starts a process with
/// `&`.
#[test]
fn signals_blocked_or_ignored_at_the_start_stop_the_daemon() {
    for before in [
        "set -- env --block-signal=TERM,INT,QUIT",
        "set -- env --block-signal",
        "trap '' TERM INT QUIT",
        "set -- nohup",
    ] {
        for signal in STOP {
            let dir = tempdir().unwrap();
            let daemon = Daemon::start_after(before, dir.path(), EVERYWHERE);
            daemon.signal(signal);
            let (status, log) = daemon.finish();
            assert_eq!(status.code(), Some(0), "{before}, {signal:?}: {log}");
            let left = fs::read_dir(dir.path()).unwrap();
            assert_eq!(left.count(), 0, "{before}, {signal:?}");
        }
    }
}

/// Including the real-time signals, and those of the limits of processor time and file size.
#[test]
fn other_signals_do_not_end_the_daemon() {
    const KILL: i32 = 9;
    // Signals that report a fault: ILL, TRAP, ABRT, BUS, FPE, SEGV, SYS.
    const FAULTS: [i32; 7] = [4, 5, 6, 7, 8, 11, 31];
    // STOP and TSTP suspend the daemon.
    const SUSPEND: [i32; 2] = [19, 20];
    // The C library reserves these.
    const INTERNAL: [i32; 2] = [32, 33];
    let stop = STOP.map(Signal::as_raw);

    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path(), EVERYWHERE);
    let mut client = Client::tcp(&daemon);
    assert_eq!(client.ask("g foo"), "1 Lock Get Success: foo");
    let mut sent = Vec::new();
    for signal in 1..=64 {
        let others = [&stop[..], &FAULTS, &SUSPEND, &INTERNAL, &[KILL]].concat();
        if others.contains(&signal) {
            continue;
        }
        let kill = format!("kill -{signal} {}", daemon.pid());
        let killed = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(killed.success(), "{signal}");
        sent.push(signal);
        let reply = client.try_ask("i foo");
        assert_eq!(reply.as_deref(), Some("1 Lock Is Locked: foo"), "{signal}");
        assert!(daemon.is_running(), "{signal}");
    }
    assert_eq!(sent.len(), 64 - 15, "{sent:?}");
    daemon.stop();
}

/// By default, the signal of that limit ends a process.
#[test]
fn limit_of_the_log_size_does_not_end_the_daemon() {
    let dir = tempdir().unwrap();
    let log = dir.path().join("log");
    let before = format!("exec 2> {}; ulimit -f 1", log.display());
    let flags = "-port 0 -ws 0 -unix {sock} -verbose";
    let daemon = Daemon::start_without_log(&before, dir.path(), flags);
    witness("a log that has reached its limit", &daemon, || {
        for number in 0..50 {
            assert!(
                Client::unix(&daemon)
                    .ask(format!("g {number}"))
                    .starts_with("1 ")
            );
        }
    });
    assert!(fs::metadata(&log).unwrap().len() <= 1024);
    daemon.stop();
}

/// Variables that tokio and the standard library read, and panic at if they are invalid.
#[test]
fn unusable_environment_does_not_cause_a_panic() {
    let dir = tempdir().unwrap();
    for threads in ["0", "abc", "-1", "1.5", "1000000", "18446744073709551616"] {
        let before = format!("export TOKIO_WORKER_THREADS={threads}");
        let finished = run_after(&before, dir.path(), "-port 0 -ws 0 -unix {dir}/sock");
        assert_eq!(finished.code(), Some(1), "{finished:?}");
        let message = format!(
            "glockd: cannot start: TOKIO_WORKER_THREADS is \"{threads}\", and must be a number of \
             threads from 1 to 1024\n"
        );
        assert_eq!(finished.stderr, message);
    }
    let not_utf8 = "export TOKIO_WORKER_THREADS=$(printf '\\377')";
    let finished = run_after(not_utf8, dir.path(), "-port 0 -ws 0 -unix {dir}/sock");
    assert_eq!(finished.code(), Some(1), "{finished:?}");
    for before in [
        "export TOKIO_WORKER_THREADS=3",
        "export TOKIO_WORKER_THREADS=",
        "export RUST_MIN_STACK=9223372036854775807",
        "export RUST_MIN_STACK=x",
    ] {
        let daemon = Daemon::start_after(before, dir.path(), EVERYWHERE);
        assert_eq!(Client::tcp(&daemon).ask("g x"), "1 Lock Get Success: x");
        daemon.stop();
    }
}

#[test]
fn closed_log_does_not_end_the_daemon() {
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path(), "-port {port} -ws 0 -verbose");
    let mut client = Client::tcp(&daemon);
    daemon.close_log(|| assert_eq!(client.ask("g foo"), "1 Lock Get Success: foo"));
    for _ in 0..10 {
        assert_eq!(client.ask("g foo"), "1 Lock Get Success: foo");
        assert_eq!(Client::tcp(&daemon).ask("i foo"), "1 Lock Is Locked: foo");
    }
    assert!(daemon.is_running());
    daemon.signal(Signal::TERM);
    client.await_end();
    let (status, _) = daemon.finish();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn unread_log_does_not_block_the_daemon() {
    let dir = tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path(), "-port 0 -ws 0 -unix {sock} -verbose");
    let (mut client, mut other) = (Client::unix(&daemon), Client::unix(&daemon));
    let long = "x".repeat(1000);
    // More than the pipe holds.
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
