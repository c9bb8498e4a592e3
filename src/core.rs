//! The state of a server and the rules on it: plain data, no async, no sockets.
//!
//! ```text
//!            dispatcher                 what each command does: Command -> Outcome
//!           /    |     \
//!     policy   ticket   cursor          what is allowed; waits; listings in steps
//!                \     /
//!        statistics                     a reading of all counters
//!                |
//!              state                    what a server has
//!       /      /    \     \
//!   locks  registry  counters  fence    locks; connections; counters; source of fencing tokens
//!       \
//!     observer  slots                   events and who gets them; a counter of free slots
//! ```

pub(crate) mod counters;
pub mod cursor;
pub mod dispatcher;
pub(crate) mod fence;
pub mod locks;
pub(crate) mod observer;
pub(crate) mod policy;
pub mod registry;
pub(crate) mod slots;
pub mod state;
pub(crate) mod statistics;
pub mod ticket;
