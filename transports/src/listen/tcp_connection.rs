//! A TCP connection with the options that the server's limits ask for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::limits::{KEEPALIVE_PROBES, Limits, MAX_KEEPALIVE, PROBE_INTERVAL};
use crate::stream::{ByteStream, send_last_words};

/// Shortest time that the kernel can count until it probes a silent peer.
const MIN_KEEPALIVE: Duration = Duration::from_secs(1);

/// Longest user timeout: the kernel counts it in milliseconds, with 32 bits.
const MAX_USER_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);

/// An accepted TCP connection, tuned for a lock server.
///
/// It is reset, rather than closed, if it is dropped while its peer takes nothing. Closed in the usual way, it would
/// stay open until the peer has read all earlier output, unaware that its locks are already another client's.
#[derive(Debug)]
pub struct TcpConnection {
    stream: TcpStream,
    /// True if the last write had to wait and none has succeeded since.
    blocked: bool,
}

impl TcpConnection {
    /// Sets the options of an accepted connection: no delay of small packets, and time limits for a silent peer and
    /// for a peer that reads nothing.
    ///
    /// # Errors
    ///
    /// [`ConnectionReset`](io::ErrorKind::ConnectionReset) if the operating system refuses an option, which it does for a
    /// connection that is already reset.
    pub fn new(stream: TcpStream, limits: Limits) -> io::Result<TcpConnection> {
        match set_options(&stream, limits) {
            Ok(()) => Ok(TcpConnection {
                stream,
                blocked: false,
            }),
            Err(error) => Err(io::Error::new(io::ErrorKind::ConnectionReset, error)),
        }
    }
}

fn set_options(stream: &TcpStream, limits: Limits) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    if let Some(idle) = limits.keepalive {
        let keepalive = TcpKeepalive::new()
            .with_time(idle.clamp(MIN_KEEPALIVE, MAX_KEEPALIVE))
            .with_interval(PROBE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES);
        socket.set_tcp_keepalive(&keepalive)?;
    }
    socket.set_tcp_user_timeout(user_timeout(limits))
}

/// Returns how long sent bytes may stay unacknowledged, which is also how long a peer may take nothing (RFC 5482). On
/// Linux it also ends unanswered probes, so it must not be shorter than all of these take.
fn user_timeout(limits: Limits) -> Option<Duration> {
    let probed = limits
        .keepalive
        .map(|idle| idle.saturating_add(KEEPALIVE_PROBES * PROBE_INTERVAL));
    let longer = limits.write_timeout?.max(probed.unwrap_or_default());
    Some(longer.min(MAX_USER_TIMEOUT))
}

impl ByteStream for TcpConnection {
    fn is_open_to_browsers(&self) -> bool {
        true
    }

    fn close_with(self, last_words: &[u8]) {
        send_last_words(&SockRef::from(&self.stream), last_words);
    }
}

impl AsFd for TcpConnection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl AsyncRead for TcpConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for TcpConnection {
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

impl Drop for TcpConnection {
    fn drop(&mut self) {
        if self.blocked {
            // If that fails, it is closed in the usual way.
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    /// Returns both ends of a connection, the second one accepted.
    async fn connect() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        (client.unwrap(), accepted.unwrap().0)
    }

    #[tokio::test]
    async fn accepted_connection_is_tuned() {
        let (_client, accepted) = connect().await;
        let connection = TcpConnection::new(accepted, Limits::default()).unwrap();
        let socket = SockRef::from(&connection);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        let seconds = Duration::from_secs;
        assert_eq!(socket.tcp_keepalive_time().unwrap(), seconds(15));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), seconds(5));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(seconds(30)));
    }

    #[tokio::test]
    async fn extreme_limits_are_clamped_to_what_a_socket_takes() {
        for limit in [Duration::MAX, Duration::from_nanos(1)] {
            let limits = Limits::default()
                .with_keepalive(Some(limit))
                .with_write_timeout(Some(limit));
            let (_client, accepted) = connect().await;
            TcpConnection::new(accepted, limits).unwrap();
        }
    }

    #[test]
    fn user_timeout_is_the_longer_limit() {
        let check = |write_timeout: Option<u64>, keepalive: Option<u64>, expect: Option<u64>| {
            let limits = Limits::default()
                .with_write_timeout(write_timeout.map(Duration::from_secs))
                .with_keepalive(keepalive.map(Duration::from_secs));
            assert_eq!(user_timeout(limits), expect.map(Duration::from_secs));
        };
        check(Some(30), Some(60), Some(75));
        check(Some(90), Some(60), Some(90));
        check(Some(90), None, Some(90));
        check(None, Some(60), None);
        check(None, None, None);
    }
}
