//! A WebSocket session against a client that sends messages, in fragments and with pings between them, then maybe
//! arbitrary bytes. Reads and writes are of any size. The target may drop `recv` and `send` when they have to wait and
//! call them again, which must lose and repeat nothing.

#![no_main]

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::vec;

use glockd_transports::{Input, InputFrame, Limits, Output, Session, WebSocketSession};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[derive(Arbitrary, Debug)]
struct Case<'a> {
    max_line: u8,
    /// True: a `recv` or `send` that has to wait is polled until it is done. False: it is dropped and called again.
    patient: bool,
    /// Number of bytes that were read together with the handshake.
    leftover: u8,
    /// Sizes of the reads, in bytes. 0: the read has to wait. After the last, one read takes all that is left.
    reads: Vec<u8>,
    /// Sizes of the writes, likewise.
    writes: Vec<u8>,
    mask: [u8; 4],
    sent: Vec<Sent<'a>>,
    /// Arbitrary bytes after them.
    rest: &'a [u8],
}

#[derive(Arbitrary, Debug)]
enum Sent<'a> {
    /// A message, with the lengths of all its fragments but the last, and the payload of a ping between them.
    Message {
        bytes: &'a [u8],
        line_end: bool,
        fragments: Vec<u8>,
        ping: Option<u8>,
    },
    Ping(&'a [u8]),
    Pong(&'a [u8]),
}

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// The bytes that a client sends, and what the server must make of them.
#[derive(Default)]
struct Client {
    bytes: Vec<u8>,
    mask: [u8; 4],
    /// Lines of its messages. `None`: a message that is too long; nothing after it is certain.
    lines: Vec<Option<Vec<u8>>>,
    pings: Vec<Vec<u8>>,
    /// Expected answers, up to a message that is too long.
    expect: Vec<Answer>,
}

/// A frame that the server sends.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Pong(Vec<u8>),
    Reply(Vec<u8>),
}

impl Client {
    fn frame(&mut self, last: bool, opcode: u8, payload: &[u8]) {
        self.bytes.push(u8::from(last) << 7 | opcode);
        match payload.len() {
            length @ ..126 => self.bytes.push(0x80 | length as u8),
            length => {
                self.bytes.push(0x80 | 126);
                self.bytes.extend((length as u16).to_be_bytes());
            }
        }
        self.bytes.extend(self.mask);
        let mask = self.mask.iter().cycle();
        self.bytes
            .extend(payload.iter().zip(mask).map(|(a, b)| a ^ b));
    }

    fn ping(&mut self, payload: &[u8]) {
        let payload = &payload[..payload.len().min(125)];
        self.frame(true, PING, payload);
        self.pings.push(payload.to_vec());
        self.expect(Answer::Pong(payload.to_vec()));
    }

    fn expect(&mut self, answer: Answer) {
        if self.lines.iter().all(Option::is_some) {
            self.expect.push(answer);
        }
    }

    fn send(&mut self, sent: Sent<'_>, max_line: usize) {
        match sent {
            Sent::Ping(payload) => self.ping(payload),
            Sent::Pong(payload) => self.frame(true, PONG, &payload[..payload.len().min(125)]),
            Sent::Message {
                bytes,
                line_end,
                fragments,
                ping,
            } => {
                let bytes = &bytes[..bytes.len().min(2 * max_line + 3)];
                let end: &[u8] = if line_end { b"\r\n" } else { b"" };
                let message = [bytes, end].concat();
                let line = message.strip_suffix(b"\n").map_or(&message[..], |line| {
                    line.strip_suffix(b"\r").unwrap_or(line)
                });
                let line = (line.len() <= max_line).then(|| line.to_vec());
                let text = str::from_utf8(&message).is_ok();
                let mut opcode = if text { TEXT } else { BINARY };
                let mut rest = &message[..];
                for length in fragments {
                    let (fragment, behind) = rest.split_at(rest.len().min(length.into()));
                    self.frame(false, opcode, fragment);
                    (opcode, rest) = (CONTINUATION, behind);
                    if let Some(ping) = ping {
                        self.ping(&[ping]);
                    }
                }
                self.frame(true, opcode, rest);
                self.lines.push(line.clone());
                self.expect(Answer::Reply(line.unwrap_or_default()));
            }
        }
    }
}

fuzz_target!(|case: Case<'_>| {
    let limits = Limits::default()
        .with_max_line(case.max_line.into())
        .with_keepalive(None)
        .with_write_timeout(None);
    let mut client = Client {
        mask: case.mask,
        ..Client::default()
    };
    for sent in case.sent {
        client.send(sent, limits.max_line);
    }
    client.bytes.extend(case.rest);

    let (leftover, bytes) = client
        .bytes
        .split_at(client.bytes.len().min(case.leftover.into()));
    let written = Arc::new(Mutex::new(Vec::new()));
    let stream = Stream {
        bytes: bytes.to_vec(),
        reads: case.reads.into_iter(),
        writes: case.writes.into_iter(),
        written: Arc::clone(&written),
    };
    let waits = stream.reads.len() + stream.writes.len() + client.bytes.len() + 10;
    let mut driver = Driver { waits };
    let session = WebSocketSession::new(stream, leftover.to_vec(), limits);
    let mut session = driver.finish(session);

    // As a connection does, with each line as its own reply.
    let mut received = Vec::new();
    loop {
        let mut batch = Input::new();
        let count = loop {
            let recv = session.recv(&mut batch);
            match driver.attempt(recv, case.patient) {
                Some(count) => break count.expect("no read or write fails"),
                None => batch = Input::new(),
            }
        };
        assert_eq!(count, batch.len());
        if count == 0 {
            break;
        }
        let mut replies = Output::new();
        for frame in batch.iter() {
            match frame {
                InputFrame::Complete(line) => {
                    assert!(line.len() <= limits.max_line);
                    replies.push(line);
                    received.push(Some(line.to_vec()));
                }
                InputFrame::Oversized => {
                    replies.push(b"too long");
                    received.push(None);
                }
                InputFrame::OversizedEnds(_) => unreachable!("only line sessions report these"),
            }
        }
        let sent = loop {
            let send = session.send(&mut replies);
            if let Some(sent) = driver.attempt(send, case.patient) {
                break sent;
            }
        };
        sent.expect("no read or write fails");
    }
    driver.finish(Box::new(session).close());

    // All messages are received, up to the first that is too long.
    let too_long = client.lines.iter().position(Option::is_none);
    let certain = too_long.map_or(client.lines.len(), |position| position + 1);
    assert!(received.len() >= certain);
    assert_eq!(received[..certain], client.lines[..certain]);
    if too_long.is_some() || case.rest.is_empty() {
        assert_eq!(received.len(), certain);
    }
    if let Some(position) = received.iter().position(Option::is_none) {
        assert_eq!(
            position,
            received.len() - 1,
            "a frame after an oversized message"
        );
    }

    let written = written.lock().expect("nobody panicked");
    let mut written_replies = Vec::new();
    let mut pongs = Vec::new();
    let mut order = Vec::new();
    let mut close = None;
    for (opcode, payload) in frames(&written) {
        assert_eq!(close, None, "a frame after the close frame");
        match opcode {
            TEXT => {
                assert!(str::from_utf8(payload).is_ok());
                written_replies.push(Some(payload.to_vec()));
                order.push(Answer::Reply(payload.to_vec()));
            }
            BINARY => {
                assert!(str::from_utf8(payload).is_err());
                written_replies.push(Some(payload.to_vec()));
                order.push(Answer::Reply(payload.to_vec()));
            }
            PONG => {
                pongs.push(payload.to_vec());
                order.push(Answer::Pong(payload.to_vec()));
            }
            CLOSE => close = Some(payload.to_vec()),
            other => panic!("opcode {other}"),
        }
    }
    let replies: Vec<_> = received
        .iter()
        .filter(|line| line.is_some())
        .cloned()
        .collect();
    assert_eq!(written_replies, replies);
    if received.last() == Some(&None) {
        assert_eq!(close, Some(1009u16.to_be_bytes().to_vec()));
    } else if case.rest.is_empty() {
        assert_eq!(close, None, "a close frame although the client has ended");
    }
    let known = order.len().min(client.expect.len());
    assert_eq!(order[..known], client.expect[..known]);
    let answered = pongs.len().min(client.pings.len());
    assert_eq!(pongs[..answered], client.pings[..answered]);
    if too_long.is_none() {
        let (sent, written) = (client.bytes.escape_ascii(), written.escape_ascii());
        assert!(
            pongs.len() >= client.pings.len(),
            "{sent}\nwas answered by\n{written}"
        );
    }
    if case.rest.is_empty() {
        assert!(pongs.len() <= client.pings.len());
    }
});

/// Polls futures.
struct Driver {
    /// Number of times that a future may still have to wait.
    waits: usize,
}

impl Driver {
    fn finish<T>(&mut self, future: impl Future<Output = T>) -> T {
        self.attempt(future, true)
            .expect("it is polled until it is done")
    }

    /// Polls a future until it is done. Drops it when it has to wait, unless `patient`.
    fn attempt<T>(&mut self, future: impl Future<Output = T>, patient: bool) -> Option<T> {
        let mut future = std::pin::pin!(future);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        loop {
            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(done) => return Some(done),
                Poll::Pending => {
                    assert!(woken.0.swap(false, Relaxed), "it waits without a wake-up");
                    self.waits = self
                        .waits
                        .checked_sub(1)
                        .expect("it waits more often than the stream does");
                    if !patient {
                        return None;
                    }
                }
            }
        }
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

/// A client's end of a connection: sends its bytes, closes its sending side, and keeps what the server writes.
struct Stream {
    bytes: Vec<u8>,
    reads: vec::IntoIter<u8>,
    writes: vec::IntoIter<u8>,
    written: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let size = self.reads.next().map_or(usize::MAX, usize::from);
        if size == 0 {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let size = size.min(buffer.remaining()).min(self.bytes.len());
        buffer.put_slice(&self.bytes[..size]);
        self.bytes.drain(..size);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let size = self.writes.next().map_or(usize::MAX, usize::from);
        if size == 0 {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let size = size.min(bytes.len());
        self.written
            .lock()
            .expect("nobody panicked")
            .extend(&bytes[..size]);
        Poll::Ready(Ok(size))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Parses the frames that a server sent, each final and not masked, into opcodes and payloads (RFC 6455, section 5.2).
fn frames(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut frames = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        assert_eq!(first & 0xF0, 0x80, "not a final frame without extensions");
        assert_eq!(second & 0x80, 0, "masked");
        let (length, rest) = match *second {
            126 => {
                let (length, rest) = rest.split_at(2);
                (
                    usize::from(u16::from_be_bytes([length[0], length[1]])),
                    rest,
                )
            }
            127 => panic!("longer than any message"),
            length => (length.into(), rest),
        };
        let (payload, rest) = rest.split_at(length);
        frames.push((first & 0x0F, payload));
        bytes = rest;
    }
    assert_eq!(bytes, b"", "half a frame");
    frames
}
