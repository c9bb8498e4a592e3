//! Limits in time. Each wait of a test has one, so that a test that hangs fails.

use std::thread;
use std::time::{Duration, Instant};

use tokio::time::timeout;

/// Time limit of one step of a test. No step takes that long, even on a slow and busy machine: a test that reaches it
/// fails. It never decides what a passing test sees.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a future, for at most [`PATIENCE`].
///
/// # Panics
///
/// If the future is not ready by then.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("the test hangs")
}

/// Waits for a condition that nothing signals, by testing it again and again, for at most [`PATIENCE`].
///
/// # Panics
///
/// If the condition is still false by then. `what` names it.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "the test hangs: {what}");
        thread::yield_now();
    }
}
