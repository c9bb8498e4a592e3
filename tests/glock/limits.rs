//! Time limits: of a wait for a lock, and of ending a command whose lock is lost.

use std::time::{Duration, Instant};

use glockd::{Limits, Server, Tcp, Unix, WebSocket};
use glockd_test_support::finish;
use tokio::runtime::Runtime;

use crate::served::{Served, fake};

/// Starts a server with these limits. Returns the runtime that it ends with, and its addresses.
fn serve(limits: Limits) -> (Runtime, [String; 3]) {
    let runtime = Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sock");
    let local = "127.0.0.1:0".parse().unwrap();
    let server = Server::builder()
        .transport(Tcp::address(local))
        .transport(WebSocket::address(local))
        .transport(Unix::path(&path))
        .limits(limits)
        .bind();
    let server = runtime.block_on(server).unwrap();
    let addresses = server.addresses();
    runtime.spawn(async {
        server.run(std::future::pending()).await;
        drop(dir);
    });
    let urls = [
        // In a notation that only the C library reads. It does so on a thread, which is there when the command is forked.
        format!(
            "tcp://127.1:{}",
            addresses[0].to_string().replace("127.0.0.1:", "")
        ),
        format!("ws://{}/", addresses[1]),
        format!("unix:{}", path.display()),
    ];
    (runtime, urls)
}

#[test]
fn grace_that_can_outlast_the_lock_causes_a_warning() {
    let served = Served::new();
    let check = |limits: Limits, grace: Option<&str>, warns: bool| {
        let (_runtime, [tcp, ws, unix]) = serve(limits);
        for (url, warns) in [(tcp, warns), (ws, warns), (unix, false)] {
            let mut command = served.glock(["--server", &url, "run"]);
            command.args(grace.map(|grace| format!("--grace={grace}")));
            let finished = finish({
                command.args(["job", "true"]);
                command
            });
            let finished = finished.exited(0);
            let grace = grace.unwrap_or("5");
            match warns {
                true => assert!(
                    finished
                        .stderr
                        .starts_with(&format!("glock: warning: --grace {grace} is too long")),
                    "{url}: {finished:?}"
                ),
                false => assert_eq!(finished.stderr, "", "{url} --grace {grace}"),
            }
        }
    };
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let default = Limits::default();
    check(default, None, false);
    check(default, Some("8"), false);
    check(default, Some("12"), false);
    check(default, Some("12.5"), true);
    check(default, Some("15"), true);
    check(default.with_keepalive(seconds(60)), Some("15"), false);
    check(default.with_keepalive(seconds(1)), None, false);
    check(default.with_keepalive(seconds(1)), Some("8"), true);
    // A server that never disconnects silent clients.
    let patient = default.with_keepalive(None);
    check(patient.with_write_timeout(None), Some("1000"), false);
    check(patient.with_write_timeout(seconds(2)), None, true);
}

#[test]
fn wait_ends_in_time_even_if_the_server_is_silent() {
    let served = Served::new();
    // One server stops to reply during the wait, the other before its first reply.
    let stands_still: [fn(&str) -> &'static str; 2] = [
        |line| match line {
            "hello" => "1 hello: wait limit fence list own ping timeout=30000",
            _ => "",
        },
        |_| "",
    ];
    for (number, answer) in stands_still.into_iter().enumerate() {
        let path = served.path(&format!("fake{number}"));
        fake(&path, answer);
        let server = format!("unix:{}", path.display());
        for verb in ["run", "get"] {
            let mut command = served.glock(["--server", &server, verb, "-w", "1", "job"]);
            if verb == "run" {
                command.arg("true");
            } else {
                command.stdin(std::process::Stdio::piped());
            }
            let started = Instant::now();
            let finished = finish(command).exited(69);
            let elapsed = started.elapsed();
            assert!(
                elapsed >= Duration::from_secs(1) && elapsed < Duration::from_secs(5),
                "{elapsed:?}"
            );
            assert!(finished.stderr.contains("not answered"), "{finished:?}");
        }
    }
    let _holder = served.connect_and_ask("g job");
    let finished = served.run("run -v -w 0.1 job true").exited(1);
    assert!(finished.stderr.contains("not free in time"), "{finished:?}");
}
