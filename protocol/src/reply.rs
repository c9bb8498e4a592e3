//! What a client is told. No reply text stands anywhere but here and in [`rows`](crate::rows).

use std::borrow::Cow;
use std::time::Duration;

use crate::Verb;
use crate::rows::{self, Listing};

/// One answer, short of a listing (see [`rows`](crate::rows)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// To `g`: is the lock now held by this connection?
    Get {
        /// Whether this connection holds the lock now.
        granted: bool,
        /// The lock.
        name: &'a [u8],
    },
    /// To `r`: did this connection hold the lock?
    Release {
        /// Whether this connection held the lock, which is free now.
        released: bool,
        /// The lock.
        name: &'a [u8],
    },
    /// To `i`.
    Inspect {
        /// Whether anyone holds the lock.
        locked: bool,
        /// The lock.
        name: &'a [u8],
    },
    /// To `sg`.
    SharedGet {
        /// How many hold the lock now, this connection included; 0 if it may hold no more locks.
        holders: u32,
        /// The lock.
        name: &'a [u8],
    },
    /// To `sr`.
    SharedRelease {
        /// Whether this connection held the lock.
        released: bool,
        /// The lock.
        name: &'a [u8],
    },
    /// To `si`.
    SharedInspect {
        /// How many hold the lock; 0 when it is free.
        holders: u32,
        /// The lock.
        name: &'a [u8],
    },
    /// To `me`.
    Me {
        /// Where the connection comes from.
        address: Cow<'a, [u8]>,
        /// The name it registered, or its address.
        name: Cow<'a, [u8]>,
    },
    /// To `iam`.
    Ok,
    /// To whatever the server's policy does not allow.
    Disabled,
    /// To a line longer than the limit.
    LineTooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// No bytes: what an unknown command gets.
    Nothing,
    /// To `q`: counters, in the order in which they are to be shown.
    Statistics(Vec<(Counter, u64)>),
    /// To `lq`: the same, counted.
    CountedStatistics(Vec<(Counter, u64)>),
    /// To `hello`.
    Hello {
        /// Shortest time after which the server gives up a client over TCP or WebSocket that it hears nothing of;
        /// `None` if it never does.
        peer_timeout: Option<Duration>,
    },
    /// To `ping`.
    Pong(&'a [u8]),
    /// To `gw` that does not get the lock. One that does is answered as `g`.
    GetRefused {
        /// Why.
        refusal: Refusal,
        /// The lock.
        name: &'a [u8],
    },
    /// To `sgw` that does not get the lock. One that does is answered as `sg`.
    SharedGetRefused {
        /// Why.
        refusal: Refusal,
        /// The lock.
        name: &'a [u8],
    },
    /// To `sgl` that does not get the lock. One that does is answered as `sg`.
    SharedGetFull {
        /// The lock.
        name: &'a [u8],
    },
    /// To `cancel`.
    Cancel {
        /// Whether this connection waited for the lock, or was about to.
        cancelled: bool,
        /// The lock.
        name: &'a [u8],
    },
    /// To `iw` and `siw`.
    InspectWait {
        /// Whether the lock was seen to be free, or to be held by fewer.
        free: bool,
        /// The lock.
        name: &'a [u8],
    },
    /// To `f` and `sf`.
    Fence {
        /// The token of the lock, if this connection holds it.
        token: Option<u64>,
        /// The lock.
        name: &'a [u8],
    },
    /// To a command whose numbers are missing or wrong.
    BadArgument(Verb),
}

/// Why who was ready to wait did not get a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It was not free in time.
    Timeout,
    /// Too many wait for it, or this connection may hold no more locks.
    QueueFull,
    /// The wait was cancelled, by its connection or by its end.
    Cancelled,
}

impl Refusal {
    fn as_str(self) -> &'static str {
        match self {
            Refusal::Timeout => "Timeout",
            Refusal::QueueFull => "Queue Full",
            Refusal::Cancelled => "Cancelled",
        }
    }
}

impl<'a> Reply<'a> {
    /// The lock that this is about, if it is about one.
    pub fn name(&self) -> Option<&'a [u8]> {
        match self {
            Reply::Get { name, .. }
            | Reply::Release { name, .. }
            | Reply::Inspect { name, .. }
            | Reply::SharedGet { name, .. }
            | Reply::SharedRelease { name, .. }
            | Reply::SharedInspect { name, .. }
            | Reply::GetRefused { name, .. }
            | Reply::SharedGetRefused { name, .. }
            | Reply::SharedGetFull { name }
            | Reply::Cancel { name, .. }
            | Reply::InspectWait { name, .. }
            | Reply::Fence { name, .. } => Some(name),
            Reply::Nothing
            | Reply::Me { .. }
            | Reply::Ok
            | Reply::Disabled
            | Reply::LineTooLong { .. }
            | Reply::Statistics(_)
            | Reply::CountedStatistics(_)
            | Reply::Hello { .. }
            | Reply::Pong(_)
            | Reply::BadArgument(_) => None,
        }
    }

    /// Appends the bytes of this reply to `out`.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Reply::Nothing => {}
            Reply::Get {
                granted: true,
                name,
            } => line(out, "1 Lock Get Success: ", name),
            Reply::Get {
                granted: false,
                name,
            } => line(out, "0 Lock Get Failure: ", name),
            Reply::Release {
                released: true,
                name,
            } => line(out, "1 Lock Release Success: ", name),
            Reply::Release {
                released: false,
                name,
            } => line(out, "0 Lock Release Failure: ", name),
            Reply::Inspect { locked: true, name } => line(out, "1 Lock Is Locked: ", name),
            Reply::Inspect {
                locked: false,
                name,
            } => line(out, "0 Lock Not Locked: ", name),
            Reply::SharedGet { holders: 0, name } => line(out, "0 Shared Lock Get Failure: ", name),
            Reply::SharedGet { holders, name } => {
                number(out, u64::from(*holders));
                line(out, " Shared Lock Get Success: ", name);
            }
            Reply::SharedRelease {
                released: true,
                name,
            } => line(out, "1 Shared Lock Release Success: ", name),
            Reply::SharedRelease {
                released: false,
                name,
            } => line(out, "0 Shared Lock Release Failure: ", name),
            Reply::SharedInspect { holders: 0, name } => {
                line(out, "0 Shared Lock Not Locked: ", name)
            }
            Reply::SharedInspect { holders, name } => {
                number(out, u64::from(*holders));
                line(out, " Shared Lock Is Locked: ", name);
            }
            Reply::Me { address, name } => {
                out.extend_from_slice(b"1 ");
                out.extend_from_slice(address);
                line(out, " ", name);
            }
            Reply::Ok => line(out, "1 ok", b""),
            Reply::Disabled => line(out, "0 disabled", b""),
            Reply::LineTooLong { limit } => {
                out.extend_from_slice(b"0 Line Too Long: limit ");
                number(out, *limit as u64);
                out.push(b'\n');
            }
            Reply::Statistics(counters) => statistics(out, counters),
            Reply::CountedStatistics(counters) => {
                rows::header(out, counters.len(), Listing::Statistics, b"");
                statistics(out, counters);
                rows::header(out, 0, Listing::Statistics, b"");
            }
            Reply::Hello { peer_timeout } => {
                out.extend_from_slice(b"1 hello: wait limit fence list own ping lengths timeout=");
                let ms = peer_timeout.unwrap_or_default().as_millis();
                number(out, u64::try_from(ms).unwrap_or(u64::MAX));
                out.push(b'\n');
            }
            Reply::Pong(text) => line(out, "1 pong: ", text),
            Reply::GetRefused { refusal, name } => {
                out.extend_from_slice(b"0 Lock Get ");
                out.extend_from_slice(refusal.as_str().as_bytes());
                line(out, ": ", name);
            }
            Reply::SharedGetRefused { refusal, name } => {
                out.extend_from_slice(b"0 Shared Lock Get ");
                out.extend_from_slice(refusal.as_str().as_bytes());
                line(out, ": ", name);
            }
            Reply::SharedGetFull { name } => line(out, "0 Shared Lock Get Full: ", name),
            Reply::Cancel {
                cancelled: true,
                name,
            } => line(out, "1 Cancel Success: ", name),
            Reply::Cancel {
                cancelled: false,
                name,
            } => line(out, "0 Cancel Failure: ", name),
            Reply::InspectWait { free: true, name } => line(out, "1 Lock Is Free: ", name),
            Reply::InspectWait { free: false, name } => line(out, "0 Lock Is Locked: ", name),
            Reply::Fence {
                token: Some(token),
                name,
            } => {
                number(out, *token);
                line(out, " Lock Fence: ", name);
            }
            Reply::Fence { token: None, name } => line(out, "0 Lock Fence Failure: ", name),
            Reply::BadArgument(verb) => {
                line(out, "0 Bad Argument: ", verb.as_str().as_bytes());
            }
        }
    }
}

fn statistics(out: &mut Vec<u8>, counters: &[(Counter, u64)]) {
    for (counter, value) in counters {
        counter.encode(out);
        out.extend_from_slice(b": ");
        number(out, *value);
        out.push(b'\n');
    }
}

pub(crate) fn line(out: &mut Vec<u8>, text: &str, name: &[u8]) {
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(name);
    out.push(b'\n');
}

pub(crate) fn number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// A line of `q`. Their order is the order of their keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// How often a command was asked for since the start, refused or not.
    Command(Verb),
    /// Connections that live now.
    Connections,
    /// Frames since the start that were no command.
    InvalidCommands,
    /// Names that are locked exclusively now.
    Locks,
    /// Exclusive locks since the start whose connection ended before it released them.
    Orphans,
    /// Connections since the start that were not let in.
    RefusedConnections,
    /// Connections since the start that were closed because they spoke HTTP.
    RefusedHttp,
    /// Locks since the start that were not given because they were too many.
    RefusedLocks,
    /// Names that are locked shared now.
    SharedLocks,
    /// Shared locks since the start whose connection ended before it released them.
    SharedOrphans,
}

impl Counter {
    /// Whether it is always shown, and not only once it counts: as the original does with what it has.
    pub fn is_always_shown(self) -> bool {
        match self {
            Counter::Command(Verb::Me | Verb::Iam | Verb::Who) => false,
            Counter::Command(verb) => verb.is_documented(),
            Counter::RefusedConnections | Counter::RefusedHttp | Counter::RefusedLocks => false,
            _ => true,
        }
    }

    fn encode(self, out: &mut Vec<u8>) {
        let key = match self {
            Counter::Command(verb) => {
                out.extend_from_slice(b"command_");
                verb.as_str()
            }
            Counter::Connections => "connections",
            Counter::InvalidCommands => "invalid_commands",
            Counter::Locks => "locks",
            Counter::Orphans => "orphans",
            Counter::RefusedConnections => "refused_connections",
            Counter::RefusedHttp => "refused_http",
            Counter::RefusedLocks => "refused_locks",
            Counter::SharedLocks => "shared_locks",
            Counter::SharedOrphans => "shared_orphans",
        };
        out.extend_from_slice(key.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(reply: Reply<'_>, expect: &str) {
        let mut out = Vec::new();
        reply.encode(&mut out);
        assert_eq!(
            out.escape_ascii().to_string(),
            expect.escape_default().to_string()
        );
    }

    #[test]
    fn the_texts_of_the_seed() {
        let name = b"foo";
        check(Reply::Nothing, "");
        check(
            Reply::Get {
                granted: true,
                name,
            },
            "1 Lock Get Success: foo\n",
        );
        check(
            Reply::Get {
                granted: false,
                name,
            },
            "0 Lock Get Failure: foo\n",
        );
        check(
            Reply::Release {
                released: true,
                name,
            },
            "1 Lock Release Success: foo\n",
        );
        check(
            Reply::Release {
                released: false,
                name,
            },
            "0 Lock Release Failure: foo\n",
        );
        check(
            Reply::Inspect { locked: true, name },
            "1 Lock Is Locked: foo\n",
        );
        check(
            Reply::Inspect {
                locked: false,
                name,
            },
            "0 Lock Not Locked: foo\n",
        );
        check(
            Reply::SharedGet { holders: 12, name },
            "12 Shared Lock Get Success: foo\n",
        );
        check(
            Reply::SharedGet { holders: 0, name },
            "0 Shared Lock Get Failure: foo\n",
        );
        check(
            Reply::SharedRelease {
                released: true,
                name,
            },
            "1 Shared Lock Release Success: foo\n",
        );
        check(
            Reply::SharedRelease {
                released: false,
                name,
            },
            "0 Shared Lock Release Failure: foo\n",
        );
        check(
            Reply::SharedInspect { holders: 3, name },
            "3 Shared Lock Is Locked: foo\n",
        );
        check(
            Reply::SharedInspect { holders: 0, name },
            "0 Shared Lock Not Locked: foo\n",
        );
        let me = Reply::Me {
            address: b"unix:1".as_slice().into(),
            name: b"x y".as_slice().into(),
        };
        check(me, "1 unix:1 x y\n");
        check(Reply::Ok, "1 ok\n");
        check(Reply::Disabled, "0 disabled\n");
        check(
            Reply::LineTooLong { limit: 131_072 },
            "0 Line Too Long: limit 131072\n",
        );
    }

    #[test]
    fn the_texts_beyond_it() {
        let name = b"foo";
        let hello = |peer_timeout| Reply::Hello { peer_timeout };
        check(
            hello(Some(Duration::from_millis(30_500))),
            "1 hello: wait limit fence list own ping lengths timeout=30500\n",
        );
        check(
            hello(None),
            "1 hello: wait limit fence list own ping lengths timeout=0\n",
        );
        check(Reply::Pong(b""), "1 pong: \n");
        check(Reply::Pong(b"a b"), "1 pong: a b\n");
        for (refusal, text) in [
            (Refusal::Timeout, "Timeout"),
            (Refusal::QueueFull, "Queue Full"),
            (Refusal::Cancelled, "Cancelled"),
        ] {
            check(
                Reply::GetRefused { refusal, name },
                &format!("0 Lock Get {text}: foo\n"),
            );
            check(
                Reply::SharedGetRefused { refusal, name },
                &format!("0 Shared Lock Get {text}: foo\n"),
            );
        }
        check(
            Reply::SharedGetFull { name },
            "0 Shared Lock Get Full: foo\n",
        );
        let cancel = |cancelled| Reply::Cancel { cancelled, name };
        check(cancel(true), "1 Cancel Success: foo\n");
        check(cancel(false), "0 Cancel Failure: foo\n");
        check(
            Reply::InspectWait { free: true, name },
            "1 Lock Is Free: foo\n",
        );
        check(
            Reply::InspectWait { free: false, name },
            "0 Lock Is Locked: foo\n",
        );
        let fence = |token| Reply::Fence { token, name };
        check(
            fence(Some(u64::MAX / 2)),
            "9223372036854775807 Lock Fence: foo\n",
        );
        check(fence(None), "0 Lock Fence Failure: foo\n");
        check(Reply::BadArgument(Verb::Sgw), "0 Bad Argument: sgw\n");
        check(
            Reply::CountedStatistics(vec![
                (Counter::Command(Verb::Lq), 1),
                (Counter::Connections, 2),
            ]),
            "2 Stats List: \ncommand_lq: 1\nconnections: 2\n0 Stats List: \n",
        );
    }

    #[test]
    fn statistics_are_lines_of_key_and_value() {
        let counters = vec![
            (Counter::Command(Verb::Dump), 7),
            (Counter::SharedOrphans, u64::MAX),
        ];
        check(
            Reply::Statistics(counters),
            "command_dump: 7\nshared_orphans: 18446744073709551615\n",
        );
    }

    #[test]
    fn names_come_back_unchanged() {
        check(
            Reply::Get {
                granted: true,
                name: b"",
            },
            "1 Lock Get Success: \n",
        );
        let mut out = Vec::new();
        Reply::Get {
            granted: true,
            name: b"\0\xFF\xC2",
        }
        .encode(&mut out);
        assert_eq!(out, b"1 Lock Get Success: \0\xFF\xC2\n");
    }
}
