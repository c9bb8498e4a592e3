//! `-pidfile`: its content, its lock, and its removal.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use glockd_test_support::{Daemon, run, run_after};
use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;
use tempfile::tempdir;

const SOCK: &str = "-port 0 -ws 0 -unix {sock} -pidfile {dir}/pid";

#[test]
fn pidfile_holds_the_pid_without_a_line_end() {
    let dir = tempdir().unwrap();
    let pidfile = dir.path().join("pid");
    let daemon = Daemon::start(dir.path(), SOCK);
    let text = fs::read_to_string(&pidfile).unwrap();
    assert_eq!(text, daemon.pid().to_string());
    // The umask may remove other bits of 0644.
    assert_eq!(fs::metadata(&pidfile).unwrap().mode() & 0o777 & !0o644, 0);
    daemon.stop();
    assert!(!pidfile.exists());
}

#[test]
fn second_daemon_ends_and_leaves_the_first_alone() {
    let dir = tempdir().unwrap();
    let pidfile = dir.path().join("pid");
    let daemon = Daemon::start(dir.path(), SOCK);
    let pid = daemon.pid().to_string();
    // Mistakes in the flags are found before that, other errors after it.
    for (flags, status) in [
        ("-port 0 -ws 0 -unix {dir}/other", 4),
        ("-port 0 -ws 0 -unix {dir}/sock", 4),
        ("-port 0 -ws 0", 4),
        ("-port 70000", 4),
        ("-bogus", 2),
        ("-dump false", 2),
        ("-help", 0),
    ] {
        let finished = run(dir.path(), &format!("-pidfile {{dir}}/pid {flags}"));
        assert_eq!(finished.code(), Some(status), "{flags}: {finished:?}");
        if status == 4 {
            let message = format!(
                "glockd: pidfile {} is locked by another process, {pid}\n",
                pidfile.display()
            );
            assert_eq!(finished.stderr, message);
        }
        assert_eq!(fs::read_to_string(&pidfile).unwrap(), pid);
    }
    daemon.stop();
    assert!(!pidfile.exists());
}

#[test]
fn locked_pidfile_keeps_its_text() {
    let dir = tempdir().unwrap();
    let pidfile = dir.path().join("pid");
    fs::write(&pidfile, "\x1B[1mnot a number\n").unwrap();
    let file = File::open(&pidfile).unwrap();
    flock(&file, FlockOperation::LockExclusive).unwrap();
    let finished = run(dir.path(), "-port 0 -ws 0 -pidfile {dir}/pid");
    assert_eq!(finished.code(), Some(4), "{finished:?}");
    assert!(
        finished.stderr.ends_with("is locked by another process\n"),
        "{finished:?}"
    );
    let text = fs::read_to_string(&pidfile).unwrap();
    assert_eq!(text, "\x1B[1mnot a number\n");
}

#[test]
fn pidfile_of_a_killed_daemon_is_taken_over() {
    let dir = tempdir().unwrap();
    let pidfile = dir.path().join("pid");
    let killed = Daemon::start(dir.path(), SOCK);
    let pid = killed.pid().to_string();
    killed.signal(Signal::KILL);
    killed.finish();
    assert_eq!(fs::read_to_string(&pidfile).unwrap(), pid);

    fs::write(&pidfile, "a longer text than any pid\n").unwrap();
    let daemon = Daemon::start(dir.path(), SOCK);
    let text = fs::read_to_string(&pidfile).unwrap();
    assert_eq!(text, daemon.pid().to_string());
    daemon.stop();
    assert!(!pidfile.exists());
}

#[test]
fn pidfile_that_was_replaced_is_not_deleted() {
    let dir = tempdir().unwrap();
    let pidfile = dir.path().join("pid");
    let first = Daemon::start(dir.path(), SOCK);
    fs::remove_file(&pidfile).unwrap();
    let second = Daemon::start(dir.path(), "-port {port} -ws 0 -pidfile {dir}/pid");
    first.stop();
    let text = fs::read_to_string(&pidfile).unwrap();
    assert_eq!(text, second.pid().to_string());
    second.stop();
    assert!(!pidfile.exists());
}

#[test]
fn unusable_pidfile_is_named_in_the_error() {
    let dir = tempdir().unwrap();
    for path in [
        dir.path().to_str().unwrap(),
        "/no/such/folder/pid",
        "/dev/full",
    ] {
        let finished = run(dir.path(), &format!("-port 0 -ws 0 -pidfile {path}"));
        assert_eq!(finished.code(), Some(3), "{finished:?}");
        let start = format!("glockd: cannot use pidfile {path}: ");
        assert!(finished.stderr.starts_with(&start), "{finished:?}");
    }
}

#[test]
fn full_disk_is_an_error_and_leaves_no_pidfile() {
    let dir = tempdir().unwrap();
    // The write fails with an error, or also raises a signal.
    for full in ["trap '' XFSZ; ulimit -f 0", "ulimit -f 0"] {
        let finished = run_after(full, dir.path(), "-port 0 -ws 0 -pidfile {dir}/pid");
        assert_eq!(finished.code(), Some(3), "{full}: {finished:?}");
        assert!(!dir.path().join("pid").exists());
    }
}
