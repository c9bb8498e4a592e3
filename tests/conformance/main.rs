//! The protocol, byte by byte, with a server in this process: scripts with labelled clients, each run over every
//! transport, with their transcripts in `snapshots/`.

// Always true here. It tells clippy that helper functions may unwrap, too.
#![cfg(test)]

mod bytes_in;
mod documentation;
mod extensions;
mod fences;
mod hostile;
mod http;
mod lifetime;
mod orphans;
mod policy;
mod script;
mod server;
mod waits;
