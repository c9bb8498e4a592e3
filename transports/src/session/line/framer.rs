//! Cutting reads into lines.
//!
//! Pure (bytes in, ranges out), so that tests can split the input at every byte. Complete lines stay where the read
//! left them. Only a line that arrives in several reads is copied, once, from a buffer of its own that exists while
//! the line is incomplete.

use std::ops::Range;

use memchr::{memchr, memchr_iter};

use crate::frames::{Input, Marks};

/// Maximum number of lines in a batch. One read of empty lines brings sixteen times as many, and until they have run,
/// their marks would take twelve times the memory of the lines.
const MAX_LINES: usize = 1024;

/// Number of bytes that are kept of the start of an oversized line, and again of its end.
const END: usize = 32;

/// Cuts reads into lines.
#[derive(Debug)]
pub(super) struct LineFramer {
    /// Start of a line whose end has not arrived yet; while such a line is skipped, its first and last bytes; or the
    /// rest of a read that had too many lines for one batch.
    tail: Vec<u8>,
    /// Maximum length of a line in bytes, without its line end. 32 bits, because each idle connection has one.
    limit: u32,
    /// True while the rest of an oversized line is dropped as it arrives.
    skipping: bool,
    /// True if the first and last bytes of oversized lines are kept and reported.
    keeps_ends: bool,
    /// True if `tail` is the rest of a read.
    is_rest: bool,
}

impl LineFramer {
    /// Returns a framer of lines that have at most `limit` bytes without their line end.
    pub(super) fn new(limit: usize) -> LineFramer {
        LineFramer {
            tail: Vec::new(),
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
            skipping: false,
            keeps_ends: false,
            is_rest: false,
        }
    }

    /// Makes this framer keep the first and last bytes of oversized lines and report them.
    pub(super) fn keep_ends(&mut self) {
        self.keeps_ends = true;
    }

    /// Returns true if this framer reports the first and last bytes of oversized lines.
    pub(super) fn keeps_ends(&self) -> bool {
        self.keeps_ends
    }

    /// Returns true if lines of an earlier read are left. They must be split before more is read.
    pub(super) fn has_rest(&self) -> bool {
        self.is_rest
    }

    /// Moves the rest of an earlier read into the batch, which is empty.
    #[cold]
    pub(super) fn take_rest(&mut self, frames: &mut Input) {
        self.is_rest = false;
        frames.buffer().append(&mut std::mem::take(&mut self.tail));
    }

    /// Marks the lines of one read, whose bytes are all that the batch has. Keeps lines for the next batch if there
    /// are too many for this one.
    pub(super) fn split(&mut self, frames: &mut Input) {
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
            let mut room = MAX_LINES.saturating_sub(marks.len());
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

    /// Ends the line that an earlier read has started. It ends at `position` of this read.
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
            // Appended behind the read, so that the other lines keep their places. The order of the marks is the
            // order of the frames.
            Some(content) => marks.push(append(bytes, &line[..content])),
            None => {
                marks.push_oversized();
                if self.keeps_ends {
                    marks.push_oversized_ends(append(bytes, &ends(&line)));
                }
            }
        }
    }

    /// Makes the last bytes a line, at the end of input.
    pub(super) fn end(&mut self, frames: &mut Input) {
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

    /// Returns the length of a line without its line end, of which `\n` is already gone. `None` if it is too long.
    fn content(&self, line: &[u8]) -> Option<usize> {
        let length = line.strip_suffix(b"\r").unwrap_or(line).len();
        (length <= self.limit as usize).then_some(length)
    }

    /// Drops an incomplete line as soon as it is certainly too long: a `\r` right behind the limit can still turn out
    /// to be part of the line end.
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

/// Appends bytes to the buffer and returns their range.
fn append(bytes: &mut Vec<u8>, line: &[u8]) -> Range<usize> {
    let start = bytes.len();
    bytes.extend_from_slice(line);
    start..bytes.len()
}

/// Returns the first and last bytes of an oversized line, or of its start.
fn ends(line: &[u8]) -> Vec<u8> {
    let mut kept = Vec::new();
    keep_ends(&mut kept, line);
    kept
}

/// Adds bytes to the first and last bytes of an oversized line. White space at the start is dropped. Up to twice
/// [`END`] bytes are kept, and of a longer line the first and the last [`END`].
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
    use crate::frames::InputFrame;

    const LIMIT: usize = 4;

    /// Returns the frames of these reads and the end of input, as text.
    fn framed(reads: &[&[u8]]) -> Vec<String> {
        framed_by(LineFramer::new(LIMIT), reads)
    }

    /// Returns the same, of a framer that keeps the ends of oversized lines.
    fn framed_with_ends(reads: &[&[u8]]) -> Vec<String> {
        let mut framer = LineFramer::new(LIMIT);
        framer.keeps_ends = true;
        framed_by(framer, reads)
    }

    fn framed_by(mut framer: LineFramer, reads: &[&[u8]]) -> Vec<String> {
        let mut lines = Vec::new();
        let mut take = |frames: &Input| {
            assert!(
                frames.len() <= 2 * MAX_LINES,
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

    /// Returns the same by the simplest code.
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
    fn lines_end_with_newline_or_carriage_return_newline() {
        check(&[b"a\nbc\r\n\n\r\n"], &["a", "bc", "", ""]);
        check(&[b"a\n", b"b", b"c\r", b"\nd"], &["a", "bc", "d"]);
        check(&[b"a\rb\n"], &["a\\rb"]);
        check(&[], &[]);
    }

    #[test]
    fn limit_does_not_count_the_line_end() {
        check(&[b"abcd\nabcd\r\n"], &["abcd", "abcd"]);
        check(&[b"abcde\nabcde\r\nx\n"], &["OVERSIZED", "OVERSIZED", "x"]);
        check(&[b"abcd\r", b"\n"], &["abcd"]);
        check(&[b"abcd\r", b"x\ny"], &["OVERSIZED", "y"]);
        check(&[b"abcd\r"], &["OVERSIZED"]);
        check(&[b"abcde", b"fgh", b"\nx"], &["OVERSIZED", "x"]);
    }

    #[test]
    fn line_is_oversized_as_soon_as_it_passes_the_limit() {
        let mut framer = LineFramer::new(LIMIT);
        let mut frames = Input::new();
        frames.buffer().extend_from_slice(b"abcde");
        framer.split(&mut frames);
        assert_eq!(frames.iter().collect::<Vec<_>>(), [InputFrame::Oversized]);
    }

    #[test]
    fn ends_of_an_oversized_line_follow_it() {
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
    fn first_and_last_bytes_of_a_long_line_are_kept() {
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
    fn read_of_many_lines_makes_several_batches() {
        for (line, lines) in [
            ("", 16 * 1024),
            ("ab\r", 4000),
            ("", MAX_LINES),
            ("", MAX_LINES + 1),
        ] {
            let read = format!("{line}\n").repeat(lines);
            // Also with the end of an earlier line before them, and the start of another behind them.
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
        assert_eq!(frames.len(), MAX_LINES);
        assert_eq!(framer.tail.len(), 16 * 1024 - MAX_LINES);
        frames.clear();
        framer.take_rest(&mut frames);
        assert_eq!(framer.tail.capacity(), 0);
    }

    #[test]
    fn no_memory_is_kept_between_lines() {
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
        fn lines_do_not_depend_on_how_reads_split_them(
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
