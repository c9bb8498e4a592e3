//! The byte stream of a session, as tungstenite sees it: read from, but not written to.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Keeps what tungstenite writes, which is pongs, and pings of ours: they go out before anything else does,
/// since the first may be out by half.
#[derive(Debug)]
pub(super) struct Inlet<S> {
    pub(super) stream: S,
    /// Control frames that are to go out.
    pub(super) controls: Vec<u8>,
    /// Whether some of them were written and may not have gone out yet.
    unflushed: bool,
    /// When the peer last sent something, or took something that it had kept waiting.
    pub(super) heard: Instant,
    /// Bytes written since it last sent something, which it may yet have to read.
    pub(super) unanswered: usize,
    /// Since when the peer takes none of `controls`.
    pub(super) blocked: Option<Instant>,
}

impl<S> Inlet<S> {
    pub(super) fn new(stream: S) -> Inlet<S> {
        Inlet {
            stream,
            controls: Vec::new(),
            unflushed: false,
            heard: Instant::now(),
            unanswered: 0,
            blocked: None,
        }
    }

    /// What is to go out before anything else, to be flushed with that.
    pub(super) fn take_controls(&mut self) -> Vec<u8> {
        self.blocked = None;
        self.unflushed = false;
        std::mem::take(&mut self.controls)
    }
}

impl<S: AsyncWrite + Unpin> Inlet<S> {
    /// Writes as many control frames as the peer takes now, and wakes the task when it takes more.
    pub(super) fn write_controls(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while !self.controls.is_empty() {
            match Pin::new(&mut self.stream).poll_write(context, &self.controls)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => {
                    self.controls.drain(..written);
                    self.unflushed = true;
                    self.went_on();
                }
                Poll::Pending => {
                    self.waits();
                    return Ok(());
                }
            }
        }
        self.controls = Vec::new();
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(context)? {
                Poll::Ready(()) => {
                    self.unflushed = false;
                    self.went_on();
                }
                Poll::Pending => self.waits(),
            }
        }
        Ok(())
    }

    fn went_on(&mut self) {
        if self.blocked.take().is_some() {
            self.heard = Instant::now();
        }
    }

    fn waits(&mut self) {
        self.blocked.get_or_insert_with(Instant::now);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Inlet<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.heard = Instant::now();
            self.unanswered = 0;
        }
        read
    }
}

impl<S: Unpin> AsyncWrite for Inlet<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.controls.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
