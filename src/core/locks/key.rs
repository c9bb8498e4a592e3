//! Names of locks, with their hashes.

use std::hash::{BuildHasher, RandomState};

use glockd_protocol::LockKind;
use siphasher::sip::SipHasher13;

/// A keyed hash of names. Clients choose the names and can list their order, so the hash is SipHash with random keys: with a
/// faster one, a client could put all its names into one bucket.
#[derive(Debug)]
pub(super) struct NameHasher {
    // The standard library's SipHash is as strong, but hashes a name in pieces, which takes twice as long.
    hasher: SipHasher13,
}

impl NameHasher {
    /// Makes a hasher with random keys.
    pub(super) fn new() -> NameHasher {
        let random = RandomState::new();
        NameHasher {
            hasher: SipHasher13::new_with_keys(random.hash_one(0), random.hash_one(1)),
        }
    }

    /// Returns the hash of a name.
    pub(super) fn hash(&self, name: &[u8]) -> u64 {
        self.hasher.hash(name)
    }

    /// Returns a name with its hash.
    pub(super) fn hash_name<'a>(&self, name: &'a [u8]) -> HashedName<'a> {
        HashedName {
            hash: self.hash(name),
            bytes: name,
        }
    }
}

/// The name of a lock, with its hash.
#[derive(Clone, Copy)]
pub(super) struct HashedName<'a> {
    pub(super) hash: u64,
    pub(super) bytes: &'a [u8],
}

/// A lock: its kind and its name.
#[derive(Clone, Copy)]
pub(super) struct Key<'a> {
    pub(super) kind: LockKind,
    pub(super) name: HashedName<'a>,
}
