//! The state of a server and the rules on it: plain data, no async, no sockets.

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
pub(crate) mod stats;
pub mod ticket;
