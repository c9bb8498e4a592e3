//! The examples, run as their documentation says.

// Always true here. It tells clippy that helper functions may unwrap, too.
#![cfg(test)]

use std::time::Duration;

use assert_cmd::Command;

/// Runs an example to its end, which must succeed. Returns what it prints.
fn output(example: &str) -> String {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo.args(["run", "--quiet", "--example", example]);
    // A long time: the example may have to be compiled first.
    let output = cargo.timeout(Duration::from_secs(300)).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn embedded_prints_the_replies_and_removes_its_socket() {
    let output = output("embedded");
    let (first, rest) = output.split_once('\n').unwrap();
    assert!(first.starts_with("listening on /"), "{first}");
    let expect = "worker: 1 Lock Get Success: nightly report\n\
        rival:  0 Lock Get Failure: nightly report\n\
        rival:  1 Lock Get Success: nightly report\n\
        stopped: Handle\n\
        the socket file is gone: true\n";
    assert_eq!(rest, expect);
}

#[test]
fn custom_transport_prints_the_replies() {
    let expect = "job 1: told:1 Lock Get Success: job 1\nstopped\n";
    assert_eq!(output("custom_transport"), expect);
}

#[test]
fn custom_framing_prints_the_replies() {
    let expect = "5 bytes: 1 Lock Get Success: foo\n\
        1000 bytes: 0 Line Too Long: limit 100\n\
        5 bytes: 1 Lock Release Success: foo\n\
        stopped\n";
    assert_eq!(output("custom_framing"), expect);
}

#[test]
fn websocket_in_hyper_prints_the_replies() {
    let expect = "/: a page\n/locks: 1 Lock Get Success: foo\nclosed with 1001\n";
    assert_eq!(output("websocket_in_hyper"), expect);
}

#[test]
fn statistics_prints_counters_and_connections() {
    let expect = "connections: 2\n\
        locks held: 1\n\
        gets: 2\n\
        memory:1: nightly report\n\
        memory:2: (no name)\n\
        the worker is told: \"\"\n\
        orphans: 1\n";
    assert_eq!(output("statistics"), expect);
}

#[test]
fn events_prints_what_the_observer_gets() {
    let expect = "connected: memory:1\n\
        granted: report\n\
        connected: memory:2\n\
        waits: report\n\
        released: report\n\
        granted after a wait: report\n\
        orphaned: report\n";
    assert_eq!(output("events"), expect);
}

#[test]
fn graceful_stop_lets_the_worker_finish() {
    let expect = "worker: 1 Lock Get Success: report\n\
        idle:   1 Lock Is Locked: report\n\
        idle:   \"\"\n\
        new:    true\n\
        worker: 1 Lock Get Success: archive\n\
        worker: 1 Lock Release Success: report\n\
        worker: 1 Lock Release Success: archive\n\
        worker: \"\"\n\
        stopped: Drained\n";
    assert_eq!(output("graceful_stop"), expect);
}
