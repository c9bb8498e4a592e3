//! The listing of `own`: who holds the locks of one name, and who waits for them.
//!
//! The count stands first, and must be true, whatever happens while the reader takes the lines. So the owners
//! are counted at one moment, and found and shown a window at a time: the cursor remembers the last owner of a
//! window, and finds the next ones behind it. Whoever became an owner after that moment is left out, by its
//! stamp. Whoever was counted and has gone before its turn leaves a line that says so, at the end.
//!
//! The owners of the first window are found at that moment, too, and their addresses and names are looked up before the
//! header is written. So a list that fits one window shows no gaps. The first few are even looked up under the
//! mutex that counts: a lock that is being handed over is not shown as nobody's.
//!
//! A window costs less memory than the output buffer of a reader that does not read, however many owners there
//! are and however long their names: so lists need no limit to how many are under way, and nobody has to wait
//! for slow readers.
//!
//! Turned down: keeping all owners of the moment, even only their numbers: ten thousand owners that all list
//! each other would take gigabytes, unless few lists were made at a time, and then a few slow readers would keep
//! everybody waiting.

use std::vec::IntoIter;

use byteview::ByteView;
use glockd_protocol::{LockKind, rows};

use super::step::{CHUNK, FOUND, SHOW, Step};
use crate::core::locks::{Claim, CountedClaims};
use crate::core::state::State;

/// So many bytes of the lock's name, by which each owner is looked up, cost as much again as looking it up
/// by a short one.
const BYTES: usize = 128;

/// Claims that are found at a time.
const WINDOW: usize = 512;

/// The owners of one name, being listed.
#[derive(Debug)]
pub(super) struct Claims {
    name: ByteView,
    phase: Phase,
    counted: CountedClaims,
    /// When that was, in milliseconds since the table was made.
    now: u64,
    /// Claims that were found, and are yet to be looked up.
    found: IntoIter<Claim>,
    /// The last owner that was found.
    last: Option<Claim>,
    /// What has been looked up, and is yet to be shown.
    lines: Vec<Line>,
    /// Bytes of the addresses and names in `lines`, which live as long as they do.
    bytes: usize,
    /// Lines that the header has promised, and that are yet to be shown. `None` before the header.
    owed: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Claims are to be counted, and the first found.
    Count,
    /// Those found are being looked up.
    LookUp,
    /// The lines are being shown. Since they are taken from the end, the next is the last of `lines`.
    Show,
    /// More owners are to be found.
    Find,
    /// There are no more, but more were promised.
    FillUp,
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

impl Claims {
    pub(super) fn new(name: &[u8]) -> Claims {
        Claims {
            name: name.into(),
            phase: Phase::Count,
            counted: CountedClaims::default(),
            now: 0,
            found: IntoIter::default(),
            last: None,
            lines: Vec::new(),
            bytes: 0,
            owed: None,
        }
    }

    pub(super) fn step(&mut self, state: &State, out: &mut Vec<u8>) -> Step {
        match self.phase {
            Phase::Count => self.count(state),
            Phase::LookUp => self.look_up(state, out),
            Phase::Show => self.show(out),
            Phase::Find => self.find(state),
            Phase::FillUp => self.fill_up(out),
        }
    }

    fn count(&mut self, state: &State) -> Step {
        let locks = &state.locks;
        self.now = locks.age_ms();
        let mut found = Vec::new();
        let name = self.name.clone();
        self.counted = locks.visit_claims(&name, WINDOW, |owner| {
            self.last = Some(owner);
            if self.lines.len() < SHOW && self.bytes < CHUNK {
                self.add(line(state, &owner, self.now));
            } else {
                found.push(owner);
            }
        });
        self.phase = Phase::LookUp;
        let work = 1 + self.lines.len() + found.len() / FOUND;
        self.found = found.into_iter();
        Step::more(work)
    }

    fn look_up(&mut self, state: &State, out: &mut Vec<u8>) -> Step {
        let cost = 1 + self.name.len() / BYTES;
        let mut work = 0;
        while work < SHOW
            && self.bytes < CHUNK
            && let Some(owner) = self.found.next()
        {
            let line = || line(state, &owner, self.now);
            let locks = &state.locks;
            self.add(locks.with_claim(&self.name, &owner, line).flatten());
            work += cost;
        }
        if self.found.len() > 0 && self.bytes < CHUNK {
            return Step::more(work);
        }
        if self.owed.is_none() {
            let behind = self.counted.count.saturating_sub(WINDOW);
            let count = self.lines.len() + self.found.len() + behind;
            rows::claims_header(out, count, &self.name);
            self.owed = Some(count);
        }
        self.lines.reverse();
        self.phase = Phase::Show;
        self.step_on(work)
    }

    fn show(&mut self, out: &mut Vec<u8>) -> Step {
        let start = out.len();
        let mut shown = 0;
        while shown < SHOW
            && out.len() - start < CHUNK
            && let Some(line) = self.lines.pop()
        {
            let line = rows::Claim {
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
        self.pay(shown);
        if self.lines.is_empty() {
            self.bytes = 0;
            self.phase = match self.found.len() {
                0 => Phase::Find,
                _ => Phase::LookUp,
            };
        }
        self.step_on(shown)
    }

    fn find(&mut self, state: &State) -> Step {
        let mut found = Vec::new();
        let looked_at = self.last.map_or(0, |last| {
            let locks = &state.locks;
            locks.visit_claims_after(&self.name, self.counted, &last, WINDOW, |owner| {
                found.push(owner);
            })
        });
        self.phase = match found.last() {
            Some(_) => Phase::LookUp,
            None => Phase::FillUp,
        };
        self.last = found.last().copied();
        self.found = found.into_iter();
        Step::more(1 + looked_at / FOUND)
    }

    fn fill_up(&mut self, out: &mut Vec<u8>) -> Step {
        let gone = self.owed.unwrap_or(0).min(SHOW);
        for _ in 0..gone {
            rows::claim_gone(out);
        }
        self.pay(gone);
        self.step_on(gone)
    }

    fn add(&mut self, line: Option<Line>) {
        if let Some(line) = line {
            self.bytes += line.address.len() + line.name.len();
            self.lines.push(line);
        }
    }

    fn pay(&mut self, lines: usize) {
        self.owed = self.owed.map(|owed| owed.saturating_sub(lines));
    }

    fn step_on(&self, work: usize) -> Step {
        Step {
            done: self.owed == Some(0),
            ..Step::more(work)
        }
    }
}

/// The line of an owner, while it is certain to be one.
fn line(state: &State, owner: &Claim, now: u64) -> Option<Line> {
    let shown = state.registry.with_client(owner.client, |client| {
        (client.address().clone(), client.shown_as().clone())
    });
    let (address, name) = shown?;
    let token = match owner.waits {
        true => None,
        false => state.fence.token(owner.stamp),
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
