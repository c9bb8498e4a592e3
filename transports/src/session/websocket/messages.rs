//! Messages on an open WebSocket.
//!
//! tungstenite reads: it joins fragments, checks everything that RFC 6455 asks for, and answers pings. The session
//! writes, so that all output is sent in one place and in one order. For that, tungstenite gets a
//! [`CapturedStream`] instead of the stream, which captures what tungstenite writes. This allows to send a batch of
//! replies in one write from a pooled buffer (tungstenite's own buffer grows and stays), to send a reply in several
//! parts, and to send a close frame on every error, which tungstenite leaves to its user.
//!
//! A ping that arrives behind messages is answered behind the replies to them, as by a server that handles one
//! message at a time. Therefore a ping ends its batch, and tungstenite keeps the pong until that many replies are
//! sent. Replies that are not ready do not delay the pong: `recv`, and a reply that is sent in parts, release it.
//!
//! A close frame, even one that answers the peer's, is sent by [`Session::close`], after everything that the
//! connection held is released. So a client that sees its WebSocket close knows that its locks are free.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::SinkExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_stream::Stream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::frames::{Input, Output, OutputFrame};
use crate::limits::{KEEPALIVE_PROBES, Limits, PROBE_INTERVAL};
use crate::session::Session;
use crate::session::websocket::captured_stream::CapturedStream;
use crate::session::websocket::linger;
use crate::write::write_output;

/// Size of a read. Each connection always owns a buffer of this size; after a longer message, one of that message's
/// size, since tungstenite never shrinks it. The maximum length of a message bounds it.
const READ_SIZE: usize = 1024;

/// Maximum payload of a ping or a close frame in bytes. Allowed even where the maximum length of a message is shorter.
const MAX_CONTROL: usize = 125;

/// Size in bytes at which a received batch ends, even if more messages are there.
const BATCH_BYTES: usize = 64 * 1024;

/// Number of messages, pings and pongs included, at which a received batch ends, even if more are there.
const BATCH_MESSAGES: usize = 1024;

/// Maximum number of bytes of pongs and pings that wait for a peer that pings but does not read. Beyond it, nothing
/// more is read from the peer until it reads.
const MAX_WAITING_CONTROLS: usize = 1024;

/// Bytes a second that a slow peer reads. A ping behind unread output may be answered that much later.
const SLOW_PEER: usize = 16 * 1024;

/// A session whose frames are messages, on a byte stream that has been upgraded to a WebSocket (RFC 6455).
///
/// A peer that has sent nothing for [`Limits::keepalive`] is pinged. If it answers no ping, the session fails.
#[derive(Debug)]
pub struct WebSocketSession<S> {
    messages: WebSocketStream<CapturedStream<S>>,
    /// Maximum length of a message in bytes, without its line end.
    max_line: usize,
    keepalive: Option<Duration>,
    write_timeout: Option<Duration>,
    /// Time of the last unanswered ping, and the number of unanswered pings.
    unanswered_pings: Option<(Instant, u32)>,
    /// Timer for the next action on a silent peer. It may fire too early, never too late.
    alarm: Option<Pin<Box<Sleep>>>,
    phase: Phase,
    /// Number of replies to be sent before the pong that tungstenite keeps; 0 if it keeps none.
    replies_before_pong: usize,
    /// True if the last sent frame was a part, which the next one continues.
    in_parts: bool,
    /// Encoded frames that are being sent. After a write that was cut off, it holds the rest.
    outgoing: Output,
}

/// How far the session has come.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Messages are received and sent.
    Open,
    /// A message was too long. It is not reported yet, because the messages before it are answered first.
    Overlong,
    /// The message that was too long has been reported. It is answered by the close frame, not by a reply.
    Refusing,
    /// Nothing more is read. The close frame will have this code, if any.
    Ending(Option<CloseCode>),
    /// The peer ended its input, or the connection failed, without a close frame.
    Gone,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocketSession<S> {
    /// Returns the server's session on a stream after its handshake. `leftover` holds bytes that were already read
    /// from the stream behind the handshake.
    pub async fn new(stream: S, leftover: Vec<u8>, limits: Limits) -> WebSocketSession<S> {
        // The limit does not count the line end, which tungstenite does not know.
        let longest = limits.max_line + b"\r\n".len();
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_SIZE)
            .write_buffer_size(0)
            .max_message_size(Some(longest))
            .max_frame_size(Some(longest.max(MAX_CONTROL)));
        let captured = CapturedStream::new(stream);
        let messages =
            WebSocketStream::from_partially_read(captured, leftover, Role::Server, Some(config));
        WebSocketSession {
            messages: messages.await,
            max_line: limits.max_line,
            keepalive: limits.keepalive,
            write_timeout: limits.write_timeout,
            unanswered_pings: None,
            alarm: None,
            phase: Phase::Open,
            replies_before_pong: 0,
            in_parts: false,
            outgoing: Output::new(),
        }
    }

    fn poll_recv(
        &mut self,
        context: &mut Context<'_>,
        frames: &mut Input,
    ) -> Poll<io::Result<usize>> {
        // tungstenite releases a pong that it keeps when it is asked for the next message.
        self.replies_before_pong = 0;
        let mut messages = 0;
        loop {
            let mut nothing_there = false;
            while self.wants_more(messages, frames) && !nothing_there {
                match Pin::new(&mut self.messages).poll_next(context) {
                    Poll::Ready(read) => {
                        messages += 1;
                        if let Some(Ok(Message::Ping(_))) = read {
                            self.replies_before_pong = frames.len();
                        }
                        self.phase = self.handle_read(read, frames)?;
                    }
                    Poll::Pending => nothing_there = true,
                }
            }
            self.messages.get_mut().write_controls(context)?;
            // If reading stopped because controls were waiting, these may be written now.
            if nothing_there || !self.wants_more(messages, frames) {
                break;
            }
        }
        if !frames.is_empty() {
            return Poll::Ready(Ok(frames.len()));
        }
        match self.phase {
            Phase::Open => {
                if messages == BATCH_MESSAGES {
                    // Nothing but pings, and more are there: other tasks first.
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                self.poll_silence(context)
            }
            Phase::Overlong => {
                self.phase = Phase::Refusing;
                frames.push_oversized();
                Poll::Ready(Ok(1))
            }
            Phase::Refusing | Phase::Ending(_) | Phase::Gone => Poll::Ready(Ok(0)),
        }
    }

    /// Returns true if this batch has room for another message.
    fn wants_more(&self, messages: usize, frames: &Input) -> bool {
        matches!(self.phase, Phase::Open)
            && self.replies_before_pong == 0
            && messages < BATCH_MESSAGES
            && frames.byte_len() < BATCH_BYTES
            && self.messages.get_ref().controls.len() <= MAX_WAITING_CONTROLS
    }

    /// Watches a peer that sends nothing, after all its input has been read: pings it, and fails if it does not
    /// answer.
    fn poll_silence<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        loop {
            let Some(time) = self.next_deadline() else {
                return Poll::Pending;
            };
            let alarm = self
                .alarm
                .get_or_insert_with(|| Box::pin(sleep_until(time)));
            if alarm.deadline() > time {
                alarm.as_mut().reset(time);
            }
            ready!(alarm.as_mut().poll(context));
            let now = Instant::now();
            if now < time {
                // The peer has been heard since the timer was set.
                alarm.as_mut().reset(time);
                continue;
            }
            let pings = self.unanswered_pings.map_or(0, |(_, pings)| pings);
            let captured = self.messages.get_mut();
            if captured.blocked.is_some() || pings == KEEPALIVE_PROBES {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.unanswered_pings = Some((now, pings + 1));
            encode(control(Control::Ping), b"", &mut captured.controls)?;
            captured.write_controls(context)?;
        }
    }

    /// Returns when to ping a peer that stays silent, or to give it up; `None` means never. A peer that takes no ping
    /// and no pong may be busy reading earlier output, so it has the time that it has to take a reply.
    fn next_deadline(&mut self) -> Option<Instant> {
        let captured = self.messages.get_ref();
        if let Some(blocked) = captured.blocked {
            return blocked.checked_add(self.write_timeout?);
        }
        let keepalive = self.keepalive?;
        self.unanswered_pings = self
            .unanswered_pings
            .filter(|(time, _)| captured.heard < *time);
        match self.unanswered_pings {
            // The peer reads in order: everything that was sent before the pings first.
            Some((time, KEEPALIVE_PROBES)) => {
                let slow = Duration::from_secs((captured.unanswered / SLOW_PEER) as u64);
                time.checked_add(PROBE_INTERVAL + slow)
            }
            Some((time, _)) => time.checked_add(PROBE_INTERVAL),
            None => captured.heard.checked_add(keepalive),
        }
    }

    /// Handles the result of a read, and returns the phase that follows.
    fn handle_read(
        &self,
        read: Option<Result<Message, Error>>,
        frames: &mut Input,
    ) -> io::Result<Phase> {
        match read {
            Some(Ok(Message::Text(text))) => {
                Ok(self.push_message(text.as_str().as_bytes(), frames))
            }
            Some(Ok(Message::Binary(bytes))) => Ok(self.push_message(&bytes, frames)),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(Phase::Open),
            // tungstenite has checked the code: it turns one that must not be sent into 1002.
            Some(Ok(Message::Close(close))) => Ok(Phase::Ending(close.map(|close| close.code))),
            Some(Err(Error::Capacity(_))) => Ok(Phase::Overlong),
            Some(Err(Error::Utf8(_))) => Ok(Phase::Ending(Some(CloseCode::Invalid))),
            Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) | None => {
                Ok(Phase::Gone)
            }
            Some(Err(Error::Protocol(_))) => Ok(Phase::Ending(Some(CloseCode::Protocol))),
            // The messages before it are handed over first, and nothing after them.
            Some(Err(_)) if !frames.is_empty() => Ok(Phase::Gone),
            Some(Err(Error::Io(error))) => Err(error),
            Some(Err(error)) => Err(io::Error::other(error)),
        }
    }

    /// Appends a message without its line end, and returns the phase that follows.
    fn push_message(&self, message: &[u8], frames: &mut Input) -> Phase {
        let line = message
            .strip_suffix(b"\n")
            .map_or(message, |line| line.strip_suffix(b"\r").unwrap_or(line));
        if line.len() > self.max_line {
            return Phase::Overlong;
        }
        frames.push(line);
        Phase::Open
    }

    /// Appends the pong that tungstenite keeps to the outgoing bytes.
    async fn append_pong(&mut self) -> io::Result<()> {
        self.replies_before_pong = 0;
        // Never waits: the captured stream takes everything at once.
        self.messages.flush().await.map_err(io::Error::other)?;
        self.append_controls();
        Ok(())
    }

    /// Appends the captured control frames to the outgoing bytes.
    fn append_controls(&mut self) {
        let mut controls = self.messages.get_mut().take_controls();
        self.outgoing.buffer().append(&mut controls);
    }

    /// Appends a reply, or a part of one, to the outgoing bytes.
    fn encode(&mut self, frame: OutputFrame<'_>) -> io::Result<()> {
        let (data, kind) = match frame {
            OutputFrame::Complete(data) if str::from_utf8(data).is_ok() => (data, Data::Text),
            // The later parts are not known yet, and text must not end within a character.
            OutputFrame::Complete(data) | OutputFrame::Part(data) => (data, Data::Binary),
        };
        let kind = match self.in_parts {
            true => Data::Continue,
            false => kind,
        };
        self.in_parts = matches!(frame, OutputFrame::Part(_));
        let header = FrameHeader {
            is_final: !self.in_parts,
            opcode: OpCode::Data(kind),
            ..FrameHeader::default()
        };
        encode(header, data, self.outgoing.buffer())
    }

    /// Moves the frames of a batch to the outgoing bytes, with the control frames before and between them.
    async fn encode_batch(&mut self, batch: &mut Output) -> io::Result<()> {
        self.append_controls();
        for frame in batch.iter() {
            self.encode(frame)?;
            match self.replies_before_pong {
                0 => {}
                _ if self.in_parts => {}
                1 => self.append_pong().await?,
                _ => self.replies_before_pong -= 1,
            }
        }
        if self.replies_before_pong > 0 && (self.in_parts || batch.is_empty()) {
            self.append_pong().await?;
        }
        batch.clear_finished();
        Ok(())
    }

    /// Writes the outgoing bytes, or the rest of them.
    async fn write(&mut self) -> io::Result<()> {
        let captured = self.messages.get_mut();
        write_output(&mut captured.stream, &mut self.outgoing, self.write_timeout).await?;
        let written = self.outgoing.as_bytes().len();
        self.outgoing.clear();
        captured.unanswered = captured.unanswered.saturating_add(written);
        if self.unanswered_pings.is_some() {
            // The peer may have been busy reading this.
            captured.heard = Instant::now();
        }
        Ok(())
    }

    /// Sends the close frame, if the peer can still receive and understand it.
    async fn send_close(&mut self) -> io::Result<()> {
        if !self.outgoing.is_empty() {
            // A write was cut off. The peer would take the close frame for a part of that output.
            return Ok(());
        }
        self.append_controls();
        if self.replies_before_pong > 0 {
            self.append_pong().await?;
        }
        let code = match self.phase {
            // No close frame, but the pongs to its pings, which it may still read.
            Phase::Gone => None,
            Phase::Open => Some(Some(CloseCode::Away)),
            Phase::Overlong | Phase::Refusing => Some(Some(CloseCode::Size)),
            Phase::Ending(code) => Some(code),
        };
        if let Some(code) = code {
            let code = code.map(|code| u16::from(code).to_be_bytes());
            let payload = code.as_ref().map_or(&[][..], |code| &code[..]);
            encode(control(Control::Close), payload, self.outgoing.buffer())?;
        }
        self.outgoing.end();
        self.write().await
    }
}

#[async_trait]
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Session for WebSocketSession<S> {
    async fn recv(&mut self, input: &mut Input) -> io::Result<usize> {
        let received = poll_fn(|context| self.poll_recv(context, input)).await;
        if received.is_err() {
            self.phase = Phase::Gone;
        }
        received
    }

    async fn send(&mut self, output: &mut Output) -> io::Result<()> {
        if matches!(self.phase, Phase::Refusing) {
            return Ok(());
        }
        // If a dropped call has already encoded the batch, `output` is empty.
        if self.outgoing.is_empty() || !output.is_empty() {
            self.encode_batch(output).await?;
            self.outgoing.end();
        }
        self.write().await
    }

    async fn close(mut self: Box<Self>) {
        if self.send_close().await.is_ok() {
            // The close frame is sent. If the peer does not read it, nothing can be done.
            let _ = linger::close(self.messages.into_inner().stream).await;
        }
    }
}

/// Returns the header of a control frame.
fn control(kind: Control) -> FrameHeader {
    FrameHeader {
        is_final: true,
        opcode: OpCode::Control(kind),
        ..FrameHeader::default()
    }
}

/// Appends a frame in the format of RFC 6455, section 5.2.
fn encode(header: FrameHeader, data: &[u8], output: &mut Vec<u8>) -> io::Result<()> {
    header
        .format(data.len() as u64, output)
        .map_err(io::Error::other)?;
    output.extend_from_slice(data);
    Ok(())
}
