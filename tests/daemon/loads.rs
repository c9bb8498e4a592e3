//! More than anyone should ask for. The original dies of a client that asks for nothing but `q`, and of `d`,
//! `sd`, `dump` and `who` beside load; and of a thousand commands at once it answers the first.

use std::fs;
use std::io::{self, Read, Write};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::tempdir;

use crate::clients::{Client, Web};
use crate::process::{Daemon, PATIENCE};
use crate::witness::witness;

const EVERYWHERE: &str = "-port {port} -ws {ws} -unix {sock}";

/// How long a load lasts: as long as the original does, or longer.
const LONG: Duration = Duration::from_millis(500);

/// What is locked all the while, exclusively and shared.
const KEPT: usize = 500;

/// Commands that are sent at once, and all that is answered to them.
struct Batch {
    commands: String,
    replies: String,
}

/// A thousand commands, on locks of that client's own.
fn thousand(client: &str) -> Batch {
    let (mut commands, mut replies) = (String::new(), String::new());
    for number in 0..500 {
        commands += &format!("g {client} {number}\nr {client} {number}\n");
        replies += &format!("1 Lock Get Success: {client} {number}\n");
        replies += &format!("1 Lock Release Success: {client} {number}\n");
    }
    Batch { commands, replies }
}

/// Sends a batch, and waits until all is answered.
fn run(stream: &mut (impl Read + Write), batch: &Batch) -> io::Result<()> {
    stream.write_all(batch.commands.as_bytes())?;
    let mut replies = vec![0; batch.replies.len()];
    stream.read_exact(&mut replies)?;
    let replies = String::from_utf8(replies).unwrap();
    assert!(
        replies == batch.replies,
        "not what was asked for: {replies}"
    );
    Ok(())
}

/// Beside a client that sends a thousand commands at once all the time, there is one that does so with each of
/// these. In every answer something must stand so often.
fn check(what: &str, asked: &[(&str, &str, usize)]) {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), EVERYWHERE);
    let mut keeper = Client::unix(&daemon);
    assert_eq!(keeper.ask("iam keeper"), "1 ok");
    for number in 0..KEPT {
        keeper.ask(format!("g kept {number}"));
        keeper.ask(format!("sg kept {number}"));
    }
    witness(what, &daemon, || {
        let end = Instant::now() + LONG;
        thread::scope(|scope| {
            for &(command, shown, times) in asked {
                let mut client = Client::tcp(&daemon);
                scope.spawn(move || {
                    while Instant::now() < end {
                        let answer = client.ask_for_all(command);
                        let found = answer.matches(shown).count();
                        assert_eq!(found, times, "{shown:?} to {command}: {answer}");
                    }
                });
            }
            let mut busy = Client::tcp(&daemon).into_inner();
            let batch = thousand("busy");
            while Instant::now() < end {
                run(&mut busy, &batch).unwrap();
            }
        });
    });
    daemon.stop();
}

#[test]
fn statistics_without_end_disturb_nobody() {
    check("q", &[("q", "connections: ", 1); 4]);
}

#[test]
fn listings_without_end_disturb_nobody() {
    let listings = [
        ("d", ": keeper\n", KEPT),
        ("sd", ": keeper\n", KEPT),
        ("dump", ":unix:1", KEPT),
        ("dump shared", ":[unix:1]", KEPT),
        ("who", "unix:1: keeper\n", 1),
    ];
    check("listings", &listings);
}

#[test]
fn sigterm_under_load_is_a_clean_stop() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &format!("{EVERYWHERE} -pidfile {{dir}}/pid"));
    let (busy, are_busy) = mpsc::channel();
    let mut loads: Vec<Box<dyn FnMut() -> bool + Send>> = Vec::new();
    for number in 0..3 {
        let tcp = thousand(&format!("tcp {number}"));
        let mut stream = Client::tcp(&daemon).into_inner();
        loads.push(Box::new(move || run(&mut stream, &tcp).is_ok()));
        let unix = thousand(&format!("unix {number}"));
        let mut stream = Client::unix(&daemon).into_inner();
        loads.push(Box::new(move || run(&mut stream, &unix).is_ok()));
        let mut web = Web::connect(&daemon);
        loads.push(Box::new(move || web.try_ask("q").is_ok()));
    }
    let count = loads.len();
    let threads: Vec<_> = loads
        .into_iter()
        .map(|mut load| {
            let busy = busy.clone();
            thread::spawn(move || {
                assert!(load());
                busy.send(()).unwrap();
                // Until the daemon hangs up.
                while load() {}
            })
        })
        .collect();
    for _ in 0..count {
        are_busy.recv_timeout(PATIENCE).unwrap();
    }
    let start = Instant::now();
    daemon.signal(Signal::TERM);
    let (status, log) = daemon.finish();
    eprintln!("it took {:?} to stop", start.elapsed());
    assert_eq!(status.code(), Some(0), "{log}");
    // A WebSocket that does not answer its goodbye would take two seconds; these do answer.
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    for thread in threads {
        thread.join().unwrap();
    }
}
