//! The protocol, byte by byte, with a server in this process: scripts with labelled clients, each run over every
//! transport, with their transcripts in `snapshots/`.

// Always true here. It tells clippy that helper functions may unwrap, too.
#![cfg(test)]

mod bytes_in;
mod client;
mod documentation;
mod extensions;
mod failures;
mod fences;
mod hostile;
mod http;
mod lifetime;
mod messages;
mod orphans;
mod policy;
mod queue;
mod script;
mod server;
mod wait_commands;
mod waits;
