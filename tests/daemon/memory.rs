//! What peers cannot make the daemon do: take memory without bound.

use std::fs;

use tempfile::tempdir;

use crate::clients::Client;
use crate::process::Daemon;

/// The most memory that the daemon has ever had, in KiB.
fn peak(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.unwrap().parse().unwrap()
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
    assert_eq!(tcp.hear(), "0 Line Too Long: limit 131072");
    assert_eq!(unix.hear(), "0 Line Too Long: limit 131072");
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
