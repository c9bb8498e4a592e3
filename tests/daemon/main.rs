//! The daemon as a process, as its users run it: with flags, signals, files, sockets and a log.

// Always true here. It tells clippy that helper functions may unwrap, too.
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
