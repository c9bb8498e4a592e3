//! The state of a server and the rules on it: plain data, no async, no sockets.

pub mod cursor;
pub mod dispatcher;
pub(crate) mod fence;
pub mod locks;
pub mod observer;
pub(crate) mod policy;
pub mod registry;
pub(crate) mod slots;
pub mod state;
pub mod statistics;
pub mod stats;
pub mod ticket;
