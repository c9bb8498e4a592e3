//! The WebSocket transport as clients see it: raw bytes in, raw bytes out, by its public API alone.

#[cfg(test)]
mod client;
#[cfg(test)]
mod handshake;
#[cfg(test)]
mod receiving;
#[cfg(test)]
mod sending;
