//! Lines on a byte stream: what TCP, Unix and memory have in common.
//!
//! [`LineFramer`] is pure (bytes in, ranges out), so that it can be tested by splitting its input at
//! every byte. [`LineSession`] puts it on any byte stream. Complete lines are handed over where the read
//! left them; only a line that came in several reads is ever copied, once, into a buffer of its own that
//! exists as long as that line is incomplete.

use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::pin::pin;
use std::task::{Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use memchr::{memchr, memchr_iter};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use crate::frames::Marks;
use crate::write::write_all;
use crate::{Input, Limits, Output, Session};

/// Lines of a batch. One read of empty lines brings sixteen times as many, whose marks would take twelve times as much
/// memory as they do, for as long as it takes until they have run.
const BATCH_LINES: usize = 1024;

/// Reads that bring no line before others get their turn.
const READS: usize = 8;

/// A session whose frames are lines, ended by `\n` or `\r\n`, on a byte stream.
///
/// A last line without an end is a frame too, once the peer has closed its sending side.
#[derive(Debug)]
pub struct LineSession<S> {
    stream: S,
    framer: LineFramer,
    write_timeout: Option<Duration>,
}

impl<S> LineSession<S> {
    /// Frames the lines of `stream`.
    pub fn new(stream: S, limits: Limits) -> LineSession<S> {
        LineSession {
            stream,
            framer: LineFramer::new(limits.max_line),
            write_timeout: limits.write_timeout,
        }
    }

    /// Makes this a session that [refuses HTTP](Session::refuses_http), for streams that a web page can have a
    /// browser open.
    pub fn refuse_http(mut self) -> LineSession<S> {
        self.framer.keeps_ends = true;
        self
    }
}

#[async_trait]
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Session for LineSession<S> {
    async fn recv(&mut self, frames: &mut Input) -> io::Result<usize> {
        poll_fn(|context| {
            let mut reads = 0;
            while reads < READS {
                if self.framer.is_rest {
                    self.framer.take_rest(frames);
                } else {
                    // `read_buf` keeps no state between polls, so it can be made anew for each. That lets
                    // the buffer go back to the pool while there is nothing to read.
                    let read = pin!(self.stream.read_buf(frames.buffer())).poll(context);
                    if read.is_pending() {
                        frames.clear();
                    }
                    if ready!(read)? == 0 {
                        self.framer.end(frames);
                        if frames.is_empty() {
                            frames.clear();
                        }
                        return Poll::Ready(Ok(frames.len()));
                    }
                }
                self.framer.split(frames);
                if !frames.is_empty() {
                    return Poll::Ready(Ok(frames.len()));
                }
                frames.clear();
                reads += 1;
            }
            // The peer is in the middle of a line that never ends.
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    }

    async fn send(&mut self, frames: &Output) -> io::Result<()> {
        if frames.as_bytes().is_empty() {
            return Ok(());
        }
        write_all(&mut self.stream, frames.as_bytes(), self.write_timeout).await
    }

    fn refuses_http(&self) -> bool {
        self.framer.keeps_ends
    }
}

/// Bytes that are kept of the beginning of an oversized line, and as many of its end.
const END: usize = 32;

/// Cuts reads into lines.
#[derive(Debug)]
struct LineFramer {
    /// The beginning of a line whose end has not come yet; while that is skipped, at most its ends; or the rest of a
    /// read that had too many lines for a batch.
    tail: Vec<u8>,
    /// Bytes of a line without its end. 32 bits, because this exists once for each idle connection.
    limit: u32,
    /// Whether the line that now arrives was too long, and is thrown away up to its end.
    skipping: bool,
    /// Whether the ends of oversized lines are kept, and handed over.
    keeps_ends: bool,
    /// Whether `tail` is the rest of a read.
    is_rest: bool,
}

impl LineFramer {
    fn new(limit: usize) -> LineFramer {
        LineFramer {
            tail: Vec::new(),
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
            skipping: false,
            keeps_ends: false,
            is_rest: false,
        }
    }

    /// Puts the rest of an earlier read into the (empty) batch, to be split before more is read.
    #[cold]
    fn take_rest(&mut self, frames: &mut Input) {
        self.is_rest = false;
        frames.buffer().append(&mut std::mem::take(&mut self.tail));
    }

    /// Marks the lines in what one read has put into the (otherwise empty) batch, as many as it takes.
    fn split(&mut self, frames: &mut Input) {
        let (bytes, mut marks) = frames.split();
        let read = bytes.len();
        let mut start = 0;
        if (self.skipping || !self.tail.is_empty())
            && let Some(position) = memchr(b'\n', bytes)
        {
            self.complete(bytes, &mut marks, position);
            start = position + 1;
        }
        if !self.skipping && self.tail.is_empty() {
            let offset = start;
            let mut ends = memchr_iter(b'\n', &bytes[offset..read]);
            let mut room = BATCH_LINES.saturating_sub(marks.len());
            while room > 0
                && let Some(end) = ends.next()
            {
                room -= 1;
                let end = offset + end;
                match self.content(&bytes[start..end]) {
                    Some(content) => marks.push(start..start + content),
                    None => {
                        marks.push_oversized();
                        if self.keeps_ends {
                            marks.push_oversized_ends(start..end);
                        }
                    }
                }
                start = end + 1;
            }
            if room == 0 && ends.next().is_some() {
                self.tail.extend_from_slice(&bytes[start..read]);
                self.is_rest = true;
                return;
            }
        }
        if start < read && !self.skipping {
            self.tail.extend_from_slice(&bytes[start..read]);
            self.check_tail(&mut marks);
        } else if start < read && self.keeps_ends {
            keep_ends(&mut self.tail, &bytes[start..read]);
        }
    }

    /// Ends the line that was begun by an earlier read, at `position` of this one.
    fn complete(&mut self, bytes: &mut Vec<u8>, marks: &mut Marks<'_>, position: usize) {
        let mut line = std::mem::take(&mut self.tail);
        if std::mem::take(&mut self.skipping) {
            if self.keeps_ends {
                keep_ends(&mut line, &bytes[..position]);
                marks.push_oversized_ends(append(bytes, &line));
            }
            return;
        }
        line.extend_from_slice(&bytes[..position]);
        match self.content(&line) {
            // Behind what was read: the other lines keep their places, and the order of frames is that
            // of their marks.
            Some(content) => marks.push(append(bytes, &line[..content])),
            None => {
                marks.push_oversized();
                if self.keeps_ends {
                    marks.push_oversized_ends(append(bytes, &ends(&line)));
                }
            }
        }
    }

    /// Makes what is left a line, at the end of input.
    fn end(&mut self, frames: &mut Input) {
        let line = std::mem::take(&mut self.tail);
        if std::mem::take(&mut self.skipping) {
            self.end_oversized(&line, frames);
        } else if line.len() > self.limit as usize {
            frames.push_oversized();
            self.end_oversized(&ends(&line), frames);
        } else if !line.is_empty() {
            frames.push(&line);
        }
    }

    fn end_oversized(&self, ends: &[u8], frames: &mut Input) {
        if self.keeps_ends {
            frames.push_oversized_ends(ends);
        }
    }

    /// The length of a line, given without its `\n`, also without its `\r`; `None` if it is too long.
    fn content(&self, line: &[u8]) -> Option<usize> {
        let length = line.strip_suffix(b"\r").unwrap_or(line).len();
        (length <= self.limit as usize).then_some(length)
    }

    /// Throws an incomplete line away as soon as it is certainly too long: a `\r` right behind the limit
    /// may yet turn out to be part of the line's end.
    fn check_tail(&mut self, marks: &mut Marks<'_>) {
        if self.content(&self.tail).is_none() {
            let line = std::mem::take(&mut self.tail);
            if self.keeps_ends {
                self.tail = ends(&line);
            }
            self.skipping = true;
            marks.push_oversized();
        }
    }
}

/// Appends to what was read, and returns where that is.
fn append(bytes: &mut Vec<u8>, line: &[u8]) -> Range<usize> {
    let start = bytes.len();
    bytes.extend_from_slice(line);
    start..bytes.len()
}

/// What is kept of an oversized line, or of its beginning.
fn ends(line: &[u8]) -> Vec<u8> {
    let mut kept = Vec::new();
    keep_ends(&mut kept, line);
    kept
}

/// Adds bytes to what is kept of an oversized line: all of it up to twice [`END`], without white space before it;
/// of more, only the first and the last.
fn keep_ends(kept: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = match kept.is_empty() {
        true => bytes.trim_ascii_start(),
        false => bytes,
    };
    let room = (2 * END).saturating_sub(kept.len());
    let (first, rest) = bytes.split_at(bytes.len().min(room));
    kept.extend_from_slice(first);
    let last = &rest[rest.len().saturating_sub(END)..];
    if !last.is_empty() {
        kept.drain(END..END + last.len());
        kept.extend_from_slice(last);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::InputFrame;

    const LIMIT: usize = 4;

    /// What the framer makes of these reads and the end of input, a line a frame.
    fn framed(reads: &[&[u8]]) -> Vec<String> {
        framed_by(LineFramer::new(LIMIT), reads)
    }

    /// The same, of a framer that keeps the ends of oversized lines.
    fn framed_with_ends(reads: &[&[u8]]) -> Vec<String> {
        let mut framer = LineFramer::new(LIMIT);
        framer.keeps_ends = true;
        framed_by(framer, reads)
    }

    fn framed_by(mut framer: LineFramer, reads: &[&[u8]]) -> Vec<String> {
        let mut lines = Vec::new();
        let mut take = |frames: &Input| {
            assert!(
                frames.len() <= 2 * BATCH_LINES,
                "{} lines at once",
                frames.len()
            );
            lines.extend(frames.iter().map(|frame| match frame {
                InputFrame::Complete(line) => line.escape_ascii().to_string(),
                InputFrame::Oversized => "OVERSIZED".to_owned(),
                InputFrame::OversizedEnds(ends) => {
                    format!("ENDS {}", ends.trim_ascii().escape_ascii())
                }
            }));
        };
        for read in reads.iter().filter(|read| !read.is_empty()) {
            let mut frames = Input::new();
            frames.buffer().extend_from_slice(read);
            framer.split(&mut frames);
            take(&frames);
            while framer.is_rest {
                let mut frames = Input::new();
                framer.take_rest(&mut frames);
                framer.split(&mut frames);
                take(&frames);
            }
            let most = if framer.skipping { 2 * END } else { LIMIT + 1 };
            assert!(framer.tail.len() <= most, "an endless line takes memory");
        }
        let mut frames = Input::new();
        framer.end(&mut frames);
        take(&frames);
        lines
    }

    /// The same, said in the plainest way.
    fn reference(input: &[u8]) -> Vec<String> {
        let mut lines: Vec<&[u8]> = input.split(|&byte| byte == b'\n').collect();
        let last = lines.pop().filter(|line| !line.is_empty());
        let ended = lines
            .into_iter()
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        ended
            .chain(last)
            .map(|line| match line.len() {
                0..=LIMIT => line.escape_ascii().to_string(),
                _ => "OVERSIZED".to_owned(),
            })
            .collect()
    }

    #[track_caller]
    fn check(reads: &[&[u8]], expect: &[&str]) {
        assert_eq!(framed(reads), expect);
        assert_eq!(reference(&reads.concat()), expect);
    }

    #[test]
    fn lines_are_cut_at_their_ends() {
        check(&[b"a\nbc\r\n\n\r\n"], &["a", "bc", "", ""]);
        check(&[b"a\n", b"b", b"c\r", b"\nd"], &["a", "bc", "d"]);
        check(&[b"a\rb\n"], &["a\\rb"]);
        check(&[], &[]);
    }

    #[test]
    fn the_limit_counts_no_line_end() {
        check(&[b"abcd\nabcd\r\n"], &["abcd", "abcd"]);
        check(&[b"abcde\nabcde\r\nx\n"], &["OVERSIZED", "OVERSIZED", "x"]);
        check(&[b"abcd\r", b"\n"], &["abcd"]);
        check(&[b"abcd\r", b"x\ny"], &["OVERSIZED", "y"]);
        check(&[b"abcd\r"], &["OVERSIZED"]);
        check(&[b"abcde", b"fgh", b"\nx"], &["OVERSIZED", "x"]);
    }

    #[test]
    fn a_line_is_too_long_as_soon_as_the_limit_is_passed() {
        let mut framer = LineFramer::new(LIMIT);
        let mut frames = Input::new();
        frames.buffer().extend_from_slice(b"abcde");
        framer.split(&mut frames);
        assert_eq!(frames.iter().collect::<Vec<_>>(), [InputFrame::Oversized]);
    }

    #[test]
    fn the_ends_of_an_oversized_line_follow_it() {
        let check = |reads: &[&[u8]], expect: &[&str]| {
            assert_eq!(framed_with_ends(reads), expect);
            let bytes = reads.concat();
            let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(framed_with_ends(&pieces), expect);
        };
        check(&[b"abcd\nab"], &["abcd", "ab"]);
        check(&[b"abcde\nx\n"], &["OVERSIZED", "ENDS abcde", "x"]);
        check(&[b"abcde", b"f\r\nx"], &["OVERSIZED", "ENDS abcdef", "x"]);
        check(&[b"ab", b"cdef\n"], &["OVERSIZED", "ENDS abcdef"]);
        check(&[b"abc", b"def"], &["OVERSIZED", "ENDS abcdef"]);
        check(&[b"abcd\r", b"e\n"], &["OVERSIZED", "ENDS abcd\\re"]);
        check(&[b"       ", b"  ab\n"], &["OVERSIZED", "ENDS ab"]);
        check(&[b"        \n\n"], &["OVERSIZED", "ENDS ", ""]);
    }

    #[test]
    fn of_a_long_line_the_first_and_the_last_bytes_are_kept() {
        let first: Vec<u8> = (0..END as u8).map(|byte| byte + b'!').collect();
        let last: Vec<u8> = first.iter().rev().copied().collect();
        let line = [&first, &b"x".repeat(1000)[..], &last].concat();
        for piece in [1, 2, 7, 31, 32, 33, 64, 65, 100, 999] {
            let mut kept = Vec::new();
            line.chunks(piece)
                .for_each(|bytes| keep_ends(&mut kept, bytes));
            assert_eq!(kept, [&first[..], &last].concat(), "in pieces of {piece}");
        }
    }

    #[test]
    fn a_read_of_many_lines_makes_several_batches() {
        for (line, lines) in [
            ("", 16 * 1024),
            ("ab\r", 4000),
            ("", BATCH_LINES),
            ("", BATCH_LINES + 1),
        ] {
            let read = format!("{line}\n").repeat(lines);
            // Also with the end of an earlier line before them, and the beginning of another behind.
            for (before, behind) in [("", ""), ("x", "y")] {
                let read = format!("{read}{behind}");
                let reads = [before.as_bytes(), read.as_bytes()];
                assert_eq!(framed(&reads), reference(&reads.concat()), "{line:?}");
            }
        }
    }

    #[test]
    fn marks_of_empty_lines_take_bounded_memory() {
        let mut framer = LineFramer::new(LIMIT);
        let mut frames = Input::new();
        frames.buffer().resize(16 * 1024, b'\n');
        framer.split(&mut frames);
        assert_eq!(frames.len(), BATCH_LINES);
        assert_eq!(framer.tail.len(), 16 * 1024 - BATCH_LINES);
        frames.clear();
        framer.take_rest(&mut frames);
        assert_eq!(framer.tail.capacity(), 0);
    }

    /// It gives others their turn, though there is always more to read.
    #[tokio::test]
    async fn an_endless_line_passes_the_turn_on() {
        let limits = Limits::default().with_max_line(LIMIT);
        let endless = tokio::io::join(tokio::io::repeat(b'x'), tokio::io::sink());
        let mut session = LineSession::new(endless, limits);
        let mut frames = Input::new();
        session.recv(&mut frames).await.unwrap();
        assert_eq!(frames.iter().collect::<Vec<_>>(), [InputFrame::Oversized]);
        frames.clear();
        let mut receiving = pin!(session.recv(&mut frames));
        // It would never be done.
        let polled = poll_fn(|context| Poll::Ready(receiving.as_mut().poll(context))).await;
        assert!(polled.is_pending());
    }

    #[test]
    fn nothing_is_kept_between_lines() {
        let mut framer = LineFramer::new(LIMIT);
        for read in [&b"ab"[..], b"c\n", b"abcdefgh"] {
            let mut frames = Input::new();
            frames.buffer().extend_from_slice(read);
            framer.split(&mut frames);
        }
        assert_eq!(framer.tail.capacity(), 0);
    }

    proptest! {
        #[test]
        fn splits_do_not_matter(
            input in prop::collection::vec(prop::sample::select(b"ab\r\n".as_slice()), 0..40),
            cuts in prop::collection::vec(0usize..40, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(input.len())).collect();
            cuts.extend([0, input.len()]);
            cuts.sort_unstable();
            let reads: Vec<&[u8]> = cuts.windows(2).map(|pair| &input[pair[0]..pair[1]]).collect();
            prop_assert_eq!(framed(&reads), reference(&input));
            let lines = framed_with_ends(&reads).into_iter();
            let lines: Vec<String> = lines.filter(|line| !line.starts_with("ENDS ")).collect();
            prop_assert_eq!(lines, reference(&input));
        }
    }
}
