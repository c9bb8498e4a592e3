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
