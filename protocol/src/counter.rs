//! The counters that `q` shows.

use crate::Verb;
use crate::line::append_number;
use crate::texts::{COLON, COMMAND_COUNTER};

/// A line of `q`. `q` shows the commands in the order of [`Verb::SORTED`] and then the others in the order of declaration;
/// both orders are those of the keys. `SharedOrphans` stays last: clients take it for the end of `q`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Number of uses of a command since the start, refused or not.
    Command(Verb),
    /// Number of connections now.
    Connections,
    /// Number of frames since the start that were not a command.
    InvalidCommands,
    /// Number of names that are locked exclusively now.
    Locks,
    /// Number of exclusive locks since the start whose connection ended before it released them.
    Orphans,
    /// Number of connections since the start that were not admitted.
    RefusedConnections,
    /// Number of connections since the start that were closed because they spoke HTTP.
    RefusedHttp,
    /// Number of locks since the start that were not granted because of a limit.
    RefusedLocks,
    /// Number of names that are locked shared now.
    SharedLocks,
    /// Number of shared locks since the start whose connection ended before it released them.
    SharedOrphans,
}

impl Counter {
    /// True if this is shown even while it is 0: the original does so for the counters that it documents.
    pub fn is_always_shown(self) -> bool {
        match self {
            Counter::Command(Verb::Me | Verb::Iam | Verb::Who) => false,
            Counter::Command(verb) => verb.is_documented(),
            Counter::RefusedConnections | Counter::RefusedHttp | Counter::RefusedLocks => false,
            // No wildcard: a counter that the original does not have must be hidden while it is 0.
            Counter::Connections
            | Counter::InvalidCommands
            | Counter::Locks
            | Counter::Orphans
            | Counter::SharedLocks
            | Counter::SharedOrphans => true,
        }
    }

    /// Appends the line of this counter.
    pub(crate) fn encode(self, value: u64, out: &mut Vec<u8>) {
        let key = match self {
            Counter::Command(verb) => {
                out.extend_from_slice(COMMAND_COUNTER.as_bytes());
                verb.as_str()
            }
            Counter::Connections => "connections",
            Counter::InvalidCommands => "invalid_commands",
            Counter::Locks => "locks",
            Counter::Orphans => "orphans",
            Counter::RefusedConnections => "refused_connections",
            Counter::RefusedHttp => "refused_http",
            Counter::RefusedLocks => "refused_locks",
            Counter::SharedLocks => "shared_locks",
            Counter::SharedOrphans => "shared_orphans",
        };
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(COLON.as_bytes());
        append_number(out, value);
        out.push(b'\n');
    }
}
