//! glock on a terminal. `script` (of util-linux) creates the terminal, and `bash` is the shell with job control. Not every
//! machine has both, so these tests are ignored by default. They fail if one of the two is missing:
//!
//! ```text
//! cargo test --test glock terminals -- --ignored
//! ```

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use glockd_test_support::wait_until;

use crate::served::{Running, Served};

/// Starts a shell on a terminal.
fn shell(served: &Served) -> Running {
    let mut command = Command::new("script");
    command.args(["-qfec", "bash --norc --noediting -i", "/dev/null"]);
    served.prepare(&mut command);
    command
        .stdin(Stdio::piped())
        .env("PS1", "")
        .env("SHELL", "/bin/sh")
        // The shell history of the user who runs the tests does not change.
        .env("HISTFILE", "/dev/null")
        .env("HOME", served.path(""));
    // These would make the shell print something, or exit.
    for variable in ["PS0", "PROMPT_COMMAND", "TMOUT"] {
        command.env_remove(variable);
    }
    let mut shell = Running::start(command, None);
    // Without echo: typed text in the output could be mistaken for the output of a command.
    shell.input(b"stty -echo; echo shell'' ready\n");
    shell.read_to("shell ready");
    shell
}

/// Waits until the glock of this test is stopped, or continued. A shell reports neither for a process that is not its
/// child.
#[track_caller]
fn await_stop(served: &Served, is_stopped: bool) {
    let dir = served.path("").canonicalize().unwrap();
    // A process that has ended since has no files there.
    let state = |process: PathBuf| {
        let is_glock = process.join("exe").read_link().ok()?.ends_with("glock");
        let is_ours = process.join("cwd").read_link().ok()? == dir;
        let stat = fs::read_to_string(process.join("stat")).ok()?;
        (is_glock && is_ours).then(|| stat.contains(") T "))
    };
    let states = || {
        let processes = fs::read_dir("/proc").unwrap();
        processes.filter_map(|process| state(process.unwrap().path()))
    };
    wait_until("glock is not in the expected state", || {
        states().eq([is_stopped])
    });
}

#[test]
#[ignore = "needs bash and script(1): run by .ci/run"]
fn command_has_the_terminal() {
    let served = Served::new();
    let mut shell = shell(&served);
    shell
        .input(b"glock run job -- sh -c 'echo name?; read name; echo hello $name'; echo code $?\n");
    shell.read_to("name?");
    shell.input(b"terminal\n");
    shell.read_to("hello terminal");
    shell.read_to("code 0");
    // The shell has the terminal back.
    shell.input(b"read word; echo got $word\nit\n");
    shell.read_to("got it");
}

#[test]
#[ignore = "needs bash and script(1): run by .ci/run"]
fn keys_go_to_the_command() {
    let served = Served::new();
    let mut shell = shell(&served);
    shell.input(b"glock run job -- sh -c 'trap \"echo interrupted; exit 6\" INT; echo up; while :; do sleep 0.05; done'; echo code $?\n");
    shell.read_to("up");
    shell.input(b"\x03");
    shell.read_to("interrupted");
    shell.read_to("code 6");
    // A loop ends with the command that a key ends.
    shell.input(b"for i in 1 2; do glock run job -- sh -c 'echo up $0; exec sleep 60' $i; done\n");
    shell.read_to("up 1");
    shell.input(b"\x03");
    served.await_answer("i job", "0 Lock Not Locked: job");
    shell.input(b"echo code $?\n");
    let shown = shell.read_to("code 130");
    assert!(!shown.contains("up 2"), "{shown:?}");
    // So does a script.
    shell.input(b"sh -c 'glock run job -- sh -c \"echo up; exec sleep 60\"; echo went on'\n");
    shell.read_to("up");
    shell.input(b"\x03");
    served.await_answer("i job", "0 Lock Not Locked: job");
    shell.input(b"echo code $?\n");
    let shown = shell.read_to("code 130");
    assert!(!shown.contains("went on"), "{shown:?}");
}

/// In each state of glock, and wherever its output goes.
#[test]
#[ignore = "needs bash and script(1): run by .ci/run"]
fn key_ends_the_script_around_glock() {
    let served = Served::new();
    let mut shell = shell(&served);
    let _held = served.connect_and_ask("g held");
    // Printed when the shell has the terminal again. Until then, glock may read what is typed.
    shell.input(b"PROMPT_COMMAND='echo code $?.'\n");
    shell.read_to("code 0.");
    for (script, lock, owners) in [
        ("glock run held -- true", "held", 2),
        ("glock get held", "held", 2),
        ("glock run job -- sleep 60 > log", "job", 1),
        ("glock run job -- sleep 60 < /dev/null", "job", 1),
        ("glock get job", "job", 1),
    ] {
        let owned = |owners| format!("{owners} Lock Owners: {lock}");
        for sh in ["sh", "bash"] {
            shell.input(format!("{sh} -c '{script}; echo went on'\n").as_bytes());
            served.await_answer(&format!("own {lock}"), &owned(owners));
            shell.input(b"\x03");
            let shown = shell.read_to("code 130.");
            assert!(!shown.contains("went on"), "{sh} {script}: {shown:?}");
            served.await_answer(&format!("own {lock}"), &owned(owners - 1));
        }
    }
}

/// In the background, `glock get` is not stopped because of its input, and ends when a signal asks it to.
#[test]
#[ignore = "needs bash and script(1): run by .ci/run"]
fn get_does_not_read_the_terminal_in_the_background() {
    let served = Served::new();
    let mut shell = shell(&served);
    shell.input(b"glock get job &\n");
    shell.read_to("held: job");
    shell.input(b"jobs; echo listed\n");
    let shown = shell.read_to("listed");
    assert!(shown.contains("Running"), "{shown:?}");
    shell.input(b"kill %1; wait %1; echo code $?\n");
    shell.read_to("code 143");
    served.await_answer("i job", "0 Lock Not Locked: job");
    // In the foreground, the end of its input ends it.
    shell.input(b"glock get job &\n");
    shell.read_to("held: job");
    shell.input(b"fg\n");
    shell.read_to("glock get job");
    shell.input(b"\x04");
    served.await_answer("i job", "0 Lock Not Locked: job");
    shell.input(b"echo code $?\n");
    shell.read_to("code 0");
}

#[test]
#[ignore = "needs bash and script(1): run by .ci/run"]
fn script_stops_together_with_glock() {
    let served = Served::new();
    let mut shell = shell(&served);
    let script = b"sh -c 'glock run job -- sh -c \"echo up; read name; echo hello \\$name\"; echo went on'\n";
    shell.input(script);
    shell.read_to("up");
    shell.input(b"\x1a");
    shell.read_to("Stopped");
    // The shell knows only the script, and the test types faster than glock stops.
    await_stop(&served, true);
    shell.input(b"fg\nagain\n");
    shell.read_to("hello again");
    shell.read_to("went on");
}

/// The output of the command is not the terminal, so it is not put in the foreground. Ctrl-Z stops it all the same.
#[test]
#[ignore = "needs bash and script(1): run by .ci/run"]
fn command_in_a_pipeline_stops_with_glock() {
    let served = Served::new();
    let mut shell = shell(&served);
    shell.input(b"glock run job -- sh -c 'echo up; until [ -e go ]; do sleep 0.05; done; echo on' | sh -c 'read x; echo reader $x; exec cat'\n");
    served.await_answer("i job", "1 Lock Is Locked: job");
    // Only a process that has started can be stopped.
    shell.read_to("reader up");
    shell.input(b"\x1a");
    shell.read_to("Stopped");
    shell.input(b"touch go; fg\n");
    shell.read_to("on");
    served.await_answer("i job", "0 Lock Not Locked: job");
}

#[test]
#[ignore = "needs bash and script(1): run by .ci/run"]
fn command_and_glock_stop_and_continue_as_one_job() {
    let served = Served::new();
    let mut shell = shell(&served);
    shell.input(b"glock run job -- sh -c 'echo up; read name; echo hello $name'; echo code $?\n");
    shell.read_to("up");
    shell.input(b"\x1a");
    shell.read_to("Stopped");
    // The lock stays held.
    assert_eq!(served.ask("i job"), "1 Lock Is Locked: job");
    shell.input(b"echo meanwhile; fg; echo code $?\n");
    shell.read_to("meanwhile");
    shell.input(b"again\n");
    shell.read_to("hello again");
    shell.read_to("code 0");
}

/// In a pipeline, the command gets the terminal only when it uses it: another process may need it.
#[test]
#[ignore = "needs bash and script(1): run by .ci/run"]
fn command_that_reads_the_terminal_gets_it() {
    let served = Served::new();
    let mut shell = shell(&served);
    shell.input(b"glock run job -- sh -c 'read name < /dev/tty; echo hello $name' < /dev/null | cat; echo done\n");
    served.await_answer("i job", "1 Lock Is Locked: job");
    shell.input(b"pipeline\n");
    shell.read_to("hello pipeline");
    shell.read_to("done");
}

/// It would do so without glock as well.
#[test]
#[ignore = "needs bash and script(1): run by .ci/run"]
fn background_job_stops_when_it_reads_the_terminal() {
    let served = Served::new();
    let mut shell = shell(&served);
    shell.input(b"glock run job -- sh -c 'read name; echo hello $name' &\n");
    shell.input(b"until jobs | grep -q Stopped; do sleep 0.05; done; echo it is\n");
    shell.read_to("it is");
    shell.input(b"fg\nforeground\n");
    shell.read_to("hello foreground");
    served.await_answer("i job", "0 Lock Not Locked: job");
}

/// A command that is stopped then does not keep the lock.
#[test]
#[ignore = "needs bash and script(1): run by .ci/run"]
fn closed_terminal_ends_the_command() {
    let served = Served::new();
    for (place, is_stopped) in [("", false), ("&", true)] {
        let mut shell = shell(&served);
        let command = format!("glock run job -- sh -c 'echo up; exec cat' {place}\n");
        shell.input(command.as_bytes());
        // The command has the terminal; or it is stopped because it uses the terminal in the background.
        shell.read_to("up");
        await_stop(&served, is_stopped);
        shell.signal(rustix::process::Signal::KILL);
        served.await_answer("i job", "0 Lock Not Locked: job");
    }
}

/// No shell would ever continue it.
#[test]
#[ignore = "needs bash and script(1): run by .ci/run"]
fn command_that_reads_the_terminal_of_a_dead_shell_is_ended() {
    let served = Served::new();
    let mut shell = shell(&served);
    let command =
        "glock run job -- sh -c \"echo up; until [ -e go ]; do sleep 0.05; done; exec cat\"";
    shell.input(format!("bash --norc -ic '{command} &'\n").as_bytes());
    shell.read_to("up");
    shell.input(b"touch go\n");
    served.await_answer("i job", "0 Lock Not Locked: job");
}

#[test]
#[ignore = "needs bash and script(1): run by .ci/run"]
fn key_ends_or_stops_the_wait() {
    let served = Served::new();
    let mut shell = shell(&served);
    let _held = served.connect_and_ask("g job");
    shell.input(b"glock run job -- true; echo code $?\n");
    served.await_answer("own job", "2 Lock Owners: job");
    // Ctrl-Z only stops it.
    shell.input(b"\x1a");
    shell.read_to("Stopped");
    assert_eq!(served.ask("own job"), "2 Lock Owners: job");
    shell.input(b"fg\n");
    // Now it has the terminal, so the key goes to it and not to the shell.
    await_stop(&served, false);
    shell.input(b"\x03");
    served.await_answer("own job", "1 Lock Owners: job");
    shell.input(b"echo code $?\n");
    shell.read_to("code 130");
}

/// A command that blocks the signal does not stop, but glock does.
#[test]
#[ignore = "needs bash and script(1): run by .ci/run"]
fn ctrl_z_stops_glock_even_if_its_parent_has_blocked_it() {
    let served = Served::new();
    let mut shell = shell(&served);
    let _held = served.connect_and_ask("g held");
    for (lock, owners, rest) in [("held", 2, "true"), ("job", 1, "sleep 60 | cat")] {
        let command = format!("env --block-signal glock run {lock} -- {rest}\n");
        shell.input(command.as_bytes());
        let expect = format!("{owners} Lock Owners: {lock}");
        served.await_answer(&format!("own {lock}"), &expect);
        shell.input(b"\x1a");
        shell.read_to("Stopped");
        shell.input(b"kill -KILL %%; echo done\n");
        shell.read_to("done");
        let expect = format!("{} Lock Owners: {lock}", owners - 1);
        served.await_answer(&format!("own {lock}"), &expect);
    }
}

#[test]
#[ignore = "needs bash and script(1): run by .ci/run"]
fn watch_draws_on_the_alternate_screen() {
    let served = Served::new();
    let mut shell = shell(&served);
    let _held = served.connect_and_ask("g wanted");
    shell.input(b"stty rows 20 cols 60; glock watch -i 0.05; echo code $?\n");
    let shown = shell.read_to("wanted");
    assert!(shown.contains("\x1b[?1049h"), "{shown:?}");
    shell.read_to("a second: gets");
    shell.input(b"\x03");
    shell.read_to("\x1b[?1049l");
    shell.read_to("code 0");
}

#[test]
#[ignore = "needs bash and script(1): run by .ci/run"]
fn watch_leaves_the_screen_when_stopped() {
    let served = Served::new();
    let mut shell = shell(&served);
    let _held = served.connect_and_ask("g wanted");
    shell.input(b"stty rows 20 cols 60; glock watch -i 0.05; echo code $?\n");
    shell.read_to("wanted");
    shell.input(b"\x1a");
    // It restores the screen and the cursor.
    shell.read_to("\x1b[?25h\x1b[?1049l");
    shell.read_to("Stopped");
    // In the background it runs on, but draws nothing.
    shell.input(b"bg; echo background\n");
    shell.read_to("background");
    let asked = || {
        let counters = served.run("stats --json").printed();
        let counters: serde_json::Value = serde_json::from_str(&counters).unwrap();
        counters["command_own"].as_u64().unwrap()
    };
    let before = asked();
    wait_until("it does not run on", || asked() > before + 2);
    shell.input(b"echo quiet; fg; echo code $?\n");
    let shown = shell.read_to("quiet");
    assert!(!shown.contains('\x1b'), "{shown:?}");
    shell.read_to("\x1b[?1049h\x1b[?25l");
    shell.read_to("wanted");
    shell.input(b"\x03");
    shell.read_to("\x1b[?25h\x1b[?1049l");
    shell.read_to("code 0");
}

#[test]
#[ignore = "needs bash and script(1): run by .ci/run"]
fn empty_lists_are_explained_on_a_terminal() {
    let served = Served::new();
    let mut shell = shell(&served);
    for (command, shown) in [
        ("ls", "no exclusive lock is held"),
        ("ls -s", "no shared lock is held"),
        ("ls job", "no exclusive lock of this name is held"),
        ("ls -s job", "no shared lock of this name is held"),
        (
            "own job",
            "nobody holds a lock of this name or waits for one",
        ),
        ("who", "no client has registered a name"),
        ("who me", "no client has registered this name"),
    ] {
        shell.input(format!("glock {command}; echo code $?.\n").as_bytes());
        shell.read_to(shown);
        shell.read_to("code 0.");
        // The output for programs is the same on a terminal.
        shell.input(
            format!("glock {command} --json; glock {command} | cat; echo done.\n").as_bytes(),
        );
        let printed = shell.read_to("done.");
        assert_eq!(printed.trim(), "[]\r\ndone.", "{command}");
    }
}
