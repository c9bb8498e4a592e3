//! Frames that arrived during a wait and run after it.
//!
//! A waiter may send thousands of lines of one byte, so a stored frame may take no more memory than the limit
//! counts for it: its bytes, and one for the line end. Frames are therefore stored back to back, each behind a header of one byte (five, from
//! [`LONG`] bytes on), in chunks that are freed one by one as their frames run.
//!
//! Turned down: an index of the frames, which costs eight bytes for each empty line; and one large buffer, which is
//! three times its contents while it grows.

use std::collections::VecDeque;
use std::mem::size_of;
use std::ops::Range;

use glockd_protocol::{Command, parse};
use glockd_transports::InputFrame;

use super::budget::line_cost;

/// Bytes of a chunk, unless one frame alone is longer. A search visits one chunk at a time, in 20 to 80 microseconds.
const CHUNK: usize = 8 * 1024;

/// Value of the header byte that means: the real length is in the next four bytes.
const LONG: usize = 63;

/// Headers that are read in the time of a plain command.
const HEADERS: u32 = 32;

/// Frames in the order of their arrival.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    chunks: VecDeque<Chunk>,
    /// Start of the first frame in the first chunk; what stood before it has run.
    start: usize,
    /// Bytes of all frames, with one more for each.
    bytes: usize,
}

#[derive(Debug)]
struct Chunk {
    frames: Vec<u8>,
    /// Frames that will wait for a lock.
    waits: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain = 0,
    /// A command that will wait for a lock.
    Wait = 1,
    Oversized = 2,
}

/// Position of a frame in its chunk.
#[derive(Debug)]
struct Position {
    kind: Kind,
    content: Range<usize>,
}

/// Outcome of the search of one chunk.
pub(super) struct Searched {
    /// The command that was found and removed.
    pub(super) line: Option<Vec<u8>>,
    /// Cost of the search, in plain commands.
    pub(super) work: u32,
}

impl Backlog {
    /// Bytes that a frame adds to [`bytes`](Backlog::bytes).
    pub(super) fn cost(frame: InputFrame<'_>) -> usize {
        match frame {
            InputFrame::Complete(bytes) | InputFrame::OversizedEnds(bytes) => bytes.len() + 1,
            InputFrame::Oversized => 1,
        }
    }

    /// Bytes of all frames, each counted with the end of its line.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends a frame that is not a command that will wait for a lock.
    pub(super) fn push(&mut self, frame: InputFrame<'_>) {
        match frame {
            InputFrame::Complete(bytes) | InputFrame::OversizedEnds(bytes) => {
                self.push_kind(Kind::Plain, bytes)
            }
            InputFrame::Oversized => self.push_kind(Kind::Oversized, &[]),
        }
    }

    /// Appends a command that will wait for a lock.
    pub(super) fn push_wait(&mut self, line: &[u8]) {
        self.push_kind(Kind::Wait, line);
    }

    fn push_kind(&mut self, kind: Kind, content: &[u8]) {
        let length = (content.len() as u32).to_le_bytes();
        let (short, length) = match content.len() {
            short if short < LONG => (short, &[][..]),
            _ => (LONG, &length[..]),
        };
        let chunk = self.chunk_with_room(1 + length.len() + content.len());
        chunk.frames.push((short << 2) as u8 | kind as u8);
        chunk.frames.extend_from_slice(length);
        chunk.frames.extend_from_slice(content);
        chunk.waits += u32::from(kind == Kind::Wait);
        self.bytes += content.len() + 1;
    }

    /// Returns the first frame.
    pub(super) fn front(&self) -> Option<InputFrame<'_>> {
        let chunk = self.chunks.front()?;
        let Position { kind, content } = chunk.frame_at(self.start)?;
        Some(match kind {
            Kind::Plain | Kind::Wait => InputFrame::Complete(&chunk.frames[content]),
            Kind::Oversized => InputFrame::Oversized,
        })
    }

    /// Removes the first frame, and frees its chunk if it was the last one there.
    pub(super) fn pop_front(&mut self) {
        let Some(chunk) = self.chunks.front_mut() else {
            return;
        };
        if let Some(Position { kind, content }) = chunk.frame_at(self.start) {
            chunk.waits -= u32::from(kind == Kind::Wait);
            self.bytes -= content.len() + 1;
            self.start = content.end;
        }
        self.drop_front_if_done();
    }

    /// Searches one chunk for the first command that will wait for the lock `name`, and removes it. `None` once there
    /// is no chunk of that number.
    pub(super) fn remove_wait(&mut self, chunk: usize, name: &[u8]) -> Option<Searched> {
        let mut position = if chunk == 0 { self.start } else { 0 };
        let searched = self.chunks.get_mut(chunk)?;
        let (mut headers, mut waits, mut work) = (0, 0, 1);
        while waits < searched.waits {
            let Some(Position { kind, content }) = searched.frame_at(position) else {
                break;
            };
            headers += 1;
            if kind == Kind::Wait {
                waits += 1;
                let line = &searched.frames[content.clone()];
                work += line_cost(line);
                let command = parse(line).ok();
                if command.as_ref().and_then(Command::waits_for) == Some(name) {
                    let line = line.to_vec();
                    searched.frames.drain(position..content.end);
                    searched.waits -= 1;
                    self.bytes -= line.len() + 1;
                    self.merge_with_neighbours(chunk);
                    return Some(Searched {
                        line: Some(line),
                        work,
                    });
                }
            }
            position = content.end;
        }
        work += headers / HEADERS;
        Some(Searched { line: None, work })
    }

    /// Returns the last chunk if `stored` bytes fit into it, or else a new one.
    fn chunk_with_room(&mut self, stored: usize) -> &mut Chunk {
        let fits = |chunk: &Chunk| chunk.frames.len() + stored <= CHUNK;
        if !self.chunks.back().is_some_and(fits) {
            match self.chunks.back_mut() {
                Some(full) => full.frames.shrink_to_fit(),
                // Most waiters have a frame or two behind their wait.
                None => self.chunks.reserve_exact(1),
            }
            self.chunks.push_back(Chunk {
                frames: Vec::with_capacity(stored),
                waits: 0,
            });
        }
        let last = self.chunks.len() - 1;
        let frames = &mut self.chunks[last].frames;
        let needed = frames.len() + stored;
        if needed > frames.capacity() {
            // As a vector grows by itself, but never beyond a chunk.
            let capacity = needed.next_power_of_two().min(CHUNK).max(needed);
            frames.reserve_exact(capacity - frames.len());
        }
        &mut self.chunks[last]
    }

    fn drop_front_if_done(&mut self) {
        let done = |chunk: &Chunk| self.start >= chunk.frames.len();
        if self.chunks.front().is_some_and(done) {
            self.chunks.pop_front();
            self.start = 0;
        }
    }

    /// Joins a chunk that has become shorter with those beside it if they fit into one: a peer that queues and cancels
    /// must not leave a chunk behind for every few bytes.
    fn merge_with_neighbours(&mut self, chunk: usize) {
        for first in [Some(chunk), chunk.checked_sub(1)].into_iter().flatten() {
            let length = |chunk: usize| self.chunks.get(chunk).map(|chunk| chunk.frames.len());
            let (Some(one), Some(other)) = (length(first), length(first + 1)) else {
                continue;
            };
            if (one == 0 || other == 0 || one + other <= CHUNK)
                && let Some(mut next) = self.chunks.remove(first + 1)
            {
                let joined = &mut self.chunks[first];
                joined.frames.append(&mut next.frames);
                joined.waits += next.waits;
            }
        }
        self.drop_front_if_done();
        for chunk in self.chunks.iter_mut().skip(chunk.saturating_sub(1)).take(2) {
            chunk.frames.shrink_to_fit();
        }
    }
}

impl Chunk {
    /// Returns the frame whose header is at `position`; `None` at the end.
    fn frame_at(&self, position: usize) -> Option<Position> {
        let header = *self.frames.get(position)?;
        let mut start = position + 1;
        let mut length = usize::from(header >> 2);
        if length == LONG {
            let bytes = self.frames[start..].first_chunk::<{ size_of::<u32>() }>()?;
            length = u32::from_le_bytes(*bytes) as usize;
            start += bytes.len();
        }
        let kind = match header & 0b11 {
            0 => Kind::Plain,
            1 => Kind::Wait,
            _ => Kind::Oversized,
        };
        Some(Position {
            kind,
            content: start..start + length,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::iter::from_fn;

    use proptest::prelude::*;

    use super::*;

    /// The line of a frame; `None` is an oversized one.
    type Line = Option<Vec<u8>>;

    fn frame(line: &Line) -> InputFrame<'_> {
        line.as_deref()
            .map_or(InputFrame::Oversized, InputFrame::Complete)
    }

    fn push(backlog: &mut Backlog, line: &Line) {
        match line.as_deref() {
            Some(line) if line.starts_with(b"gw ") => backlog.push_wait(line),
            _ => backlog.push(frame(line)),
        }
    }

    fn backlog(lines: &[Line]) -> Backlog {
        let mut backlog = Backlog::default();
        for line in lines {
            push(&mut backlog, line);
        }
        backlog
    }

    fn pop(backlog: &mut Backlog) -> Option<Line> {
        let line = match backlog.front()? {
            InputFrame::Complete(line) | InputFrame::OversizedEnds(line) => Some(line.to_vec()),
            InputFrame::Oversized => None,
        };
        backlog.pop_front();
        Some(line)
    }

    fn pop_all(mut backlog: Backlog) -> Vec<Line> {
        let lines = from_fn(|| pop(&mut backlog)).collect();
        assert!(backlog.front().is_none());
        assert_eq!(backlog.bytes(), 0);
        lines
    }

    /// Searches all chunks for a wait, and removes it.
    fn cancel(backlog: &mut Backlog, name: &[u8]) -> Option<Vec<u8>> {
        let mut chunk = 0;
        loop {
            let Searched { line, work } = backlog.remove_wait(chunk, name)?;
            assert!((1..=2 * CHUNK as u32).contains(&work), "{work}");
            if line.is_some() {
                return line;
            }
            chunk += 1;
        }
    }

    /// Returns the bytes that the backlog has allocated.
    fn allocated(backlog: &Backlog) -> usize {
        let chunks = backlog.chunks.iter().map(|chunk| chunk.frames.capacity());
        chunks.sum::<usize>() + backlog.chunks.capacity() * size_of::<Chunk>()
    }

    #[test]
    fn allocations_are_bounded_by_the_counted_bytes() {
        const BOUND: usize = 192 * 1024;
        for length in [
            0, 1, 6, 61, 62, 63, 64, 100, 1000, 4090, 5000, 8187, 8190, 20_000, 131_072,
        ] {
            for waits in [false, true] {
                let line = vec![b'x'; length];
                let mut backlog = Backlog::default();
                let mut most = 0;
                while backlog.bytes() + length < BOUND {
                    match waits {
                        true => backlog.push_wait(&line),
                        false => backlog.push(InputFrame::Complete(&line)),
                    }
                    most = most.max(allocated(&backlog));
                }
                let allowed = BOUND + BOUND / 8;
                assert!(
                    most <= allowed,
                    "lines of {length}: {most} bytes, not {allowed}"
                );
            }
        }
        let mut backlog = Backlog::default();
        for _ in 0..BOUND {
            backlog.push(InputFrame::Oversized);
        }
        assert_eq!(backlog.bytes(), BOUND);
        assert!(allocated(&backlog) <= BOUND + BOUND / 8);
    }

    #[test]
    fn memory_is_freed_as_frames_run() {
        let mut backlog = backlog(&vec![Some(vec![b'x'; 100]); 1000]);
        for _ in 0..500 {
            pop(&mut backlog);
        }
        let left = backlog.bytes();
        assert!(allocated(&backlog) <= left + left / 4 + CHUNK);
    }

    #[test]
    fn cancelled_frames_leave_no_memory_behind() {
        let mut backlog = Backlog::default();
        for _ in 0..200 {
            push(&mut backlog, &Some(Vec::new()));
            for _ in 0..CHUNK / 10 {
                push(&mut backlog, &Some(b"gw 1 name".to_vec()));
            }
            while cancel(&mut backlog, b"name").is_some() {}
        }
        assert_eq!(backlog.bytes(), 200);
        assert!(allocated(&backlog) <= 4 * CHUNK, "{}", allocated(&backlog));
        assert_eq!(pop_all(backlog), vec![Some(Vec::new()); 200]);
    }

    #[test]
    fn cancel_removes_the_first_wait_for_its_lock() {
        let lines = [&b"gw 1 a"[..], b"i b", b"gw 2 b", b"gw 3 b", b"gw 4 c"];
        let lines: Vec<Line> = lines.map(|line| Some(line.to_vec())).into();
        let mut backlog = backlog(&lines);
        assert_eq!(cancel(&mut backlog, b"x"), None);
        assert_eq!(cancel(&mut backlog, b"b").unwrap(), b"gw 2 b");
        assert_eq!(pop(&mut backlog).unwrap(), lines[0]);
        assert_eq!(cancel(&mut backlog, b"a"), None, "that frame was popped");
        assert_eq!(cancel(&mut backlog, b"b").unwrap(), b"gw 3 b");
        assert_eq!(cancel(&mut backlog, b"b"), None);
        assert_eq!(pop_all(backlog), [lines[1].clone(), lines[4].clone()]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(Line),
        Pop,
        Cancel(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let length = prop_oneof![0..80usize, 4000..9000usize, 20_000..20_001usize];
        let step = prop_oneof![
            4 => (b'a'..=b'c', length).prop_map(|(name, length)| {
                let mut line = b"gw 1 ".to_vec();
                line.push(name);
                // White space behind a name does not belong to it.
                line.resize(line.len() + length, b' ');
                Step::Push(Some(line))
            }),
            2 => (0..9000usize).prop_map(|length| Step::Push(Some(vec![b'x'; length]))),
            1 => Just(Step::Push(None)),
            2 => Just(Step::Pop),
            2 => (b'a'..=b'c').prop_map(Step::Cancel),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn backlog_is_a_queue_with_removal_of_waits(steps in steps()) {
            let (mut backlog, mut model) = (Backlog::default(), VecDeque::<Line>::new());
            for step in steps {
                match step {
                    Step::Push(line) => {
                        push(&mut backlog, &line);
                        model.push_back(line);
                    }
                    Step::Pop => prop_assert_eq!(pop(&mut backlog), model.pop_front()),
                    Step::Cancel(name) => {
                        let start = [b"gw 1 ", &[name][..]].concat();
                        let is_it = |line: &Line| line.as_ref().is_some_and(|line| line.starts_with(&start));
                        let expect = model.iter().position(is_it).and_then(|found| model.remove(found));
                        prop_assert_eq!(cancel(&mut backlog, &[name]), expect.flatten());
                    }
                }
                let bytes: usize = model.iter().map(|line| Backlog::cost(frame(line))).sum();
                prop_assert_eq!(backlog.bytes(), bytes);
                let pairs = backlog.chunks.iter().zip(backlog.chunks.iter().skip(1));
                for (one, next) in pairs {
                    prop_assert!(one.frames.len() + next.frames.len() > CHUNK, "neighbours that fit into one chunk were not merged");
                }
            }
            prop_assert_eq!(pop_all(backlog), Vec::from(model));
        }
    }
}
