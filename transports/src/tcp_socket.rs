//! A TCP socket that says goodbye in a way that its peer understands.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, Socket};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection, reset if it is dropped while its peer takes nothing. Closed in the usual way, it would go on
/// for as long as that peer takes to read what had been sent before, unaware that its locks are another's.
#[derive(Debug)]
pub(crate) struct TcpSocket {
    stream: TcpStream,
    /// Whether the last write had to wait, and none has gone on since.
    blocked: bool,
}

impl TcpSocket {
    pub(crate) fn new(stream: TcpStream) -> TcpSocket {
        TcpSocket {
            stream,
            blocked: false,
        }
    }

    /// Sends what fits into the socket's buffer, and closes the connection, all without waiting.
    pub(crate) fn close_with(self, last_words: &[u8]) {
        // Past the runtime, which has yet to learn whether a fresh socket is ready.
        let mut socket: &Socket = &SockRef::from(&self.stream);
        // Input that is not read makes the close a reset, and that may destroy the last words. More input than this
        // is not worth the time. Whatever fails here, the peer is gone, or will see the close.
        let _ = socket.read(&mut [0; 8 * 1024]);
        let _ = socket.write(last_words);
    }
}

impl AsFd for TcpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl AsyncRead for TcpSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for TcpSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.blocked = written.is_pending();
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Drop for TcpSocket {
    fn drop(&mut self) {
        if self.blocked {
            // If that fails, it is closed in the usual way.
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}
