//! Batches of frames: [`Input`], received from a peer, and [`Output`], to be sent to one.
//!
//! A frame is a line or a message. A batch is one contiguous buffer and the positions of its frames. The two
//! directions share that buffer (`Batch`) and differ in what a frame can be: only a received frame can be
//! oversized, and only a sent frame can be in parts.

mod batch;

use std::ops::Range;

use batch::{Batch, Entry, Kind};

/// Frames received from a peer, in order.
///
/// A [`Session`](crate::Session) fills it in one of three ways: it copies frames ([`push`](Input::push)), appends
/// to [`buffer`](Input::buffer) and then calls [`end`](Input::end), or reads into the buffer and marks the frames
/// where the read left them ([`split`](Input::split)).
#[derive(Debug, Default)]
pub struct Input {
    batch: Batch,
}

/// A frame received from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputFrame<'a> {
    /// A complete line or message, without its line end. May be empty.
    Complete(&'a [u8]),
    /// A frame longer than [`Limits::max_line`](crate::Limits::max_line). Its bytes were dropped.
    Oversized,
    /// First and last bytes of the [`Oversized`](InputFrame::Oversized) frame before it, now that its end has
    /// arrived. It is not a frame of its own and gets no reply. Only sessions that
    /// [refuse HTTP](crate::Session::refuses_http) report it.
    OversizedEnds(&'a [u8]),
}

/// Frames to send to a peer, in order.
///
/// Frames are copied ([`push`](Output::push)) or written in place: append to [`buffer`](Output::buffer), then call
/// [`end`](Output::end) or [`end_part`](Output::end_part).
#[derive(Debug, Default)]
pub struct Output {
    batch: Batch,
}

/// A frame to send to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFrame<'a> {
    /// A complete frame, or the last part of one. May be empty.
    Complete(&'a [u8]),
    /// A part of a frame. The next frame, maybe of the next batch, continues it.
    Part(&'a [u8]),
}

impl Input {
    /// Returns an empty batch, which owns no memory yet.
    pub const fn new() -> Input {
        Input {
            batch: Batch::new(),
        }
    }

    /// Appends a complete frame.
    pub fn push(&mut self, frame: &[u8]) {
        self.buffer().extend_from_slice(frame);
        self.end();
    }

    /// Appends an oversized frame.
    pub fn push_oversized(&mut self) {
        self.batch.buffer().end(Kind::Oversized);
    }

    /// Appends the first and last bytes of the last oversized frame.
    pub fn push_oversized_ends(&mut self, ends: &[u8]) {
        let buffer = self.batch.buffer();
        buffer.bytes.extend_from_slice(ends);
        buffer.end(Kind::Partial);
    }

    /// Returns the buffer, to append the bytes of the next frame to.
    #[inline]
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.batch.buffer().bytes
    }

    /// Makes the bytes appended since the last frame a complete frame.
    pub fn end(&mut self) {
        self.batch.buffer().end(Kind::Complete);
    }

    /// Returns the buffer and the positions of its frames, so that a session can read into the buffer and mark
    /// frames without moving their bytes. A batch filled in this way must not use [`end`](Input::end).
    pub fn split(&mut self) -> (&mut Vec<u8>, Marks<'_>) {
        let buffer = self.batch.buffer();
        (&mut buffer.bytes, Marks(&mut buffer.entries))
    }

    /// Returns the frames in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = InputFrame<'_>> {
        self.iter_from(0)
    }

    /// Returns the frames from number `first` on, in constant time. (Skipping frames of [`iter`](Input::iter)
    /// would visit each of them.)
    pub fn iter_from(&self, first: usize) -> impl ExactSizeIterator<Item = InputFrame<'_>> {
        let (bytes, entries) = self.batch.slices();
        let entries = entries.get(first..).unwrap_or_default();
        entries.iter().map(|entry| match entry.kind {
            Kind::Complete => InputFrame::Complete(entry.bytes(bytes)),
            Kind::Partial => InputFrame::OversizedEnds(entry.bytes(bytes)),
            Kind::Oversized => InputFrame::Oversized,
        })
    }

    /// Returns the number of bytes in the buffer.
    pub fn byte_len(&self) -> usize {
        self.batch.slices().0.len()
    }

    /// Returns the number of frames.
    pub fn len(&self) -> usize {
        self.batch.len()
    }

    /// Returns true if there are no frames.
    pub fn is_empty(&self) -> bool {
        self.batch.len() == 0
    }

    /// Removes everything and gives the memory back.
    pub fn clear(&mut self) {
        self.batch.clear();
    }
}

impl Output {
    /// Returns an empty batch, which owns no memory yet.
    pub const fn new() -> Output {
        Output {
            batch: Batch::new(),
        }
    }

    /// Appends a complete frame.
    pub fn push(&mut self, frame: &[u8]) {
        self.buffer().extend_from_slice(frame);
        self.end();
    }

    /// Returns the buffer, to append the bytes of the next frame to.
    #[inline]
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.batch.buffer().bytes
    }

    /// Makes the bytes appended since the last frame a complete frame, or the last part of one.
    #[inline(always)] // Runs once a command, in several places, where a call would cost more than its work.
    pub fn end(&mut self) {
        self.batch.buffer().end(Kind::Complete);
    }

    /// Makes the bytes appended since the last frame a part of a frame that continues.
    pub fn end_part(&mut self) {
        self.batch.buffer().end(Kind::Partial);
    }

    /// Returns the frames in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = OutputFrame<'_>> {
        let (bytes, entries) = self.batch.slices();
        entries.iter().map(|entry| match entry.kind {
            Kind::Complete => OutputFrame::Complete(entry.bytes(bytes)),
            // No method of `Output` makes an oversized frame.
            Kind::Partial | Kind::Oversized => OutputFrame::Part(entry.bytes(bytes)),
        })
    }

    /// Returns the bytes of all frames, one after the other, without unfinished bytes.
    #[inline(always)] // As for `end`.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.batch.buffer {
            Some(buffer) => &buffer.bytes[..buffer.end],
            None => &[],
        }
    }

    /// Returns the bytes of the frames that have not been sent.
    #[inline]
    pub fn unsent(&self) -> &[u8] {
        match &self.batch.buffer {
            Some(buffer) => &buffer.bytes[buffer.sent..buffer.end],
            None => &[],
        }
    }

    /// Counts the first `bytes` of the [unsent](Output::unsent) bytes as sent.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    #[inline]
    pub fn advance(&mut self, bytes: usize) {
        assert!(bytes <= self.unsent().len(), "more was sent than there is");
        self.batch.buffer().sent += bytes;
    }

    /// Returns the number of bytes appended since the last frame.
    pub fn unfinished(&self) -> usize {
        let buffer = self.batch.buffer.as_ref();
        buffer.map_or(0, |buffer| buffer.bytes.len() - buffer.end)
    }

    /// Returns the number of frames.
    pub fn len(&self) -> usize {
        self.batch.len()
    }

    /// Returns true if there are no frames.
    pub fn is_empty(&self) -> bool {
        self.batch.len() == 0
    }

    /// Removes everything and gives the memory back.
    pub fn clear(&mut self) {
        self.batch.clear();
    }

    /// Removes the frames and keeps the unfinished bytes.
    pub fn clear_finished(&mut self) {
        if self.unfinished() == 0 {
            self.clear();
        } else {
            let buffer = self.batch.buffer();
            buffer.bytes.drain(..buffer.end);
            buffer.entries.clear();
            buffer.end = 0;
            buffer.sent = 0;
        }
    }
}

/// Positions of the frames in an [`Input`]'s buffer.
///
/// Ranges are those of the final buffer and may overlap or leave gaps. A range that the buffer does not have
/// makes reading the frames panic.
#[derive(Debug)]
pub struct Marks<'a>(&'a mut Vec<Entry>);

impl Marks<'_> {
    /// Returns the number of marked frames.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true if no frame is marked.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Marks this range of the buffer as a complete frame.
    pub fn push(&mut self, range: Range<usize>) {
        self.0.push(Entry::new(range, Kind::Complete));
    }

    /// Adds an oversized frame.
    pub fn push_oversized(&mut self) {
        self.0.push(Entry::new(0..0, Kind::Oversized));
    }

    /// Marks this range of the buffer as the first and last bytes of the last oversized frame.
    pub fn push_oversized_ends(&mut self, range: Range<usize>) {
        self.0.push(Entry::new(range, Kind::Partial));
    }
}

#[cfg(test)]
mod tests {
    use super::batch::MAX_POOLED;
    use super::*;

    #[test]
    fn sent_bytes_are_forgotten_with_their_frames() {
        let mut output = Output::new();
        output.push(b"one");
        output.push(b"two");
        output.advance(4);
        assert_eq!(
            (output.as_bytes(), output.unsent()),
            (&b"onetwo"[..], &b"wo"[..])
        );
        output.buffer().extend_from_slice(b"thr");
        output.clear_finished();
        output.end();
        assert_eq!(output.unsent(), b"thr");
        output.advance(3);
        output.clear();
        output.push(b"four");
        assert_eq!(output.unsent(), b"four");
    }

    fn sent(output: &Output) -> Vec<OutputFrame<'_>> {
        output.iter().collect()
    }

    fn received(input: &Input) -> Vec<InputFrame<'_>> {
        input.iter().collect()
    }

    #[test]
    fn output_frames_keep_their_order() {
        let mut output = Output::new();
        output.push(b"one");
        output.buffer().extend_from_slice(b"tw");
        output.end_part();
        output.push(b"o");
        output.push(b"");
        assert_eq!(output.as_bytes(), b"onetwo");
        assert_eq!(output.len(), 4);
        let expect = [
            OutputFrame::Complete(b"one"),
            OutputFrame::Part(b"tw"),
            OutputFrame::Complete(b"o"),
            OutputFrame::Complete(b""),
        ];
        assert_eq!(sent(&output), expect);
    }

    #[test]
    fn clear_finished_keeps_unfinished_bytes() {
        let mut output = Output::new();
        output.push(b"one");
        output.buffer().extend_from_slice(b"tw");
        assert_eq!((output.as_bytes(), output.unfinished()), (&b"one"[..], 2));
        output.clear_finished();
        assert_eq!((output.as_bytes(), output.unfinished()), (&b""[..], 2));
        output.push(b"o");
        assert_eq!(sent(&output), [OutputFrame::Complete(b"two")]);
        output.clear_finished();
        assert!(output.batch.buffer.is_none());
    }

    #[test]
    fn input_frames_keep_their_order() {
        let mut input = Input::new();
        input.push(b"one");
        input.push_oversized();
        input.push_oversized_ends(b"ends");
        input.push(b"two");
        let expect = [
            InputFrame::Complete(b"one"),
            InputFrame::Oversized,
            InputFrame::OversizedEnds(b"ends"),
            InputFrame::Complete(b"two"),
        ];
        assert_eq!(received(&input), expect);
        assert_eq!(input.iter_from(2).collect::<Vec<_>>(), expect[2..]);
        assert_eq!(input.iter_from(5).len(), 0);
        assert_eq!(input.byte_len(), 10);
    }

    #[test]
    fn frames_are_marked_where_they_stand() {
        let mut input = Input::new();
        input.buffer().extend_from_slice(b"one\ntwo\n");
        let (bytes, mut marks) = input.split();
        bytes.extend_from_slice(b"zero");
        marks.push(8..12);
        marks.push_oversized();
        marks.push_oversized_ends(0..3);
        marks.push(4..7);
        assert_eq!(marks.len(), 4);
        let expect = [
            InputFrame::Complete(b"zero"),
            InputFrame::Oversized,
            InputFrame::OversizedEnds(b"one"),
            InputFrame::Complete(b"two"),
        ];
        assert_eq!(received(&input), expect);
    }

    #[test]
    fn cleared_batch_owns_no_memory() {
        let mut input = Input::new();
        input.push(b"one");
        input.clear();
        assert!(input.batch.buffer.is_none());
        assert!(input.is_empty());
        input.buffer().resize(MAX_POOLED + 1, 0);
        input.end();
        input.clear();
        input.push(b"two");
        assert!(
            input.buffer().capacity() <= MAX_POOLED,
            "a large buffer was pooled"
        );
    }
}
