//! glock on a terminal. `script` (of util-linux) makes the terminal, and `bash` is the shell with job control. Not every
//! machine has both, so these tests are ignored unless asked for, and then fail where one of the two is missing:
//!
//! ```text
//! cargo test --test glock terminals -- --ignored
//! ```

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::served::{Running, Served, until};

/// Starts a shell with a terminal.
fn shell(served: &Served) -> Running {
    let mut command = Command::new("script");
    command.args(["-qfec", "bash --norc --noediting -i", "/dev/null"]);
    served.prepare(&mut command);
    command
        .stdin(Stdio::piped())
        .env("PS1", "")
        .env("SHELL", "/bin/sh")
        // What is typed here is not for whoever runs the tests to find in theirs.
        .env("HISTFILE", "/dev/null")
        .env("HOME", served.path(""));
    // Of these a shell would print something, too, or end.
    for variable in ["PS0", "PROMPT_COMMAND", "TMOUT"] {
        command.env_remove(variable);
    }
    let mut shell = Running::start(command, None);
    // What is typed is not to be found in the output, which would be taken for what it makes.
    shell.input(b"stty -echo; echo shell'' ready\n");
    shell.read_to("shell ready");
    shell
}

/// Waits until the test's glock is stopped, or is so no more. Of what is not its child, a shell says neither.
#[track_caller]
fn await_stop(served: &Served, is_stopped: bool) {
    let dir = served.path("").canonicalize().unwrap();
    // One that ends meanwhile has nothing there any more.
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
    until(|| states().eq([is_stopped]), "whether it is stopped");
}

#[test]
#[ignore = "needs bash and script(1): run by .ci/run"]
fn the_command_has_the_terminal() {
    let served = Served::new();
    let mut shell = shell(&served);
    shell
        .input(b"glock run job -- sh -c 'echo name?; read name; echo hello $name'; echo code $?\n");
    shell.read_to("name?");
    shell.input(b"terminal\n");
    shell.read_to("hello terminal");
    shell.read_to("code 0");
    // And the shell has it back.
    shell.input(b"read word; echo got $word\nit\n");
    shell.read_to("got it");
}

#[test]
#[ignore = "needs bash and script(1): run by .ci/run"]
fn keys_are_for_the_command() {
    let served = Served::new();
    let mut shell = shell(&served);
    shell.input(b"glock run job -- sh -c 'trap \"echo interrupted; exit 6\" INT; echo up; while :; do sleep 0.05; done'; echo code $?\n");
    shell.read_to("up");
    shell.input(b"\x03");
    shell.read_to("interrupted");
    shell.read_to("code 6");
    // A loop of commands ends with the one that a key ends.
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

/// Whatever glock does for it, and wherever its output goes.
#[test]
#[ignore = "needs bash and script(1): run by .ci/run"]
fn a_key_ends_a_script() {
    let served = Served::new();
    let mut shell = shell(&served);
    let _held = served.asked("g held");
    // Said when the shell has the terminal again, and not before: what is typed meanwhile may be read by glock.
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

/// Who holds a lock in the background is not stopped for a terminal that it does not need, and ends when it is told to.
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
    // In the foreground its input ends it.
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
fn a_script_stops_as_a_whole() {
    let served = Served::new();
    let mut shell = shell(&served);
    let script = b"sh -c 'glock run job -- sh -c \"echo up; read name; echo hello \\$name\"; echo went on'\n";
    shell.input(script);
    shell.read_to("up");
    shell.input(b"\x1a");
    shell.read_to("Stopped");
    // The shell above it knows of the script alone, and nobody types as fast as this.
    await_stop(&served, true);
    shell.input(b"fg\nagain\n");
    shell.read_to("hello again");
    shell.read_to("went on");
}

/// Its output goes elsewhere, so it is not put in the foreground; but a key stops it all the same.
#[test]
#[ignore = "needs bash and script(1): run by .ci/run"]
fn a_command_in_a_pipeline_stops_with_glock() {
    let served = Served::new();
    let mut shell = shell(&served);
    shell.input(b"glock run job -- sh -c 'echo up; until [ -e go ]; do sleep 0.05; done; echo on' | sh -c 'read x; echo reader $x; exec cat'\n");
    served.await_answer("i job", "1 Lock Is Locked: job");
    // What has not started yet would not be stopped.
    shell.read_to("reader up");
    shell.input(b"\x1a");
    shell.read_to("Stopped");
    shell.input(b"touch go; fg\n");
    shell.read_to("on");
    served.await_answer("i job", "0 Lock Not Locked: job");
}

#[test]
#[ignore = "needs bash and script(1): run by .ci/run"]
fn glock_and_its_command_are_one_job() {
    let served = Served::new();
    let mut shell = shell(&served);
    shell.input(b"glock run job -- sh -c 'echo up; read name; echo hello $name'; echo code $?\n");
    shell.read_to("up");
    shell.input(b"\x1a");
    shell.read_to("Stopped");
    // The lock stays where it is.
    assert_eq!(served.ask("i job"), "1 Lock Is Locked: job");
    shell.input(b"echo meanwhile; fg; echo code $?\n");
    shell.read_to("meanwhile");
    shell.input(b"again\n");
    shell.read_to("hello again");
    shell.read_to("code 0");
}

/// In a pipeline somebody else may want the terminal; who asks for it gets it.
#[test]
#[ignore = "needs bash and script(1): run by .ci/run"]
fn a_command_that_reads_the_terminal_gets_it() {
    let served = Served::new();
    let mut shell = shell(&served);
    shell.input(b"glock run job -- sh -c 'read name < /dev/tty; echo hello $name' < /dev/null | cat; echo done\n");
    served.await_answer("i job", "1 Lock Is Locked: job");
    shell.input(b"pipeline\n");
    shell.read_to("hello pipeline");
    shell.read_to("done");
}

/// As it would without glock.
#[test]
#[ignore = "needs bash and script(1): run by .ci/run"]
fn a_job_in_the_background_stops_when_it_reads() {
    let served = Served::new();
    let mut shell = shell(&served);
    shell.input(b"glock run job -- sh -c 'read name; echo hello $name' &\n");
    shell.input(b"until jobs | grep -q Stopped; do sleep 0.05; done; echo it is\n");
    shell.read_to("it is");
    shell.input(b"fg\nforeground\n");
    shell.read_to("hello foreground");
    served.await_answer("i job", "0 Lock Not Locked: job");
}

/// What is stopped does not keep the lock.
#[test]
#[ignore = "needs bash and script(1): run by .ci/run"]
fn a_terminal_that_is_closed_ends_the_command() {
    let served = Served::new();
    for (place, is_stopped) in [("", false), ("&", true)] {
        let mut shell = shell(&served);
        let command = format!("glock run job -- sh -c 'echo up; exec cat' {place}\n");
        shell.input(command.as_bytes());
        // It has the terminal; or wants it, and so is stopped.
        shell.read_to("up");
        await_stop(&served, is_stopped);
        shell.signal(rustix::process::Signal::KILL);
        served.await_answer("i job", "0 Lock Not Locked: job");
    }
}

/// Nobody would let it go on.
#[test]
#[ignore = "needs bash and script(1): run by .ci/run"]
fn who_wants_the_terminal_when_the_shell_is_gone_is_ended() {
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
fn a_wait_ends_by_a_key() {
    let served = Served::new();
    let mut shell = shell(&served);
    let _held = served.asked("g job");
    shell.input(b"glock run job -- true; echo code $?\n");
    served.await_answer("own job", "2 Lock Owners: job");
    // Or only stops by one.
    shell.input(b"\x1a");
    shell.read_to("Stopped");
    assert_eq!(served.ask("own job"), "2 Lock Owners: job");
    shell.input(b"fg\n");
    // By then it has the terminal, and the key is not the shell's.
    await_stop(&served, false);
    shell.input(b"\x03");
    served.await_answer("own job", "1 Lock Owners: job");
    shell.input(b"echo code $?\n");
    shell.read_to("code 130");
}

/// Whatever its parent has blocked: where the command does not stop, glock does.
#[test]
#[ignore = "needs bash and script(1): run by .ci/run"]
fn blocked_stops_stop_glock_nevertheless() {
    let served = Served::new();
    let mut shell = shell(&served);
    let _held = served.asked("g held");
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
fn watch_draws_on_a_screen_of_its_own() {
    let served = Served::new();
    let mut shell = shell(&served);
    let _held = served.asked("g wanted");
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
fn watch_makes_way_for_the_shell() {
    let served = Served::new();
    let mut shell = shell(&served);
    let _held = served.asked("g wanted");
    shell.input(b"stty rows 20 cols 60; glock watch -i 0.05; echo code $?\n");
    shell.read_to("wanted");
    shell.input(b"\x1a");
    // The screen, and the cursor.
    shell.read_to("\x1b[?25h\x1b[?1049l");
    shell.read_to("Stopped");
    // In the background it draws nothing, though it goes on.
    shell.input(b"bg; echo background\n");
    shell.read_to("background");
    let asked = || {
        let counters = served.run("stats --json").printed();
        let counters: serde_json::Value = serde_json::from_str(&counters).unwrap();
        counters["command_own"].as_u64().unwrap()
    };
    let before = asked();
    until(|| asked() > before + 2, "it does not go on");
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
fn terminal_is_told_that_there_is_nothing_to_list() {
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
        // Programs are told as ever, there too.
        shell.input(
            format!("glock {command} --json; glock {command} | cat; echo done.\n").as_bytes(),
        );
        let printed = shell.read_to("done.");
        assert_eq!(printed.trim(), "[]\r\ndone.", "{command}");
    }
}
