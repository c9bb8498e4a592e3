//! The WebSocket transport as clients see it, in raw bytes and through the public API alone.

// Always so here; it tells clippy that not only the functions marked as tests may unwrap.
#![cfg(test)]

mod client;
mod handshake;
mod receiving;
mod sending;
mod silence;
