//! What a server is expected to say, and what its lines make of that.

use std::time::Duration;

use glockd_protocol::rows::{Claim, Listing};
use glockd_protocol::{LockKind, Reply, Verb, features};
use tokio::sync::oneshot;

use crate::Lost;
use crate::connection::Key;
use crate::guard::Held;
use crate::pool::Lease;

/// What is expected in answer to something, and who awaits it.
pub(crate) enum Expect {
    /// A line that answers this verb, about this lock if it is about one.
    Line {
        verb: Verb,
        name: Option<Vec<u8>>,
        reply: oneshot::Sender<Vec<u8>>,
    },
    /// An answer to a get.
    Get(Box<Get>),
    /// Lines behind a header which says how many there are: of `own` (`None`), or of a listing, which goes on with
    /// another header until one says none.
    Counted {
        listing: Option<Listing>,
        left: usize,
        lines: Vec<Vec<u8>>,
        reply: oneshot::Sender<Counted>,
    },
    /// Lines, or none, until there come no more.
    Unended(Unended),
}

/// A lock that was asked for.
pub(crate) struct Get {
    verb: Verb,
    /// Where the lock will be held.
    lease: Lease,
    key: Key,
    /// Whether the server may take its time.
    waits: bool,
    /// How many hold it, once it was given.
    holders: Option<u32>,
    /// The refusal, once there is one, if another answer is to come.
    refused: Option<Vec<u8>>,
    reply: oneshot::Sender<Answer>,
}

/// The answer to a get: the lock; or the line that says no, with what might be used to ask again.
pub(crate) type Answer = Result<Held, (Vec<u8>, Lease)>;

/// The lines that were counted; or the one that came in the place of a header, and says no.
pub(crate) type Counted = Result<Vec<Vec<u8>>, Vec<u8>>;

/// Lines whose end nothing marks.
pub(crate) struct Unended {
    /// Whether one line is all that can come.
    pub(crate) is_one: bool,
    pub(crate) silence: Duration,
    /// What is answered once all was.
    pub(crate) end: Option<Vec<u8>>,
    /// How often that was asked for.
    pub(crate) asked: u32,
    pub(crate) lines: Vec<Vec<u8>>,
    pub(crate) reply: oneshot::Sender<Vec<Vec<u8>>>,
}

/// What a line made of what was expected.
pub(crate) enum Step {
    More(Expect),
    Done,
}

impl Unended {
    pub(crate) fn new(
        silence: Duration,
        is_one: bool,
        reply: oneshot::Sender<Vec<Vec<u8>>>,
    ) -> Unended {
        Unended {
            is_one,
            silence,
            end: None,
            asked: 0,
            lines: Vec::new(),
            reply,
        }
    }
}

impl Expect {
    /// Whether this is a listing, of which anything may be part, and which may take long.
    pub(crate) fn is_listing(&self) -> bool {
        match self {
            Expect::Counted { .. } => true,
            Expect::Unended(unended) => !unended.is_one,
            Expect::Line { .. } | Expect::Get(_) => false,
        }
    }

    pub(crate) fn counted(listing: Option<Listing>, reply: oneshot::Sender<Counted>) -> Expect {
        Expect::Counted {
            listing,
            left: 0,
            lines: Vec::new(),
            reply,
        }
    }

    /// Takes a line of the answer.
    pub(crate) fn step(self, line: &[u8]) -> Result<Step, Lost> {
        let unexpected = || Lost::Unexpected(line.to_vec());
        match self {
            Expect::Line { verb, name, reply } => {
                decode(verb, line, name.as_deref()).ok_or_else(unexpected)?;
                let _ = reply.send(line.to_vec());
                Ok(Step::Done)
            }
            Expect::Get(get) => get.step(line),
            Expect::Counted {
                listing,
                left: 0,
                lines,
                reply,
            } => {
                let count = match listing {
                    Some(listing) => listing.decode(line),
                    None => Claim::decode_count(line),
                };
                let verb = if listing.is_some() {
                    Verb::Ld
                } else {
                    Verb::Own
                };
                match count {
                    Some(0) => {
                        let _ = reply.send(Ok(lines));
                        Ok(Step::Done)
                    }
                    Some(left) => Ok(Step::More(Expect::Counted {
                        listing,
                        left,
                        lines,
                        reply,
                    })),
                    // A refusal.
                    None if lines.is_empty() && Reply::decode(verb, line).is_some() => {
                        let _ = reply.send(Err(line.to_vec()));
                        Ok(Step::Done)
                    }
                    None => Err(unexpected()),
                }
            }
            Expect::Counted {
                listing,
                left,
                mut lines,
                reply,
            } => {
                lines.push(line.to_vec());
                // Behind the lines of `own` comes nothing.
                if left == 1 && listing.is_none() {
                    let _ = reply.send(Ok(lines));
                    return Ok(Step::Done);
                }
                Ok(Step::More(Expect::Counted {
                    listing,
                    left: left - 1,
                    lines,
                    reply,
                }))
            }
            Expect::Unended(mut unended) => {
                if unended.end.as_deref() != Some(line) {
                    unended.lines.push(line.to_vec());
                    if !unended.is_one || unended.end.is_some() {
                        return Ok(Step::More(Expect::Unended(unended)));
                    }
                    if features(line).is_none() {
                        return Err(unexpected());
                    }
                }
                let _ = unended.reply.send(unended.lines);
                Ok(Step::Done)
            }
        }
    }
}

impl Get {
    pub(crate) fn new(
        verb: Verb,
        lease: Lease,
        key: Key,
        waits: bool,
        reply: oneshot::Sender<Answer>,
    ) -> Get {
        Get {
            verb,
            lease,
            key,
            waits,
            holders: None,
            refused: None,
            reply,
        }
    }

    /// Whether this is a wait that is under way.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waits && self.holders.is_none() && self.refused.is_none()
    }

    /// Whether the server answers `ping` meanwhile.
    pub(crate) fn has_pings(&self) -> bool {
        self.lease.connection.features.ping
    }

    fn step(mut self: Box<Self>, line: &[u8]) -> Result<Step, Lost> {
        let unexpected = || Lost::Unexpected(line.to_vec());
        let mut token = None;
        if self.holders.is_some() || self.refused.is_some() {
            let verb = match self.key.0 {
                LockKind::Exclusive => Verb::F,
                LockKind::Shared => Verb::Sf,
            };
            match decode(verb, line, Some(&self.key.1)) {
                Some(Reply::Fence { token: found, .. }) => token = found,
                Some(_) => {}
                None => return Err(unexpected()),
            }
        } else {
            match decode(self.verb, line, Some(&self.key.1)).ok_or_else(unexpected)? {
                Reply::Get { granted: true, .. } => self.holders = Some(1),
                Reply::SharedGet { holders, .. } if holders > 0 => self.holders = Some(holders),
                _ => self.refused = Some(line.to_vec()),
            }
            // Then its token was asked for, too.
            if self.lease.connection.features.fence {
                return Ok(Step::More(Expect::Get(self)));
            }
        }
        // If nobody awaits it any more, this drops the lock, and so releases it.
        let _ = self.reply.send(match (self.holders, self.refused) {
            (Some(holders), _) => Ok(Held::new(self.lease, self.key, holders, token)),
            (None, refused) => Err((refused.unwrap_or_default(), self.lease)),
        });
        Ok(Step::Done)
    }
}

/// Reads an answer. One about another lock is none: whoever took it for one would hold what it does not.
fn decode<'a>(verb: Verb, line: &'a [u8], name: Option<&[u8]>) -> Option<Reply<'a>> {
    Reply::decode(verb, line).filter(|reply| reply.name().is_none() || reply.name() == name)
}
