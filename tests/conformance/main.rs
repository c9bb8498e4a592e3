//! The protocol, pinned byte by byte against a server in this process: scripts with labelled clients,
//! each run over every transport, their transcripts kept in `snapshots/`.

// Always so here; it tells clippy that not only the functions marked as tests may unwrap.
#![cfg(test)]

mod bytes_in;
mod extensions;
mod fences;
mod hostile;
mod http;
mod lifetime;
mod orphans;
mod policy;
mod script;
mod seed;
mod server;
mod waits;
