//! Peers that are there and do not listen.

use std::time::Instant;

use tempfile::tempdir;

use crate::clients::{Client, Web};
use crate::process::{Daemon, PATIENCE};

#[test]
fn who_reads_nothing_is_disconnected_and_who_says_nothing_is_not() {
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
    // Each asks for 20 MB, and reads none.
    let (mut tcp, mut unix, mut web) = (
        Client::tcp(&daemon),
        Client::unix(&daemon),
        Web::connect(&daemon),
    );
    tcp.ask("g tcp");
    unix.ask("g unix");
    web.ask("g web");
    tcp.write(&b"d\n".repeat(200));
    unix.write(&b"d\n".repeat(200));
    for _ in 0..200 {
        web.say("d");
    }
    let start = Instant::now();
    for name in ["tcp", "unix", "web"] {
        let free = format!("0 Lock Not Locked: {name}");
        while holder.ask(format!("i {name}")) != free {
            assert!(start.elapsed() < PATIENCE, "{name} still holds its lock");
        }
    }
    assert_eq!(holder.ask("i idle"), "1 Lock Is Locked: idle");
    assert_eq!(idle.ask("r idle"), "1 Lock Release Success: idle");
    assert_eq!(holder.counter("orphans"), 3);
    daemon.stop();
}
