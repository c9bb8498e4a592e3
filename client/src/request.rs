//! A request on a connection.

use glockd_protocol::Command;

use crate::expected::ExpectedReply;

/// Lines to send, and the reply that they will have.
pub(crate) struct Request {
    pub(crate) lines: Vec<u8>,
    pub(crate) expected: ExpectedReply,
}

/// Encodes a command as a line, with its line end.
pub(crate) fn line(command: &Command<'_>) -> Vec<u8> {
    let mut line = Vec::new();
    command.encode(&mut line);
    line
}
