//! Sorted listings, of which no copy is ever in memory as a whole.
//!
//! A pass over the table fills a [page](super::page), in short slices so that other clients do not wait long for a shard.
//! Then the page is [sorted](super::order), and shown as it is sorted. Each entry is looked up once more when it is shown,
//! and left out if it is gone. So a listing is not a snapshot of one moment. But it is sorted, shows no lock twice, and shows
//! every lock that is held throughout.
//!
//! Turned down: a sorted index (every get would pay for it), and a sorted copy of all names (a listing would take as much
//! memory as the table, for as long as its reader takes).

use byteview::ByteView;
use glockd_protocol::LockKind;
use glockd_protocol::rows::{self, Listing};

use super::page::{FullPage, Page};
use super::step::{CHUNK, SHOW, Step};
use super::table::{Key, Position, Table};
use super::writer::{Blocks, Format, WriteLine, Writer};
use crate::core::state::State;

/// Slots of a table that one step looks at: thirty microseconds if they hold locks.
const SCAN: usize = 1024;

/// Cost of visiting all shards of an empty table, in plain commands.
const VISIT: usize = 8;

/// Number of entries to add to a page that cost as much as a plain command.
const ADDED: usize = 4;

/// A sorted listing under way.
#[derive(Debug)]
pub(super) struct Sorted {
    table: Table,
    writer: Writer,
    /// `None` if the listing is not counted.
    blocks: Option<Blocks>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Nothing has been done. With a name, only that lock is listed.
    Start(Option<ByteView>),
    /// A page is being filled.
    Fill { page: Box<Page>, position: Position },
    /// A page is being sorted and shown.
    Show {
        /// Keys to show, the next one last.
        keys: Vec<Key>,
        /// The page that more keys come from.
        page: Option<Box<FullPage>>,
    },
}

impl Sorted {
    pub(super) fn lines(kind: LockKind, name: Option<&[u8]>) -> Sorted {
        Sorted::lines_by(rows::line, kind, name)
    }

    pub(super) fn lines_with_lengths(kind: LockKind, name: Option<&[u8]>) -> Sorted {
        Sorted::lines_by(rows::line_with_length, kind, name)
    }

    fn lines_by(write: WriteLine, kind: LockKind, name: Option<&[u8]>) -> Sorted {
        let name = name.map(ByteView::from);
        Sorted::new(Table::Locks(kind), Format::Lines(write), name)
    }

    pub(super) fn map(kind: LockKind) -> Sorted {
        Sorted::new(Table::Locks(kind), Format::Map(rows::Map::default()), None)
    }

    pub(super) fn who(name: Option<&[u8]>) -> Sorted {
        let table = Table::Names(name.map(ByteView::from));
        Sorted::new(table, Format::Lines(rows::line), None)
    }

    fn new(table: Table, format: Format, name: Option<ByteView>) -> Sorted {
        Sorted {
            table,
            writer: Writer::new(format),
            blocks: None,
            phase: Phase::Start(name),
        }
    }

    /// Makes this a counted listing, of a command with this argument.
    pub(super) fn in_blocks(self, listing: Listing, argument: Option<&[u8]>) -> Sorted {
        let argument = argument.unwrap_or_default().into();
        Sorted {
            blocks: Some(Blocks { listing, argument }),
            ..self
        }
    }

    pub(super) fn step(&mut self, state: &State, out: &mut Vec<u8>) -> Step {
        match &mut self.phase {
            Phase::Start(name) => {
                let name = name.take();
                self.start(name, state, out)
            }
            Phase::Fill { .. } => self.fill(state),
            Phase::Show { .. } => self.show(state, out),
        }
    }

    fn start(&mut self, name: Option<ByteView>, state: &State, out: &mut Vec<u8>) -> Step {
        self.writer.open(out);
        match name {
            Some(name) => {
                self.phase = Phase::Show {
                    keys: vec![Key::named(name)],
                    page: None,
                };
                Step::more(1)
            }
            None => {
                self.begin_page(None, state);
                Step::more(VISIT)
            }
        }
    }

    fn begin_page(&mut self, from: Option<Key>, state: &State) {
        self.phase = Phase::Fill {
            page: Box::new(Page::new(from, &self.table, state)),
            position: self.table.start(),
        };
    }

    fn fill(&mut self, state: &State) -> Step {
        let Phase::Fill { page, position } = &mut self.phase else {
            return Step::more(1);
        };
        if page.lacks_room_for(SCAN) {
            return Step::more(page.shrink(&self.table, state));
        }
        let mut visited = 0;
        let next = self.table.scan(state, *position, SCAN, |slot, entry| {
            visited += 1;
            page.offer(slot, entry);
        });
        match next {
            Some(next) => *position = next,
            None => {
                self.phase = Phase::Show {
                    keys: Vec::new(),
                    page: Some(Box::new(page.finish())),
                };
            }
        }
        Step::more(VISIT + visited / ADDED)
    }

    fn show(&mut self, state: &State, out: &mut Vec<u8>) -> Step {
        let Phase::Show { keys, page } = &mut self.phase else {
            return Step::more(1);
        };
        let start = out.len();
        let (mut work, mut lines, mut is_out_of_keys) = (0, 0, false);
        while !is_out_of_keys && work < SHOW && out.len() - start < CHUNK {
            let before = out.len();
            let cost = self.writer.write_next(keys, &self.table, state, out);
            is_out_of_keys = cost.is_none();
            work += cost.unwrap_or(1);
            lines += usize::from(out.len() > before);
        }
        if let Some(blocks) = &self.blocks {
            blocks.open(out, start, lines);
        }
        if !is_out_of_keys {
            return Step::more(work);
        }
        if let Some(page) = page
            && let Some(cost) = page.order.step(&self.table, state, keys)
        {
            return Step::more(work + cost);
        }
        if let Some(from) = page.as_mut().and_then(|page| page.next.take()) {
            self.begin_page(Some(from), state);
            return Step::more(work + VISIT);
        }
        self.writer.close(out);
        if let Some(blocks) = &self.blocks {
            blocks.close(out);
        }
        Step {
            done: true,
            ..Step::more(work)
        }
    }
}
