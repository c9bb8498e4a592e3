//! The daemon as its users have it: a process with flags, signals, files, sockets and a log.

// Always so here; it tells clippy that not only the functions marked as tests may unwrap.
#![cfg(test)]

mod extensions;
mod faults;
mod flags;
mod limits;
mod loads;
mod memory;
mod peers;
mod pidfile;
mod sessions;
mod signals;
mod sockets;
mod witness;
