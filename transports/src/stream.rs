//! Connections as byte streams, before any framing.

use std::io::{Read, Write};
use std::pin::Pin;
use std::task::{Context, Waker};

use socket2::{SockRef, Socket};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, Join, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Maximum number of unread bytes that are read before the last words. Unread input makes closing a TCP connection
/// a reset, which can destroy the last words on their way; more input than this is not worth the time.
const DISCARDED: usize = 8 * 1024;

/// A connection as a byte stream. A stream of your own needs no method: `impl ByteStream for MyStream {}`.
///
/// One that wraps another stream and passes its bytes through unchanged must pass on the inner stream's
/// [`is_open_to_browsers`](ByteStream::is_open_to_browsers), too. Otherwise, bare TCP would lose its protection against
/// web pages.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Returns true if a web page can make a browser open this connection and send bytes of the page's choice, as
    /// over bare TCP. A framing must then not take an HTTP request for anything else. See
    /// [`Session::refuses_http`](crate::Session::refuses_http).
    fn is_open_to_browsers(&self) -> bool {
        false
    }

    /// Sends the last words as far as the peer takes them at once, and closes the connection. Does not wait: it is
    /// used on connections that are refused.
    fn close_with(mut self, last_words: &[u8])
    where
        Self: Sized,
    {
        let mut context = Context::from_waker(Waker::noop());
        let mut unread = [0; DISCARDED];
        // Errors do not matter: the peer is gone, or sees the connection close.
        let _ = Pin::new(&mut self).poll_read(&mut context, &mut ReadBuf::new(&mut unread));
        let _ = Pin::new(&mut self).poll_write(&mut context, last_words);
        let _ = Pin::new(&mut self).poll_flush(&mut context);
    }
}

impl ByteStream for DuplexStream {}

/// Two halves, such as the pipes of a process.
impl<R, W> ByteStream for Join<R, W>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
}

impl ByteStream for UnixStream {
    fn close_with(self, last_words: &[u8]) {
        send_last_words(&SockRef::from(&self), last_words);
    }
}

impl ByteStream for TcpStream {
    fn is_open_to_browsers(&self) -> bool {
        true
    }

    fn close_with(self, last_words: &[u8]) {
        send_last_words(&SockRef::from(&self), last_words);
    }
}

/// Sends the last words on a non-blocking socket that is about to be closed. Bypasses the runtime, which learns only
/// later that a fresh socket is ready.
pub(crate) fn send_last_words(mut socket: &Socket, last_words: &[u8]) {
    // Errors do not matter: the peer is gone, or sees the connection close.
    let _ = socket.read(&mut [0; DISCARDED]);
    let _ = socket.write(last_words);
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn last_words_arrive_before_the_end() {
        let check = async |mut client: Box<dyn ByteStreamEnd>, server: Box<dyn FnOnce()>| {
            client.write_all(b"unread").await.unwrap();
            server();
            let mut words = Vec::new();
            client.read_to_end(&mut words).await.unwrap();
            assert_eq!(words, b"bye");
        };
        let (client, server) = tokio::io::duplex(100);
        check(Box::new(client), Box::new(|| server.close_with(b"bye"))).await;
        let (client, server) = UnixStream::pair().unwrap();
        check(Box::new(client), Box::new(|| server.close_with(b"bye"))).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        let (client, (server, _)) = (client.unwrap(), accepted.unwrap());
        check(Box::new(client), Box::new(|| server.close_with(b"bye"))).await;
    }

    #[tokio::test]
    async fn last_words_that_do_not_fit_are_cut() {
        let (mut client, server) = tokio::io::duplex(2);
        server.close_with(b"bye");
        let mut words = Vec::new();
        client.read_to_end(&mut words).await.unwrap();
        assert_eq!(words, b"by");
    }

    trait ByteStreamEnd: AsyncRead + AsyncWrite + Unpin {}
    impl<S: AsyncRead + AsyncWrite + Unpin> ByteStreamEnd for S {}
}
