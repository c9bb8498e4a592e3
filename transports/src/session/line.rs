//! Lines on a byte stream: what TCP, Unix sockets and memory speak unless told otherwise.

mod framer;

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::{Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use crate::framed::{Framed, Framing};
use crate::frames::{Input, Output};
use crate::limits::Limits;
use crate::listen::Listen;
use crate::session::Session;
use crate::session::line::framer::LineFramer;
use crate::stream::ByteStream;
use crate::transport::{BindError, Established, Listener, Transport};
use crate::write::write_output;

/// Maximum number of reads that complete no line, before other tasks get their turn.
const MAX_READS: usize = 8;

/// The framing by lines, without a handshake. Lines end with `\n` or `\r\n`.
///
/// Over streams that are [open to browsers](ByteStream::is_open_to_browsers), its sessions
/// [refuse HTTP](Session::refuses_http).
#[derive(Clone, Copy, Debug, Default)]
pub struct Lines;

impl Framing for Lines {
    async fn establish<S: ByteStream>(
        &self,
        stream: S,
        limits: Limits,
    ) -> io::Result<Option<Established>> {
        let refuses_http = stream.is_open_to_browsers();
        let session = LineSession::new(stream, limits);
        let session = match refuses_http {
            true => session.refuse_http(),
            false => session,
        };
        Ok(Some(Established::new(session)))
    }
}

/// A listener alone is a transport of lines.
#[async_trait]
impl<L: Listen> Transport for L {
    fn name(&self) -> &str {
        L::NAME
    }

    async fn listen(self: Box<Self>, limits: Limits) -> Result<Listener, BindError> {
        Box::new(Framed::new(*self, Lines)).listen(limits).await
    }
}

/// A session whose frames are lines on a byte stream.
///
/// When the peer has closed its sending side, a last line without a line end is a frame too.
#[derive(Debug)]
pub struct LineSession<S> {
    stream: S,
    framer: LineFramer,
    write_timeout: Option<Duration>,
}

impl<S> LineSession<S> {
    /// Returns a session of the lines of `stream`.
    pub fn new(stream: S, limits: Limits) -> LineSession<S> {
        LineSession {
            stream,
            framer: LineFramer::new(limits.max_line),
            write_timeout: limits.write_timeout,
        }
    }

    /// Makes this a session that [refuses HTTP](Session::refuses_http), for streams that a web page can make a
    /// browser open.
    pub fn refuse_http(mut self) -> LineSession<S> {
        self.framer.keep_ends();
        self
    }
}

#[async_trait]
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Session for LineSession<S> {
    async fn recv(&mut self, input: &mut Input) -> io::Result<usize> {
        poll_fn(|context| {
            let mut reads = 0;
            while reads < MAX_READS {
                if self.framer.has_rest() {
                    self.framer.take_rest(input);
                } else {
                    // `read_buf` keeps no state between polls, so each poll can make a new one. That lets the buffer
                    // return to the pool while there is nothing to read.
                    let read = pin!(self.stream.read_buf(input.buffer())).poll(context);
                    if read.is_pending() {
                        input.clear();
                    }
                    if ready!(read)? == 0 {
                        self.framer.end(input);
                        if input.is_empty() {
                            input.clear();
                        }
                        return Poll::Ready(Ok(input.len()));
                    }
                }
                self.framer.split(input);
                if !input.is_empty() {
                    return Poll::Ready(Ok(input.len()));
                }
                input.clear();
                reads += 1;
            }
            // The peer is sending a line without an end.
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    }

    async fn send(&mut self, output: &mut Output) -> io::Result<()> {
        write_output(&mut self.stream, output, self.write_timeout).await
    }

    fn refuses_http(&self) -> bool {
        self.framer.keeps_ends()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::InputFrame;

    #[tokio::test]
    async fn endless_line_yields_to_other_tasks() {
        let limits = Limits::default().with_max_line(4);
        let endless = tokio::io::join(tokio::io::repeat(b'x'), tokio::io::sink());
        let mut session = LineSession::new(endless, limits);
        let mut input = Input::new();
        session.recv(&mut input).await.unwrap();
        assert_eq!(input.iter().collect::<Vec<_>>(), [InputFrame::Oversized]);
        input.clear();
        let mut receiving = pin!(session.recv(&mut input));
        // Reading on would never end: there is always more.
        let polled = poll_fn(|context| Poll::Ready(receiving.as_mut().poll(context))).await;
        assert!(polled.is_pending());
    }
}
