//! A batch of frames: one contiguous buffer, and where in it each frame stands.
//!
//! A connection that waits owns no buffer. [`Frames`] borrows its memory from a pool of the thread at
//! the first byte and gives it back with [`Frames::clear`]: ten thousand idle connections cost a handful
//! of buffers. A buffer that has grown beyond [`KEEP`] is freed instead, so one long line does not stay.

use std::cell::RefCell;
use std::ops::Range;

/// What a fresh buffer holds: one read of this much takes some hundred pipelined commands.
pub(crate) const READ: usize = 16 * 1024;

/// A larger buffer than this is freed after use. A full chunk of a listing just fits.
const KEEP: usize = 128 * 1024;

/// How many buffers a thread keeps for the next batch. Two are in use at a time.
const SPARE: usize = 4;

thread_local! {
    // Boxed, so that what every waiting connection keeps, and what moves to and fro, is one pointer.
    #[expect(clippy::vec_box, reason = "what is kept is the box")]
    static POOL: RefCell<Vec<Box<Memory>>> = const { RefCell::new(Vec::new()) };
}

/// A batch of frames, in order.
///
/// Built by [`push`](Frames::push) and its kin, or in place: append to [`buffer`](Frames::buffer), then
/// say what it was by [`end`](Frames::end) or [`end_part`](Frames::end_part).
#[derive(Debug, Default)]
pub struct Frames {
    memory: Option<Box<Memory>>,
}

#[derive(Debug)]
struct Memory {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// Where the last frame of a batch to be sent ends.
    end: usize,
}

/// One frame of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A whole line or message, or the last part of one. May be empty.
    Data(&'a [u8]),
    /// In what is sent: a part of a frame that the next one continues.
    ///
    /// In what is received: the first and the last bytes of the [`Oversized`](Frame::Oversized) frame before it,
    /// now that its end has come. Only from a session that [refuses HTTP](crate::Session::refuses_http), and never
    /// answered.
    Part(&'a [u8]),
    /// A frame that was too long; its bytes are gone. Only in what is received.
    Oversized,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    // 32 bits each: a batch of many short lines is mostly entries.
    start: u32,
    end: u32,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Data,
    Part,
    Oversized,
}

impl Frames {
    /// An empty batch, which owns no memory yet.
    pub const fn new() -> Frames {
        Frames { memory: None }
    }

    /// Appends a whole frame.
    pub fn push(&mut self, data: &[u8]) {
        self.buffer().extend_from_slice(data);
        self.end();
    }

    /// Appends the mark of a frame that was too long.
    pub fn push_oversized(&mut self) {
        let memory = self.memory();
        memory.end(Kind::Oversized);
    }

    /// The buffer, to append the bytes of the next frame to.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.memory().bytes
    }

    /// Makes what was appended since the last frame a frame.
    pub fn end(&mut self) {
        self.memory().end(Kind::Data);
    }

    /// Makes what was appended since the last frame a part of a frame that goes on.
    pub fn end_part(&mut self) {
        self.memory().end(Kind::Part);
    }

    /// The buffer, and the marks to say which ranges of it are frames, wherever they stand: what arrives
    /// need not be moved.
    pub(crate) fn parts(&mut self) -> (&mut Vec<u8>, Marks<'_>) {
        let memory = self.memory();
        (&mut memory.bytes, Marks(&mut memory.entries))
    }

    /// The frames, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Frame<'_>> {
        self.iter_from(0)
    }

    /// The frames from number `first` on, at once: to skip them would visit each.
    pub fn iter_from(&self, first: usize) -> impl ExactSizeIterator<Item = Frame<'_>> {
        let (bytes, entries) = self.slices();
        let entries = entries.get(first..).unwrap_or_default();
        entries.iter().map(|entry| {
            let bytes = &bytes[entry.start as usize..entry.end as usize];
            match entry.kind {
                Kind::Data => Frame::Data(bytes),
                Kind::Part => Frame::Part(bytes),
                Kind::Oversized => Frame::Oversized,
            }
        })
    }

    /// The bytes of all frames of a batch to be sent, one after the other. Bytes that are not yet a frame
    /// are left out.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.memory {
            Some(memory) => &memory.bytes[..memory.end],
            None => &[],
        }
    }

    /// How many bytes of a batch to be sent were appended since its last frame.
    pub fn unfinished(&self) -> usize {
        let memory = self.memory.as_ref();
        memory.map_or(0, |memory| memory.bytes.len() - memory.end)
    }

    /// How many frames there are.
    pub fn len(&self) -> usize {
        self.slices().1.len()
    }

    /// Whether there is no frame.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Empties the batch and gives its memory back.
    pub fn clear(&mut self) {
        let Some(mut memory) = self.memory.take() else {
            return;
        };
        if memory.bytes.capacity() > KEEP || memory.entries.capacity() * size_of::<Entry>() > KEEP {
            return;
        }
        memory.bytes.clear();
        memory.entries.clear();
        memory.end = 0;
        POOL.with_borrow_mut(|pool| {
            if pool.len() < SPARE {
                pool.push(memory);
            }
        });
    }

    /// Drops the frames of a batch to be sent, and keeps the bytes that are not yet one.
    pub fn clear_finished(&mut self) {
        if self.unfinished() == 0 {
            self.clear();
        } else {
            let memory = self.memory();
            memory.bytes.drain(..memory.end);
            memory.entries.clear();
            memory.end = 0;
        }
    }

    #[inline]
    fn memory(&mut self) -> &mut Memory {
        match &mut self.memory {
            Some(memory) => memory,
            none => none.insert(borrow_memory()),
        }
    }

    fn slices(&self) -> (&[u8], &[Entry]) {
        match &self.memory {
            Some(memory) => (&memory.bytes, &memory.entries),
            None => (&[], &[]),
        }
    }
}

impl Memory {
    fn end(&mut self, kind: Kind) {
        let start = std::mem::replace(&mut self.end, self.bytes.len());
        self.entries.push(Entry::new(start..self.end, kind));
    }
}

fn borrow_memory() -> Box<Memory> {
    let spare = POOL.with_borrow_mut(Vec::pop);
    spare.unwrap_or_else(|| {
        Box::new(Memory {
            bytes: Vec::with_capacity(READ),
            entries: Vec::with_capacity(64),
            end: 0,
        })
    })
}

/// Where the frames of a batch stand, to be added to.
pub(crate) struct Marks<'a>(&'a mut Vec<Entry>);

impl Marks<'_> {
    /// Number of frames that are marked.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Makes this range of the buffer a frame.
    pub(crate) fn push(&mut self, range: Range<usize>) {
        self.0.push(Entry::new(range, Kind::Data));
    }

    /// Makes this range of the buffer a part of a frame.
    pub(crate) fn push_part(&mut self, range: Range<usize>) {
        self.0.push(Entry::new(range, Kind::Part));
    }

    /// Marks a frame that was too long.
    pub(crate) fn push_oversized(&mut self) {
        self.0.push(Entry::new(0..0, Kind::Oversized));
    }
}

impl Entry {
    fn new(range: Range<usize>, kind: Kind) -> Entry {
        debug_assert!(
            range.end <= u32::MAX as usize,
            "a batch is bounded by its limits"
        );
        Entry {
            start: range.start as u32,
            end: range.end as u32,
            kind,
        }
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_kept_in_order() {
        let mut frames = Frames::new();
        frames.push(b"one");
        frames.buffer().extend_from_slice(b"tw");
        frames.end_part();
        frames.push(b"o");
        frames.push(b"");
        assert_eq!(frames.as_bytes(), b"onetwo");
        let expect = [
            Frame::Data(b"one"),
            Frame::Part(b"tw"),
            Frame::Data(b"o"),
            Frame::Data(b""),
        ];
        assert_eq!(frames.iter().collect::<Vec<_>>(), expect);
        assert_eq!(frames.iter_from(2).collect::<Vec<_>>(), expect[2..]);
        assert_eq!(frames.iter_from(5).len(), 0);
        assert_eq!(frames.len(), 4);
    }

    #[test]
    fn unfinished_bytes_outlive_the_frames_before_them() {
        let mut frames = Frames::new();
        frames.push(b"one");
        frames.buffer().extend_from_slice(b"tw");
        assert_eq!((frames.as_bytes(), frames.unfinished()), (&b"one"[..], 2));
        frames.clear_finished();
        assert_eq!((frames.as_bytes(), frames.unfinished()), (&b""[..], 2));
        frames.push(b"o");
        assert_eq!(frames.iter().collect::<Vec<_>>(), [Frame::Data(b"two")]);
        frames.clear_finished();
        assert!(frames.memory.is_none());
    }

    #[test]
    fn an_oversized_frame_has_no_bytes() {
        let mut frames = Frames::new();
        frames.push(b"one");
        frames.push_oversized();
        frames.push(b"two");
        let expect = [Frame::Data(b"one"), Frame::Oversized, Frame::Data(b"two")];
        assert_eq!(frames.iter().collect::<Vec<_>>(), expect);
    }

    #[test]
    fn a_cleared_batch_owns_nothing() {
        let mut frames = Frames::new();
        frames.push(b"one");
        frames.clear();
        assert!(frames.memory.is_none());
        assert!(frames.is_empty());
        frames.buffer().resize(KEEP + 1, 0);
        frames.end();
        frames.clear();
        frames.push(b"two");
        assert!(
            frames.buffer().capacity() <= KEEP,
            "a large buffer was kept"
        );
    }
}
