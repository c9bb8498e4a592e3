//! A server to run glock against, in this process, and glocks.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Instant;

use glockd::{Builder, Policy, Server, StopReason, Unix};
use glockd_test_support::{
    Client, Finished, PATIENCE, Process, binary, finish, wait_until, within,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A server on a Unix socket, which ends with the test.
pub(crate) struct Served {
    dir: TempDir,
    runtime: Runtime,
    stop: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<StopReason>>,
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

    /// Stops the server and ends all its connections.
    pub(crate) fn stop(&mut self) {
        self.stop = None;
        let running = self.running.take().unwrap();
        self.runtime.block_on(within(running)).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn url(&self) -> String {
        format!("unix:{}", self.path("sock").display())
    }

    /// Returns a glock that uses the server, in the directory of the test.
    pub(crate) fn glock<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(binary("glock"));
        command.args(arguments);
        self.prepare(&mut command);
        command
    }

    /// Returns a shell script that can run `glock`, which uses the server.
    pub(crate) fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        self.prepare(&mut command);
        command
    }

    /// Makes a command run in the directory of the test, without the variables of the environment that would change
    /// what it prints.
    pub(crate) fn prepare(&self, command: &mut Command) {
        let glock = binary("glock");
        let path = std::env::var_os("PATH").unwrap();
        let path =
            std::iter::once(glock.parent().unwrap().to_owned()).chain(std::env::split_paths(&path));
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

    /// Runs a glock to its end. Spaces separate the arguments.
    pub(crate) fn run(&self, arguments: &str) -> Finished {
        finish(self.glock(arguments.split(' ')))
    }

    /// Connects a client that sends these lines, and waits for the first line of reply.
    #[track_caller]
    pub(crate) fn connect_and_ask(&self, lines: &str) -> Client<UnixStream> {
        let mut client = Client::unix_path(&self.path("sock"));
        assert_ne!(client.ask(lines), "");
        client
    }

    /// Returns the first line of the server's reply to this line.
    #[track_caller]
    pub(crate) fn ask(&self, line: &str) -> String {
        Client::unix_path(&self.path("sock")).ask(line)
    }

    /// Waits until this is the first line of the server's reply to `line`.
    #[track_caller]
    pub(crate) fn await_answer(&self, line: &str, expect: &str) {
        wait_until(line, || self.ask(line) == expect);
    }
}

/// Starts a server on a Unix socket that replies to each line with the result of `answer`, or not at all if that is
/// empty. It runs as long as the tests.
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

/// Catches each signal that this process inherited as ignored. Child processes would inherit that, and tests that send
/// them these signals would fail; a caught signal has its default action in a child. (A shell without job control
/// starts background processes with SIGINT ignored, and nohup(1) ignores SIGHUP.)
fn catch_ignored_signals(runtime: &Runtime) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mut lines = status.lines();
    let set = lines.find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    let set = u64::from_str_radix(set.trim(), 16).unwrap();
    let _entered = runtime.enter();
    for number in (1..=64).filter(|number| set & (1 << (number - 1)) != 0) {
        // Rust itself ignores this one, but not for child processes.
        if number != Signal::PIPE.as_raw() {
            // Fails for signals that cannot be caught, which no test sends.
            let _ = signal(SignalKind::from_raw(number));
        }
    }
}

/// A running process whose output is read. Killed when dropped.
pub(crate) struct Running {
    process: Process,
    stdout: BufReader<Output>,
}

/// The output of a process. Reading it has a limit in time.
struct Output {
    pipe: File,
    deadline: Instant,
}

impl Read for Output {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let limit = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut polled = [PollFd::new(&self.pipe, PollFlags::IN)];
        // The first condition ends the wait for a process that prints without end.
        if left.is_zero() || poll(&mut polled, Some(&limit))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.pipe.read(buffer)
    }
}

impl Running {
    /// Starts a command whose output is read here. Its errors go to the file `errors`, if there is one.
    #[track_caller]
    pub(crate) fn start(mut command: Command, errors: Option<&Path>) -> Running {
        if let Some(errors) = errors {
            command.stderr(File::create(errors).unwrap());
        }
        let mut process = Process::start(command.stdout(Stdio::piped()));
        let pipe = process.child().stdout.take().unwrap();
        let pipe = File::from(OwnedFd::from(pipe));
        let deadline = Instant::now();
        let stdout = BufReader::new(Output { pipe, deadline });
        Running { process, stdout }
    }

    /// Returns the output, to be read within [`PATIENCE`].
    fn output(&mut self) -> &mut impl BufRead {
        self.stdout.get_mut().deadline = Instant::now() + PATIENCE;
        &mut self.stdout
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits for a line of output, and checks it.
    #[track_caller]
    pub(crate) fn await_line(&mut self, expect: &str) {
        assert_eq!(self.line(), expect);
    }

    /// Waits for a line of output.
    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        if let Err(error) = self.output().read_line(&mut line) {
            panic!("{error} after {line:?}");
        }
        line.trim_end().to_owned()
    }

    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Closes the input.
    pub(crate) fn end_input(&mut self) {
        drop(self.process.child().stdin.take());
    }

    pub(crate) fn input(&mut self, bytes: &[u8]) {
        let input = self.process.child().stdin.as_mut().unwrap();
        input.write_all(bytes).unwrap();
    }

    /// Waits until all processes that have the output have closed it. Returns the rest of it.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> String {
        let mut rest = String::new();
        if let Err(error) = self.output().read_to_string(&mut rest) {
            panic!("{error} after {rest:?}");
        }
        rest
    }

    /// Reads the output up to and including `expect`.
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

    /// Waits until the process has ended.
    #[track_caller]
    pub(crate) fn status(&mut self) -> ExitStatus {
        self.process.await_end()
    }

    /// Waits until the process has ended, and checks its exit code.
    #[track_caller]
    pub(crate) fn exited(&mut self, code: i32) {
        assert_eq!(self.status().code(), Some(code));
    }
}
