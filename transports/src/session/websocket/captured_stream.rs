//! The stream as tungstenite sees it: reads go through, writes are captured.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Captures what tungstenite writes, which is pongs. Pings of the session join them. Before any other output, these
/// frames are sent, because the first of them may be half sent.
#[derive(Debug)]
pub(super) struct CapturedStream<S> {
    pub(super) stream: S,
    /// Control frames to be sent.
    pub(super) controls: Vec<u8>,
    /// True if some of them were written and not flushed yet.
    unflushed: bool,
    /// Time when the peer last sent bytes, or took bytes that had to wait.
    pub(super) heard: Instant,
    /// Number of bytes written since the peer last sent bytes. It may still have to read them.
    pub(super) unanswered: usize,
    /// Time since which the peer has taken none of `controls`; `None` while it takes them.
    pub(super) blocked: Option<Instant>,
}

impl<S> CapturedStream<S> {
    pub(super) fn new(stream: S) -> CapturedStream<S> {
        CapturedStream {
            stream,
            controls: Vec::new(),
            unflushed: false,
            heard: Instant::now(),
            unanswered: 0,
            blocked: None,
        }
    }

    /// Returns the control frames to be sent before any other output. They are flushed with that output.
    pub(super) fn take_controls(&mut self) -> Vec<u8> {
        self.blocked = None;
        self.unflushed = false;
        std::mem::take(&mut self.controls)
    }
}

impl<S: AsyncWrite + Unpin> CapturedStream<S> {
    /// Writes as many control frames as the peer takes now. The task is woken when the peer takes more.
    pub(super) fn write_controls(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while !self.controls.is_empty() {
            match Pin::new(&mut self.stream).poll_write(context, &self.controls)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => {
                    self.controls.drain(..written);
                    self.unflushed = true;
                    self.note_progress();
                }
                Poll::Pending => {
                    self.note_blocked();
                    return Ok(());
                }
            }
        }
        self.controls = Vec::new();
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(context)? {
                Poll::Ready(()) => {
                    self.unflushed = false;
                    self.note_progress();
                }
                Poll::Pending => self.note_blocked(),
            }
        }
        Ok(())
    }

    fn note_progress(&mut self) {
        if self.blocked.take().is_some() {
            self.heard = Instant::now();
        }
    }

    fn note_blocked(&mut self) {
        self.blocked.get_or_insert_with(Instant::now);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for CapturedStream<S> {
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

impl<S: Unpin> AsyncWrite for CapturedStream<S> {
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
