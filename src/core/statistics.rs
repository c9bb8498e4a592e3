//! The counters of a server at one moment.

use glockd_protocol::{Counter, LockKind, Verb};

use crate::core::state::State;

/// The counters of a server, as [`Handle::statistics`](crate::Handle::statistics) and the command `q` read them.
///
/// They are read one after the other while the server goes on, so they need not all be of one moment. But a connection
/// that is no longer counted in [`connections`](Statistics::connections) has all its orphans counted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Live connections, including those that have ended and whose locks are not all released yet.
    pub connections: u64,
    /// Names that are locked exclusively.
    pub locks: u64,
    /// Names that are locked shared.
    pub shared_locks: u64,
    /// Exclusive locks, since the start, whose connection ended before it released them.
    pub orphans: u64,
    /// The same for shared locks, counted once for each holder.
    pub shared_orphans: u64,
    /// Lines, since the start, that were not a command.
    pub invalid_commands: u64,
    /// Connections, since the start, that were refused because of a limit.
    pub refused_connections: u64,
    /// Connections, since the start, that were closed because they spoke HTTP.
    pub refused_http: u64,
    /// Locks, since the start, that were refused because of a limit.
    pub refused_locks: u64,
    /// Indexed by the verb.
    commands: [u64; Verb::ALL.len()],
}

impl Statistics {
    /// Returns how often a command was sent since the start, including those that were refused.
    pub fn commands(&self, verb: Verb) -> u64 {
        self.commands[verb as usize]
    }

    /// Reads the counters of a server.
    pub(crate) fn of(state: &State) -> Statistics {
        let State {
            locks,
            registry,
            counters,
            ..
        } = state;
        // A disconnection releases locks, counts them as orphans and removes the connection, in that order. This
        // reads in the opposite order. Otherwise a reader could see the connection gone and its orphans missing.
        let connections = registry.connections() as u64;
        let orphans = counters.exclusive_orphans();
        let shared_orphans = counters.shared_orphans();
        Statistics {
            connections,
            locks: locks.count(LockKind::Exclusive) as u64,
            shared_locks: locks.count(LockKind::Shared) as u64,
            orphans,
            shared_orphans,
            invalid_commands: counters.invalid_commands(),
            refused_connections: counters.refused_connections(),
            refused_http: counters.refused_http(),
            refused_locks: locks.refused_by_limits(),
            commands: Verb::ALL.map(|verb| counters.commands(verb)),
        }
    }

    /// Returns the counters that `q` shows, in the order of their keys. A counter that the original does not have is
    /// left out while it is 0.
    pub(crate) fn counters(&self) -> Vec<(Counter, u64)> {
        let commands = Verb::SORTED
            .into_iter()
            .map(|verb| (Counter::Command(verb), self.commands(verb)));
        let others = [
            (Counter::Connections, self.connections),
            (Counter::InvalidCommands, self.invalid_commands),
            (Counter::Locks, self.locks),
            (Counter::Orphans, self.orphans),
            (Counter::RefusedConnections, self.refused_connections),
            (Counter::RefusedHttp, self.refused_http),
            (Counter::RefusedLocks, self.refused_locks),
            (Counter::SharedLocks, self.shared_locks),
            (Counter::SharedOrphans, self.shared_orphans),
        ];
        commands
            .chain(others)
            .filter(|&(counter, count)| count > 0 || counter.is_always_shown())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::dispatcher::Dispatcher;

    /// Clients find the end of `q` by its last line.
    #[test]
    fn counters_are_in_the_order_of_their_keys_and_end_with_shared_orphans() {
        let mut statistics = Dispatcher::default().statistics();
        // So that every counter is shown.
        statistics.commands.fill(1);
        statistics.refused_connections = 1;
        statistics.refused_http = 1;
        statistics.refused_locks = 1;
        let mut shown = Vec::new();
        glockd_protocol::Reply::Statistics(statistics.counters()).encode(&mut shown);
        let keys: Vec<&[u8]> = shown
            .split(|&byte| byte == b'\n')
            .filter_map(|line| line.split(|&byte| byte == b':').next())
            .filter(|key| !key.is_empty())
            .collect();
        assert!(keys.is_sorted());
        assert_eq!(keys.last(), Some(&&b"shared_orphans"[..]));
        assert_eq!(keys.len(), Verb::ALL.len() + 9);
    }
}
