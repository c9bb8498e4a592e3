//! Child processes that end with the test, however it ends.

use std::env;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::time::{PATIENCE, wait_until};

/// Returns the path of a built binary of the workspace, which lies above the test binaries.
pub fn binary(name: &str) -> PathBuf {
    let test = env::current_exe().unwrap();
    let directory = test.ancestors().nth(2).unwrap();
    directory.join(name)
}

/// The outcome of a process that ended by itself.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// Its errors, or its log.
    pub stderr: String,
}

impl Finished {
    /// Returns the exit code; `None` if a signal ended the process.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Checks the exit code.
    #[track_caller]
    pub fn exited(self, code: i32) -> Finished {
        assert_eq!(self.code(), Some(code), "{self:#?}");
        self
    }

    /// Returns what the process printed, if it succeeded without a word on stderr.
    #[track_caller]
    pub fn printed(self) -> String {
        assert_eq!(self.stderr, "");
        self.exited(0).stdout
    }
}

/// Runs a command to its end, within [`PATIENCE`].
#[track_caller]
pub fn finish(command: Command) -> Finished {
    let mut command = assert_cmd::Command::from_std(command);
    let output = command.timeout(PATIENCE).output().unwrap();
    Finished {
        status: output.status,
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A running process. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts a command.
    #[track_caller]
    pub fn start(command: &mut Command) -> Process {
        let spawned = command.spawn();
        let child = spawned.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Process { child }
    }

    /// Returns the process as the standard library has it, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Returns the process id, as a number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the process id, for system calls.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends a signal to the process.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Stops all threads of the process, and waits until they are stopped. [`Signal::CONT`] continues it.
    #[track_caller]
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let waited = waitpid(Some(self.pid()), WaitOptions::UNTRACED).unwrap();
        let (_, status) = waited.unwrap();
        assert!(status.stopped(), "the process has ended");
    }

    /// Returns true if the process has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until the process has ended, for at most [`PATIENCE`].
    #[track_caller]
    pub fn await_end(&mut self) -> ExitStatus {
        wait_until("the process does not end", || !self.is_running());
        self.child.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
