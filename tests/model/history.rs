//! The operations on locks and their replies, and the order in which clients observed them.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Number of lock names.
pub(crate) const NAMES: usize = 6;

/// One lock: an exclusive or a shared one, with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lock {
    pub(crate) shared: bool,
    pub(crate) number: usize,
}

impl Lock {
    pub(crate) fn all() -> impl Iterator<Item = Lock> {
        let of_kind = |shared| (0..NAMES).map(move |number| Lock { shared, number });
        [false, true].into_iter().flat_map(of_kind)
    }

    /// Returns the name. Names are in the order of the numbers.
    pub(crate) fn name(self) -> String {
        format!("hot {}", self.number)
    }
}

/// An operation on a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Get,
    Release,
    Inspect,
    /// The end of a connection, which releases.
    End,
    /// A get that is refused, or waits in the queue, while the lock has `limit` holders.
    GetBelow {
        limit: u32,
        waits: bool,
    },
    /// A question whether the lock has fewer than `below` holders, or a wait for that.
    Watch {
        below: u32,
        waits: bool,
    },
}

impl Act {
    pub(crate) fn gets(self) -> bool {
        matches!(self, Act::Get | Act::GetBelow { .. })
    }

    /// Returns true if the reply may come later than the operation begins.
    pub(crate) fn waits(self) -> bool {
        let (Act::GetBelow { waits, .. } | Act::Watch { waits, .. }) = self else {
            return false;
        };
        waits
    }
}

/// The fencing token of a grant, once it is known. It never changes.
pub(crate) type Token = Arc<OnceLock<u64>>;

/// One operation of a connection on a lock. It took effect between two moments that its client observed. A wait also
/// begins at a moment in between, and ends at another.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) connection: u32,
    pub(crate) act: Act,
    /// A moment before the operation was sent.
    pub(crate) invoked: u64,
    /// A moment after the reply came; without a reply, a moment after the connection was observed to have ended.
    pub(crate) answered: u64,
    /// The number at the beginning of the reply: the number of holders, or 1 for success and 0 for failure.
    pub(crate) answer: Option<u32>,
    /// The moment by which a wait had certainly begun, or had succeeded at once; `None` if it possibly never began.
    pub(crate) begun: Option<u64>,
    /// The moment until which a wait without success had certainly not ended.
    pub(crate) lasted: u64,
    /// The token of the lock that this operation got.
    pub(crate) token: Token,
}

impl Operation {
    /// Returns an operation of which nothing is known but that it was invoked.
    pub(crate) fn unanswered(connection: u32, act: Act, invoked: u64) -> Operation {
        Operation {
            connection,
            act,
            invoked,
            answered: u64::MAX,
            answer: None,
            begun: None,
            lasted: invoked,
            token: Token::default(),
        }
    }

    /// Returns true if the operation possibly never ran: it was not answered, or was cancelled before it began. The
    /// end of a connection is certain.
    pub(crate) fn may_be_nothing(&self) -> bool {
        let cancelled = self.act.waits() && self.answer == Some(0);
        let unknown = self.answer.is_none() && self.act != Act::End;
        self.begun.is_none() && (unknown || cancelled)
    }

    /// Returns the limit of holders if the operation waits in the queue of the lock.
    pub(crate) fn queue_limit(&self) -> Option<u32> {
        match self.act {
            Act::GetBelow { limit, waits: true } => Some(limit),
            _ => None,
        }
    }
}

/// Numbers the observed moments of all clients. An operation that was answered at a lower number than another one was
/// invoked happened before it.
#[derive(Default)]
pub(crate) struct Clock(Mutex<Vec<Instant>>);

impl Clock {
    pub(crate) fn now(&self) -> u64 {
        let mut moments = self.0.lock();
        moments.push(Instant::now());
        moments.len() as u64 - 1
    }

    /// Returns the last moment that was observed at least `time` before another.
    pub(crate) fn before(&self, moment: u64, time: Duration) -> Option<u64> {
        let moments = self.0.lock();
        let limit = moments[moment as usize] - time;
        (moments.partition_point(|&at| at <= limit) as u64).checked_sub(1)
    }

    /// Returns the last moment that was observed less than `time` after another.
    pub(crate) fn after(&self, moment: u64, time: Duration) -> u64 {
        let moments = self.0.lock();
        let limit = moments[moment as usize] + time;
        moments.partition_point(|&at| at < limit) as u64 - 1
    }
}
