//! The client with servers in this process, over sockets: glockd, and an imitation of the original.

// Always true here. It tells clippy that helper functions may unwrap, too.
#![cfg(test)]

mod blocking;
mod exclusion;
mod fakes;
mod guards;
mod losses;
mod queries;
mod refusals;
mod servers;
mod silence;
