//! The table of all locks, in shards.
//!
//! A shard is chosen by a keyed hash of the name. It keeps everything about its names behind one short mutex: which are
//! locked, by which clients, for each client a list of its locks *in this shard*, and the waiters. So no operation
//! needs two mutexes at a time, and the locks of a connection that ends are found without a search. A waiter is granted its lock by
//! the client that releases it.
//!
//! ```text
//!  acquire  wait  inspect  disconnect  idle   what callers do: methods of LockTable
//!        \    \    /      /      /
//!              table                      the shards, and the way to them
//!                |
//!   shard    due    quota                 one mutex; shards to be served; counts against the limits
//!     |
//!   exclusive   shared   queue            one kind of lock each; the waiters
//!        \        |       /
//!   arena  client_lists                   lists through nodes in a vector
//!   key  grant  claim  stamp  limits      plain data
//! ```
//!
//! Turned down: one map with an object for each lock (an allocation for each lock, and a second map to find the locks of a
//! connection: four times the memory), and a task that owns the table (a round trip through a channel costs more than a
//! command).

mod acquire;
mod arena;
mod claim;
mod client_lists;
mod disconnect;
mod due;
mod exclusive;
mod grant;
mod idle;
mod inspect;
mod key;
mod limits;
mod queue;
mod quota;
mod shard;
mod shared;
mod stamp;
mod table;
mod wait;

pub use claim::{Claim, CountedClaims};
pub use disconnect::{Disconnection, OrphanCounts};
pub use inspect::ScanPosition;
pub use limits::LockLimits;
pub use stamp::Stamp;
pub use table::LockTable;
pub use wait::{Attempt, IfBusy, WaitHandle};

#[cfg(test)]
mod tests;
