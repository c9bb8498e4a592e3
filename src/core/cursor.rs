//! Listings (`d`, `sd`, `dump`, `who`, the counted `ld`, `lsd`, `ldl`, `lsdl`, `lwho`, and `own`): a [`Cursor`]
//! makes one in steps of some microseconds, so that nobody waits long for a shard or a turn.

mod claims;
mod order;
mod page;
mod sorted;
mod step;
mod table;
mod writer;

use glockd_protocol::LockKind;
use glockd_protocol::rows::Listing;

use crate::core::state::State;
use claims::Claims;
use sorted::Sorted;
pub use step::Step;

/// A listing under way.
#[derive(Debug)]
pub struct Cursor(Kind);

#[derive(Debug)]
enum Kind {
    Sorted(Sorted),
    Claims(Claims),
}

impl Cursor {
    /// The listing of `d` or `sd`: all locks of a kind with their holders, or one.
    pub fn lines(kind: LockKind, name: Option<&[u8]>) -> Cursor {
        Cursor(Kind::Sorted(Sorted::lines(kind, name)))
    }

    /// The listing of `dump` or `dump shared`.
    pub fn map(kind: LockKind) -> Cursor {
        Cursor(Kind::Sorted(Sorted::map(kind)))
    }

    /// The listing of `who`: all registered names, or the connections of one.
    pub fn who(name: Option<&[u8]>) -> Cursor {
        Cursor(Kind::Sorted(Sorted::who(name)))
    }

    /// The listing of `ld` or `lsd`: the lines of [`lines`](Cursor::lines), counted.
    pub fn counted_lines(kind: LockKind, name: Option<&[u8]>) -> Cursor {
        let lines = Sorted::lines(kind, name);
        Cursor(Kind::Sorted(lines.in_blocks(locks(kind), name)))
    }

    /// The listing of `ldl` or `lsdl`: the same, each line with the length of the name.
    pub fn lines_with_lengths(kind: LockKind, name: Option<&[u8]>) -> Cursor {
        let lines = Sorted::lines_with_lengths(kind, name);
        Cursor(Kind::Sorted(lines.in_blocks(locks(kind), name)))
    }

    /// The listing of `lwho`: the lines of [`who`](Cursor::who), counted.
    pub fn counted_who(name: Option<&[u8]>) -> Cursor {
        Cursor(Kind::Sorted(
            Sorted::who(name).in_blocks(Listing::Clients, name),
        ))
    }

    /// The listing of `own`: the claims to one name at one moment, and their number before them. One that ends before
    /// its turn is shown as gone.
    pub fn claims(name: &[u8]) -> Cursor {
        Cursor(Kind::Claims(Claims::new(name)))
    }

    /// Works for some ten microseconds, and appends what that brought to `out`: no more than some
    /// kilobytes beyond the longest name. Let others run between steps, by what they cost.
    pub fn step(&mut self, state: &State, out: &mut Vec<u8>) -> Step {
        match &mut self.0 {
            Kind::Sorted(sorted) => sorted.step(state, out),
            Kind::Claims(claims) => claims.step(state, out),
        }
    }
}

/// What lists the locks of a kind.
fn locks(kind: LockKind) -> Listing {
    match kind {
        LockKind::Exclusive => Listing::Locks,
        LockKind::Shared => Listing::SharedLocks,
    }
}

#[cfg(test)]
mod tests;
