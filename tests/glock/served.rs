//! A server in this process, and ways to run glock against it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use glockd::{Builder, Policy, Server, StopReason, Unix};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Time limit of a test. Longer than anything takes on a slow machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_glock");

/// A server on a Unix socket. It ends with the test.
pub(crate) struct Served {
    dir: TempDir,
    runtime: Runtime,
    stop: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<StopReason>>,
}

/// Exit status and output of a process.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    #[track_caller]
    pub(crate) fn exited(self, code: i32) -> Finished {
        assert_eq!(self.status.code(), Some(code), "{self:#?}");
        self
    }

    /// Returns its output, if it has succeeded.
    #[track_caller]
    pub(crate) fn printed(self) -> String {
        assert_eq!(self.stderr, "");
        self.exited(0).stdout
    }
}

impl Served {
    pub(crate) fn new() -> Served {
        Served::with(Policy::default())
    }

    pub(crate) fn with(policy: Policy) -> Served {
        Served::build(Server::builder().policy(policy))
    }

    pub(crate) fn build(builder: Builder) -> Served {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        catch_ignored_signals(&runtime);
        let unix = Unix::path(dir.path().join("sock"));
        let server = runtime.block_on(builder.transport(unix).bind()).unwrap();
        let (stop, stopped) = oneshot::channel();
        let running = runtime.spawn(server.run(async { drop(stopped.await) }));
        Served {
            dir,
            runtime,
            stop: Some(stop),
            running: Some(running),
        }
    }

    /// Ends the server, and all its connections.
    pub(crate) fn stop(&mut self) {
        self.stop = None;
        let running = self.running.take().unwrap();
        let ended = async { timeout(PATIENCE, running).await };
        self.runtime.block_on(ended).unwrap().unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn url(&self) -> String {
        format!("unix:{}", self.path("sock").display())
    }

    /// Returns a glock that uses the server, in the directory of the test.
    pub(crate) fn glock<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(BINARY);
        command.args(arguments);
        self.prepare(&mut command);
        command
    }

    /// Returns a shell script that can call `glock`, which uses the server.
    pub(crate) fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        self.prepare(&mut command);
        command
    }

    /// Prepares a command to start in the directory of the test, without variables that would change its output.
    pub(crate) fn prepare(&self, command: &mut Command) {
        let bin = Path::new(BINARY).parent().unwrap();
        let path = std::env::var_os("PATH").unwrap();
        let path = std::iter::once(bin.to_owned()).chain(std::env::split_paths(&path));
        for variable in ["CLICOLOR", "CLICOLOR_FORCE", "NO_COLOR", "COLUMNS", "LINES"] {
            command.env_remove(variable);
        }
        command
            .env("PATH", std::env::join_paths(path).unwrap())
            .env("GLOCKD_SERVER", self.url())
            .env("LC_ALL", "C")
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
    }

    /// Runs glock to its end, with arguments that are separated by spaces.
    pub(crate) fn run(&self, arguments: &str) -> Finished {
        finish(self.glock(arguments.split(' ')))
    }

    /// Connects a client, sends a line and awaits the reply. Returns the connection.
    pub(crate) fn asked(&self, line: &str) -> UnixStream {
        let mut stream = UnixStream::connect(self.path("sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_ne!(ask(&mut stream, line), "");
        stream
    }

    /// Returns the server's reply to a line.
    pub(crate) fn ask(&self, line: &str) -> String {
        let mut stream = UnixStream::connect(self.path("sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        ask(&mut stream, line)
    }

    /// Waits until the server gives the expected reply to a line.
    #[track_caller]
    pub(crate) fn await_answer(&self, line: &str, expect: &str) {
        until(|| self.ask(line) == expect, line);
    }
}

/// Starts a fake server on a Unix socket. It replies to each line with `answer(line)`, or not at all if that is empty, and
/// lives as long as the tests.
pub(crate) fn fake(path: &Path, answer: fn(&str) -> &'static str) {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map(Result::unwrap) {
            thread::spawn(move || {
                for line in BufReader::new(&stream).lines().map_while(Result::ok) {
                    let answer = answer(&line);
                    if !answer.is_empty() && writeln!(&stream, "{answer}").is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// Catches each signal that is ignored, and disregards it. The processes that the tests start would inherit that a signal
/// is ignored, and never receive it; a caught signal has its default action there. (A shell without job control ignores
/// Ctrl-C in the background, and nohup(1) the end of a terminal.)
fn catch_ignored_signals(runtime: &Runtime) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mut lines = status.lines();
    let set = lines.find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    let set = u64::from_str_radix(set.trim(), 16).unwrap();
    let _entered = runtime.enter();
    for number in (1..=64).filter(|number| set & (1 << (number - 1)) != 0) {
        // Rust's runtime ignores this one itself, and restores it in processes that it starts.
        if number != Signal::PIPE.as_raw() {
            // Fails for signals that cannot be caught. No test sends them.
            let _ = signal(SignalKind::from_raw(number));
        }
    }
}

fn ask(stream: &mut UnixStream, line: &str) -> String {
    writeln!(stream, "{line}").unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    answer.trim_end().to_owned()
}

/// Polls until a condition holds. `what` says what is wrong if it does not in time.
#[track_caller]
pub(crate) fn until(mut holds: impl FnMut() -> bool, what: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        thread::yield_now();
    }
}

/// Runs a command to its end.
pub(crate) fn finish(command: Command) -> Finished {
    let mut command = assert_cmd::Command::from_std(command);
    let output = command.timeout(PATIENCE).output().unwrap();
    Finished {
        status: output.status,
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A running process. It is killed when this is dropped.
pub(crate) struct Running {
    child: Child,
    stdout: BufReader<Output>,
}

/// Output of a process. Reads have a time limit.
struct Output {
    pipe: File,
    deadline: Instant,
}

impl Read for Output {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let limit = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut polled = [PollFd::new(&self.pipe, PollFlags::IN)];
        // The limit also ends a read of endless output.
        if left.is_zero() || poll(&mut polled, Some(&limit))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.pipe.read(buffer)
    }
}

impl Running {
    /// Starts a command whose output is read here. Its stderr goes to the file `errors`, if there is one.
    pub(crate) fn start(mut command: Command, errors: Option<&Path>) -> Running {
        if let Some(errors) = errors {
            command.stderr(File::create(errors).unwrap());
        }
        let spawned = command.stdout(Stdio::piped()).spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let pipe = File::from(OwnedFd::from(child.stdout.take().unwrap()));
        let deadline = Instant::now();
        let stdout = BufReader::new(Output { pipe, deadline });
        Running { child, stdout }
    }

    /// Returns its output, with a new time limit.
    fn output(&mut self) -> &mut impl BufRead {
        self.stdout.get_mut().deadline = Instant::now() + PATIENCE;
        &mut self.stdout
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it prints the expected line.
    #[track_caller]
    pub(crate) fn await_line(&mut self, expect: &str) {
        assert_eq!(self.line(), expect);
    }

    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        if let Err(error) = self.output().read_line(&mut line) {
            panic!("{error} after {line:?}");
        }
        line.trim_end().to_owned()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Closes its input.
    pub(crate) fn end_input(&mut self) {
        drop(self.child.stdin.take());
    }

    pub(crate) fn input(&mut self, bytes: &[u8]) {
        self.child.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// Returns the rest of its output, once all processes have closed it.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> String {
        let mut rest = String::new();
        if let Err(error) = self.output().read_to_string(&mut rest) {
            panic!("{error} after {rest:?}");
        }
        rest
    }

    /// Returns its output up to and including the expected text.
    #[track_caller]
    pub(crate) fn read_to(&mut self, expect: &str) -> String {
        let output = self.output();
        let mut read = Vec::new();
        while !read.ends_with(expect.as_bytes()) {
            let mut byte = [0];
            if let Err(error) = output.read_exact(&mut byte) {
                panic!("{error}: no {expect} in {}", read.escape_ascii());
            }
            read.push(byte[0]);
        }
        String::from_utf8_lossy(&read).into_owned()
    }

    /// Waits until it ends.
    #[track_caller]
    pub(crate) fn status(&mut self) -> ExitStatus {
        let mut status = None;
        until(
            || {
                status = self.child.try_wait().unwrap();
                status.is_some()
            },
            "it does not end",
        );
        status.unwrap()
    }

    #[track_caller]
    pub(crate) fn exited(&mut self, code: i32) {
        assert_eq!(self.status().code(), Some(code));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
