//! The outcome of a get: a grant or a reason against it.

use super::stamp::Stamp;
use crate::core::registry::ClientId;

/// A lock's grant to one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) client: ClientId,
    pub(super) stamp: Stamp,
}

/// The reason why a client does not get a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// Other clients hold it.
    Held,
    /// A limit is reached.
    OverLimit,
}
