//! Listings that are sorted, and never in memory as a whole.
//!
//! A [`Sorted`] listing holds the last key it showed. Each pass over the table, in short slices so that
//! nobody waits long for a shard, gathers the next window: the smallest keys beyond that one, as many as the
//! window holds. Then it shows them, each looked up anew: a lock that has been released meanwhile is left
//! out. So a listing is no snapshot, but it is sorted, names no lock twice, and a lock that is held
//! throughout appears.
//!
//! Turned down: a sorted index (every get would pay for it), and a sorted copy of all names (a listing
//! would cost as much memory as the table, for as long as its reader takes).

use byteview::ByteView;
use glockd_protocol::LockKind;
use glockd_protocol::rows::{self, Listing};

use super::page::{Key, Page};
use super::step::{CHUNK, FOUND, SHOW, Step};
use crate::core::locks;
use crate::core::registry::{ClientId, Registration};
use crate::core::state::State;

/// Slots of a table that are looked at in one step: thirty microseconds if they hold locks.
const SCAN: usize = 1024;

/// Keys that are sorted in one step: ten microseconds.
const SORT: usize = 64;

/// What visiting all shards of an empty table is reckoned as, in [`Step::work`].
const VISIT: usize = 8;

/// A sorted listing under way.
#[derive(Debug)]
pub(super) struct Sorted {
    list: List,
    /// There if it is counted.
    blocks: Option<Blocks>,
    phase: Phase,
}

/// What makes a listing a counted one.
#[derive(Debug)]
struct Blocks {
    listing: Listing,
    argument: ByteView,
}

/// Appends a line about a lock's name and its holder.
type WriteLine = fn(&mut Vec<u8>, &[u8], &[u8]);

#[derive(Debug)]
enum List {
    /// `d`, `sd`; `ldl`, `lsdl`.
    Lines(LockKind, WriteLine),
    /// `dump`, `dump shared`.
    Map(LockKind, rows::Map),
    /// `who`, `who NAME`.
    Who(Option<ByteView>),
}

#[derive(Debug)]
enum Phase {
    /// Nothing has been done yet. With a name, only that one is listed.
    Start(Option<ByteView>),
    /// A window is being gathered.
    Gather { window: Page, place: Place },
    /// A window is being sorted.
    Sort {
        window: Page,
        /// What has been sorted, the next to be shown last.
        keys: Vec<Key>,
        /// Where the next window starts; `None` if this is the last.
        next: Option<Key>,
    },
    /// A window is being shown.
    Show {
        keys: Vec<Key>,
        holders: Option<Holders>,
        next: Option<Key>,
    },
}

/// How far the gathering of a window has come.
#[derive(Clone, Copy, Debug)]
enum Place {
    Locks(locks::ScanPosition),
    Registry(usize),
}

/// A shared lock whose holders are being shown.
#[derive(Debug)]
struct Holders {
    name: ByteView,
    clients: std::vec::IntoIter<ClientId>,
    /// Whether one was shown.
    open: bool,
}

impl Sorted {
    pub(super) fn lines(kind: LockKind, name: Option<&[u8]>) -> Sorted {
        Sorted::lines_by(rows::line, kind, name)
    }

    pub(super) fn lines_with_lengths(kind: LockKind, name: Option<&[u8]>) -> Sorted {
        Sorted::lines_by(rows::line_with_length, kind, name)
    }

    fn lines_by(write: WriteLine, kind: LockKind, name: Option<&[u8]>) -> Sorted {
        Sorted {
            list: List::Lines(kind, write),
            blocks: None,
            phase: Phase::Start(name.map(ByteView::from)),
        }
    }

    pub(super) fn map(kind: LockKind) -> Sorted {
        Sorted {
            list: List::Map(kind, rows::Map::default()),
            blocks: None,
            phase: Phase::Start(None),
        }
    }

    pub(super) fn who(name: Option<&[u8]>) -> Sorted {
        Sorted {
            list: List::Who(name.map(ByteView::from)),
            blocks: None,
            phase: Phase::Start(None),
        }
    }

    /// The same lines in counted blocks, as they were asked for with this argument.
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
                self.start(state, name, out)
            }
            Phase::Gather { .. } => self.gather(state),
            Phase::Sort { .. } => self.sort(),
            Phase::Show { .. } => self.show(state, out),
        }
    }

    fn start(&mut self, state: &State, name: Option<ByteView>, out: &mut Vec<u8>) -> Step {
        if let List::Map(_, map) = &mut self.list {
            map.open(out);
        }
        match name {
            Some(name) => {
                self.phase = Phase::Show {
                    keys: vec![Key::Lock(name)],
                    holders: None,
                    next: None,
                };
                Step::more(1)
            }
            None => {
                self.phase = self.gather_after(state, None);
                Step::more(VISIT)
            }
        }
    }

    fn gather_after(&self, state: &State, after: Option<Key>) -> Phase {
        let (entries, place) = match &self.list {
            List::Lines(kind, _) | List::Map(kind, _) => (
                state.locks.count(*kind),
                Place::Locks(locks::ScanPosition::default()),
            ),
            List::Who(_) => (state.registry.connections(), Place::Registry(0)),
        };
        Phase::Gather {
            window: Page::new(after, entries),
            place,
        }
    }

    fn gather(&mut self, state: &State) -> Step {
        let Phase::Gather { window, place } = &mut self.phase else {
            return Step::more(1);
        };
        let mut visited = 0;
        let next = match (&self.list, *place) {
            (List::Lines(kind, _) | List::Map(kind, _), Place::Locks(from)) => state
                .locks
                .scan(*kind, from, SCAN, |name| {
                    visited += 1;
                    window.offer_lock(name);
                })
                .map(Place::Locks),
            (List::Who(filter), Place::Registry(from)) => state
                .registry
                .scan(from, SCAN, |client, id| {
                    visited += 1;
                    if filter.is_none() || client.name() == filter.as_ref() {
                        window.offer(Key::Registration(client.registration(id)));
                    }
                })
                .map(Place::Registry),
            (List::Who(_), Place::Locks(_)) | (_, Place::Registry(_)) => None,
        };
        match next {
            Some(next) => *place = next,
            None => {
                self.phase = Phase::Sort {
                    keys: Vec::new(),
                    next: window.next(),
                    window: std::mem::take(window),
                };
            }
        }
        // A key that is looked at costs a quarter of a command.
        Step::more(VISIT + visited / 4)
    }

    fn sort(&mut self) -> Step {
        let Phase::Sort { window, keys, next } = &mut self.phase else {
            return Step::more(1);
        };
        let before = keys.len();
        let more = window.sort_some(SORT, keys);
        let work = 2 * (keys.len() - before);
        if !more {
            self.phase = Phase::Show {
                keys: std::mem::take(keys),
                holders: None,
                next: next.take(),
            };
        }
        Step::more(work)
    }

    fn show(&mut self, state: &State, out: &mut Vec<u8>) -> Step {
        let Phase::Show {
            keys,
            holders,
            next,
        } = &mut self.phase
        else {
            return Step::more(1);
        };
        let start = out.len();
        let (mut work, mut lines, mut more) = (0, 0, true);
        while more && work < SHOW && out.len() - start < CHUNK {
            let before = out.len();
            let cost = show_next(&mut self.list, keys, holders, state, out);
            more = cost.is_some();
            work += cost.unwrap_or(1);
            lines += usize::from(out.len() > before);
        }
        if let Some(blocks) = &self.blocks {
            blocks.open(out, start, lines);
        }
        if more {
            return Step::more(work);
        }
        if let Some(next) = next.take() {
            self.phase = self.gather_after(state, Some(next));
            return Step::more(VISIT + work);
        }
        if let List::Map(_, map) = &mut self.list {
            map.close(out);
        }
        if let Some(blocks) = &self.blocks {
            blocks.close(out);
        }
        Step {
            done: true,
            ..Step::more(work)
        }
    }
}

impl Blocks {
    /// Puts its header before a block of so many lines, which are all that `out` holds from `start` on.
    fn open(&self, out: &mut Vec<u8>, start: usize, lines: usize) {
        // Without lines it would be the end mark.
        if lines > 0 {
            let end = out.len();
            rows::header(out, lines, self.listing, &self.argument);
            let header = out.len() - end;
            out[start..].rotate_right(header);
        }
    }

    /// Appends the end mark.
    fn close(&self, out: &mut Vec<u8>) {
        rows::header(out, 0, self.listing, &self.argument);
    }
}

/// Shows the next entry of a window, at most one line, unless it is gone by now. What that cost; `None` once
/// there are no more.
fn show_next(
    list: &mut List,
    keys: &mut Vec<Key>,
    holders: &mut Option<Holders>,
    state: &State,
    out: &mut Vec<u8>,
) -> Option<usize> {
    if let Some(open) = holders {
        if open.show_next(list, state, out) {
            return Some(1);
        }
        *holders = None;
    }
    match keys.pop()? {
        Key::Lock(name) => *holders = show_lock(list, name, state, out),
        Key::Registration(found) => show_registration(list, &found, state, out),
    }
    let found = holders.as_ref().map_or(0, |holders| holders.clients.len());
    Some(1 + found / FOUND)
}

/// Shows an exclusive lock, or begins to show a shared one.
fn show_lock(list: &mut List, name: ByteView, state: &State, out: &mut Vec<u8>) -> Option<Holders> {
    let State {
        locks, registry, ..
    } = state;
    match list {
        List::Lines(LockKind::Exclusive, write) => {
            locks.with_holder(&name, |client| {
                registry.with_client(client, |client| write(out, &name, client.shown_as()))
            });
            None
        }
        List::Map(LockKind::Exclusive, map) => {
            locks.with_holder(&name, |client| {
                registry.with_client(client, |client| map.entry(out, &name, client.address()))
            });
            None
        }
        List::Lines(LockKind::Shared, _) | List::Map(LockKind::Shared, _) => Some(Holders {
            clients: locks.shared_holders(&name).into_iter(),
            name,
            open: false,
        }),
        List::Who(_) => None,
    }
}

impl Holders {
    /// Shows the next holder that still holds the lock. False at the end.
    fn show_next(&mut self, list: &mut List, state: &State, out: &mut Vec<u8>) -> bool {
        let Some(client) = self.clients.next() else {
            if let List::Map(_, map) = list
                && self.open
            {
                map.list_close(out);
            }
            return false;
        };
        state.locks.with_shared_holder(&self.name, client, || {
            state.registry.with_client(client, |client| match list {
                List::Map(_, map) => {
                    if !self.open {
                        map.list_open(out, &self.name);
                    }
                    self.open = true;
                    map.item(out, client.address());
                }
                List::Lines(_, write) => write(out, &self.name, client.shown_as()),
                // It has no locks.
                List::Who(_) => {}
            })
        });
        true
    }
}

fn show_registration(list: &List, found: &Registration, state: &State, out: &mut Vec<u8>) {
    let List::Who(filter) = list else {
        return;
    };
    state.registry.with_name(found, |name| {
        if filter.as_deref().is_none_or(|filter| filter == name) {
            rows::line(out, &found.address, name);
        }
    });
}
