//! The processes that a command starts: which signals they receive, and how they end.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use glockd_test_support::{finish, wait_until};
use rustix::process::{Pid, Signal, getpid, kill_process, set_child_subreaper};

use crate::served::{Running, Served};

/// Starts `glock run` of a script, and waits until the script prints "up".
fn up(served: &Served, flags: &str, script: &str) -> Running {
    let command = ["run"]
        .into_iter()
        .chain(flags.split(' '))
        .chain(["--", "sh", "-c", script]);
    let mut running = Running::start(served.glock(command), Some(&served.path("errors")));
    running.await_line("up");
    running
}

/// A loop that handles signals soon: a shell handles them only when its child has ended.
const REST: &str = "while :; do sleep 0.05; done";

#[test]
fn signals_are_forwarded() {
    let served = Served::new();
    for (name, signal) in [
        ("HUP", Signal::HUP),
        ("INT", Signal::INT),
        ("QUIT", Signal::QUIT),
        ("TERM", Signal::TERM),
        ("USR1", Signal::USR1),
        ("USR2", Signal::USR2),
    ] {
        let script = format!("trap 'echo {name}; exit 9' {name}; echo up; {REST}");
        let mut running = up(&served, "--grace 5 job", &script);
        running.signal(signal);
        running.await_line(name);
        running.exited(9);
        assert_eq!(served.ask("i job"), "0 Lock Not Locked: job");
    }
    // A signal that the command does not catch ends it, and therefore glock.
    let mut running = up(&served, "job", "echo up; exec sleep 60");
    running.signal(Signal::TERM);
    running.exited(143);
}

/// The tests may be started with ignored signals, such as in the background of a shell without job control.
#[test]
fn tests_pass_if_signals_were_ignored_at_their_start() {
    let served = Served::new();
    let script = "trap '' HUP INT QUIT TERM USR1 USR2 TSTP; exec \"$0\" --exact groups::signals_are_forwarded";
    let mut tests = served.shell(script);
    tests.arg(env::current_exe().unwrap());
    let printed = finish(tests).exited(0).stdout;
    assert!(printed.contains("1 passed"), "{printed}");
}

/// nohup(1) relies on this.
#[test]
fn signal_that_was_ignored_stays_ignored() {
    let served = Served::new();
    let script =
        "trap '' HUP; exec glock run job -- sh -c 'echo up; kill -HUP $$ $PPID; echo lives'";
    let mut running = Running::start(served.shell(script), None);
    running.await_line("up");
    running.await_line("lives");
    running.exited(0);
}

#[test]
fn command_leads_a_process_group_of_its_own() {
    let served = Served::new();
    // The fifth word is the group.
    let script = "read -r pid _ _ parent group _ < /proc/self/stat; echo $$ $group $PPID";
    let mut running = Running::start(served.glock(["run", "job", "--", "sh", "-c", script]), None);
    let line = running.line();
    let numbers: Vec<u32> = line
        .split(' ')
        .map(|number| number.parse().unwrap())
        .collect();
    let parent = running.pid();
    assert_eq!(numbers, [numbers[0], numbers[0], parent]);
    running.exited(0);
}

/// The command has the descriptors that it would have without glock, whatever these tests were started with.
#[test]
fn command_inherits_no_descriptor_of_glock() {
    let served = Served::new();
    let list = "cd /proc/self/fd && echo *";
    let run = ["run", "job", "--", "sh", "-c", list];
    let printed = finish(served.glock(run)).printed();
    assert!(printed.starts_with("0 1 "), "{printed}");
    assert_eq!(printed, finish(served.shell(list)).printed());
}

/// Returns the sets of signals of a process, as proc(5) shows them, by name. Bit n - 1 stands for signal n.
fn signal_sets(status: &str) -> BTreeMap<String, u64> {
    let lines = status.lines().filter_map(|line| line.split_once(":\t"));
    let set = |set| u64::from_str_radix(set, 16).unwrap();
    lines
        .filter(|(name, _)| name.starts_with("Sig") || name.starts_with("Shd"))
        .filter(|(name, _)| *name != "SigQ")
        .map(|(name, bits)| (name.to_owned(), set(bits)))
        .collect()
}

/// Returns a command that env(1) starts with signals blocked or ignored.
fn env_with(served: &Served, flags: &str, command: &str) -> Command {
    served.shell(&format!("exec env {flags} {command}"))
}

#[test]
fn command_inherits_the_signals_that_glock_was_started_with() {
    let served = Served::new();
    for flags in [
        "",
        "--block-signal",
        "--block-signal=CHLD",
        "--block-signal=TERM,TSTP,TTIN,ALRM,SEGV,RTMIN,RTMAX",
        "--ignore-signal=CHLD",
        "--ignore-signal=HUP,TSTP,ALRM,RTMIN+1",
        "--ignore-signal=CHLD,USR1 --block-signal=CHLD,USR2",
    ] {
        let sets = |command| {
            let printed = finish(env_with(&served, flags, command)).printed();
            let sets = signal_sets(&printed);
            (sets["SigBlk"], sets["SigIgn"])
        };
        let expect = sets("cat /proc/self/status");
        let found = sets("glock run job -- cat /proc/self/status");
        assert_eq!(found, expect, "{flags}");
    }
}

#[test]
fn exit_code_is_passed_on_if_sigchld_was_blocked_or_ignored() {
    let served = Served::new();
    for flags in [
        "--block-signal=CHLD",
        "--ignore-signal=CHLD",
        "--ignore-signal=CHLD --block-signal=CHLD",
        "--block-signal",
    ] {
        // A command that ends at once, and one that ends later.
        for command in ["sh -c 'exit 7'", "sh -c 'sleep 0.1; exit 7'"] {
            let command = format!("glock run job -- {command}");
            finish(env_with(&served, flags, &command)).exited(7);
            assert_eq!(served.ask("i job"), "0 Lock Not Locked: job");
        }
    }
}

#[test]
fn signals_end_glock_even_if_its_parent_has_blocked_them() {
    let served = Served::new();
    let _held = served.connect_and_ask("g held");
    let start = |command| {
        let mut command = env_with(&served, "--block-signal", command);
        command.stdin(Stdio::piped());
        Running::start(command, None)
    };
    let end = |mut running: Running| {
        running.signal(Signal::TERM);
        let status = running.status();
        (status.code(), status.signal())
    };
    for (command, lock, owners) in [
        ("glock run held -- true", "held", 2),
        ("glock get held", "held", 2),
        ("glock get job", "job", 1),
    ] {
        let running = start(command);
        let expect = format!("{owners} Lock Owners: {lock}");
        served.await_answer(&format!("own {lock}"), &expect);
        assert_eq!(end(running), (Some(143), None), "{command}");
    }
    let mut watch = start("glock watch --json -i 0.01");
    watch.line();
    assert_eq!(end(watch), (Some(0), None));
    let gets = || {
        let counters = served.run("stats --json").printed();
        let counters: serde_json::Value = serde_json::from_str(&counters).unwrap();
        counters["command_g"].as_u64().unwrap()
    };
    let before = gets();
    let bench = start("glock bench -t 600");
    wait_until("it makes no load", || gets() > before);
    assert_eq!(end(bench), (None, Some(Signal::TERM.as_raw())));
}

/// The command decides: glock does not end a command that does not react.
#[test]
fn signal_that_the_command_blocks_is_only_forwarded() {
    let served = Served::new();
    let mut command = env_with(
        &served,
        "--block-signal=TERM",
        "glock run job -- sh -c 'echo $$; read x; echo on; exit 4'",
    );
    command.stdin(Stdio::piped());
    let mut running = Running::start(command, None);
    let status = Path::new("/proc").join(running.line()).join("status");
    running.signal(Signal::TERM);
    let is_pending = || {
        let sets = signal_sets(&fs::read_to_string(&status).unwrap());
        sets["ShdPnd"] & (1 << (Signal::TERM.as_raw() - 1)) != 0
    };
    wait_until("it is not forwarded", is_pending);
    assert_eq!(served.ask("i job"), "1 Lock Is Locked: job");
    running.input(b"\n");
    running.await_line("on");
    running.exited(4);
}

/// Signals that end a process, and that glock does not forward. Left out are SIGKILL, SIGPIPE, which is ignored, and the
/// two real-time signals that the C library uses itself.
const FATAL: [i32; 22] = [
    4, 5, 6, 7, 8, 11, 14, 16, 24, 25, 26, 27, 29, 30, 31, 34, 35, 40, 50, 60, 63, 64,
];

fn kill(signal: i32, process: &Running) {
    let kill = Command::new("kill")
        .args([format!("-{signal}"), process.pid().to_string()])
        .status();
    assert!(kill.unwrap().success());
}

#[test]
fn fatal_signal_ends_the_group_before_glock() {
    let served = Served::new();
    for signal in FATAL {
        let script = "sleep 600 & echo $!; trap 'echo told; read x; exit' TERM; echo up; while :; do sleep 0.05; done";
        let mut command = served.glock(["run", "--grace", "600", "job", "--", "sh", "-c", script]);
        command.stdin(Stdio::piped());
        let mut running = Running::start(command, Some(&served.path("errors")));
        let child = running.line();
        running.await_line("up");
        kill(signal, &running);
        running.await_line("told");
        assert_eq!(served.ask("i job"), "1 Lock Is Locked: job", "{signal}");
        running.end_input();
        assert_eq!(running.status().signal(), Some(signal));
        assert!(is_gone(&child), "{signal}");
        served.await_answer("i job", "0 Lock Not Locked: job");
    }
}

#[test]
fn fatal_signal_kills_a_group_that_ignores_sigterm() {
    let served = Served::new();
    let script = format!("trap '' TERM; sleep 600 & echo $!; echo up; {REST}");
    let mut command = served.glock(["run", "--grace", "0.1", "job", "--", "sh", "-c", &script]);
    command.stdin(Stdio::null());
    let mut running = Running::start(command, Some(&served.path("errors")));
    let child = running.line();
    running.await_line("up");
    running.signal(Signal::ALARM);
    assert_eq!(running.status().signal(), Some(Signal::ALARM.as_raw()));
    assert!(is_gone(&child));
}

#[test]
fn fatal_signal_ends_a_wait_at_once() {
    let served = Served::new();
    let _held = served.connect_and_ask("g job");
    for signal in FATAL {
        let mut waiter = Running::start(served.glock(["run", "job", "true"]), None);
        served.await_answer("own job", "2 Lock Owners: job");
        kill(signal, &waiter);
        assert_eq!(waiter.status().signal(), Some(signal));
        served.await_answer("own job", "1 Lock Owners: job");
    }
}

/// Such a signal would not end a process without glock either.
#[test]
fn fatal_signal_that_is_ignored_or_blocked_ends_nothing() {
    let served = Served::new();
    let command =
        "glock run job -- sh -c 'trap \"echo heard\" USR1; echo up; while :; do sleep 0.05; done'";
    let flags = "--ignore-signal=ALRM,RTMIN --block-signal=PROF,RTMIN+1";
    let mut running = Running::start(
        env_with(&served, flags, command),
        Some(&served.path("errors")),
    );
    running.await_line("up");
    for signal in [14, 34, 27, 35] {
        kill(signal, &running);
        running.signal(Signal::USR1);
        running.await_line("heard");
    }
    // A signal that is neither ignored nor blocked ends it.
    kill(36, &running);
    assert_eq!(running.status().signal(), Some(36));
}

fn is_gone(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    // Its new parent may reap it later.
    stat.map_or(true, |stat| stat.contains(") Z "))
}

/// Processes that ignore SIGTERM are killed.
#[test]
fn processes_left_in_the_group_end_before_the_lock_is_released() {
    let served = Served::new();
    for (grace, left) in [
        ("30", "sleep 600"),
        (
            "0.1",
            "sh -c 'trap \"\" TERM; echo > deaf; while :; do sleep 1; done'",
        ),
        (
            "0",
            "sh -c 'trap \"\" TERM; echo > deaf; while :; do sleep 1; done'",
        ),
    ] {
        let wait = if left.contains("deaf") {
            "until [ -e deaf ]; do sleep 0.01; done"
        } else {
            "true"
        };
        // The grandchild is an orphan when the command ends.
        let script =
            format!("echo up; rm -f deaf; ({left} & echo $! > pid); {wait}; cat pid; exit 4");
        let mut running = up(&served, &format!("--grace {grace} job"), &script);
        let pid = running.line();
        running.exited(4);
        wait_until("it lives on", || is_gone(&pid));
        assert_eq!(served.ask("i job"), "0 Lock Not Locked: job");
    }
}

#[test]
fn lost_lock_ends_the_group() {
    for (grace, script) in [
        // A command that handles SIGTERM may clean up; one that ignores it is killed.
        (
            "30",
            format!("trap 'echo told; exit 0' TERM; echo up; {REST}"),
        ),
        ("0.1", format!("trap '' TERM; echo up; echo told; {REST}")),
    ] {
        let mut served = Served::new();
        let mut running = up(&served, &format!("--grace {grace} job"), &script);
        served.stop();
        running.await_line("told");
        running.exited(3);
        assert_eq!(running.rest(), "");
        let errors = fs::read_to_string(served.path("errors")).unwrap();
        let expect = "glock: the lock job is lost, so the command was ended: ";
        // The shell may print lines of its own.
        let said = errors.lines().any(|line| line.starts_with(expect));
        assert!(said, "{errors}");
    }
}

#[test]
fn command_is_killed_if_glock_is_killed() {
    let served = Served::new();
    let mut running = up(&served, "job", "echo up; exec sleep 600");
    running.signal(Signal::KILL);
    // The command has the other end of the pipe, too.
    assert_eq!(running.rest(), "");
    served.await_answer("i job", "0 Lock Not Locked: job");
}

/// The command is stopped by another process, and continued later.
#[test]
fn stopped_command_keeps_the_lock() {
    let served = Served::new();
    let script = "echo $$; kill -STOP $$; echo on; exit 5";
    let command = ["run", "--grace", "30", "job", "--", "sh", "-c", script];
    let mut running = Running::start(served.glock(command), None);
    let pid = running.line();
    let stat = Path::new("/proc").join(&pid).join("stat");
    let is_stopped = || fs::read_to_string(&stat).unwrap().contains(") T ");
    wait_until("the command is not stopped", is_stopped);
    assert_eq!(served.ask("i job"), "1 Lock Is Locked: job");
    let command = Pid::from_raw(pid.parse().unwrap()).unwrap();
    kill_process(command, Signal::CONT).unwrap();
    running.await_line("on");
    running.exited(5);
}

/// The lock can still be lost after the command has ended, while processes that it has left are being ended.
#[test]
fn lock_lost_while_the_group_is_being_ended_is_reported() {
    let mut served = Served::new();
    let script = "sh -c 'trap \"echo told\" TERM; trap \"echo heard; exit\" USR1; echo up; touch deaf; while :; do sleep 0.05; done' &
        until [ -e deaf ]; do sleep 0.01; done";
    let mut running = up(&served, "--grace 600 job", script);
    // glock sends that signal once the command has ended.
    running.await_line("told");
    served.stop();
    // The process that is left runs on until it receives this. glock, which forwards it, has noticed the loss before.
    running.signal(Signal::USR1);
    running.await_line("heard");
    running.exited(3);
    let errors = fs::read_to_string(served.path("errors")).unwrap();
    // On a busy machine, glock may notice the loss only when it releases the lock.
    let is_told = |line: &str| {
        line.starts_with("glock: the lock job is lost, so the command was ended: ")
            || line.starts_with("glock: the lock job was lost before it was released: ")
    };
    assert!(errors.lines().any(is_told), "{errors}");
}

/// glock does not end a process that leaves the group. When the process ends, glock reaps it as its new parent.
#[test]
fn orphan_that_left_the_group_is_reaped() {
    let served = Served::new();
    let script = "setsid -f sh -c 'echo $$ > left'; until [ -s left ]; do sleep 0.01; done; cat left; echo up; read x";
    let mut command = served.glock(["run", "job", "--", "sh", "-c", script]);
    command.stdin(std::process::Stdio::piped());
    let mut running = Running::start(command, None);
    let left = running.line();
    running.await_line("up");
    let stat = Path::new("/proc").join(left);
    wait_until("it is not reaped", || !stat.exists());
    running.end_input();
    running.exited(1);
}

/// Each end of a child wakes glock, but must not delay the polls of the group.
#[test]
fn group_is_ended_even_if_orphans_keep_ending() {
    let served = Served::new();
    let script = "while :; do (true &); done & exit 7";
    finish(served.glock(["run", "job", "--", "sh", "-c", script])).exited(7);
    assert_eq!(served.ask("i job"), "0 Lock Not Locked: job");
}

/// Each kind of daemon always survives, since it has time to leave the group.
#[test]
fn daemon_that_leaves_the_group_lives_on() {
    let served = Served::new();
    let daemon = "echo $$ >> daemons; exec sleep 600";
    let perl = "exit if fork; POSIX::setsid(); exit if fork; exec @ARGV";
    for (kind, start) in [
        ("setsid -f", format!("setsid -f sh -c '{daemon}'")),
        (
            "double fork",
            format!("perl -MPOSIX -e '{perl}' sh -c '{daemon}'"),
        ),
        ("timeout", format!("timeout 600 sh -c '{daemon}' &")),
    ] {
        let mut survivors = 0;
        for _ in 0..40 {
            let script = format!("exec < /dev/null > /dev/null 2>&1; {start}");
            let run = ["run", "--grace", "600", "job", "--", "sh", "-c", &script];
            finish(served.glock(run)).exited(0);
            let daemons = served.path("daemons");
            let mut pid = String::new();
            wait_until(kind, || {
                pid = fs::read_to_string(&daemons).unwrap_or_default();
                pid.ends_with('\n')
            });
            if !is_gone(pid.trim_end()) {
                survivors += 1;
                let kill = Command::new("kill").arg(pid.trim_end()).status();
                assert!(kill.unwrap().success());
            }
            let _ = fs::remove_file(daemons);
        }
        assert_eq!(survivors, 40, "{kind}");
    }
}

/// Such a process never survives.
#[test]
fn process_that_stays_in_the_group_is_ended() {
    let served = Served::new();
    let fork = "exit if fork; exit if fork; print qq($$\\n); exec @ARGV";
    for start in [
        "nohup sleep 600 > /dev/null 2>&1 & echo $!".to_owned(),
        "(sleep 600 > /dev/null 2>&1 & echo $!)".to_owned(),
        format!("perl -e '$| = 1; {fork}' sleep 600 2> /dev/null | head -n 1"),
    ] {
        for _ in 0..8 {
            let run = ["run", "--grace", "600", "job", "--", "sh", "-c", &start];
            let pid = finish(served.glock(run)).exited(0).stdout;
            assert!(is_gone(pid.trim_end()), "{start}: {pid}");
        }
    }
}

/// In a container, process 1 may be a program that does not reap the orphans that it is given. If glock did not, they
/// would stay in the group as zombies, and keep the lock.
#[test]
fn orphans_of_the_command_are_reaped_by_glock() {
    const INNER: &str = "GLOCK_TEST_IS_A_SUBREAPER";
    if env::var_os(INNER).is_none() {
        // In a process of its own: a subreaper would also become the parent of the orphans of all other tests.
        let mut test = Command::new(env::current_exe().unwrap());
        test.args([
            "--exact",
            "groups::orphans_of_the_command_are_reaped_by_glock",
        ])
        .env(INNER, "");
        let printed = finish(test).exited(0).stdout;
        assert!(printed.contains("1 passed"), "{printed}");
        return;
    }
    set_child_subreaper(Some(getpid())).unwrap();
    let served = Served::new();
    let script = "sleep 600 > /dev/null 2>&1 & exit 4";
    let run = ["run", "--grace", "600", "job", "--", "sh", "-c", script];
    finish(served.glock(run)).exited(4);
    assert_eq!(served.ask("i job"), "0 Lock Not Locked: job");
}
