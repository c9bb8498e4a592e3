//! What a server allows its clients: which commands, how many locks, and how many waiters.

use glockd_protocol::{PermissionClass, Verb};

use crate::core::locks::LockLimits;

/// Commands and limits that a server allows its clients. The daemon makes it from its flags.
///
/// ```
/// use glockd::Policy;
///
/// let policy = Policy {
///     dump: false,
///     ..Policy::default()
/// };
/// assert!(policy.registry);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// True if clients may list the locks of others (`-dump`).
    pub dump: bool,
    /// True if clients may register names (`-registry`).
    pub registry: bool,
    /// True if the commands that the original does not have are known (`-extensions`).
    pub extensions: bool,
    /// Maximum numbers of locks and waiters (`-max-locks`, `-max-locks-per-connection`, `-max-waiters`).
    pub limits: LockLimits,
}

/// The treatment of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// The command runs.
    Allowed,
    /// The reply is `0 disabled`.
    Disabled,
    /// The line is not taken for a command.
    Unknown,
}

/// The permission of each command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permissions([Permission; Verb::ALL.len()]);

impl Default for Policy {
    /// Allows everything, as the daemon's flags do by default.
    fn default() -> Policy {
        Policy {
            dump: true,
            registry: true,
            extensions: true,
            limits: LockLimits::default(),
        }
    }
}

impl Policy {
    /// Returns the permission of a command.
    pub fn permission(&self, verb: Verb) -> Permission {
        // From the headings of the original's documentation: "only available when -dump is true", "… -registry is true",
        // "even when -registry is not true". An extension needs the same flags as the command that it resembles.
        let is_allowed = (self.dump || verb.class() != PermissionClass::List)
            && (self.registry || !verb.needs_registry());
        match is_allowed {
            _ if !self.extensions && !verb.is_documented() => Permission::Unknown,
            true => Permission::Allowed,
            false => Permission::Disabled,
        }
    }
}

impl Permissions {
    /// Makes the table of a policy's permissions, so that a command costs one lookup.
    pub(crate) fn new(policy: &Policy) -> Permissions {
        Permissions(Verb::ALL.map(|verb| policy.permission(verb)))
    }

    /// Returns the permission of a command.
    pub(crate) fn of(&self, verb: Verb) -> Permission {
        self.0[verb as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(policy: Policy, permission: Permission, expect: &[Verb]) {
        let permissions = Permissions::new(&policy);
        let found: Vec<Verb> = Verb::SORTED
            .into_iter()
            .filter(|&verb| permissions.of(verb) == permission)
            .collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn flags_disable_commands() {
        use Verb::{D, Dump, Iam, Ld, Ldl, Lsd, Lsdl, Lwho, Own, Sd, Who};
        let check = |dump, registry, expect: &[Verb]| {
            let policy = Policy {
                dump,
                registry,
                ..Policy::default()
            };
            check(policy, Permission::Disabled, expect);
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
    }

    #[test]
    fn only_documented_commands_are_known_without_extensions() {
        use Verb::{D, Dump, G, I, Iam, Me, Q, R, Sd, Sg, Si, Sr, Who};
        let documented = [D, Dump, G, I, Iam, Me, Q, R, Sd, Sg, Si, Sr, Who];
        let policy = Policy {
            extensions: false,
            ..Policy::default()
        };
        check(policy, Permission::Allowed, &documented);
        check(policy, Permission::Disabled, &[]);
        let policy = Policy {
            dump: false,
            ..policy
        };
        check(policy, Permission::Disabled, &[D, Dump, Sd, Who]);
    }
}
