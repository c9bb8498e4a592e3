//! The buffer that both directions share, and the pool that it comes from.
//!
//! A waiting connection owns no buffer. A batch borrows its memory from a pool of the thread at the first byte
//! and gives it back when it is cleared or dropped: ten thousand idle connections share a handful of buffers. A
//! buffer that has grown beyond [`MAX_POOLED`] is freed instead, so that one long line does not keep memory.

use std::cell::RefCell;
use std::ops::Range;

/// Capacity of a fresh buffer. One read of this size takes some hundred pipelined commands.
pub(crate) const BUFFER_SIZE: usize = 16 * 1024;

/// Larger buffers are freed after use. A full chunk of a listing just fits.
pub(super) const MAX_POOLED: usize = 128 * 1024;

/// Number of buffers that a thread keeps for the next batches. Two are in use at a time.
const POOL_SIZE: usize = 4;

thread_local! {
    // Boxed, so that a batch, which every waiting connection has and which is moved around, is one pointer.
    #[expect(clippy::vec_box, reason = "the pool keeps the boxes")]
    static POOL: RefCell<Vec<Box<Buffer>>> = const { RefCell::new(Vec::new()) };
}

/// The part that both directions share: a buffer borrowed from the pool while there are bytes or frames.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) buffer: Option<Box<Buffer>>,
}

#[derive(Debug)]
pub(super) struct Buffer {
    pub(super) bytes: Vec<u8>,
    pub(super) entries: Vec<Entry>,
    /// End of the last frame, if frames are appended one after the other.
    pub(super) end: usize,
    /// Bytes of the frames that have been sent.
    pub(super) sent: usize,
}

/// Position and kind of a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    // 32 bits each: a batch of many short lines is mostly entries.
    start: u32,
    end: u32,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Complete,
    /// [`InputFrame::OversizedEnds`](super::InputFrame::OversizedEnds) or [`OutputFrame::Part`](super::OutputFrame::Part).
    Partial,
    Oversized,
}

impl Batch {
    pub(super) const fn new() -> Batch {
        Batch { buffer: None }
    }

    #[inline]
    pub(super) fn buffer(&mut self) -> &mut Buffer {
        match &mut self.buffer {
            Some(buffer) => buffer,
            none => none.insert(borrow_buffer()),
        }
    }

    #[inline]
    pub(super) fn slices(&self) -> (&[u8], &[Entry]) {
        match &self.buffer {
            Some(buffer) => (&buffer.bytes, &buffer.entries),
            None => (&[], &[]),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slices().1.len()
    }

    pub(super) fn clear(&mut self) {
        let Some(mut buffer) = self.buffer.take() else {
            return;
        };
        let entry_bytes = buffer.entries.capacity() * size_of::<Entry>();
        if buffer.bytes.capacity() > MAX_POOLED || entry_bytes > MAX_POOLED {
            return;
        }
        buffer.bytes.clear();
        buffer.entries.clear();
        buffer.end = 0;
        buffer.sent = 0;
        POOL.with_borrow_mut(|pool| {
            if pool.len() < POOL_SIZE {
                pool.push(buffer);
            }
        });
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Buffer {
    /// Makes the bytes appended since the last frame a frame.
    #[inline(always)] // As for `Output::end`.
    pub(super) fn end(&mut self, kind: Kind) {
        let start = std::mem::replace(&mut self.end, self.bytes.len());
        self.entries.push(Entry::new(start..self.end, kind));
    }
}

fn borrow_buffer() -> Box<Buffer> {
    let pooled = POOL.with_borrow_mut(Vec::pop);
    pooled.unwrap_or_else(|| {
        Box::new(Buffer {
            bytes: Vec::with_capacity(BUFFER_SIZE),
            entries: Vec::with_capacity(64),
            end: 0,
            sent: 0,
        })
    })
}

impl Entry {
    #[inline]
    pub(super) fn new(range: Range<usize>, kind: Kind) -> Entry {
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

    /// Returns the bytes of the frame in the bytes of its batch.
    pub(super) fn bytes(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..self.end as usize]
    }
}
