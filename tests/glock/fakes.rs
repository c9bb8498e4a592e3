//! glock against fake servers that send what the test says: for replies that a real server gives rarely, or never.

use glockd_test_support::{Finished, finish};

use crate::served::{Served, fake};

/// Runs glock in the directory of a test, against a server that replies to each line with `answer(line)`.
fn run_against(answer: fn(&str) -> &'static str, arguments: &[&str]) -> Finished {
    let served = Served::new();
    fake(&served.path("fake"), answer);
    let mut glock = served.glock(arguments);
    glock.env("GLOCKD_SERVER", "unix:fake");
    finish(glock)
}

#[test]
fn lock_is_lost_if_the_server_does_not_know_it_on_release() {
    let answer = |line: &str| match line.split(' ').next().unwrap() {
        "hello" => "1 hello: wait limit fence list own ping",
        "g" | "gw" => "1 Lock Get Success: job",
        "f" => "7 Lock Fence: job",
        "r" => "0 Lock Release Failure: job",
        other => panic!("{other}"),
    };
    let expect = "glock: the lock job was lost before it was released: \
                  the server says that this connection did not hold the lock job\n";
    for (arguments, output) in [
        (&["run", "job", "--", "echo", "ran"][..], "ran\n"),
        (&["get", "job"][..], "held: job, fence 7\n"),
    ] {
        let finished = run_against(answer, arguments).exited(3);
        assert_eq!(finished.stderr, expect);
        assert_eq!(finished.stdout, output);
    }
}

#[test]
fn verbose_reports_when_the_lock_is_acquired_and_released() {
    let answer = |line: &str| match line.split(' ').next().unwrap() {
        "hello" => "1 hello: wait limit fence list own ping",
        "g" | "gw" => "1 Lock Get Success: job",
        "f" => "7 Lock Fence: job",
        "r" => "1 Lock Release Success: job",
        other => panic!("{other}"),
    };
    let finished = run_against(answer, &["run", "-v", "job", "--", "echo", "ran"]).exited(0);
    assert_eq!(
        finished.stderr,
        "glock: acquired the lock job\nglock: released the lock job\n"
    );
    assert_eq!(finished.stdout, "ran\n");
    let finished = run_against(answer, &["run", "job", "--", "echo", "ran"]).exited(0);
    assert_eq!(finished.stderr, "");
}
