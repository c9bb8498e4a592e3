//! Replies that the server owes, and how their lines are read.
//!
//! An [`ExpectedReply`] carries its completion: a channel to which the reply is sent, or, for a get, a function that is
//! called with the outcome. It does not know how the reply is used, so it lies below the connection, its leases and the
//! guards. If the connection is lost first, it is dropped, and so is its completion.

use std::time::Duration;

use glockd_protocol::rows::{Claim, Listing};
use glockd_protocol::{Command, LockKind, Reply, Verb, features};
use tokio::sync::oneshot;

use crate::error::Lost;
use crate::key::LockKey;

/// A reply that the server owes.
pub(crate) enum ExpectedReply {
    /// One line that answers this verb; about the lock `name`, if the verb is about a lock.
    Line {
        verb: Verb,
        name: Option<Vec<u8>>,
        done: oneshot::Sender<Vec<u8>>,
    },
    Get(Box<GetReply>),
    Counted(CountedReply),
    Unmarked(UnmarkedReply),
}

/// Whether more lines of a reply are to come.
pub(crate) enum Step {
    More(ExpectedReply),
    Complete,
}

impl ExpectedReply {
    /// Returns true for a listing. Its lines may look like any other reply, and it may take long.
    pub(crate) fn is_listing(&self) -> bool {
        match self {
            ExpectedReply::Counted(_) => true,
            ExpectedReply::Unmarked(reply) => reply.kind == UnmarkedKind::Listing,
            ExpectedReply::Line { .. } | ExpectedReply::Get(_) => false,
        }
    }

    /// Reads the next line of the reply.
    ///
    /// # Errors
    ///
    /// [`Lost::Unexpected`] if the line is not part of such a reply.
    pub(crate) fn read_line(self, line: &[u8]) -> Result<Step, Lost> {
        match self {
            ExpectedReply::Line { verb, name, done } => {
                decode(verb, line, name.as_deref())?;
                let _ = done.send(line.to_vec());
                Ok(Step::Complete)
            }
            ExpectedReply::Get(reply) => reply.read_line(line),
            ExpectedReply::Counted(reply) => reply.read_line(line),
            ExpectedReply::Unmarked(reply) => reply.read_line(line),
        }
    }
}

/// The reply to a get, and to the question for the fencing token that may follow it.
pub(crate) struct GetReply {
    verb: Verb,
    key: LockKey,
    /// Whether the token is asked for, so that a second line follows.
    asks_token: bool,
    /// Content of the first line, once it has been read.
    first: Option<GetOutcome>,
    done: OnGetOutcome,
}

/// Called with the outcome of a get. Dropped without a call if the connection is lost first.
///
/// It is called while the line is read, and not by the task that asked: a lock that was granted thus has an owner at
/// once, even if that task has been cancelled.
pub(crate) type OnGetOutcome = Box<dyn FnOnce(GetOutcome) + Send>;

/// The outcome of a get.
pub(crate) enum GetOutcome {
    /// The lock is held.
    Granted {
        /// Number of holders, this one included.
        holders: u32,
        /// The fencing token, if the server issues one.
        token: Option<u64>,
    },
    /// The line by which the server refused.
    Refused(Vec<u8>),
}

impl GetReply {
    pub(crate) fn new(verb: Verb, key: LockKey, asks_token: bool, done: OnGetOutcome) -> GetReply {
        GetReply {
            verb,
            key,
            asks_token,
            first: None,
            done,
        }
    }

    /// Returns true if the server may keep the client waiting for the next line.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.verb, Verb::Gw | Verb::Sgw) && self.first.is_none()
    }

    fn read_line(mut self: Box<Self>, line: &[u8]) -> Result<Step, Lost> {
        let name = Some(self.key.name.as_slice());
        let outcome = match self.first.take() {
            None => {
                let first = match decode(self.verb, line, name)? {
                    Reply::Get { granted: true, .. } => GetOutcome::Granted {
                        holders: 1,
                        token: None,
                    },
                    Reply::SharedGet { holders, .. } if holders > 0 => GetOutcome::Granted {
                        holders,
                        token: None,
                    },
                    _ => GetOutcome::Refused(line.to_vec()),
                };
                if self.asks_token {
                    self.first = Some(first);
                    return Ok(Step::More(ExpectedReply::Get(self)));
                }
                first
            }
            Some(first) => {
                let verb = match self.key.kind {
                    LockKind::Exclusive => Verb::F,
                    LockKind::Shared => Verb::Sf,
                };
                let found = match decode(verb, line, name)? {
                    Reply::Fence { token, .. } => token,
                    _ => None,
                };
                match first {
                    GetOutcome::Granted { holders, .. } => GetOutcome::Granted {
                        holders,
                        token: found,
                    },
                    refused @ GetOutcome::Refused(_) => refused,
                }
            }
        };
        (self.done)(outcome);
        Ok(Step::Complete)
    }
}

/// A reply that begins with a header, which states the number of lines.
pub(crate) struct CountedReply {
    header: Header,
    /// Lines to come until the next header.
    left: usize,
    lines: Vec<Vec<u8>>,
    done: oneshot::Sender<CountedLines>,
}

/// The kind of header.
#[derive(Clone, Copy)]
pub(crate) enum Header {
    /// Of a listing in blocks. After each block comes another header; the last one states 0 lines.
    Listing(Listing),
    /// Of the reply to `own`, which is a single block.
    Claims,
}

/// The lines after the headers; or the line that came in place of a header and refuses the command.
pub(crate) type CountedLines = Result<Vec<Vec<u8>>, Vec<u8>>;

impl Header {
    /// Reads the number of lines. Returns `None` if the line is not such a header.
    fn count(self, line: &[u8]) -> Option<usize> {
        match self {
            Header::Listing(listing) => listing.decode(line),
            Header::Claims => Claim::decode_count(line),
        }
    }

    /// Returns true if the line refuses the command.
    fn is_refusal(self, line: &[u8]) -> bool {
        // For a refusal, the verb does not matter; but the verb of a listing has no other replies.
        let verb = match self {
            Header::Listing(_) => Verb::Ld,
            Header::Claims => Verb::Own,
        };
        Reply::decode(verb, line).is_some()
    }
}

impl CountedReply {
    pub(crate) fn new(header: Header, done: oneshot::Sender<CountedLines>) -> CountedReply {
        CountedReply {
            header,
            left: 0,
            lines: Vec::new(),
            done,
        }
    }

    fn read_line(mut self, line: &[u8]) -> Result<Step, Lost> {
        if self.left > 0 {
            self.lines.push(line.to_vec());
            self.left -= 1;
            if self.left == 0 && matches!(self.header, Header::Claims) {
                return Ok(self.complete());
            }
        } else {
            match self.header.count(line) {
                Some(0) => return Ok(self.complete()),
                Some(count) => self.left = count,
                None if self.lines.is_empty() && self.header.is_refusal(line) => {
                    let _ = self.done.send(Err(line.to_vec()));
                    return Ok(Step::Complete);
                }
                None => return Err(Lost::Unexpected(line.to_vec())),
            }
        }
        Ok(Step::More(ExpectedReply::Counted(self)))
    }

    fn complete(self) -> Step {
        let _ = self.done.send(Ok(self.lines));
        Step::Complete
    }
}

/// A reply of any number of lines whose end the server does not mark: that of the original to a listing, and to
/// `hello`.
///
/// To find the end, the connection waits for a pause and then sends a *probe*, a question whose answer is known. The
/// lines before that answer are the reply. So a slow network makes the client slow, but never wrong.
pub(crate) struct UnmarkedReply {
    kind: UnmarkedKind,
    /// Silence after which the probe is sent.
    pause: Duration,
    /// The answer to the probe, once that has been sent.
    end: Option<Vec<u8>>,
    /// Number of times the probe was sent.
    probes: u32,
    lines: Vec<Vec<u8>>,
    done: oneshot::Sender<Vec<Vec<u8>>>,
}

/// The kind of an unmarked reply.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnmarkedKind {
    /// The reply to `hello`: one line, or none from the original.
    Hello,
    /// A listing: any number of lines.
    Listing,
}

impl UnmarkedReply {
    pub(crate) fn new(
        kind: UnmarkedKind,
        pause: Duration,
        done: oneshot::Sender<Vec<Vec<u8>>>,
    ) -> UnmarkedReply {
        UnmarkedReply {
            kind,
            pause,
            end: None,
            probes: 0,
            lines: Vec::new(),
            done,
        }
    }

    pub(crate) fn is_hello(&self) -> bool {
        self.kind == UnmarkedKind::Hello
    }

    /// Silence after which the first probe is to be sent.
    pub(crate) fn pause(&self) -> Duration {
        self.pause
    }

    /// Number of probes sent.
    pub(crate) fn probes(&self) -> u32 {
        self.probes
    }

    /// Returns a probe to send. `nonce` distinguishes its answer from those to other probes.
    pub(crate) fn probe(&mut self, nonce: u64) -> Command<'static> {
        self.probes += 1;
        let name = format!("glockd-client {nonce:016x}");
        let mut answer = Vec::new();
        let reply = Reply::Inspect {
            locked: false,
            name: name.as_bytes(),
        };
        reply.encode(&mut answer);
        answer.pop();
        self.end = Some(answer);
        Command::Inspect(name.into_bytes().into())
    }

    /// Returns the answer to the probe, if it was sent more than once. It may then arrive more than once, or not.
    pub(crate) fn repeated_answer(&self) -> Option<&[u8]> {
        self.end.as_deref().filter(|_| self.probes > 1)
    }

    /// Completes the reply with the lines read so far.
    pub(crate) fn complete(self) {
        let _ = self.done.send(self.lines);
    }

    fn read_line(mut self, line: &[u8]) -> Result<Step, Lost> {
        if self.end.as_deref() != Some(line) {
            self.lines.push(line.to_vec());
            // Once a probe has been sent, its answer must be read, too.
            if !self.is_hello() || self.end.is_some() {
                return Ok(Step::More(ExpectedReply::Unmarked(self)));
            }
            if features(line).is_none() {
                return Err(Lost::Unexpected(line.to_vec()));
            }
        }
        self.complete();
        Ok(Step::Complete)
    }
}

/// Decodes a line as a reply to `verb`.
///
/// # Errors
///
/// [`Lost::Unexpected`] if it is not such a reply, or is about another lock: a client that took it for its own would
/// believe that it holds a lock that it does not hold.
fn decode<'a>(verb: Verb, line: &'a [u8], name: Option<&[u8]>) -> Result<Reply<'a>, Lost> {
    Reply::decode(verb, line)
        .filter(|reply| reply.name().is_none() || reply.name() == name)
        .ok_or_else(|| Lost::Unexpected(line.to_vec()))
}
