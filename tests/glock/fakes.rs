//! glock against servers whose every line is the test's: for what a real one does too seldom, or never.

use crate::served::{Finished, Served, fake, finish};

/// Runs a glock in the folder of a test, against a server that answers each line by what `answer` makes of it.
fn run_against(answer: fn(&str) -> &'static str, arguments: &[&str]) -> Finished {
    let served = Served::new();
    fake(&served.path("fake"), answer);
    let mut glock = served.glock(arguments);
    glock.env("GLOCKD_SERVER", "unix:fake");
    finish(glock)
}

#[test]
fn a_lock_that_the_server_did_not_know_of_is_a_lost_one() {
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
fn verbose_says_when_the_lock_was_got_and_released() {
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
        "glock: has the lock job\nglock: released the lock job\n"
    );
    assert_eq!(finished.stdout, "ran\n");
    let finished = run_against(answer, &["run", "job", "--", "echo", "ran"]).exited(0);
    assert_eq!(finished.stderr, "");
}
