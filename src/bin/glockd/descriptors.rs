//! File descriptors: how many the process may have, and how many connections that allows.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that the daemon needs beside the inherited ones, its listeners and its connections: for the runtime, signals
/// and files, with some to spare.
const OWN_DESCRIPTORS: usize = 16;

/// The limit of descriptors, and the number that were open at the start.
pub(crate) struct Descriptors {
    /// `None` means unlimited.
    limit: Option<u64>,
    inherited: usize,
}

/// The reason why the daemon cannot start: the limit of descriptors is too low.
#[derive(Debug, thiserror::Error)]
#[error("the limit of descriptors is {limit}, and the daemon needs {needed}")]
pub(crate) struct TooFewDescriptors {
    limit: usize,
    needed: usize,
}

impl Descriptors {
    /// Raises the soft limit of this process to the hard one, and counts the descriptors that are open. The soft limit is
    /// often 1024, for the sake of programs that use `select`.
    pub(crate) fn raise_limit() -> Descriptors {
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit {
            current: limit.maximum,
            ..limit
        };
        // If it fails, fewer clients can be served at a time, which is no reason to serve none.
        let _ = setrlimit(Resource::Nofile, raised);
        Descriptors {
            limit: getrlimit(Resource::Nofile).current,
            inherited: open_descriptors(),
        }
    }

    /// Returns how many connections there are descriptors for with this number of listeners; `None` means unlimited.
    ///
    /// The daemon must always be able to accept one connection more, if only to refuse it.
    pub(crate) fn max_connections(
        &self,
        listeners: usize,
    ) -> Result<Option<usize>, TooFewDescriptors> {
        let Some(limit) = self.limit else {
            return Ok(None);
        };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        // Each listener takes one descriptor for itself, and one for a connection that it has just accepted.
        let needed = self.inherited + OWN_DESCRIPTORS + 2 * listeners + 1;
        match limit.checked_sub(needed) {
            Some(more) => Ok(Some(more + 1)),
            None => Err(TooFewDescriptors { limit, needed }),
        }
    }
}

/// Returns the number of open descriptors; that of the standard streams where it cannot be known.
fn open_descriptors() -> usize {
    // One of them is that of the directory itself.
    fs::read_dir("/proc/self/fd").map_or(3, |open| open.count() - 1)
}
