//! What a server allows its clients: which commands, by a table of command and flags, and how many locks.

use glockd_protocol::Verb;

/// What a server allows its clients. Made by the daemon from `-dump`, `-registry` and `-max-locks…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    allowed: [bool; Verb::ALL.len()],
    max_locks: Option<usize>,
    max_locks_per_connection: Option<usize>,
}

/// The flags a command needs.
enum Needs {
    Nothing,
    Dump,
    Registry,
    Both,
}

/// From the seed's headings: "only available when -dump is true", "… -registry is true", "even when
/// -registry is not true".
const TABLE: [(Verb, Needs); Verb::ALL.len()] = [
    (Verb::D, Needs::Dump),
    (Verb::Dump, Needs::Dump),
    (Verb::G, Needs::Nothing),
    (Verb::I, Needs::Nothing),
    (Verb::Iam, Needs::Registry),
    (Verb::Me, Needs::Nothing),
    (Verb::Q, Needs::Nothing),
    (Verb::R, Needs::Nothing),
    (Verb::Sd, Needs::Dump),
    (Verb::Sg, Needs::Nothing),
    (Verb::Si, Needs::Nothing),
    (Verb::Sr, Needs::Nothing),
    (Verb::Who, Needs::Both),
];

impl Policy {
    /// The policy of the flags `-dump` (may clients list what others hold?) and `-registry` (may
    /// connections give themselves names?), and for any number of locks.
    pub fn new(dump: bool, registry: bool) -> Policy {
        let mut allowed = [false; Verb::ALL.len()];
        for (verb, needs) in TABLE {
            allowed[verb as usize] = match needs {
                Needs::Nothing => true,
                Needs::Dump => dump,
                Needs::Registry => registry,
                Needs::Both => dump && registry,
            };
        }
        Policy {
            allowed,
            max_locks: None,
            max_locks_per_connection: None,
        }
    }

    /// This policy with a limit for the locks that are held at a time, exclusive and shared together; of a
    /// shared one each holder counts. A get beyond it is answered as if another held the lock.
    pub fn with_max_locks(self, max_locks: Option<usize>) -> Policy {
        Policy { max_locks, ..self }
    }

    /// This policy with such a limit for what one connection holds.
    pub fn with_max_locks_per_connection(self, max_locks_per_connection: Option<usize>) -> Policy {
        Policy {
            max_locks_per_connection,
            ..self
        }
    }

    /// How many locks may be held at a time; `None`: any number.
    pub fn max_locks(&self) -> Option<usize> {
        self.max_locks
    }

    /// How many locks a connection may hold at a time; `None`: any number.
    pub fn max_locks_per_connection(&self) -> Option<usize> {
        self.max_locks_per_connection
    }

    /// Whether this command is answered, rather than refused by `0 disabled`.
    pub fn allows(&self, verb: Verb) -> bool {
        self.allowed[verb as usize]
    }
}

impl Default for Policy {
    /// Everything is allowed, as the daemon's flags have it by default.
    fn default() -> Policy {
        Policy::new(true, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(dump: bool, registry: bool, refused: &[Verb]) {
        let policy = Policy::new(dump, registry);
        let found: Vec<Verb> = Verb::ALL
            .into_iter()
            .filter(|&verb| !policy.allows(verb))
            .collect();
        assert_eq!(found, refused);
    }

    #[test]
    fn flags_refuse_commands() {
        check(true, true, &[]);
        check(true, false, &[Verb::Iam, Verb::Who]);
        check(false, true, &[Verb::D, Verb::Dump, Verb::Sd, Verb::Who]);
        check(
            false,
            false,
            &[Verb::D, Verb::Dump, Verb::Iam, Verb::Sd, Verb::Who],
        );
        assert_eq!(Policy::default(), Policy::new(true, true));
    }
}
