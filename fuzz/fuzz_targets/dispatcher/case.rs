//! The input of the target.

use glockd::{LockLimits, Policy};
use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};

/// The number of lines of a [`Step::Lines`] is less than this.
const LINES_BOUND: u8 = 32;

/// A policy, and what clients do.
#[derive(Debug)]
pub(crate) struct Case<'a> {
    pub(crate) policy: Policy,
    pub(crate) steps: Vec<Step<'a>>,
}

/// What happens next. A client is the index of a connected one, modulo their number.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    Connect {
        address: u8,
    },
    /// A connection is refused.
    Refuse,
    Line {
        client: u8,
        verb: u8,
        name: Name<'a>,
    },
    /// A line for each of the names 0, 1, …
    Lines {
        client: u8,
        verb: u8,
        names: u8,
    },
    Raw {
        client: u8,
        line: &'a [u8],
    },
    Oversized {
        limit: u8,
    },
    /// A client's wait ends.
    EndWait {
        client: u8,
        cancelled: bool,
    },
    /// A client disconnects. Its locks are released later.
    Disconnect {
        client: u8,
    },
    /// Some locks of a disconnected client are released.
    Release {
        client: u8,
        budget: u8,
    },
}

#[derive(Debug)]
pub(crate) enum Name<'a> {
    None,
    Likely(u8),
    Any(&'a [u8]),
}

// Written by hand, so that a step takes few bytes and each byte matters. The derived code takes five bytes to choose a
// variant, and took about three times as long to find a bug.
impl<'a> Arbitrary<'a> for Case<'a> {
    fn arbitrary(bytes: &mut Unstructured<'a>) -> Result<Case<'a>> {
        let flags = u8::arbitrary(bytes)?;
        let mut limit = |flag| -> Result<Option<usize>> {
            Ok(match flags & flag {
                0 => None,
                _ => Some(usize::from(u8::arbitrary(bytes)? % 16)),
            })
        };
        let limits = LockLimits {
            max_locks: limit(1)?,
            max_locks_per_connection: limit(2)?,
            max_waiters: limit(16)?,
        };
        let mut steps = Vec::new();
        while !bytes.is_empty() {
            steps.push(Step::arbitrary(bytes)?);
        }
        let policy = Policy {
            dump: flags & 4 == 0,
            registry: flags & 8 == 0,
            extensions: flags & 96 != 96,
            limits,
        };
        Ok(Case { policy, steps })
    }
}

impl<'a> Arbitrary<'a> for Step<'a> {
    fn arbitrary(bytes: &mut Unstructured<'a>) -> Result<Step<'a>> {
        let mut byte = || u8::arbitrary(bytes);
        Ok(match byte()? % 32 {
            0..18 => Step::Line {
                client: byte()?,
                verb: byte()?,
                name: Name::arbitrary(bytes)?,
            },
            18..20 => Step::EndWait {
                client: byte()?,
                cancelled: byte()? % 2 == 0,
            },
            20..24 => Step::Connect { address: byte()? },
            24..26 => Step::Disconnect { client: byte()? },
            26..28 => Step::Release {
                client: byte()?,
                budget: byte()?,
            },
            28 => Step::Lines {
                client: byte()?,
                verb: byte()?,
                names: byte()? % LINES_BOUND,
            },
            29 => Step::Raw {
                client: byte()?,
                line: byte_string(bytes)?,
            },
            30 => Step::Oversized { limit: byte()? },
            _ => Step::Refuse,
        })
    }
}

impl<'a> Arbitrary<'a> for Name<'a> {
    fn arbitrary(bytes: &mut Unstructured<'a>) -> Result<Name<'a>> {
        Ok(match u8::arbitrary(bytes)? {
            0 => Name::None,
            1 => Name::Any(byte_string(bytes)?),
            number => Name::Likely(number),
        })
    }
}

/// Returns some bytes, after a byte that states how many.
fn byte_string<'a>(bytes: &mut Unstructured<'a>) -> Result<&'a [u8]> {
    let length = usize::from(u8::arbitrary(bytes)?);
    bytes.bytes(length.min(bytes.len()))
}
