//! The client against servers of this process, over sockets: glockd as it is, and what behaves as the original.

// Always so here; it tells clippy that not only the functions marked as tests may unwrap.
#![cfg(test)]

mod blocking;
mod exclusion;
mod fakes;
mod guards;
mod losses;
mod queries;
mod refusals;
mod servers;
