//! What a server allows its clients: which commands, by a table of command and flags, how many locks, and how
//! many waiters.

use glockd_protocol::{PermissionClass, Verb};

/// What a server allows its clients. Made by the daemon from `-dump`, `-registry`, `-extensions` and
/// `-max-…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    permissions: [Permission; Verb::ALL.len()],
    max_locks: Option<usize>,
    max_locks_per_connection: Option<usize>,
    max_waiters: Option<usize>,
}

/// What becomes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// It is answered.
    Allowed,
    /// It is refused by `0 disabled`.
    Disabled,
    /// It is taken for no command at all.
    Unknown,
}

impl Policy {
    /// The policy of the flags `-dump` (may clients list what others hold?) and `-registry` (may
    /// connections give themselves names?), and for any number of locks.
    pub fn new(dump: bool, registry: bool) -> Policy {
        let permissions = Verb::ALL.map(|verb| {
            // From the headings of the original's documentation: "only available when -dump is true", "… -registry is
            // true", "even when -registry is not true". An extension obeys as what it is like.
            let allowed = (dump || verb.class() != PermissionClass::List)
                && (registry || !verb.needs_registry());
            match allowed {
                true => Permission::Allowed,
                false => Permission::Disabled,
            }
        });
        Policy {
            permissions,
            max_locks: None,
            max_locks_per_connection: None,
            max_waiters: None,
        }
    }

    /// This policy without the commands that the original does not have: they are no commands then.
    pub fn without_extensions(mut self) -> Policy {
        for verb in Verb::ALL {
            if !verb.is_documented() {
                self.permissions[verb as usize] = Permission::Unknown;
            }
        }
        self
    }

    /// This policy with a limit for the locks that are held at a time, exclusive and shared together; of a
    /// shared one each holder counts, and of any one each connection that waits to hold it. A get beyond it
    /// is answered as if another held the lock, or as if the queue were full.
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

    /// This policy with a limit for how many may wait to hold a lock.
    pub fn with_max_waiters(self, max_waiters: Option<usize>) -> Policy {
        Policy {
            max_waiters,
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

    /// How many may wait to hold a lock, of either kind; `None`: any number.
    pub fn max_waiters(&self) -> Option<usize> {
        self.max_waiters
    }

    /// What becomes of this command.
    pub fn permission(&self, verb: Verb) -> Permission {
        self.permissions[verb as usize]
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
    fn check(policy: Policy, permission: Permission, expect: &[Verb]) {
        let found: Vec<Verb> = Verb::SORTED
            .into_iter()
            .filter(|&verb| policy.permission(verb) == permission)
            .collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn flags_refuse_commands() {
        use Verb::{D, Dump, Iam, Ld, Ldl, Lsd, Lsdl, Lwho, Own, Sd, Who};
        let check = |dump, registry, expect: &[Verb]| {
            check(Policy::new(dump, registry), Permission::Disabled, expect);
        };
        check(true, true, &[]);
        check(true, false, &[Iam, Lwho, Who]);
        check(
            false,
            true,
            &[D, Dump, Ld, Ldl, Lsd, Lsdl, Lwho, Own, Sd, Who],
        );
        check(
            false,
            false,
            &[D, Dump, Iam, Ld, Ldl, Lsd, Lsdl, Lwho, Own, Sd, Who],
        );
        assert_eq!(Policy::default(), Policy::new(true, true));
    }

    #[test]
    fn without_extensions_there_are_thirteen_commands() {
        use Verb::{D, Dump, G, I, Iam, Me, Q, R, Sd, Sg, Si, Sr, Who};
        let documented = [D, Dump, G, I, Iam, Me, Q, R, Sd, Sg, Si, Sr, Who];
        let policy = Policy::default().without_extensions();
        check(policy, Permission::Allowed, &documented);
        check(policy, Permission::Disabled, &[]);
        let policy = Policy::new(false, true).without_extensions();
        check(policy, Permission::Disabled, &[D, Dump, Sd, Who]);
    }
}
