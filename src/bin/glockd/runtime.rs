//! The tokio runtime that the daemon runs on.

use std::ffi::OsString;
use std::io;
use std::num::NonZeroUsize;
use std::thread::available_parallelism;

use tokio::runtime::{Builder, Runtime};

/// Environment variable by which users of tokio set the number of its threads.
pub(crate) const WORKER_THREADS: &str = "TOKIO_WORKER_THREADS";

/// Largest number of threads: tokio panics if it cannot start as many as it is told to.
const MAX_WORKERS: usize = 1024;

/// Number of tasks that a worker polls before it looks for input again: as many as its own queue holds. With tokio's 61,
/// under load from some hundred connections, connections that were just served were ready again before the others had
/// their turn, and the others waited 60 ms.
const TASKS_PER_ROUND: u32 = 256;

/// Stack size of a thread in bytes: the standard library's default. `RUST_MIN_STACK` would change that default, and can ask
/// for more memory than there is.
const STACK_SIZE: usize = 2 * 1024 * 1024;

/// The reason why the number of threads cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{WORKER_THREADS} is {text:?}, and must be a number of threads from 1 to {MAX_WORKERS}")]
pub(crate) struct BadWorkerThreads {
    text: OsString,
}

/// Returns the number of worker threads that the environment asks for, or else one for each processor. An empty variable
/// counts as unset.
///
/// tokio reads the variable, too, but panics if it cannot be used.
pub(crate) fn worker_threads(asked: Option<OsString>) -> Result<usize, BadWorkerThreads> {
    match asked.filter(|text| !text.is_empty()) {
        None => Ok(available_parallelism().map_or(1, NonZeroUsize::get)),
        Some(text) => text
            .to_str()
            .and_then(|text| text.parse().ok())
            .filter(|number| (1..=MAX_WORKERS).contains(number))
            .ok_or(BadWorkerThreads { text }),
    }
}

/// Builds the runtime. With only one processor it runs on this thread alone: then the kernel need not count the users of a
/// descriptor, and tokio need not wake threads.
pub(crate) fn build(workers: usize) -> io::Result<Runtime> {
    let mut builder = match available_parallelism() {
        Ok(NonZeroUsize::MIN) => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder
        .worker_threads(workers)
        .thread_stack_size(STACK_SIZE)
        .event_interval(TASKS_PER_ROUND)
        .enable_all()
        .build()
}
