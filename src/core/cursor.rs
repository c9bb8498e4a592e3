//! Listings: `d`, `sd`, `dump` and `who`, the counted `ld`, `lsd`, `ldl`, `lsdl` and `lwho`, and `own`.
//!
//! A [`Cursor`] makes a listing in steps of some ten microseconds, so that other clients wait neither for a shard nor for
//! their turn.
//!
//! ```text
//!  sorted   claims                   the two kinds of listing
//!  page   order   writer             entries of one pass: gathered, sorted, written
//!  table   step                      the tables to list; size and cost of a step
//! ```

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
    /// Makes the listing of `d` or `sd`: all locks of a kind with their holders, or one lock.
    pub fn lines(kind: LockKind, name: Option<&[u8]>) -> Cursor {
        Cursor(Kind::Sorted(Sorted::lines(kind, name)))
    }

    /// Makes the listing of `dump` or `dump shared`.
    pub fn map(kind: LockKind) -> Cursor {
        Cursor(Kind::Sorted(Sorted::map(kind)))
    }

    /// Makes the listing of `who`: all connections with a name, or those with one name.
    pub fn who(name: Option<&[u8]>) -> Cursor {
        Cursor(Kind::Sorted(Sorted::who(name)))
    }

    /// Makes the listing of `ld` or `lsd`: the lines of [`lines`](Cursor::lines), counted.
    pub fn counted_lines(kind: LockKind, name: Option<&[u8]>) -> Cursor {
        let lines = Sorted::lines(kind, name);
        Cursor(Kind::Sorted(lines.in_blocks(locks(kind), name)))
    }

    /// Makes the listing of `ldl` or `lsdl`: the same, each line with the length of the name.
    pub fn lines_with_lengths(kind: LockKind, name: Option<&[u8]>) -> Cursor {
        let lines = Sorted::lines_with_lengths(kind, name);
        Cursor(Kind::Sorted(lines.in_blocks(locks(kind), name)))
    }

    /// Makes the listing of `lwho`: the lines of [`who`](Cursor::who), counted.
    pub fn counted_who(name: Option<&[u8]>) -> Cursor {
        Cursor(Kind::Sorted(
            Sorted::who(name).in_blocks(Listing::Clients, name),
        ))
    }

    /// Makes the listing of `own`: the claims to one name at one moment, and their number before them. One that ends before
    /// its turn is shown as gone.
    pub fn claims(name: &[u8]) -> Cursor {
        Cursor(Kind::Claims(Claims::new(name)))
    }

    /// Works for some ten microseconds, and appends text to `out`: at most some kilobytes beyond the longest name.
    ///
    /// Between steps, the caller must let other clients run, according to the cost of the steps.
    pub fn step(&mut self, state: &State, out: &mut Vec<u8>) -> Step {
        match &mut self.0 {
            Kind::Sorted(sorted) => sorted.step(state, out),
            Kind::Claims(claims) => claims.step(state, out),
        }
    }
}

/// Returns the name of a counted listing of locks.
fn locks(kind: LockKind) -> Listing {
    match kind {
        LockKind::Exclusive => Listing::Locks,
        LockKind::Shared => Listing::SharedLocks,
    }
}

#[cfg(test)]
mod tests;
