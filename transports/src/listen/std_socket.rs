//! Listening sockets that this crate did not make, but a service manager, say, or the program that embeds the server.

use std::io;
use std::os::fd::AsRawFd;

use socket2::{Domain, SockRef, Type};

use crate::address::Address;
use crate::transport::BindError;

/// Checks that a socket is a stream socket of one of these domains and that it listens. Makes it non-blocking, as
/// the runtime needs it. `kind` is what the error calls such a socket.
///
/// A descriptor that was passed on can be anything, whatever its type in the program says. Accepting from another
/// socket would fail with an obscure error, again and again.
pub(super) fn prepare(
    socket: &SockRef<'_>,
    domains: &[Domain],
    kind: &'static str,
) -> Result<(), BindError> {
    // Not its address: that of another kind of socket would mislead.
    let address = || Address::Name(format!("file descriptor {}", socket.as_raw_fd()));
    let refused = |source: io::Error| BindError::Refused {
        address: address(),
        source,
    };
    let is_stream = socket.r#type().map_err(refused)? == Type::STREAM;
    if !is_stream || !domains.contains(&socket.domain().map_err(refused)?) {
        return Err(BindError::WrongSocket {
            address: address(),
            expected: kind,
        });
    }
    if !socket.is_listener().map_err(refused)? {
        return Err(BindError::NotListening { address: address() });
    }
    socket.set_nonblocking(true).map_err(refused)
}
