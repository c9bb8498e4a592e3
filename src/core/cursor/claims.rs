//! The listing of `own`: the holders of the locks of one name, and the clients that wait for them.
//!
//! The number of lines comes first, and must be true whatever happens while the client reads them. So the claims are counted
//! at one moment, and then found and shown in batches: the cursor remembers the last claim of a batch, and continues behind
//! it. A claim that began after that moment is recognized by its stamp and left out. A claim that was counted and has ended
//! before its turn is replaced by a line that says so, at the end.
//!
//! The first batch is found at the moment of the count, and the addresses and names of its claims are looked up before the
//! header is written. So a list of one batch has no such lines. The first few claims are even looked up under the mutex under
//! which they are counted, so that a lock that is handed over meanwhile does not appear without a holder.
//!
//! A batch takes less memory than the output buffer of a client that does not read, however many claims there are and
//! however long their names are. So the number of lists under way needs no limit, and no client waits for slow readers.
//!
//! Turned down: keeping all claims of that moment, even as numbers. Ten thousand clients that all list each other would take
//! gigabytes, unless only a few lists could be made at a time, and then a few slow readers would make all others wait.

use std::vec::IntoIter;

use byteview::ByteView;
use glockd_protocol::{LockKind, rows};

use super::step::{CHUNK, FOUND, SHOW, Step};
use crate::core::locks::{Claim, CountedClaims};
use crate::core::state::State;

/// Bytes of the lock's name that cost as much as a plain command: each claim is looked up by the name.
const BYTES: usize = 128;

/// Claims of a batch.
const BATCH: usize = 512;

/// A listing of claims under way.
#[derive(Debug)]
pub(super) struct Claims {
    name: ByteView,
    phase: Phase,
    counted: CountedClaims,
    /// Age of the table when they were counted, in milliseconds.
    now: u64,
    /// Claims that were found and not looked up yet.
    found: IntoIter<Claim>,
    /// The last claim that was found.
    last: Option<Claim>,
    /// Lines that were looked up and not shown yet.
    lines: Vec<Line>,
    /// Bytes of the addresses and names in `lines`. They keep this memory even if the clients have gone.
    bytes: usize,
    /// Lines to show before the number in the header is reached. `None` before the header.
    missing: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Count the claims, and find the first batch.
    Count,
    /// Look up the claims that were found.
    LookUp,
    /// Show the lines, from the last of `lines` to the first.
    Show,
    /// Find the next batch.
    Find,
    /// Show a line for each claim that has ended.
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
            missing: None,
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
        self.counted = locks.visit_claims(&name, BATCH, |claim| {
            self.last = Some(claim);
            if self.lines.len() < SHOW && self.bytes < CHUNK {
                self.add(line(state, &claim, self.now));
            } else {
                found.push(claim);
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
            && let Some(claim) = self.found.next()
        {
            let line = || line(state, &claim, self.now);
            let locks = &state.locks;
            self.add(locks.with_claim(&self.name, &claim, line).flatten());
            work += cost;
        }
        if self.found.len() > 0 && self.bytes < CHUNK {
            return Step::more(work);
        }
        if self.missing.is_none() {
            let behind = self.counted.count.saturating_sub(BATCH);
            let count = self.lines.len() + self.found.len() + behind;
            rows::claims_header(out, count, &self.name);
            self.missing = Some(count);
        }
        self.lines.reverse();
        self.phase = Phase::Show;
        self.end_step(work)
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
        self.count_shown(shown);
        if self.lines.is_empty() {
            self.bytes = 0;
            self.phase = match self.found.len() {
                0 => Phase::Find,
                _ => Phase::LookUp,
            };
        }
        self.end_step(shown)
    }

    fn find(&mut self, state: &State) -> Step {
        let mut found = Vec::new();
        let looked_at = self.last.map_or(0, |last| {
            let locks = &state.locks;
            locks.visit_claims_after(&self.name, self.counted, &last, BATCH, |claim| {
                found.push(claim);
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
        let gone = self.missing.unwrap_or(0).min(SHOW);
        for _ in 0..gone {
            rows::claim_gone(out);
        }
        self.count_shown(gone);
        self.end_step(gone)
    }

    fn add(&mut self, line: Option<Line>) {
        if let Some(line) = line {
            self.bytes += line.address.len() + line.name.len();
            self.lines.push(line);
        }
    }

    fn count_shown(&mut self, lines: usize) {
        self.missing = self.missing.map(|missing| missing.saturating_sub(lines));
    }

    fn end_step(&self, work: usize) -> Step {
        Step {
            done: self.missing == Some(0),
            ..Step::more(work)
        }
    }
}

/// Returns the line of a claim, which must not end meanwhile.
fn line(state: &State, claim: &Claim, now: u64) -> Option<Line> {
    let shown = state.registry.with_client(claim.client, |client| {
        (client.address().clone(), client.shown_as().clone())
    });
    let (address, name) = shown?;
    let token = match claim.waits {
        true => None,
        false => state.fence.token(claim.stamp),
    };
    Some(Line {
        kind: claim.kind,
        waits: claim.waits,
        ms: now.saturating_sub(claim.stamp.ms()),
        token: token.unwrap_or(0),
        address,
        name,
    })
}
