//! A connection after its handshake, and the two framings that the crate has: lines and WebSocket messages.

pub(crate) mod line;
pub(crate) mod websocket;

use std::io;

use async_trait::async_trait;

use crate::frames::{Input, Output};

/// A connection after its handshake: receives and sends frames, a batch at a time.
///
/// A batch, because a boxed future costs about as much as a lock command: two boxes a batch do not show, a box a
/// line would be a third of the work.
#[async_trait]
pub trait Session: Send {
    /// Waits for input, appends the frames of one read to `input`, which is empty, and returns their number.
    /// Returns 0 when the peer has closed its sending side and all its frames have been received. A batch has at
    /// most about 128 KiB and 1,000 frames beyond the first.
    ///
    /// A frame comes whole and without its line end. A frame that is longer than
    /// [`Limits::max_line`](crate::Limits::max_line) is replaced by
    /// [`InputFrame::Oversized`](crate::InputFrame::Oversized) as soon as it is known to be too long. Its bytes are
    /// dropped as they arrive, so that memory stays bounded.
    ///
    /// Cancel-safe: dropping the future loses no input.
    ///
    /// # Errors
    ///
    /// An error ends the session. Only [`close`](Session::close) may be called after it.
    async fn recv(&mut self, input: &mut Input) -> io::Result<usize>;

    /// Sends a batch of replies, one frame for each received frame, in order. It takes one write if the peer takes
    /// all of it. Returns when the operating system has everything; waits while the peer takes nothing, at most
    /// [`Limits::write_timeout`](crate::Limits::write_timeout) without progress.
    ///
    /// For an empty frame, a message-based session sends an empty message and a byte stream sends nothing. An
    /// [`OutputFrame::Part`](crate::OutputFrame::Part) is continued by the next frame, maybe of the next batch.
    ///
    /// The caller removes the frames when this returns.
    ///
    /// Cancel-safe: another call with the same batch continues where a dropped one stopped. For that, the session
    /// [notes](Output::advance) in `output` what it has sent, as [`write_output`](crate::write_output) does, or moves
    /// frames from there into a buffer of its own. Until a call has returned, only `send` with the same batch and
    /// [`close`](Session::close) may be called.
    ///
    /// # Errors
    ///
    /// As for [`recv`](Session::recv).
    async fn send(&mut self, output: &mut Output) -> io::Result<()>;

    /// Returns true if a line of HTTP ends the session. The server then runs nothing from that line on and closes
    /// the connection.
    ///
    /// Must be true where a web page can make a browser connect and send lines of the page's choice, as on a bare TCP
    /// port. A Unix socket does not need it, since no browser connects to one, and neither does a session after a
    /// handshake that HTTP fails. A session that refuses HTTP also reports the first and last bytes of an oversized
    /// line, by
    /// [`InputFrame::OversizedEnds`](crate::InputFrame::OversizedEnds) after its
    /// [`InputFrame::Oversized`](crate::InputFrame::Oversized), as soon as the end has arrived.
    fn refuses_http(&self) -> bool {
        false
    }

    /// Says goodbye, on transports that have a way to (a WebSocket sends a close frame).
    ///
    /// The server calls it at most once, after it has released everything that the connection held. It sets a time
    /// limit of its own, so the future may be dropped at any point.
    async fn close(self: Box<Self>) {}
}
