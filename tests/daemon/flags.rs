//! Forms of flags, and the order in which errors are found. The meaning of each form is tested in the program itself;
//! these tests check exit statuses and texts.

use std::ffi::OsStr;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::ffi::OsStrExt;

use glockd_test_support::{
    Client, Daemon, Finished, WebSocketClient, free_ports, retry, run, run_arguments,
};
use tempfile::tempdir;

const ALL_OFF: &str = "glockd: nothing to listen on: -port and -ws are 0, and there is no -unix\n";

/// Runs a daemon, and checks its exit status and the beginning of its stderr.
#[track_caller]
fn check(flags: &str, status: i32, stderr: &str) -> Finished {
    let dir = tempdir().unwrap();
    let finished = run(dir.path(), flags);
    assert_eq!(finished.code(), Some(status), "{flags}: {finished:?}");
    assert_eq!(finished.stdout, "", "{flags}");
    assert!(finished.stderr.starts_with(stderr), "{flags}: {finished:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{flags}");
    finished
}

/// Runs a daemon, and checks that it finds a mistake in its flags: it prints the usage on stderr, and the message after
/// that, where people see it.
#[track_caller]
fn check_mistake(flags: &str, message: &str) {
    let finished = check(flags, 2, "A network lock daemon");
    let usage = "\nUsage of glockd:\n\nListening:\n  -port int\n";
    assert!(finished.stderr.contains(usage), "{flags}: {finished:?}");
    let last = finished.stderr.lines().last().unwrap();
    assert!(last.starts_with(message), "{flags}: {finished:?}");
}

/// The flags are well formed: the daemon fails only because all listeners are off.
#[test]
fn every_form_of_a_flag_is_accepted() {
    for flags in [
        "-port 0 -ws 0",
        "--port 0 --ws 0",
        "-port=0 --ws=0",
        "-port 0x0 -ws 0_0",
        "-port 00 -ws -0",
        "-port 0 -ws 0 --",
        "-port 1 -port 0 -ws 70000 -ws=0",
        "-port 0 -ws 0 -verbose -dump",
        "-port 0 -ws 0 -dump=false -registry=F -verbose=1",
        "-registry=false -verbose=true -port 0 -ws 0",
        "-port 0 -ws 0 -unix /no/where -unix=",
        "-port 0 -ws 0 -max-line 1",
    ] {
        let finished = check(flags, 1, ALL_OFF);
        assert_eq!(finished.stderr, ALL_OFF, "{flags}");
    }
}

#[test]
fn empty_path_turns_a_listener_off() {
    let empty = ["-port", "0", "-ws", "0", "-unix", "", "-pidfile", ""];
    let finished = run_arguments(empty);
    assert_eq!((finished.code(), &*finished.stderr), (Some(1), ALL_OFF));
}

#[test]
fn mistake_in_the_flags_is_named_after_the_usage() {
    for (flags, message) in [
        ("-bogus", "flag provided but not defined: -bogus"),
        ("-port", "flag needs an argument: -port"),
        (
            "-port x",
            r#"invalid value "x" for flag -port: parse error"#,
        ),
        ("-port=", r#"invalid value "" for flag -port: parse error"#),
        (
            "-ws 1.5",
            r#"invalid value "1.5" for flag -ws: parse error"#,
        ),
        ("-dump=", r#"invalid value "" for flag -dump: parse error"#),
        (
            "-dump=no",
            r#"invalid value "no" for flag -dump: parse error"#,
        ),
        (
            "-port 99999999999999999999",
            r#"invalid value "99999999999999999999" for flag -port: value out of range"#,
        ),
        (
            "-max-line 0",
            r#"invalid value "0" for flag -max-line: not from 1 to 1073741824"#,
        ),
        (
            "-max-line 1073741825",
            r#"invalid value "1073741825" for flag -max-line: not from 1 to 1073741824"#,
        ),
        ("---port 1", "bad flag syntax: ---port"),
        ("-=x", "bad flag syntax: -=x"),
        (
            "-dump false",
            r#"unexpected argument "false": to set a boolean flag, write -dump=false"#,
        ),
        (
            "-verbose true -port 0",
            r#"unexpected argument "true": to set a boolean flag, write -verbose=true"#,
        ),
        ("-port 0 -", r#"unexpected argument "-": "#),
        ("-- -help", r#"unexpected argument "-help": "#),
        ("-bogus -help", "flag provided but not defined: -bogus"),
        // A mistake is found before the pidfile is claimed.
        (
            "-pidfile {dir}/pid -bogus",
            "flag provided but not defined: -bogus",
        ),
        ("-pidfile /no/such/folder -port x", "invalid value"),
        ("-port 70000 -dump=no", "invalid value"),
        (
            "-unix-mode 777",
            r#"invalid value "777" for flag -unix-mode: a mode is octal: write 0777"#,
        ),
        (
            "-max-waiters 0x1_0000_0000",
            r#"invalid value "0x1_0000_0000" for flag -max-waiters: not from 0 to"#,
        ),
        (
            "-write-timeout -1.5m",
            r#"invalid value "-1.5m" for flag -write-timeout: out of range"#,
        ),
        (
            "-unix @name -unix-mode 0700",
            r#"invalid value "0700" for flag -unix-mode: -unix @name has no file"#,
        ),
    ] {
        check_mistake(flags, message);
    }
}

/// An unset variable in a start script leaves it empty. Ignoring it would give less protection than was asked for.
#[test]
fn empty_value_of_a_protective_flag_is_a_mistake() {
    for (flag, reason) in [
        ("-state-dir", "the directory has no name"),
        ("-bind", "\"\" is neither an IP address nor localhost"),
        ("-ws-origin", ""),
        ("-unix-mode", "parse error"),
        ("-dump", "parse error"),
        ("-max-locks", "parse error"),
        ("-keepalive", "parse error"),
    ] {
        let message = format!("invalid value \"\" for flag {flag}: {reason}");
        check_mistake(&format!("{flag}="), &message);
        check_mistake(&format!("-port 0 -ws 0 {flag}= -verbose"), &message);
    }
    let finished = run_arguments(["-state-dir", "/", "-state-dir", "", "-port", "0"]);
    assert_eq!(finished.code(), Some(2), "{finished:?}");
}

#[test]
fn port_is_named_as_it_was_typed() {
    for (port, ws) in [("0x1_0000", "0"), ("0", "0200000")] {
        let (flag, typed) = if ws == "0" {
            ("port", port)
        } else {
            ("ws", ws)
        };
        check(
            &format!("-port {port} -ws {ws}"),
            1,
            &format!("glockd: cannot listen on -{flag} {typed}: a port is from 1 to 65535"),
        );
    }
}

#[test]
fn argument_that_is_not_utf8_is_a_mistake() {
    let finished = run_arguments([OsStr::new("-unix"), OsStr::from_bytes(b"/a\xFF")]);
    assert_eq!(finished.code(), Some(2), "{finished:?}");
    assert!(
        finished
            .stderr
            .ends_with("\ninvalid argument \"/a\\xFF\": not UTF-8\n"),
        "{finished:?}"
    );
}

#[test]
fn help_prints_the_usage_and_succeeds() {
    for flags in [
        "-h",
        "-help",
        "--help",
        "-port 1 -help -bogus",
        "-pidfile {dir}/pid -h",
        "-port 1 --help -bogus",
    ] {
        let dir = tempdir().unwrap();
        let finished = run(dir.path(), flags);
        assert_eq!(finished.code(), Some(0), "{flags}: {finished:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{flags}");
        // `-help` prints on stderr, as in Go; `--help` prints on stdout, for a pager.
        let (usage, nothing) = match flags.contains("--help") {
            true => (finished.stdout, finished.stderr),
            false => (finished.stderr, finished.stdout),
        };
        assert_eq!(nothing, "", "{flags}");
        assert!(usage.starts_with("A network lock daemon"), "{usage}");
        for flag in [
            "port", "ws", "unix", "pidfile", "max-line", "dump", "registry", "verbose",
        ] {
            let flag = format!("\n  -{flag}");
            assert!(usage.contains(&flag), "{flag}: {usage}");
        }
    }
}

#[test]
fn version_is_printed_on_stdout() {
    for flags in [
        "-version",
        "--version",
        "-port 1 -version -bogus",
        "-pidfile /no/such/folder/pid -version",
    ] {
        let dir = tempdir().unwrap();
        let finished = run(dir.path(), flags);
        assert_eq!(finished.code(), Some(0), "{flags}: {finished:?}");
        let expect = concat!("glockd ", env!("CARGO_PKG_VERSION"), "\n");
        assert_eq!(finished.stdout, expect, "{flags}");
        assert_eq!(finished.stderr, "", "{flags}");
    }
}

#[test]
fn invalid_port_is_reported_after_the_pidfile_is_claimed() {
    for (flag, port) in [
        ("port", "70000"),
        ("port", "-1"),
        ("ws", "65536"),
        ("ws", "-9998"),
    ] {
        let other = if flag == "port" { "ws" } else { "port" };
        check(
            &format!("-pidfile {{dir}}/pid -unix {{dir}}/sock -{other} 0 -{flag} {port}"),
            1,
            &format!("glockd: cannot listen on -{flag} {port}: a port is from 1 to 65535"),
        );
        check(
            &format!("-pidfile /no/such/folder/pid -{other} 0 -{flag} {port}"),
            3,
            "glockd: cannot use pidfile /no/such/folder/pid: ",
        );
    }
}

#[test]
fn lack_of_listeners_is_reported_after_the_pidfile_is_claimed() {
    check("-pidfile {dir}/pid -port 0 -ws 0", 1, ALL_OFF);
    check(
        "-pidfile {dir} -port 0 -ws 0",
        3,
        "glockd: cannot use pidfile ",
    );
}

#[test]
fn taken_port_is_named_and_no_files_are_left() {
    let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    for flags in [
        format!("-port {port} -ws 0"),
        format!("-port 0 -ws {port}"),
        format!("-pidfile {{dir}}/pid -unix {{dir}}/sock -port {port} -ws 0"),
        format!("-pidfile {{dir}}/pid -unix {{dir}}/sock -port 0 -ws {port}"),
    ] {
        let finished = check(&flags, 1, "glockd: cannot listen on ");
        let named = format!(":{port}: Address already in use");
        assert!(finished.stderr.contains(&named), "{flags}: {finished:?}");
    }
    let missing = format!("-pidfile /no/such/folder/pid -port {port}");
    check(&missing, 3, "glockd: cannot use pidfile ");
}

#[test]
fn tcp_and_websocket_cannot_share_a_port() {
    let (port, _) = free_ports();
    let flags = format!("-pidfile {{dir}}/pid -port {port} -ws {port}");
    let finished = check(&flags, 1, "");
    let named = format!(":{port}: Address already in use");
    assert!(finished.stderr.contains(&named), "{finished:?}");
}

/// Needs SO_REUSEADDR, because connections that were just closed still use the port.
#[test]
fn port_can_be_used_again_at_once_after_a_restart() {
    retry(|| {
        let dir = tempdir().unwrap();
        let daemon = Daemon::start(dir.path(), "-port {port} -ws {ws}");
        let flags = format!("-port {} -ws {} -unix {{sock}}", daemon.port, daemon.ws);
        let (mut client, mut web) = (Client::tcp(&daemon), WebSocketClient::connect(&daemon));
        assert_eq!(client.ask("g foo"), "1 Lock Get Success: foo");
        assert_eq!(web.ask("g bar"), "1 Lock Get Success: bar\\n");
        daemon.stop();
        Daemon::try_start(dir.path(), &flags).map(Daemon::stop)
    });
}
