//! glockd.

#![doc = ""]
pub mod dispatcher;
pub mod listing;
pub mod locks;
mod policy;
pub mod registry;
pub mod stats;

pub use policy::Policy;
