//! The identity of a lock.

use glockd_protocol::{Command, LockKind, fold};

use crate::error::Error;

/// A lock: its kind, and its name as the server stores it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LockKey {
    pub(crate) kind: LockKind,
    pub(crate) name: Vec<u8>,
}

impl LockKey {
    /// Returns the command that releases the lock.
    pub(crate) fn release(&self) -> Command<'_> {
        let name = self.name.as_slice().into();
        match self.kind {
            LockKind::Exclusive => Command::Release(name),
            LockKind::Shared => Command::SharedRelease(name),
        }
    }

    /// Returns the command that asks for the fencing token of the lock.
    pub(crate) fn fence(&self) -> Command<'_> {
        let name = self.name.as_slice().into();
        match self.kind {
            LockKind::Exclusive => Command::Fence(name),
            LockKind::Shared => Command::SharedFence(name),
        }
    }
}

/// Returns a name as the server stores it, with its white space folded.
///
/// # Errors
///
/// [`Error::BadName`] if the name contains a line end.
pub(crate) fn fold_name(name: &[u8]) -> Result<Vec<u8>, Error> {
    if name.contains(&b'\n') {
        return Err(Error::BadName(name.to_vec()));
    }
    Ok(fold(name).into_owned())
}
