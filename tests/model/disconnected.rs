//! Commands without a reply, and what is certain about them once their connection has ended.

use std::collections::{BTreeMap, BTreeSet};

use crate::command::Command;
use crate::history::{Act, Lock, Operation, Token};
use crate::world::World;

/// A command that is not answered yet.
pub(crate) struct Sent {
    pub(crate) command: Command,
    /// The number of the command on its connection.
    pub(crate) number: u64,
    pub(crate) invoked: u64,
    /// The moment by which a wait had certainly begun.
    pub(crate) begun: Option<u64>,
    /// The moment until which a wait had certainly not ended.
    pub(crate) lasted: u64,
}

impl Sent {
    /// Returns the operation of a connection, as far as it is known without a reply.
    pub(crate) fn unanswered(&self, connection: u32, act: Act) -> Operation {
        Operation {
            begun: self.begun,
            lasted: self.lasted,
            ..Operation::unanswered(connection, act, self.invoked)
        }
    }
}

/// A connection that its client has closed.
pub(crate) struct Disconnected {
    pub(crate) number: u32,
    /// The locks that it held, according to all replies.
    pub(crate) held: BTreeMap<Lock, Token>,
    pub(crate) unanswered: Vec<Sent>,
    /// A moment before the client closed it.
    pub(crate) ending: u64,
}

impl Disconnected {
    /// Records that the connection has been observed to have ended, and its locks to be free.
    pub(crate) fn record(self, world: &World) {
        let ended = world.clock.now();
        let mut history = world.history.lock();
        let mut record = |lock, operation| {
            let answered = ended;
            history.push((
                lock,
                Operation {
                    answered,
                    ..operation
                },
            ));
        };
        let mut surely: BTreeSet<Lock> = self.held.into_keys().collect();
        let mut maybe = surely.clone();
        for sent in self.unanswered {
            world.count(sent.command, false);
            let (Command::Lock(lock, act) | Command::Wait { lock, act, .. }) = sent.command else {
                continue;
            };
            record(lock, sent.unanswered(self.number, act));
            if act.gets() {
                maybe.insert(lock);
                if world.max_locks.is_some() {
                    world.tally.lock().add("refused_locks", false);
                }
            }
            if act == Act::Release {
                surely.remove(&lock);
            }
        }
        for lock in maybe {
            record(
                lock,
                Operation::unanswered(self.number, Act::End, self.ending),
            );
            let orphans = if lock.shared {
                "shared_orphans"
            } else {
                "orphans"
            };
            world.tally.lock().add(orphans, surely.contains(&lock));
        }
    }
}
