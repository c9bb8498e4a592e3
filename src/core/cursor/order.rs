//! Sorts the entries of a page in short steps, smallest first.
//!
//! An entry takes 16 bytes: its slot in the table, and a chunk of the text by which it is sorted. Texts are not kept. They
//! are read again from the table when a chunk does not suffice, and when the entry is about to be shown. So a page takes the
//! same memory for long names as for short ones, also after their locks have been released.
//!
//! The sort is a multikey quicksort, as a stack of tasks. The task for the smallest entries comes first, so the first of
//! them can be shown before the rest is sorted. Entries with equal chunks are given the chunks that follow. The texts of
//! such entries share a prefix, which is skipped at once, however long it is.
//!
//! An entry whose text has changed is left out: the lock that was found there has been released. So whatever changes
//! meanwhile, the keys come out in order, none twice, and every entry that stays is among them.

use std::cmp::Ordering;
use std::ops::Range;

use super::step::CHUNK;
use super::table::{Key, Parts, Slot, Table};
use crate::core::state::State;

/// Entries that one step partitions: ten microseconds.
const PARTITION: usize = 4096;

/// Entries that one step sorts by their chunks: ten microseconds.
const SORT: usize = 512;

/// Entries whose texts one step reads from the table: ten microseconds.
const READ: usize = 128;

/// Maximum number of keys that are made at a time.
const KEYS: usize = 64;

/// Number of entries to partition or to sort that cost as much as a plain command.
const MOVES: usize = 32;

/// Bytes of a text in a chunk. The last byte of the chunk counts them.
const CHUNK_BYTES: usize = 7;

/// Bytes of a common prefix that cost as much to compare as a plain command.
const PREFIX_BYTES: usize = 1024;

/// An entry of a page.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Chunk of its text at the depth of its task. Among equal texts, the number that tells them apart.
    chunk: u64,
    slot: Slot,
}

const _: () = assert!(size_of::<Entry>() == Order::ENTRY_BYTES);

/// The entries of a page, in the course of being sorted.
#[derive(Debug, Default)]
pub(super) struct Order {
    entries: Vec<Entry>,
    /// Tasks to do, the first one last.
    tasks: Vec<Task>,
    /// Prefix of all texts of the current task, at least up to its depth.
    prefix: Vec<u8>,
}

/// Position in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// The chunks begin after this many bytes.
    Bytes(usize),
    /// The texts are equal, and the chunks are ties.
    Tie,
}

/// A step of the sort, for a range of entries.
#[derive(Debug)]
enum Task {
    /// Sort entries by their chunks.
    Sort(Range<usize>, Depth),
    /// Move entries before or behind those with the chunk of the pivot.
    Partition(Partition),
    /// Make keys of entries that are sorted by their chunks.
    Show(Range<usize>, Depth),
    /// Find the common prefix of entries that share this many bytes or more.
    Measure(Range<usize>, Prefix),
    /// Read the chunks at a new depth.
    Read(Reading),
}

#[derive(Debug)]
struct Reading {
    range: Range<usize>,
    /// End of the entries that were read and kept.
    kept: usize,
    /// First entry that was not read yet.
    next: usize,
    depth: Depth,
}

#[derive(Debug)]
struct Partition {
    range: Range<usize>,
    depth: Depth,
    pivot: u64,
    /// The smaller ones end here, and the equal ones begin.
    equal: usize,
    /// The equal ones end here, and those that were not looked at begin.
    next: usize,
    /// The larger ones begin here.
    larger: usize,
}

#[derive(Clone, Copy, Debug)]
struct Prefix {
    /// Bytes that are known to be shared.
    least: usize,
    /// Bytes that are shared by all entries that were read; `None` before the first one.
    most: Option<usize>,
    /// The entry to read next.
    next: usize,
}

impl Order {
    /// Bytes of memory for each entry.
    pub(super) const ENTRY_BYTES: usize = 16;

    /// Makes an order with room for this many entries.
    pub(super) fn with_capacity(capacity: usize) -> Order {
        Order {
            entries: Vec::with_capacity(capacity),
            ..Order::default()
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the number of entries that there is memory for.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.entries.capacity()
    }

    /// Adds an entry, before the first [`step`](Order::step).
    pub(super) fn push(&mut self, slot: Slot, (text, _): Parts<'_>) {
        if self.entries.is_empty() {
            self.prefix.clear();
            self.prefix.extend_from_slice(text);
        } else if !text.starts_with(&self.prefix) {
            let shared = common(text, &self.prefix);
            self.prefix.truncate(shared);
        }
        let chunk = chunk(text);
        if self.entries.len() == self.entries.capacity() {
            // Doubling would exceed the memory of a page.
            self.entries.reserve_exact(1024 + self.entries.len() / 8);
        }
        self.entries.push(Entry { chunk, slot });
    }

    /// Returns the slot of the entry that was added at this index.
    pub(super) fn slot(&self, index: usize) -> Slot {
        self.entries[index].slot
    }

    /// Moves the entry at an index to a lower one.
    pub(super) fn copy(&mut self, from: usize, to: usize) {
        self.entries[to] = self.entries[from];
    }

    /// Removes the entries from this index on.
    pub(super) fn truncate(&mut self, len: usize) {
        self.entries.truncate(len);
    }

    /// Begins to sort, after the last entry was added.
    pub(super) fn begin(&mut self) {
        let range = 0..self.entries.len();
        self.tasks.push(match self.prefix.len() {
            0 => Task::Sort(range, Depth::Bytes(0)),
            depth => read(range, Depth::Bytes(depth)),
        });
    }

    /// Sorts for some ten microseconds. Sets `keys` to the next ones, the largest first, once these are known. Returns the
    /// cost in plain commands, and `None` when all entries are done.
    pub(super) fn step(
        &mut self,
        table: &Table,
        state: &State,
        keys: &mut Vec<Key>,
    ) -> Option<usize> {
        Some(match self.tasks.pop()? {
            Task::Sort(range, depth) => self.sort(range, depth),
            Task::Partition(partition) => self.partition(partition),
            Task::Show(range, depth) => self.show(range, depth, table, state, keys),
            Task::Measure(range, prefix) => self.measure(range, prefix, table, state),
            Task::Read(reading) => self.read(reading, table, state),
        })
    }

    fn sort(&mut self, range: Range<usize>, depth: Depth) -> usize {
        let len = range.len();
        if len <= SORT {
            self.entries[range.clone()].sort_unstable_by_key(|entry| (entry.chunk, entry.slot));
            self.tasks.push(Task::Show(range, depth));
            return 1 + len * 4 / MOVES;
        }
        let pivot = self.pivot(&range);
        self.tasks.push(Task::Partition(Partition {
            depth,
            pivot,
            equal: range.start,
            next: range.start,
            larger: range.end,
            range,
        }));
        1
    }

    /// Returns the median of nine chunks.
    fn pivot(&self, range: &Range<usize>) -> u64 {
        let stride = range.len() / 9;
        let mut sample: [u64; 9] =
            std::array::from_fn(|index| self.entries[range.start + index * stride].chunk);
        sample.sort_unstable();
        sample[4]
    }

    fn partition(&mut self, mut partition: Partition) -> usize {
        let Partition {
            pivot,
            equal,
            next,
            larger,
            ..
        } = &mut partition;
        let mut left = PARTITION;
        while *next < *larger && left > 0 {
            left -= 1;
            match self.entries[*next].chunk.cmp(pivot) {
                Ordering::Less => {
                    self.entries.swap(*equal, *next);
                    *equal += 1;
                    *next += 1;
                }
                Ordering::Equal => *next += 1,
                Ordering::Greater => {
                    *larger -= 1;
                    self.entries.swap(*next, *larger);
                }
            }
        }
        let work = 1 + (PARTITION - left) / MOVES;
        if *next < *larger {
            self.tasks.push(Task::Partition(partition));
            return work;
        }
        let Partition {
            range,
            depth,
            equal,
            larger,
            ..
        } = partition;
        self.tasks.push(Task::Sort(larger..range.end, depth));
        self.tasks.push(Task::Show(equal..larger, depth));
        self.tasks.push(Task::Sort(range.start..equal, depth));
        work
    }

    /// Makes keys of the first entries of a range, in which those with equal chunks are side by side.
    fn show(
        &mut self,
        range: Range<usize>,
        depth: Depth,
        table: &Table,
        state: &State,
        keys: &mut Vec<Key>,
    ) -> usize {
        if range.is_empty() {
            return 1;
        }
        if let Depth::Bytes(depth) = depth {
            self.prefix.truncate(depth);
        }
        keys.clear();
        let (mut index, mut bytes) = (range.start, 0);
        while index < range.end && index - range.start < KEYS && bytes <= CHUNK {
            let Entry { chunk, slot } = self.entries[index];
            let is_same = |parts: Parts<'_>| self.chunk(parts, depth) == Some(chunk);
            if let Some(key) = table.key(state, slot, is_same) {
                bytes += key.text.len();
                keys.push(key);
            }
            index += 1;
        }
        let work = 1 + 2 * (index - range.start) + bytes / PREFIX_BYTES;
        let mut end = index;
        if index < range.end {
            // Not in the middle of entries with equal chunks: their texts may be in any order.
            while end > range.start && self.entries[end - 1].chunk == self.entries[index].chunk {
                end -= 1;
            }
        }
        if end == range.start {
            keys.clear();
            self.deepen(range, depth);
            return work;
        }
        if end < index {
            let limit = self.entries[end].chunk;
            keys.retain(|key| {
                self.chunk(key.parts(), depth)
                    .is_some_and(|chunk| chunk < limit)
            });
        }
        // Two entries may have the same key if it was removed and added again while the page was made.
        keys.sort_unstable_by(|one, other| other.parts().cmp(&one.parts()));
        keys.dedup_by(|one, other| one.parts() == other.parts());
        if end < range.end {
            self.tasks.push(Task::Show(end..range.end, depth));
        }
        work
    }

    /// Goes on with the bytes behind the chunk for the first entries of a sorted range, which are equal so far.
    fn deepen(&mut self, range: Range<usize>, depth: Depth) {
        let chunk = self.entries[range.start].chunk;
        let equal = self.entries[range.clone()].partition_point(|entry| entry.chunk <= chunk);
        let equal = range.start..range.start + equal;
        if equal.end < range.end {
            self.tasks.push(Task::Show(equal.end..range.end, depth));
        }
        let Depth::Bytes(depth) = depth else {
            // The same key again and again.
            self.tasks
                .push(Task::Show(equal.start..equal.start + 1, Depth::Tie));
            return;
        };
        let bytes = chunk.to_be_bytes();
        let count = usize::from(bytes[CHUNK_BYTES]);
        self.prefix
            .extend_from_slice(&bytes[..count.min(CHUNK_BYTES)]);
        self.tasks.push(match count <= CHUNK_BYTES {
            true => read(equal, Depth::Tie),
            false => {
                let prefix = Prefix {
                    least: depth + CHUNK_BYTES,
                    most: None,
                    next: equal.start,
                };
                Task::Measure(equal, prefix)
            }
        });
    }

    fn measure(
        &mut self,
        range: Range<usize>,
        mut prefix: Prefix,
        table: &Table,
        state: &State,
    ) -> usize {
        let Prefix { least, most, next } = &mut prefix;
        let all = &mut self.prefix;
        let end = range.end.min(*next + READ);
        let (mut left, mut work) = (READ, 1);
        while *next < end && left > 0 && *most != Some(*least) {
            let slot = self.entries[*next].slot;
            table.with_entry(state, slot, |(text, _)| match most {
                _ if !text.starts_with(&all[..*least]) => {}
                None => {
                    all.extend_from_slice(&text[*least..]);
                    *most = Some(all.len());
                }
                Some(_) if text.starts_with(&all[..]) => {}
                Some(most) => {
                    *most = common(text, all);
                    all.truncate(*most);
                }
            });
            *next += 1;
            let cost = 1 + all.len() / PREFIX_BYTES;
            work += cost;
            left = left.saturating_sub(cost);
        }
        self.tasks.push(match *most {
            Some(most) if *next == range.end || most == *least => read(range, Depth::Bytes(most)),
            None if *next == range.end => return work,
            _ => Task::Measure(range, prefix),
        });
        work
    }

    fn read(&mut self, reading: Reading, table: &Table, state: &State) -> usize {
        let Reading {
            range,
            mut kept,
            mut next,
            depth,
        } = reading;
        let (mut left, mut work) = (READ, 1);
        let cost = 1 + self.prefix.len() / PREFIX_BYTES;
        while next < range.end && left > 0 {
            let slot = self.entries[next].slot;
            let chunk = table.with_entry(state, slot, |parts| self.chunk(parts, depth));
            if let Some(chunk) = chunk.flatten() {
                self.entries[kept] = Entry { chunk, slot };
                kept += 1;
            }
            next += 1;
            work += cost;
            left = left.saturating_sub(cost);
        }
        self.tasks.push(match next < range.end {
            true => Task::Read(Reading {
                range,
                kept,
                next,
                depth,
            }),
            false => Task::Sort(range.start..kept, depth),
        });
        work
    }

    /// Returns the chunk of a text with the current prefix; `None` for any other text.
    fn chunk(&self, (text, tie): Parts<'_>, depth: Depth) -> Option<u64> {
        let rest = text.strip_prefix(&*self.prefix)?;
        match depth {
            Depth::Bytes(_) => Some(chunk(rest)),
            Depth::Tie => rest.is_empty().then_some(tie),
        }
    }
}

fn read(range: Range<usize>, depth: Depth) -> Task {
    Task::Read(Reading {
        kept: range.start,
        next: range.start,
        range,
        depth,
    })
}

/// Returns the first bytes of a text, and their number in the lowest byte: 8 if there are more than 7. So chunks are in the
/// order of texts, and a chunk with a number of at most 7 is a whole text.
fn chunk(text: &[u8]) -> u64 {
    let mut bytes = [0; CHUNK_BYTES + 1];
    match text.first_chunk() {
        Some(first) => bytes = *first,
        None => bytes[..text.len()].copy_from_slice(text),
    }
    bytes[CHUNK_BYTES] = text.len().min(CHUNK_BYTES + 1) as u8;
    u64::from_be_bytes(bytes)
}

/// Returns the number of bytes that two texts begin with alike.
fn common(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}
