//! The listing of `own`: who holds the locks of one name, and who waits for them.
//!
//! The count stands first, and must be true. So all are found in one moment, and in it the addresses and
//! names of the first are looked up: a lock that is handed over meanwhile is not shown as nobody's. Those of
//! the others are looked up in slices, which leaves out whoever does not hold the lock or wait for it any
//! more, and only then are they shown. This takes some hundred bytes for each owner of that one name, until
//! the reader has taken what there is; names and addresses are shared with the registry, however long they
//! are.
//!
//! Turned down: keeping the lines, as many copies of a long name as there are readers.

use std::vec::IntoIter;

use byteview::ByteView;
use glockd_protocol::{LockKind, listing};

use super::{CHUNK, FOUND, SHOW, Step};
use crate::dispatcher::Dispatcher;
use crate::locks::Owner;

/// So many bytes of the lock's name, by which each owner is looked up, cost as much again as looking it up
/// by a short one.
const BYTES: usize = 128;

/// The owners of one name, being listed.
#[derive(Debug)]
pub(super) struct Owners {
    name: ByteView,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Nothing has been done yet.
    Start,
    /// Addresses and names are being looked up.
    LookUp {
        owners: IntoIter<Owner>,
        /// When these were the owners, in milliseconds since the table was made.
        now: u64,
        lines: Vec<Line>,
    },
    /// The lines are being shown.
    Show(IntoIter<Line>),
}

#[derive(Debug)]
struct Line {
    kind: LockKind,
    waits: bool,
    ms: u64,
    token: u64,
    address: ByteView,
    name: ByteView,
}

/// More than so many owners are more than a chunk.
const MANY: usize = 512;

impl Owners {
    pub(super) fn are_many(&self, dispatcher: &Dispatcher) -> bool {
        dispatcher.locks().count_owners(&self.name) > MANY
    }

    pub(super) fn new(name: &[u8]) -> Owners {
        Owners {
            name: name.into(),
            phase: Phase::Start,
        }
    }

    pub(super) fn step(&mut self, dispatcher: &Dispatcher, out: &mut Vec<u8>) -> Step {
        match &mut self.phase {
            Phase::Start => self.start(dispatcher),
            Phase::LookUp { .. } => self.look_up(dispatcher, out),
            Phase::Show(lines) => show(lines, out),
        }
    }

    fn start(&mut self, dispatcher: &Dispatcher) -> Step {
        let now = dispatcher.locks().now_ms();
        let (mut lines, mut owners) = (Vec::new(), Vec::new());
        dispatcher.locks().owners(&self.name, |owner| {
            if lines.len() < SHOW {
                lines.extend(line(dispatcher, &owner, now));
            } else {
                owners.push(owner);
            }
        });
        let work = 1 + lines.len() + owners.len() / FOUND;
        lines.reserve_exact(owners.len());
        self.phase = Phase::LookUp {
            owners: owners.into_iter(),
            now,
            lines,
        };
        Step::more(work)
    }

    fn look_up(&mut self, dispatcher: &Dispatcher, out: &mut Vec<u8>) -> Step {
        let Phase::LookUp { owners, now, lines } = &mut self.phase else {
            return Step::more(1);
        };
        let cost = 1 + self.name.len() / BYTES;
        let mut work = 0;
        while work < SHOW
            && let Some(owner) = owners.next()
        {
            let line = || line(dispatcher, &owner, *now);
            let locks = dispatcher.locks();
            lines.extend(locks.look_at_owner(&self.name, &owner, line).flatten());
            work += cost;
        }
        if owners.len() > 0 {
            return Step::more(work);
        }
        listing::owners(out, lines.len(), &self.name);
        let done = lines.is_empty();
        self.phase = Phase::Show(std::mem::take(lines).into_iter());
        Step {
            done,
            ..Step::more(work)
        }
    }
}

/// The line of an owner, while it is certain to be one.
fn line(dispatcher: &Dispatcher, owner: &Owner, now: u64) -> Option<Line> {
    let shown = dispatcher.registry().look(owner.client, |client| {
        (client.address().clone(), client.shown_as().clone())
    });
    let (address, name) = shown?;
    let token = match owner.waits {
        true => None,
        false => dispatcher.token(owner.stamp),
    };
    Some(Line {
        kind: owner.kind,
        waits: owner.waits,
        ms: now.saturating_sub(owner.stamp.ms()),
        token: token.unwrap_or(0),
        address,
        name,
    })
}

fn show(lines: &mut IntoIter<Line>, out: &mut Vec<u8>) -> Step {
    let start = out.len();
    let mut shown = 0;
    while shown < SHOW
        && out.len() - start < CHUNK
        && let Some(line) = lines.next()
    {
        let line = listing::Owner {
            kind: line.kind,
            waits: line.waits,
            address: &line.address,
            ms: line.ms,
            token: line.token,
            name: &line.name,
        };
        line.encode(out);
        shown += 1;
    }
    Step {
        done: lines.len() == 0,
        ..Step::more(shown)
    }
}
