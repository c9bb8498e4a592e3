//! Replies to single commands.
//!
//! A reply owns no text: [`encode`](Reply::encode) and [`decode`](Reply::decode) take it from the same table. Listings
//! are not replies, because a listing may be larger than memory; its rows are in [`rows`](crate::rows).

mod decode;
mod encode;

use std::borrow::Cow;
use std::time::Duration;

use crate::texts::with_replies;
use crate::{Counter, Verb};

/// One reply that is not a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// To `g`.
    Get {
        /// True if this connection holds the lock now.
        granted: bool,
        /// Name of the lock.
        name: &'a [u8],
    },
    /// To `r`.
    Release {
        /// True if this connection held the lock, which is free now.
        released: bool,
        /// Name of the lock.
        name: &'a [u8],
    },
    /// To `i`.
    Inspect {
        /// True if a connection holds the lock.
        locked: bool,
        /// Name of the lock.
        name: &'a [u8],
    },
    /// To `sg`.
    SharedGet {
        /// Number of holders, this connection included; 0 if this connection may hold no more locks.
        holders: u32,
        /// Name of the lock.
        name: &'a [u8],
    },
    /// To `sr`.
    SharedRelease {
        /// True if this connection held the lock.
        released: bool,
        /// Name of the lock.
        name: &'a [u8],
    },
    /// To `si`.
    SharedInspect {
        /// Number of holders; 0 when the lock is free.
        holders: u32,
        /// Name of the lock.
        name: &'a [u8],
    },
    /// To `me`.
    Me {
        /// Address of the connection.
        address: Cow<'a, [u8]>,
        /// Name that the connection registered; its address if it registered none.
        name: Cow<'a, [u8]>,
    },
    /// To `iam`.
    Ok,
    /// To a command that the server's policy does not allow.
    Disabled,
    /// To a line longer than the limit.
    LineTooLong {
        /// Maximum length of a line, in bytes.
        limit: usize,
    },
    /// No bytes at all, to an unknown command.
    Nothing,
    /// To `q`: counters in the order in which they are shown.
    Statistics(Vec<(Counter, u64)>),
    /// To `lq`: the same, with the number of lines before and a header of 0 lines behind them.
    CountedStatistics(Vec<(Counter, u64)>),
    /// To `hello`.
    Hello {
        /// Shortest time after which the server disconnects a client over TCP or WebSocket that stays silent; `None` if
        /// it never does.
        peer_timeout: Option<Duration>,
    },
    /// To `ping`.
    Pong(&'a [u8]),
    /// To a `gw` that does not get the lock. If it does, the reply is [`Get`](Reply::Get).
    GetRefused {
        /// Reason for the refusal.
        refusal: Refusal,
        /// Name of the lock.
        name: &'a [u8],
    },
    /// To an `sgw` that does not get the lock. If it does, the reply is [`SharedGet`](Reply::SharedGet).
    SharedGetRefused {
        /// Reason for the refusal.
        refusal: Refusal,
        /// Name of the lock.
        name: &'a [u8],
    },
    /// To an `sgl` that does not get the lock. If it does, the reply is [`SharedGet`](Reply::SharedGet).
    SharedGetFull {
        /// Name of the lock.
        name: &'a [u8],
    },
    /// To `cancel`.
    Cancel {
        /// True if this connection waited for the lock, or was about to wait.
        cancelled: bool,
        /// Name of the lock.
        name: &'a [u8],
    },
    /// To `iw` and `siw`.
    InspectWait {
        /// True if the lock was free, or had few enough holders, within the time.
        free: bool,
        /// Name of the lock.
        name: &'a [u8],
    },
    /// To `f` and `sf`.
    Fence {
        /// Fencing token of the lock; `None` if this connection does not hold the lock.
        token: Option<u64>,
        /// Name of the lock.
        name: &'a [u8],
    },
    /// To a command whose numbers are missing or wrong.
    BadArgument(Verb),
}

/// Reason why a get that may wait did not get its lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The lock was not free in time.
    Timeout,
    /// The lock has too many waiters, or this connection may hold no more locks.
    QueueFull,
    /// The wait was cancelled, by its connection or because that ended.
    Cancelled,
}

macro_rules! define_name {
    ($(
        $(($number:ident))? $text:literal $reply:ident { $($fields:tt)* } [$($verb:ident)+]
    )*) => {
        impl<'a> Reply<'a> {
            /// Returns the name of the lock that this reply is about, if it is about one.
            #[expect(unreachable_patterns, reason = "some replies have several texts")]
            pub fn name(&self) -> Option<&'a [u8]> {
                match self {
                    $(Reply::$reply { name, .. } => Some(name),)*
                    _ => None,
                }
            }
        }
    };
}

with_replies!(define_name);
