//! `glock run` and `glock get`: how the lock is acquired, held and released, and how they exit.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use glockd::{LockLimits, Policy, Server};
use glockd_test_support::finish;
use rustix::process::Signal;

use crate::served::{Running, Served, fake};

#[test]
fn exit_status_of_the_command_is_passed_on() {
    let served = Served::new();
    for (command, code) in [
        ("true", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -KILL $$", 137),
        ("kill -64 $$", 192),
        ("kill -TERM $$", 143),
    ] {
        finish(served.glock(["run", "job", "--", "sh", "-c", command])).exited(code);
    }
    let finished = served.run("run job no-such-command").exited(127);
    assert!(
        finished
            .stderr
            .contains("cannot run no-such-command: No such file"),
        "{finished:?}"
    );
    let finished = served.run("run job /").exited(126);
    assert!(
        finished.stderr.contains("cannot run /: Permission denied"),
        "{finished:?}"
    );
    assert_eq!(served.ask("i job"), "0 Lock Not Locked: job");
}

#[test]
fn lock_is_held_while_the_command_runs() {
    let served = Served::new();
    let script = "glock own --json job; echo $GLOCK_FENCE";
    let command = [
        "run",
        "--name",
        "cron  on db1",
        "job",
        "--",
        "sh",
        "-c",
        script,
    ];
    let printed = finish(served.glock(command)).printed();
    let (owners, fence) = printed.trim_end().split_once('\n').unwrap();
    let owners: serde_json::Value = serde_json::from_str(owners).unwrap();
    assert_eq!(owners[0]["kind"], "exclusive");
    assert_eq!(owners[0]["name"], "cron on db1");
    assert_eq!(owners[0]["fence"], fence);
    assert!(fence.parse::<u64>().unwrap() > 0);
    assert_eq!(served.ask("i job"), "0 Lock Not Locked: job");
}

#[test]
fn fence_of_another_lock_is_not_inherited() {
    let served = Served::with(Policy {
        extensions: false,
        ..Policy::default()
    });
    let mut command = served.glock(["run", "job", "--", "sh", "-c", "echo ${GLOCK_FENCE-none}"]);
    command.env("GLOCK_FENCE", "17");
    let finished = finish(command).exited(0);
    assert_eq!(finished.stdout, "none\n");
    assert_eq!(finished.stderr, NO_FENCE);
}

const NO_FENCE: &str = "glock: the server gives no fencing token, so $GLOCK_FENCE is not set\n";

/// Replies like a server whose disk fails: it grants locks, but gives no tokens.
fn answer_without_token(line: &str) -> &'static str {
    match line {
        "f job" => "0 Lock Fence Failure: job",
        "r job" => "1 Lock Release Success: job",
        "hello" => "1 hello: wait limit fence list own ping",
        _ => "1 Lock Get Success: job",
    }
}

#[test]
fn missing_fencing_token_is_reported_or_refused() {
    let served = Served::new();
    let expect = "glock: the server gives no fencing token (--require-fence)\n";
    served.run("run --require-fence job true").exited(0);
    fake(&served.path("faulty"), answer_without_token);
    let plain = Served::with(Policy {
        extensions: false,
        ..Policy::default()
    });
    let faulty = format!("unix:{}", served.path("faulty").display());
    for server in [plain.url(), faulty] {
        for flags in ["", "-s", "--require-fence", "--require-fence -s"] {
            if server.ends_with("faulty") && flags.ends_with("-s") {
                continue;
            }
            let flags = flags.split(' ').filter(|flag| !flag.is_empty());
            let is_required = flags.clone().any(|flag| flag == "--require-fence");
            let command = ["run", "--server", &server];
            let command = command
                .into_iter()
                .chain(flags)
                .chain(["job", "echo", "ran"]);
            let finished = finish(served.glock(command));
            if is_required {
                let finished = finished.exited(69);
                assert_eq!((&*finished.stdout, &*finished.stderr), ("", expect));
            } else {
                let finished = finished.exited(0);
                assert_eq!((&*finished.stdout, &*finished.stderr), ("ran\n", NO_FENCE));
            }
        }
        let mut get = served.glock(["get", "--server", &server, "--require-fence", "job"]);
        get.stdin(Stdio::piped());
        let finished = finish(get).exited(69);
        assert_eq!((&*finished.stdout, &*finished.stderr), ("", expect));
    }
    assert_eq!(plain.ask("i job"), "0 Lock Not Locked: job");
}

#[test]
fn command_does_not_run_without_the_lock() {
    let served = Served::new();
    let _held = served.connect_and_ask("g job");
    let _shared = served.connect_and_ask("sg gpu");
    for (flags, code) in [
        ("-n job", 1),
        ("--nonblock -E 75 job", 75),
        ("-nE0 job", 0),
        ("-w 0.02 job", 1),
        ("-w0 job", 1),
        ("--limit 1 -n gpu", 1),
        ("-s --limit 1 -w 0.02 gpu", 1),
    ] {
        let finished = served.run(&format!("run {flags} echo ran")).exited(code);
        assert_eq!((&*finished.stdout, &*finished.stderr), ("", ""), "{flags}");
    }
    let finished = served.run("run -nv job echo ran").exited(1);
    assert_eq!(finished.stderr, "glock: the lock job is held\n");
    let finished = served.run("run -v -w 0.02 job echo ran").exited(1);
    assert_eq!(
        finished.stderr,
        "glock: the lock job was not free in time\n"
    );
    assert_eq!(
        served.run("run -n --shared gpu echo ran").printed(),
        "ran\n"
    );
    assert_eq!(
        served.run("run -n --limit 2 gpu echo ran").printed(),
        "ran\n"
    );
}

#[test]
fn waiter_runs_its_command_when_the_lock_is_released() {
    let served = Served::new();
    let held = served.connect_and_ask("g job");
    let mut next = Running::start(served.glock(["run", "job", "echo", "ran"]), None);
    served.await_answer("own job", "2 Lock Owners: job");
    drop(held);
    next.await_line("ran");
    next.exited(0);
}

/// A refusal to let glock wait is reported even without `-v`: the command might never run otherwise, unnoticed.
#[test]
fn refused_wait_is_reported() {
    let served = Served::with(Policy {
        limits: LockLimits {
            max_waiters: Some(1),
            ..LockLimits::default()
        },
        ..Policy::default()
    });
    let _held = served.connect_and_ask("g job");
    let _waiter = Running::start(served.glock(["run", "job", "true"]), None);
    served.await_answer("own job", "2 Lock Owners: job");
    for (flags, code) in [("", 1), ("-w 9 -E 75 ", 75)] {
        let finished = served.run(&format!("run {flags}job true")).exited(code);
        assert_eq!(
            finished.stderr,
            "glock: the lock job cannot be waited for: it has too many waiters, or a limit of the server is reached\n"
        );
    }
    assert_eq!(served.run("run -n job true").exited(1).stderr, "");
}

#[test]
fn signal_ends_the_wait() {
    let served = Served::new();
    let _held = served.connect_and_ask("g job");
    // The signal of a key ends glock as it would end any other process.
    for (verb, signal, end) in [
        ("run", Signal::TERM, (Some(143), None)),
        ("run", Signal::INT, (None, Some(2))),
        ("get", Signal::QUIT, (None, Some(3))),
        ("get", Signal::HUP, (Some(129), None)),
    ] {
        let mut command = served.glock(
            [verb, "job"]
                .into_iter()
                .chain((verb == "run").then_some("true")),
        );
        command.stdin(Stdio::piped());
        let mut waiter = Running::start(command, None);
        served.await_answer("own job", "2 Lock Owners: job");
        waiter.signal(signal);
        let status = waiter.status();
        assert_eq!((status.code(), status.signal()), end, "{verb}");
        served.await_answer("own job", "1 Lock Owners: job");
    }
}

#[test]
fn arguments_may_be_any_bytes() {
    let served = Served::new();
    let odd = OsStr::from_bytes(b"a\xff");
    let script = "printf %s \"$1\" | od -An -tx1; glock inspect \"$1\"";
    let command = [
        OsStr::new("run"),
        odd,
        OsStr::new("sh"),
        OsStr::new("-c"),
        OsStr::new(script),
        OsStr::new("sh"),
        odd,
    ];
    assert_eq!(finish(served.glock(command)).printed(), " 61 ff\nheld\n");
}

/// A message that cannot be written is dropped, and nothing else changes.
#[test]
fn unwritable_stderr_changes_nothing() {
    let served = Served::new();
    for (command, code) in [
        ("glock run -v job -- true 2> /dev/full", 0),
        ("glock run -v job -- true 2>&-", 0),
        ("glock run job -- no-such-command 2> /dev/full", 127),
        ("glock --server unix:nowhere ls 2> /dev/full", 69),
        ("glock stats > /dev/full 2> /dev/full", 71),
    ] {
        finish(served.shell(command)).exited(code);
    }
}

#[test]
fn get_holds_until_its_input_ends() {
    let served = Served::new();
    for (arguments, expect) in [
        ("get job", "held: job, fence "),
        ("get --json -s job", "{\"fence\":\""),
    ] {
        let mut command = served.glock(arguments.split(' '));
        command.stdin(Stdio::piped());
        let mut holder = Running::start(command, None);
        let line = holder.line();
        assert!(line.starts_with(expect), "{line}");
        assert_eq!(served.ask("own job"), "1 Lock Owners: job");
        holder.input(b"the input is disregarded\n");
        holder.end_input();
        holder.exited(0);
        assert_eq!(served.ask("own job"), "0 Lock Owners: job");
    }
}

/// Otherwise it would release the lock at once, and exit with 0.
#[test]
fn get_refuses_an_input_that_has_ended_already() {
    let served = Served::new();
    let hint = "glock get holds the lock until its input ends: give it a fifo or a terminal, or use `glock run`\n";
    for (script, what) in [
        ("glock get job < /dev/null", "is /dev/null"),
        ("glock get job <&-", "is /dev/null"),
        ("glock get --json -n job < /dev/null", "is /dev/null"),
        ("glock get job & wait $!", "is /dev/null"),
        ("glock get job 0> file", "cannot be read"),
        ("glock get job < .", "cannot be read"),
        // As nohup(1) opens it.
        ("glock get job 0> /dev/null", "is /dev/null"),
    ] {
        let finished = finish(served.shell(script)).exited(2);
        assert_eq!(finished.stdout, "", "{script}");
        assert_eq!(
            finished.stderr,
            format!("glock: standard input {what}; {hint}")
        );
    }
    let counters = served.run("stats --json").printed();
    let counters: serde_json::Value = serde_json::from_str(&counters).unwrap();
    assert_eq!(counters["command_g"], 0);
    // An empty file has ended too, but somebody created it on purpose.
    finish(served.shell("glock get job <> file")).exited(0);
}

/// The script is that of its help.
#[test]
fn get_holds_for_a_script() {
    let served = Served::new();
    let script = "mkfifo lock; glock get job < lock & exec 3> lock
        until glock inspect -q job; do sleep 0.01; done
        echo held; exec 3>&-; wait $!; echo code $?";
    let printed = finish(served.shell(script)).printed();
    // The script and glock print in either order.
    assert!(printed.contains("held\n"), "{printed}");
    assert!(printed.contains("held: job, fence "), "{printed}");
    assert!(printed.ends_with("code 0\n"), "{printed}");
    assert_eq!(served.ask("i job"), "0 Lock Not Locked: job");
}

#[test]
fn get_reports_that_the_lock_is_lost() {
    let mut served = Served::new();
    let mut command = served.glock(["get", "job"]);
    command.stdin(Stdio::piped());
    let errors = served.path("errors");
    let mut holder = Running::start(command, Some(&errors));
    holder.line();
    served.stop();
    holder.exited(3);
    let errors = std::fs::read_to_string(errors).unwrap();
    assert!(
        errors.starts_with("glock: the lock job is lost: "),
        "{errors}"
    );
}

#[test]
fn wrong_usage_is_reported() {
    let served = Served::new();
    for (arguments, part) in [
        ("run", "Usage: glock run"),
        ("run job", "<COMMAND>..."),
        ("run -n -w 1 job true", "cannot be used with"),
        ("run -w soon job true", "not a number of seconds"),
        ("--server nowhere ls", "tcp://HOST[:PORT]"),
        ("frobnicate", "unrecognized subcommand"),
    ] {
        let finished = served.run(arguments).exited(2);
        assert!(finished.stderr.contains(part), "{finished:?}");
    }
    let name = ["inspect", "a\nr b"];
    let finished = finish(served.glock(name)).exited(2);
    assert_eq!(
        finished.stderr,
        "glock: a name must not contain a line end: a\\nr b\n"
    );
    let mut nowhere = served.glock(["ls"]);
    nowhere.env("GLOCKD_SERVER", "unix:nowhere");
    let finished = finish(nowhere).exited(69);
    let expect = "glock: cannot reach the server at unix:nowhere: No such file or directory (os error 2) \
                  (--server or $GLOCKD_SERVER sets the address)\n";
    assert_eq!(finished.stderr, expect);
}

#[test]
fn refused_connection_is_reported() {
    let served = Served::build(Server::builder().max_connections(Some(1)));
    let _only = served.connect_and_ask("g job");
    for arguments in ["ls", "run job true", "bench"] {
        let finished = served.run(arguments).exited(69);
        let expect = "glock: the server closed the connection at once, as it does at its maximum number of connections \
                      (-max-connections, -max-connections-per-ip): ";
        assert!(finished.stderr.starts_with(expect), "{finished:?}");
    }
}

#[test]
fn help_has_examples() {
    let served = Served::new();
    for verb in [
        "run", "get", "inspect", "ls", "own", "who", "stats", "ping", "watch", "bench",
    ] {
        let help = served.run(&format!("{verb} --help")).printed();
        assert!(
            help.contains(&format!("\n  glock {verb} "))
                || help.contains(&format!("\n  glock {verb}\n")),
            "{help}"
        );
        assert!(help.contains("$GLOCKD_SERVER"), "{help}");
    }
    let help = served.run("--help").printed();
    assert!(
        help.contains("Exit codes:") && help.contains("glock run -n backup"),
        "{help}"
    );
}
