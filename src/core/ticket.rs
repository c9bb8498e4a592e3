//! Commands that wait for a lock, and the tickets that stand for them.

use std::task::{Context, Poll};

use byteview::ByteView;
use glockd_protocol::{Command, LockKind, Refusal, Reply};

use crate::core::locks::{LockTable, WaitHandle};

/// A command that waits for a lock.
///
/// It must end, by [`Dispatcher::poll_wait`](super::dispatcher::Dispatcher::poll_wait) or
/// [`Dispatcher::end_wait`](super::dispatcher::Dispatcher::end_wait), before the next command of its client is
/// dispatched and before that client is disconnected.
#[derive(Debug)]
#[must_use = "a wait goes on until it is ended"]
pub struct Ticket {
    purpose: Purpose,
    name: ByteView,
    ms: u32,
    /// The wait in the lock table; `None` once it has ended.
    handle: Option<WaitHandle>,
}

/// What a command waits for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// `gw`, `sgw`: to hold the lock.
    Get(LockKind),
    /// `iw`, `siw`: to see the lock free, or held by few enough clients.
    Inspect,
}

impl Ticket {
    pub(super) fn new(purpose: Purpose, name: &[u8], ms: u32, handle: WaitHandle) -> Ticket {
        Ticket {
            purpose,
            name: name.into(),
            ms,
            handle: Some(handle),
        }
    }

    /// Returns the longest time to wait, in milliseconds.
    pub fn ms(&self) -> u32 {
        self.ms
    }

    /// Returns the name of the lock.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Returns true once the wait has ended.
    pub fn is_over(&self) -> bool {
        self.handle.is_none()
    }

    /// Returns the reply if the wait has succeeded. Until then, wakes the task when it has.
    ///
    /// # Panics
    ///
    /// If the wait has already ended.
    pub(super) fn poll(&mut self, locks: &LockTable, context: &Context<'_>) -> Poll<Reply<'_>> {
        let holders = locks.poll_wait(&mut self.handle, context);
        holders.map(|holders| self.purpose.succeed(holders, &self.name))
    }

    /// Ends the wait. Returns the reply, and true if the wait failed for this reason; false if it had succeeded
    /// in the meantime.
    pub(super) fn end(&mut self, locks: &LockTable, refusal: Refusal) -> (Reply<'_>, bool) {
        let handle = self.handle.take();
        match handle.and_then(|handle| locks.end_wait(handle)) {
            Some(holders) => (self.purpose.succeed(holders, &self.name), false),
            None => (self.purpose.fail(refusal, &self.name), true),
        }
    }
}

impl Purpose {
    /// Returns the purpose and the lock of a command that may wait; `None` for any other command.
    pub(super) fn of<'a>(command: &'a Command<'_>) -> Option<(Purpose, &'a [u8])> {
        match command {
            Command::GetWait { name, .. } => Some((Purpose::Get(LockKind::Exclusive), name)),
            Command::SharedGetWait { name, .. } => Some((Purpose::Get(LockKind::Shared), name)),
            Command::InspectWait { name, .. } | Command::SharedInspectWait { name, .. } => {
                Some((Purpose::Inspect, name))
            }
            _ => None,
        }
    }

    /// Returns the reply of a wait that succeeded, with this number of holders.
    pub(super) fn succeed(self, holders: u32, name: &[u8]) -> Reply<'_> {
        match self {
            Purpose::Get(LockKind::Exclusive) => Reply::Get {
                granted: true,
                name,
            },
            Purpose::Get(LockKind::Shared) => Reply::SharedGet { holders, name },
            Purpose::Inspect => Reply::InspectWait { free: true, name },
        }
    }

    /// Returns the reply of a wait that failed.
    pub(super) fn fail(self, refusal: Refusal, name: &[u8]) -> Reply<'_> {
        match self {
            Purpose::Get(LockKind::Exclusive) => Reply::GetRefused { refusal, name },
            Purpose::Get(LockKind::Shared) => Reply::SharedGetRefused { refusal, name },
            Purpose::Inspect => Reply::InspectWait { free: false, name },
        }
    }
}

#[cfg(test)]
mod tests {
    use glockd_protocol::{Verb, parse};

    use super::*;

    #[test]
    fn every_command_that_waits_has_a_purpose() {
        for verb in Verb::ALL {
            let line = format!("{} 1 2 x", verb.as_str());
            let command = parse(line.as_bytes()).unwrap();
            let lock = Purpose::of(&command).map(|(_, lock)| lock);
            assert_eq!(lock, command.waits_for(), "{verb:?}");
        }
    }
}
