//! Daemons as child processes.
//!
//! Flags are written as one line. `{dir}` is the directory of the test. `{port}`, `{ws}` and `{sock}` are where a
//! [`Daemon`] listens. The ports are ones that were free a moment ago; if another process was faster, others are tried.
//! Port 0 would not do: a test may restart the daemon on the same port.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::net::{Ipv4Addr, Shutdown, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rustix::process::Signal;

use crate::process::{Finished, Process, binary, finish};
use crate::time::{PATIENCE, wait_until};

/// Number of attempts to find a free port. After that many, the daemon cannot listen at all.
const ATTEMPTS: u32 = 20;

/// Runs a daemon that is expected to end.
#[track_caller]
pub fn run(dir: &Path, flags: &str) -> Finished {
    let arguments = flags.replace("{dir}", dir.to_str().unwrap());
    run_arguments(arguments.split_whitespace())
}

/// Runs a daemon that is expected to end, with arguments of any kind.
#[track_caller]
pub fn run_arguments<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Finished {
    let mut command = Command::new(binary("glockd"));
    command.args(arguments);
    finish(command)
}

/// Runs a daemon that is expected to end, from a shell that runs `before` first.
#[track_caller]
pub fn run_after(before: &str, dir: &Path, flags: &str) -> Finished {
    let flags = flags.replace("{dir}", dir.to_str().unwrap());
    finish(command(Some(before), &flags))
}

/// Returns the command of the daemon, or that of a shell that runs `before` and then becomes the daemon. `before` may
/// set the positional parameters to a command that is to run the daemon.
fn command(before: Option<&str>, flags: &str) -> Command {
    let binary = binary("glockd");
    match before {
        None => {
            let mut command = Command::new(binary);
            command.args(flags.split_whitespace());
            command
        }
        Some(before) => {
            let binary = binary.display();
            let mut command = Command::new("/bin/sh");
            command.args(["-c", &format!("{before}; exec \"$@\" '{binary}' {flags}")]);
            command
        }
    }
}

/// A running daemon that listens. Its log is a pipe that is read only while a test waits for a line. Killed when
/// dropped.
#[derive(Debug)]
pub struct Daemon {
    /// The port of `{port}`.
    pub port: u16,
    /// The port of `{ws}`.
    pub ws: u16,
    /// The path of `{sock}`.
    pub sock: PathBuf,
    process: Process,
    lines: Receiver<String>,
    reader: Option<JoinHandle<()>>,
    log: Vec<String>,
}

impl Daemon {
    /// Starts a daemon, and waits until it listens on each of `{port}`, `{ws}` and `{sock}` that is in `flags`.
    #[track_caller]
    pub fn start(dir: &Path, flags: &str) -> Daemon {
        retry(|| Daemon::try_start(dir, flags))
    }

    /// Starts a daemon as [`start`](Daemon::start) does, from a shell that runs `before` first.
    #[track_caller]
    pub fn start_after(before: &str, dir: &Path, flags: &str) -> Daemon {
        retry(|| Daemon::try_start_after(Some(before), dir, flags))
    }

    /// Starts a daemon from a shell that runs `before` first and redirects the log. Waits until the daemon listens on
    /// `{sock}`.
    #[track_caller]
    pub fn start_without_log(before: &str, dir: &Path, flags: &str) -> Daemon {
        let mut daemon = Daemon::spawn(Some(before), dir, flags);
        let mut probe = await_socket(&daemon.sock, &mut daemon.process).unwrap();
        // Until the daemon has seen the end of the probe.
        probe.shutdown(Shutdown::Write).unwrap();
        assert_eq!(probe.read_to_end(&mut Vec::new()).unwrap(), 0);
        daemon
    }

    /// Starts a daemon as [`start`](Daemon::start) does, once.
    ///
    /// # Errors
    ///
    /// The log, if a port is taken.
    #[track_caller]
    pub fn try_start(dir: &Path, flags: &str) -> Result<Daemon, String> {
        Daemon::try_start_after(None, dir, flags)
    }

    #[track_caller]
    fn try_start_after(before: Option<&str>, dir: &Path, flags: &str) -> Result<Daemon, String> {
        let mut daemon = Daemon::spawn(before, dir, flags);
        let placeholders = ["{port}", "{ws}", "{sock}"];
        let expected = placeholders.iter().filter(|it| flags.contains(**it));
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
        let mut command = command(before, &flags);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut process = Process::start(&mut command);
        let stderr = process.child().stderr.take().unwrap();
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
            process,
            lines,
            reader: Some(reader),
            log: Vec::new(),
        }
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends a signal to the daemon.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Returns the number of open descriptors.
    pub fn descriptors(&self) -> usize {
        let directory = format!("/proc/{}/fd", self.pid());
        fs::read_dir(directory).unwrap().count()
    }

    /// Returns what the kernel reports of the daemon's memory, in KiB: `VmRSS` is the present size, `VmHWM` the largest
    /// so far.
    pub fn memory(&self, key: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let mut lines = status.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(found, _)| *found == key).unwrap();
        value.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Waits for a line of the log after those of earlier searches. Returns `None` if the log ends first.
    #[track_caller]
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

    /// Waits for a line of the log that contains all of these parts, after the lines of earlier searches.
    #[track_caller]
    pub fn await_line(&mut self, parts: &[&str]) -> String {
        let found = self.find_line(|line| parts.iter().all(|part| line.contains(part)));
        found.unwrap_or_else(|| panic!("no line with {parts:?} in {:#?}", self.log))
    }

    /// Waits until this file exists.
    #[track_caller]
    pub fn await_file(&self, path: &Path) {
        wait_until(&format!("no {}", path.display()), || path.exists());
    }

    /// Waits for the end of the process. Returns its status and its whole log.
    #[track_caller]
    pub fn finish(mut self) -> (ExitStatus, String) {
        let none = self.find_line(|_| false);
        assert_eq!(none, None);
        // The daemon has closed its end of the pipe, so it has ended or is about to.
        let status = self.process.await_end();
        (status, std::mem::take(&mut self.log).join("\n"))
    }

    /// Stops the daemon as a service manager does, and checks that it succeeds. Returns its log.
    #[track_caller]
    pub fn stop(self) -> String {
        self.signal(Signal::TERM);
        let (status, log) = self.finish();
        assert_eq!(status.code(), Some(0), "{status}\n{log}");
        log
    }

    /// Returns true if the daemon has not ended.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Waits for the end of the process without reading its log.
    #[track_caller]
    pub fn await_end(&mut self) -> ExitStatus {
        self.process.await_end()
    }

    /// Closes this end of the log, so that the daemon can no longer write to it. The daemon notices that with its next
    /// line, so `provoke` must make it log one.
    pub fn close_log(&mut self, provoke: impl FnOnce()) {
        self.lines = mpsc::sync_channel(0).1;
        provoke();
        self.reader.take().unwrap().join().unwrap();
    }
}

/// A running daemon on the socket `sock` of a directory, with its log in a file: for a daemon that is started by
/// another program, or in a network namespace. Killed when dropped.
#[derive(Debug)]
pub struct SocketDaemon {
    socket: PathBuf,
    log: PathBuf,
    process: Process,
}

impl SocketDaemon {
    /// Starts a command that ends in the flags of a daemon, and waits until the daemon listens.
    #[track_caller]
    pub fn start(mut command: Command, dir: &Path) -> SocketDaemon {
        let (socket, log) = (dir.join("sock"), dir.join("log"));
        command
            .arg("-unix")
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap());
        let process = Process::start(&mut command);
        let mut daemon = SocketDaemon {
            socket,
            log,
            process,
        };
        if let Err(error) = await_socket(&daemon.socket, &mut daemon.process) {
            panic!("{error}: {}", daemon.log());
        }
        daemon
    }

    /// Connects to the socket. Reads and writes have a time limit.
    #[track_caller]
    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Returns the process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Returns the log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Stops the daemon, and returns its log.
    #[track_caller]
    pub fn stop(mut self) -> String {
        self.process.signal(Signal::TERM);
        self.process.await_end();
        self.log()
    }
}

/// Waits until a connection to the socket of this daemon succeeds, and returns it.
///
/// # Errors
///
/// The last error, if the daemon ends first, or after [`PATIENCE`].
fn await_socket(path: &Path, daemon: &mut Process) -> io::Result<UnixStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) if !daemon.is_running() || Instant::now() > deadline => return Err(error),
            Err(_) => thread::yield_now(),
        }
    }
}

/// Tries again and again, until a port that was free is still free when it is used.
#[track_caller]
pub fn retry<T>(mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let mut said = String::new();
    for _ in 0..ATTEMPTS {
        match attempt() {
            Ok(done) => return done,
            Err(log) => said = log,
        }
    }
    panic!("no free port: {said}");
}

/// Returns two ports that are free at the moment.
pub fn free_ports() -> (u16, u16) {
    let listen = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let (one, two) = (listen(), listen());
    (port(&one), port(&two))
}
