//! Parts that tests of several modules share.

use std::fs;
use std::sync::mpsc;
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use rustix::thread::gettid;

/// Longer than anything takes on the slowest of machines: to reach it is to fail.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a thread, and returns as soon as it sleeps: because `run` waits for a mutex that the caller holds, say. So a
/// test can see what was done before, and do something meanwhile.
pub(crate) fn spawn_until_blocked<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    run: impl FnOnce() -> T + Send + 'scope,
) -> ScopedJoinHandle<'scope, T> {
    let (sender, receiver) = mpsc::channel();
    let thread = scope.spawn(move || {
        sender.send(gettid()).unwrap();
        run()
    });
    let id = receiver.recv().unwrap().as_raw_nonzero();
    let stat = format!("/proc/self/task/{id}/stat");
    let deadline = Instant::now() + PATIENCE;
    while !fs::read_to_string(&stat).unwrap().contains(") S ") {
        assert!(Instant::now() < deadline, "it waits for nothing");
        thread::yield_now();
    }
    thread
}
