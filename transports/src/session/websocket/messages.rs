//! Messages on an open WebSocket.
//!
//! tungstenite reads: it joins fragments, checks everything that RFC 6455 asks for, and answers pings.
//! But all that is written goes out by our own hand, in one place and one order. So tungstenite does
//! not get the socket itself but an [`CapturedStream`], which keeps what is written to it. That gives a batch of
//! replies in one write from a pooled buffer (tungstenite's own grows and stays), a reply in several
//! parts, and a close frame on every error, which tungstenite leaves to its user.
//!
//! A ping that came behind messages is answered behind the replies to them, as a peer expects whose server takes one
//! message at a time. So it ends its batch, and tungstenite keeps the pong until that many replies were sent.
//! Replies that are not ready do not hold it up: `recv`, and a reply that is sent in parts, release the pong.
//!
//! A close frame, an answer to the peer's too, goes out in [`Session::close`], after everything the
//! connection held is free: a client that has seen its WebSocket close knows that.

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

/// What one read takes. Each connection owns a buffer of this size all the time; after a longer message,
/// one of that message's size, since tungstenite gives none back. The limit of a message bounds it.
const READ: usize = 1024;

/// Bytes of a ping or a close frame, which may come however short messages must be.
const LONGEST_CONTROL: usize = 125;

/// Where a batch of received messages, pings and pongs among them, ends, though more are there.
const BATCH_BYTES: usize = 64 * 1024;
const BATCH_MESSAGES: usize = 1024;

/// Bytes of pongs and pings that may wait for a peer that pings but does not read. Nothing more is read from it
/// until it does.
const CONTROLS: usize = 1024;

/// Bytes that a slow peer reads in a second: so much longer is the answer to a ping waited for.
const SLOW: usize = 16 * 1024;

/// A session whose frames are messages, on a byte stream that has been upgraded to a WebSocket (RFC 6455).
///
/// A peer that has sent nothing for [`Limits::keepalive`] is pinged, and given up if it stays silent.
#[derive(Debug)]
pub struct WebSocketSession<S> {
    messages: WebSocketStream<CapturedStream<S>>,
    /// Bytes of a message without its line end.
    max_line: usize,
    keepalive: Option<Duration>,
    write_timeout: Option<Duration>,
    /// When the last of so many pings was sent that are not answered yet.
    asked: Option<(Instant, u32)>,
    /// Set to the next time that something must be done about a silent peer, or to an earlier one.
    alarm: Option<Pin<Box<Sleep>>>,
    phase: Phase,
    /// Replies that are to be sent before the pong that tungstenite keeps; 0 if there is no such pong.
    replies_before_pong: usize,
    /// Whether the last frame sent was a part, which the next one continues.
    in_parts: bool,
    /// Bytes of frames as they go over the wire, while they are being sent. If a write was broken off, the rest of it
    /// is here.
    outgoing: Output,
}

/// How far the conversation has come.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Messages come and go.
    Open,
    /// A message was too long. That is not reported yet: what came before it is to be answered first.
    Overlong,
    /// It has been reported. Its answer is the close frame, and no message.
    Refusing,
    /// Nothing more is read. This is what the close frame will say, if it says anything.
    Ending(Option<CloseCode>),
    /// The peer ended its input, or the connection broke, without a word.
    Gone,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocketSession<S> {
    /// A session on the server's side of `stream`, past its handshake; `leftover` was already read from it.
    pub async fn new(stream: S, leftover: Vec<u8>, limits: Limits) -> WebSocketSession<S> {
        // The limit counts no line end, and tungstenite knows of none.
        let longest = limits.max_line + b"\r\n".len();
        let config = WebSocketConfig::default()
            .read_buffer_size(READ)
            .write_buffer_size(0)
            .max_message_size(Some(longest))
            .max_frame_size(Some(longest.max(LONGEST_CONTROL)));
        let captured = CapturedStream::new(stream);
        let messages =
            WebSocketStream::from_partially_read(captured, leftover, Role::Server, Some(config));
        WebSocketSession {
            messages: messages.await,
            max_line: limits.max_line,
            keepalive: limits.keepalive,
            write_timeout: limits.write_timeout,
            asked: None,
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
        // A pong that is kept goes out as soon as tungstenite is asked for the next message.
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
                        self.phase = self.take(read, frames)?;
                    }
                    Poll::Pending => nothing_there = true,
                }
            }
            self.messages.get_mut().write_controls(context)?;
            // Where reading stopped because of what was to be written, that may be written now.
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
                    // Nothing but pings, and more of them: others first.
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

    /// Whether this batch takes another message.
    fn wants_more(&self, messages: usize, frames: &Input) -> bool {
        matches!(self.phase, Phase::Open)
            && self.replies_before_pong == 0
            && messages < BATCH_MESSAGES
            && frames.byte_len() < BATCH_BYTES
            && self.messages.get_ref().controls.len() <= CONTROLS
    }

    /// Watches a peer that sends nothing, all of what it had sent having been read: pings it, and in the end
    /// fails.
    fn poll_silence<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        loop {
            let Some(time) = self.patience_ends() else {
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
                // It has been heard of since that was set.
                alarm.as_mut().reset(time);
                continue;
            }
            let pings = self.asked.map_or(0, |(_, pings)| pings);
            let captured = self.messages.get_mut();
            if captured.blocked.is_some() || pings == KEEPALIVE_PROBES {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.asked = Some((now, pings + 1));
            encode(
                OpCode::Control(Control::Ping),
                true,
                b"",
                &mut captured.controls,
            )?;
            captured.write_controls(context)?;
        }
    }

    /// When a peer that stays silent is to be pinged or given up, if ever. While it keeps a ping or a pong waiting, it
    /// may be because it is busy with what we sent before, and then has the time that a reply has.
    fn patience_ends(&mut self) -> Option<Instant> {
        let captured = self.messages.get_ref();
        if let Some(blocked) = captured.blocked {
            return blocked.checked_add(self.write_timeout?);
        }
        let keepalive = self.keepalive?;
        self.asked = self.asked.filter(|(time, _)| captured.heard < *time);
        match self.asked {
            // It reads in order, so before our pings it has to read all that was sent before them.
            Some((time, KEEPALIVE_PROBES)) => {
                let slow = Duration::from_secs((captured.unanswered / SLOW) as u64);
                time.checked_add(PROBE_INTERVAL + slow)
            }
            Some((time, _)) => time.checked_add(PROBE_INTERVAL),
            None => captured.heard.checked_add(keepalive),
        }
    }

    /// Takes what was read, and says what phase that leads to.
    fn take(&self, read: Option<Result<Message, Error>>, frames: &mut Input) -> io::Result<Phase> {
        match read {
            Some(Ok(Message::Text(text))) => Ok(self.message(text.as_str().as_bytes(), frames)),
            Some(Ok(Message::Binary(bytes))) => Ok(self.message(&bytes, frames)),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(Phase::Open),
            // The code has been checked: of one that must not be sent, tungstenite makes 1002.
            Some(Ok(Message::Close(close))) => Ok(Phase::Ending(close.map(|close| close.code))),
            Some(Err(Error::Capacity(_))) => Ok(Phase::Overlong),
            Some(Err(Error::Utf8(_))) => Ok(Phase::Ending(Some(CloseCode::Invalid))),
            Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) | None => {
                Ok(Phase::Gone)
            }
            Some(Err(Error::Protocol(_))) => Ok(Phase::Ending(Some(CloseCode::Protocol))),
            // What had come before is handed over first; then there is nothing more.
            Some(Err(_)) if !frames.is_empty() => Ok(Phase::Gone),
            Some(Err(Error::Io(error))) => Err(error),
            Some(Err(error)) => Err(io::Error::other(error)),
        }
    }

    fn message(&self, message: &[u8], frames: &mut Input) -> Phase {
        let line = message
            .strip_suffix(b"\n")
            .map_or(message, |line| line.strip_suffix(b"\r").unwrap_or(line));
        if line.len() > self.max_line {
            return Phase::Overlong;
        }
        frames.push(line);
        Phase::Open
    }

    /// Appends the pong that tungstenite keeps to what goes out.
    async fn append_pong(&mut self) -> io::Result<()> {
        self.replies_before_pong = 0;
        // Never waits: the captured stream takes everything at once.
        self.messages.flush().await.map_err(io::Error::other)?;
        self.append_controls();
        Ok(())
    }

    /// Appends the control frames that were captured to what goes out.
    fn append_controls(&mut self) {
        let mut controls = self.messages.get_mut().take_controls();
        self.outgoing.buffer().append(&mut controls);
    }

    /// Appends a reply, or a part of one, to what goes out.
    fn encode(&mut self, data: &[u8], last: bool) -> io::Result<()> {
        let kind = match (self.in_parts, last) {
            (true, _) => Data::Continue,
            // What the later parts hold is not known yet, and half a character is no text.
            (false, false) => Data::Binary,
            (false, true) if str::from_utf8(data).is_ok() => Data::Text,
            (false, true) => Data::Binary,
        };
        self.in_parts = !last;
        encode(OpCode::Data(kind), last, data, self.outgoing.buffer())
    }

    /// Moves the frames of a batch, and the control frames before and between them, to what goes out.
    async fn encode_batch(&mut self, batch: &mut Output) -> io::Result<()> {
        self.append_controls();
        for frame in batch.iter() {
            match frame {
                OutputFrame::Complete(data) => {
                    self.encode(data, true)?;
                    match self.replies_before_pong {
                        0 => {}
                        1 => self.append_pong().await?,
                        _ => self.replies_before_pong -= 1,
                    }
                }
                OutputFrame::Part(data) => self.encode(data, false)?,
            }
        }
        if self.replies_before_pong > 0 && (self.in_parts || batch.is_empty()) {
            self.append_pong().await?;
        }
        batch.clear_finished();
        Ok(())
    }

    /// Writes what goes out, or the rest of it.
    async fn write(&mut self) -> io::Result<()> {
        let captured = self.messages.get_mut();
        write_output(&mut captured.stream, &mut self.outgoing, self.write_timeout).await?;
        let written = self.outgoing.as_bytes().len();
        self.outgoing.clear();
        captured.unanswered = captured.unanswered.saturating_add(written);
        if self.asked.is_some() {
            // It may have been busy with reading this.
            captured.heard = Instant::now();
        }
        Ok(())
    }

    /// Sends the close frame, if there is somebody to tell and something to tell it behind.
    async fn say_goodbye(&mut self) -> io::Result<()> {
        if !self.outgoing.is_empty() {
            // A write was broken off. The peer would take the close frame for a part of that.
            return Ok(());
        }
        self.append_controls();
        if self.replies_before_pong > 0 {
            self.append_pong().await?;
        }
        let code = match self.phase {
            // Its pings are answered, if it is there to see that.
            Phase::Gone => None,
            Phase::Open => Some(Some(CloseCode::Away)),
            Phase::Overlong | Phase::Refusing => Some(Some(CloseCode::Size)),
            Phase::Ending(code) => Some(code),
        };
        if let Some(code) = code {
            let code = code.map(|code| u16::from(code).to_be_bytes());
            let payload = code.as_ref().map_or(&[][..], |code| &code[..]);
            let opcode = OpCode::Control(Control::Close);
            encode(opcode, true, payload, self.outgoing.buffer())?;
        }
        self.outgoing.end();
        self.write().await
    }
}

#[async_trait]
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Session for WebSocketSession<S> {
    async fn recv(&mut self, frames: &mut Input) -> io::Result<usize> {
        let received = poll_fn(|context| self.poll_recv(context, frames)).await;
        if received.is_err() {
            self.phase = Phase::Gone;
        }
        received
    }

    async fn send(&mut self, output: &mut Output) -> io::Result<()> {
        if matches!(self.phase, Phase::Refusing) {
            return Ok(());
        }
        // A batch that a dropped call has encoded was removed from `output` then.
        if self.outgoing.is_empty() || !output.is_empty() {
            self.encode_batch(output).await?;
            self.outgoing.end();
        }
        self.write().await
    }

    async fn close(mut self: Box<Self>) {
        if self.say_goodbye().await.is_ok() {
            // The peer is told; if it does not listen, there is nothing to be done about it.
            let _ = linger::close(self.messages.into_inner().stream).await;
        }
    }
}

/// Appends a frame as RFC 6455, section 5.2, has it.
fn encode(opcode: OpCode, is_final: bool, data: &[u8], output: &mut Vec<u8>) -> io::Result<()> {
    let header = FrameHeader {
        is_final,
        opcode,
        ..FrameHeader::default()
    };
    header
        .format(data.len() as u64, output)
        .map_err(io::Error::other)?;
    output.extend_from_slice(data);
    Ok(())
}
