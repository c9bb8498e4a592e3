//! A WebSocket session and a client that sends messages, in fragments, with pings between them, and then
//! perhaps something else. What comes in arrives in reads of any size, and what goes out is taken bit by bit.

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
struct Input<'a> {
    max_line: u8,
    /// Whether a wait goes on, rather than being given up and begun anew.
    patient: bool,
    /// So many bytes were read with the handshake.
    leftover: u8,
    /// The sizes of reads and writes. At 0 it must wait. What is left goes at once.
    reads: Vec<u8>,
    writes: Vec<u8>,
    mask: [u8; 4],
    said: Vec<Said<'a>>,
    /// Whatever comes behind.
    rest: &'a [u8],
}

#[derive(Arbitrary, Debug)]
enum Said<'a> {
    /// A message, of which these are the lengths of the fragments but the last, and between those a ping.
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

/// What a client has to send, and what should come of it.
#[derive(Default)]
struct Client {
    bytes: Vec<u8>,
    mask: [u8; 4],
    /// The lines of its messages; `None`: one that is too long, behind which nothing counts.
    lines: Vec<Option<Vec<u8>>>,
    pings: Vec<Vec<u8>>,
    /// What should come back, up to a message that is too long: pongs among the answers.
    expect: Vec<(bool, Vec<u8>)>,
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
        self.expect(true, payload);
    }

    fn expect(&mut self, pong: bool, payload: &[u8]) {
        if self.lines.iter().all(Option::is_some) {
            self.expect.push((pong, payload.to_vec()));
        }
    }

    fn say(&mut self, said: Said<'_>, max_line: usize) {
        match said {
            Said::Ping(payload) => self.ping(payload),
            Said::Pong(payload) => self.frame(true, PONG, &payload[..payload.len().min(125)]),
            Said::Message {
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
                self.expect(false, &line.unwrap_or_default());
            }
        }
    }
}

fuzz_target!(|input: Input<'_>| {
    let limits = Limits::default()
        .with_max_line(input.max_line.into())
        .with_keepalive(None)
        .with_write_timeout(None);
    let mut client = Client {
        mask: input.mask,
        ..Client::default()
    };
    for said in input.said {
        client.say(said, limits.max_line);
    }
    client.bytes.extend(input.rest);

    let (leftover, bytes) = client
        .bytes
        .split_at(client.bytes.len().min(input.leftover.into()));
    let written = Arc::new(Mutex::new(Vec::new()));
    let stream = Stream {
        bytes: bytes.to_vec(),
        reads: input.reads.into_iter(),
        writes: input.writes.into_iter(),
        written: Arc::clone(&written),
    };
    let waits = stream.reads.len() + stream.writes.len() + client.bytes.len() + 10;
    let mut driver = Driver { waits };
    let session = WebSocketSession::new(stream, leftover.to_vec(), limits);
    let mut session = driver.finish(session);

    // What a connection does, with the lines for answers.
    let mut received = Vec::new();
    loop {
        let mut frames = Input::new();
        let count = loop {
            let recv = session.recv(&mut frames);
            match driver.attempt(recv, input.patient) {
                Some(count) => break count.expect("the peer does not fail"),
                None => frames = Input::new(),
            }
        };
        assert_eq!(count, frames.len());
        if count == 0 {
            break;
        }
        let mut replies = Output::new();
        for frame in frames.iter() {
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
        driver
            .finish(session.send(&replies))
            .expect("the peer does not fail");
    }
    driver.finish(Box::new(session).close());

    // All is received, up to what is too long.
    let too_long = client.lines.iter().position(Option::is_none);
    let certain = too_long.map_or(client.lines.len(), |position| position + 1);
    assert!(received.len() >= certain);
    assert_eq!(received[..certain], client.lines[..certain]);
    if too_long.is_some() || input.rest.is_empty() {
        assert_eq!(received.len(), certain);
    }
    if let Some(position) = received.iter().position(Option::is_none) {
        assert_eq!(
            position,
            received.len() - 1,
            "it goes on behind what is too long"
        );
    }

    let written = written.lock().expect("nobody panicked");
    let mut answers = Vec::new();
    let mut pongs = Vec::new();
    let mut order = Vec::new();
    let mut close = None;
    for (opcode, payload) in frames(&written) {
        assert_eq!(close, None, "something is said behind the goodbye");
        match opcode {
            TEXT => {
                assert!(str::from_utf8(payload).is_ok());
                answers.push(Some(payload.to_vec()));
                order.push((false, payload.to_vec()));
            }
            BINARY => {
                assert!(str::from_utf8(payload).is_err());
                answers.push(Some(payload.to_vec()));
                order.push((false, payload.to_vec()));
            }
            PONG => {
                pongs.push(payload.to_vec());
                order.push((true, payload.to_vec()));
            }
            CLOSE => close = Some(payload.to_vec()),
            other => panic!("opcode {other}"),
        }
    }
    let said: Vec<_> = received
        .iter()
        .filter(|line| line.is_some())
        .cloned()
        .collect();
    assert_eq!(answers, said);
    if received.last() == Some(&None) {
        assert_eq!(close, Some(1009u16.to_be_bytes().to_vec()));
    } else if input.rest.is_empty() {
        assert_eq!(close, None, "there is nobody to tell");
    }
    let known = order.len().min(client.expect.len());
    assert_eq!(order[..known], client.expect[..known]);
    let answered = pongs.len().min(client.pings.len());
    assert_eq!(pongs[..answered], client.pings[..answered]);
    if too_long.is_none() {
        let (sent, got) = (client.bytes.escape_ascii(), written.escape_ascii());
        assert!(pongs.len() >= client.pings.len(), "{sent} {got}");
    }
    if input.rest.is_empty() {
        assert!(pongs.len() <= client.pings.len());
    }
});

/// Polls whatever there is to be done, so many times at most.
struct Driver {
    waits: usize,
}

impl Driver {
    fn finish<T>(&mut self, future: impl Future<Output = T>) -> T {
        self.attempt(future, true).expect("it is patient")
    }

    /// Polls until it is done, or until it has to wait if that is not wanted.
    fn attempt<T>(&mut self, future: impl Future<Output = T>, patient: bool) -> Option<T> {
        let mut future = std::pin::pin!(future);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        loop {
            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(done) => return Some(done),
                Poll::Pending => {
                    assert!(woken.0.swap(false, Relaxed), "nobody would wake it");
                    self.waits = self.waits.checked_sub(1).expect("it waits for nothing");
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

/// A client's end, which sends all that it has, closes its sending side, and keeps what it is sent.
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

/// The frames that a server sent, each whole and not masked: opcode and payload (RFC 6455, section 5.2).
fn frames(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut frames = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        assert_eq!(
            first & 0xF0,
            0x80,
            "the last of its message, and no extension"
        );
        assert_eq!(second & 0x80, 0, "not masked");
        let (length, rest) = match *second {
            126 => {
                let (length, rest) = rest.split_at(2);
                (
                    usize::from(u16::from_be_bytes([length[0], length[1]])),
                    rest,
                )
            }
            127 => panic!("nothing that long was said"),
            length => (length.into(), rest),
        };
        let (payload, rest) = rest.split_at(length);
        frames.push((first & 0x0F, payload));
        bytes = rest;
    }
    assert_eq!(bytes, b"", "half a frame");
    frames
}
