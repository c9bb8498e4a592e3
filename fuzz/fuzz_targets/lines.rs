//! A line session against a naive splitting of its input. The input arrives in reads of any size. Sometimes there is
//! nothing to read; the target may then drop `recv` and call it again, which must lose nothing.

#![no_main]

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::vec;

use glockd_transports::{Input, InputFrame, Limits, LineSession, Session};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, ReadBuf, join, sink};

#[derive(Arbitrary, Debug)]
struct Case<'a> {
    max_line: u8,
    /// True: a `recv` that has to wait is polled until it is done. False: it is dropped and called again.
    patient: bool,
    /// Sizes of the reads, in bytes. 0: the read has to wait. After the last, one read takes all that is left.
    reads: Vec<u8>,
    bytes: &'a [u8],
}

#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Whole(&'a [u8]),
    TooLong,
}

fuzz_target!(|case: Case<'_>| {
    run(&case, false);
    run(&case, true);
});

fn run(case: &Case<'_>, refuse_http: bool) {
    let limits = Limits::default().with_max_line(case.max_line.into());
    let given = AtomicUsize::new(0);
    let peer = Peer {
        bytes: case.bytes,
        reads: case.reads.clone().into_iter(),
        given: &given,
    };
    let mut session = LineSession::new(join(peer, sink()), limits);
    if refuse_http {
        session = session.refuse_http();
    }
    let mut batches = Vec::new();
    let mut context = Context::from_waker(Waker::noop());
    let ended = loop {
        let mut batch = Input::new();
        let mut recv = session.recv(&mut batch);
        let count = loop {
            match recv.as_mut().poll(&mut context) {
                Poll::Ready(count) => break count.expect("no read fails"),
                Poll::Pending => {
                    // Before it waits, a session returns all frames that it has read.
                    let given = &case.bytes[..given.load(Relaxed)];
                    check(&batches, &reference(given, limits.max_line, false));
                    if !case.patient {
                        drop(recv);
                        batch = Input::new();
                        recv = session.recv(&mut batch);
                    }
                }
            }
        };
        drop(recv);
        assert_eq!(count, batch.len());
        if count == 0 {
            break given.load(Relaxed);
        }
        batches.push(batch);
    };
    assert_eq!(
        ended,
        case.bytes.len(),
        "recv returned 0 before the end of input"
    );
    check(&batches, &reference(case.bytes, limits.max_line, true));
    let expect = match refuse_http {
        true => reference_ends(case.bytes, limits.max_line),
        false => Vec::new(),
    };
    let frames = batches.iter().flat_map(Input::iter);
    let found: Vec<Vec<u8>> = frames
        .filter_map(|frame| match frame {
            InputFrame::OversizedEnds(bytes) => Some(ends(bytes)),
            _ => None,
        })
        .collect();
    assert_eq!(found, expect);
}

/// A peer that sends bytes, then closes its sending side.
struct Peer<'a> {
    bytes: &'a [u8],
    reads: vec::IntoIter<u8>,
    /// Number of bytes that the session has read.
    given: &'a AtomicUsize,
}

impl AsyncRead for Peer<'_> {
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
        if self.bytes.is_empty() {
            // After the end of input, each read returns the end at once.
            self.reads = Vec::new().into_iter();
        }
        let size = size.min(buffer.remaining()).min(self.bytes.len());
        let (read, left) = self.bytes.split_at(size);
        buffer.put_slice(read);
        self.bytes = left;
        self.given.fetch_add(read.len(), Relaxed);
        Poll::Ready(Ok(()))
    }
}

/// Returns the frames of an input: of all of it if it has `ended`, or else those that are certain so far.
fn reference(input: &[u8], limit: usize, ended: bool) -> Vec<Line<'_>> {
    let mut pieces: Vec<&[u8]> = input.split(|&byte| byte == b'\n').collect();
    let last = pieces.pop().unwrap_or_default();
    let mut lines = Vec::new();
    for piece in pieces {
        let line = piece.strip_suffix(b"\r").unwrap_or(piece);
        lines.push(if line.len() <= limit {
            Line::Whole(line)
        } else {
            Line::TooLong
        });
    }
    // While more input may follow, a carriage return at the end may be the start of a line end.
    let certain = match last {
        [line @ .., b'\r'] if !ended => line,
        line => line,
    };
    if certain.len() > limit {
        lines.push(Line::TooLong);
    } else if ended && !last.is_empty() {
        lines.push(Line::Whole(last));
    }
    lines
}

/// Returns the ends of each line that is too long.
fn reference_ends(input: &[u8], limit: usize) -> Vec<Vec<u8>> {
    let mut pieces: Vec<&[u8]> = input.split(|&byte| byte == b'\n').collect();
    let last = pieces.pop().filter(|last| last.len() > limit);
    let ended = pieces
        .into_iter()
        .filter(|piece| piece.strip_suffix(b"\r").unwrap_or(piece).len() > limit);
    ended.chain(last).map(ends).collect()
}

/// Returns the first and last bytes of a line that is too long.
fn ends(line: &[u8]) -> Vec<u8> {
    const END: usize = 32;
    let line = line.trim_ascii_start();
    match line.len() {
        0..=64 => line.to_vec(),
        length => [&line[..END], &line[length - END..]].concat(),
    }
}

#[track_caller]
fn check(batches: &[Input], expect: &[Line<'_>]) {
    let lines: Vec<Line<'_>> = batches
        .iter()
        .flat_map(Input::iter)
        .filter_map(|frame| match frame {
            InputFrame::Complete(line) => Some(Line::Whole(line)),
            InputFrame::Oversized => Some(Line::TooLong),
            InputFrame::OversizedEnds(_) => None,
        })
        .collect();
    assert_eq!(lines, expect);
}
