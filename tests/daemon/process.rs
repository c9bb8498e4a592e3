//! Daemons as child processes. They end with the test, however it ends, and nothing waits for ever.
//!
//! Flags are written as one line. `{dir}` is the folder of the test. `{port}`, `{ws}` and `{sock}` are
//! where a [`Daemon`] listens: a daemon does not take port 0 for "any", so a port that was free a moment
//! ago is tried, and another one if somebody was faster.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, Shutdown, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Longer than anything takes on the slowest of machines: to reach it is to fail.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

const BINARY: &str = env!("CARGO_BIN_EXE_glockd");

/// How many taken ports are bad luck, rather than a daemon that cannot listen.
const ATTEMPTS: u32 = 20;

/// What a process that ended by itself left.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a daemon that is expected to end.
pub(crate) fn run(dir: &Path, flags: &str) -> Finished {
    let arguments = flags.replace("{dir}", dir.to_str().unwrap());
    run_arguments(arguments.split_whitespace())
}

/// As [`run`], with arguments of any kind.
pub(crate) fn run_arguments<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Finished {
    let mut command = assert_cmd::Command::new(BINARY);
    command.args(arguments);
    finish(command)
}

/// As [`run`], through a shell that first does what `before` says.
pub(crate) fn run_after(before: &str, dir: &Path, flags: &str) -> Finished {
    let flags = flags.replace("{dir}", dir.to_str().unwrap());
    finish(assert_cmd::Command::from_std(command(Some(before), &flags)))
}

/// The daemon; or a shell that does what `before` says and then becomes the daemon. `before` may set the
/// positional parameters to a command that is to run the daemon.
fn command(before: Option<&str>, flags: &str) -> Command {
    match before {
        None => {
            let mut command = Command::new(BINARY);
            command.args(flags.split_whitespace());
            command
        }
        Some(before) => {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", &format!("{before}; exec \"$@\" '{BINARY}' {flags}")]);
            command
        }
    }
}

fn finish(mut command: assert_cmd::Command) -> Finished {
    let output = command.timeout(PATIENCE).output().unwrap();
    Finished {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A daemon that runs, and listens. Its log is read only while something in it is waited for. Killed when
/// dropped.
pub(crate) struct Daemon {
    pub(crate) port: u16,
    pub(crate) ws: u16,
    pub(crate) sock: PathBuf,
    child: Child,
    lines: Receiver<String>,
    reader: Option<JoinHandle<()>>,
    log: Vec<String>,
}

impl Daemon {
    /// Starts a daemon, and waits until it listens on all of `{port}`, `{ws}` and `{sock}` that `flags`
    /// have.
    pub(crate) fn start(dir: &Path, flags: &str) -> Daemon {
        retry(|| Daemon::try_start(dir, flags))
    }

    /// As [`start`](Daemon::start), through a shell that first does what `before` says.
    pub(crate) fn start_after(before: &str, dir: &Path, flags: &str) -> Daemon {
        retry(|| Daemon::try_start_after(Some(before), dir, flags))
    }

    /// As [`start_after`](Daemon::start_after), where `before` takes the log away: waits until the daemon
    /// listens on `{sock}`.
    pub(crate) fn start_unheard(before: &str, dir: &Path, flags: &str) -> Daemon {
        let daemon = Daemon::spawn(Some(before), dir, flags);
        let deadline = Instant::now() + PATIENCE;
        let mut probe = loop {
            match UnixStream::connect(&daemon.sock) {
                Ok(probe) => break probe,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            thread::yield_now();
        };
        // Until the daemon has seen it go.
        probe.shutdown(Shutdown::Write).unwrap();
        assert_eq!(probe.read_to_end(&mut Vec::new()).unwrap(), 0);
        daemon
    }

    /// As [`start`](Daemon::start), or what it said when a port turned out to be taken.
    pub(crate) fn try_start(dir: &Path, flags: &str) -> Result<Daemon, String> {
        Daemon::try_start_after(None, dir, flags)
    }

    fn try_start_after(before: Option<&str>, dir: &Path, flags: &str) -> Result<Daemon, String> {
        let mut daemon = Daemon::spawn(before, dir, flags);
        let places = ["{port}", "{ws}", "{sock}"];
        let expected = places.iter().filter(|place| flags.contains(**place));
        for _ in expected {
            if daemon
                .find_line(|line| line.contains("listening on "))
                .is_none()
            {
                let log = daemon.log.join("\n");
                assert!(log.contains(": Address already in use"), "{flags}: {log}");
                return Err(log);
            }
        }
        Ok(daemon)
    }

    fn spawn(before: Option<&str>, dir: &Path, flags: &str) -> Daemon {
        let (port, ws) = free_ports();
        let sock = dir.join("sock");
        let flags = flags
            .replace("{dir}", dir.to_str().unwrap())
            .replace("{port}", &port.to_string())
            .replace("{ws}", &ws.to_string())
            .replace("{sock}", sock.to_str().unwrap());
        let mut child = command(before, &flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let (sender, lines) = mpsc::sync_channel(0);
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                if sender.send(line.unwrap()).is_err() {
                    break;
                }
            }
        });
        Daemon {
            port,
            ws,
            sock,
            child,
            lines,
            reader: Some(reader),
            log: Vec::new(),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .unwrap()
            .count()
    }

    /// What the kernel says of its memory, in KiB: `VmRSS` is what it has, `VmHWM` the most it ever had.
    pub(crate) fn memory(&self, key: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let mut lines = status.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(found, _)| *found == key).unwrap();
        value.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Waits for a line of the log, from where the last search ended. `None` if the log ended first.
    fn find_line(&mut self, found: impl Fn(&str) -> bool) -> Option<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.log.push(line.clone());
                    if found(&line) {
                        return Some(line);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => panic!("no such line in {:#?}", self.log),
            }
        }
    }

    /// Waits for a line of the log that has all of these parts, from where the last search ended.
    #[track_caller]
    pub(crate) fn await_line(&mut self, parts: &[&str]) -> String {
        let found = self.find_line(|line| parts.iter().all(|part| line.contains(part)));
        found.unwrap_or_else(|| panic!("no line with {parts:?} in {:#?}", self.log))
    }

    /// Waits until the daemon has made this file. There is nothing that tells of it, so it looks.
    #[track_caller]
    pub(crate) fn await_file(&self, path: &Path) {
        let deadline = Instant::now() + PATIENCE;
        while !path.exists() {
            assert!(Instant::now() < deadline, "no {}", path.display());
            thread::yield_now();
        }
    }

    /// Waits for the end of the process: its status, and all of its log.
    pub(crate) fn finish(mut self) -> (ExitStatus, String) {
        let none = self.find_line(|_| false);
        assert_eq!(none, None);
        // Its end of the pipe is closed, so it is about to end, if it has not.
        let status = self.child.wait().unwrap();
        (status, std::mem::take(&mut self.log).join("\n"))
    }

    /// Stops the daemon as a service manager does.
    #[track_caller]
    pub(crate) fn stop(self) -> String {
        self.signal(Signal::TERM);
        let (status, log) = self.finish();
        assert_eq!(status.code(), Some(0), "{status}\n{log}");
        log
    }

    /// Whether it has not ended.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the end of the process, without reading its log.
    #[track_caller]
    pub(crate) fn await_end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait().unwrap() {
                Some(status) => return status,
                None => assert!(Instant::now() < deadline, "it does not end"),
            }
            thread::yield_now();
        }
    }

    /// Closes our end of its log, so that it can no longer write there. This shows when it next has
    /// something to write, so `provoke` makes it.
    pub(crate) fn close_log(&mut self, provoke: impl FnOnce()) {
        self.lines = mpsc::sync_channel(0).1;
        provoke();
        self.reader.take().unwrap().join().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tries until a port that was free is still free when it is used.
#[track_caller]
pub(crate) fn retry<T>(mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let mut said = String::new();
    for _ in 0..ATTEMPTS {
        match attempt() {
            Ok(done) => return done,
            Err(log) => said = log,
        }
    }
    panic!("no free port: {said}");
}

/// Two ports that nobody listened on just now.
pub(crate) fn free_ports() -> (u16, u16) {
    let listen = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let (one, two) = (listen(), listen());
    (port(&one), port(&two))
}
