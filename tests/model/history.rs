//! What was asked and answered, and in what order that was seen.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How many names are fought for.
pub(crate) const NAMES: usize = 6;

/// One lock: a name, as an exclusive or as a shared one.
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

    /// Names in sorted order.
    pub(crate) fn name(self) -> String {
        format!("hot {}", self.number)
    }
}

/// What can be done to a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Get,
    Release,
    Inspect,
    /// The end of a connection, which releases.
    End,
    /// A get that stands in line, if that is wanted, while so many hold the lock.
    GetBelow {
        limit: u32,
        waits: bool,
    },
    /// A look at whether fewer than so many hold the lock, or a wait for that.
    Watch {
        below: u32,
        waits: bool,
    },
}

impl Act {
    pub(crate) fn gets(self) -> bool {
        matches!(self, Act::Get | Act::GetBelow { .. })
    }

    /// Whether it may be answered later than it begins.
    pub(crate) fn waits(self) -> bool {
        let (Act::GetBelow { waits, .. } | Act::Watch { waits, .. }) = self else {
            return false;
        };
        waits
    }
}

/// The fencing token of a hold, once it is known. It never changes.
pub(crate) type Token = Arc<OnceLock<u64>>;

/// One thing that a connection did to a lock: at some moment between two that its client saw. A wait also
/// begins at one, and ends at another, in between.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) connection: u32,
    pub(crate) act: Act,
    /// Before it was sent.
    pub(crate) invoked: u64,
    /// After its answer came; or, without one, after its connection was seen to have ended.
    pub(crate) answered: u64,
    /// The number that the answer begins with: how many hold the lock, or whether that was done.
    pub(crate) answer: Option<u32>,
    /// By when a wait had certainly begun, or got at once what it is for; `None` if it perhaps never began.
    pub(crate) begun: Option<u64>,
    /// Until when a wait in vain certainly had not ended.
    pub(crate) lasted: u64,
    /// Of what this got.
    pub(crate) token: Token,
}

impl Operation {
    /// Of which nothing is known but that it was invoked.
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
}

/// Numbers the moments that are seen, over all clients. What was answered at a lower number than another
/// was invoked at happened before it.
#[derive(Default)]
pub(crate) struct Clock(Mutex<Vec<Instant>>);

impl Clock {
    pub(crate) fn now(&self) -> u64 {
        let mut moments = self.0.lock();
        moments.push(Instant::now());
        moments.len() as u64 - 1
    }

    /// The last moment that was seen at least so long before another.
    pub(crate) fn before(&self, moment: u64, time: Duration) -> Option<u64> {
        let moments = self.0.lock();
        let limit = moments[moment as usize] - time;
        (moments.partition_point(|&at| at <= limit) as u64).checked_sub(1)
    }

    /// The last moment that was seen less than so long after another.
    pub(crate) fn after(&self, moment: u64, time: Duration) -> u64 {
        let moments = self.0.lock();
        let limit = moments[moment as usize] + time;
        moments.partition_point(|&at| at < limit) as u64 - 1
    }
}
