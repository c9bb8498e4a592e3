//! What each command does: the protocol's table of contents.

use std::borrow::Cow;

use glockd_protocol::{Command, Counter, LockKind, ParseError, Reply, Verb};
use glockd_transports::Peer;

use crate::listing::Cursor;
use crate::locks::{self, LockTable};
use crate::policy::Policy;
use crate::registry::{ClientId, Registry};
use crate::stats::Stats;

/// The state of a server and the commands on it. Does no I/O and never waits, but for the short mutexes
/// of what it is made of.
#[derive(Debug, Default)]
pub struct Dispatcher {
    policy: Policy,
    locks: LockTable,
    registry: Registry,
    stats: Stats,
}

/// What a command is answered by.
#[derive(Debug)]
pub enum Answer<'a> {
    /// One reply, at once.
    Reply(Reply<'a>),
    /// A listing, in steps.
    List(Box<Cursor>),
}

/// The end of a connection, which may take several steps. See [`Dispatcher::disconnect`].
#[derive(Debug)]
pub struct Departure {
    client: ClientId,
    progress: locks::Progress,
    orphans: locks::Released,
}

impl Departure {
    /// The end of this connection, yet to come.
    pub fn new(client: ClientId) -> Departure {
        Departure {
            client,
            progress: locks::Progress::default(),
            orphans: locks::Released::default(),
        }
    }

    /// Whose end it is.
    pub fn client(&self) -> ClientId {
        self.client
    }

    /// What was orphaned so far.
    pub fn orphans(&self) -> locks::Released {
        self.orphans
    }
}

impl Dispatcher {
    /// A server's state, with nothing locked and nobody connected.
    pub fn new(policy: Policy) -> Dispatcher {
        let locks = LockTable::with_quota(policy.max_locks(), policy.max_locks_per_connection());
        Dispatcher {
            policy,
            locks,
            ..Dispatcher::default()
        }
    }

    /// A new connection. To be ended by [`disconnect`](Dispatcher::disconnect).
    pub fn connect(&self, peer: &Peer) -> ClientId {
        self.registry.enter(peer)
    }

    /// Counts a connection that is not let in.
    pub fn refuse(&self) {
        self.stats.refused_connection();
    }

    /// Answers a command.
    pub fn dispatch<'a>(&self, client: ClientId, command: &'a Command<'_>) -> Answer<'a> {
        self.stats.command(command.verb());
        if !self.policy.allows(command.verb()) {
            return Answer::Reply(Reply::Disabled);
        }
        Answer::Reply(match command {
            Command::Get(name) => Reply::Get {
                granted: self.locks.get(client, name),
                name,
            },
            Command::Release(name) => Reply::Release {
                released: self.locks.release(client, name),
                name,
            },
            Command::Inspect(name) => Reply::Inspect {
                locked: self.locks.holder(name).is_some(),
                name,
            },
            Command::SharedGet(name) => Reply::SharedGet {
                holders: self.locks.shared_get(client, name),
                name,
            },
            Command::SharedRelease(name) => Reply::SharedRelease {
                released: self.locks.shared_release(client, name),
                name,
            },
            Command::SharedInspect(name) => Reply::SharedInspect {
                holders: self.locks.holders(name),
                name,
            },
            Command::Me => self.me(client),
            Command::Iam(name) => {
                self.registry.rename(client, name.as_deref());
                Reply::Ok
            }
            Command::Statistics => Reply::Statistics(self.statistics()),
            Command::List(name) => {
                return list(Cursor::lines(LockKind::Exclusive, name.as_deref()));
            }
            Command::SharedList(name) => {
                return list(Cursor::lines(LockKind::Shared, name.as_deref()));
            }
            Command::Dump(kind) => return list(Cursor::map(*kind)),
            Command::Who(name) => return list(Cursor::who(name.as_deref())),
        })
    }

    /// Answers what is no command: counted, and met by no bytes.
    pub fn reject(&self, error: ParseError) -> Reply<'static> {
        self.stats.invalid_command();
        match error {
            ParseError::UnknownCommand => Reply::Nothing,
            // The enum may grow; what is new there is no command either.
            _ => Reply::Nothing,
        }
    }

    /// Answers a frame that was too long to be looked at: counted as no command.
    pub fn reject_oversized(&self, limit: usize) -> Reply<'static> {
        self.stats.invalid_command();
        Reply::LineTooLong { limit }
    }

    /// Takes a connection's end further: releases up to (about) `budget` of the locks it held and counts
    /// them as orphans. Once it holds none, its name is gone and it counts no more. Whether that is so;
    /// if not, call again. Nothing may be dispatched for it any more.
    pub fn disconnect(&self, departure: &mut Departure, budget: usize) -> bool {
        let (released, done) =
            self.locks
                .release_all(departure.client, &mut departure.progress, budget);
        departure.orphans.exclusive += released.exclusive;
        departure.orphans.shared += released.shared;
        self.stats
            .orphans(released.exclusive as u64, released.shared as u64);
        if done {
            self.registry.leave(departure.client);
        }
        done
    }

    /// The locks.
    pub fn locks(&self) -> &LockTable {
        &self.locks
    }

    /// The connections.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    fn me(&self, client: ClientId) -> Reply<'static> {
        let me = self.registry.look(client, |client| {
            (client.address().to_vec(), client.shown_as().to_vec())
        });
        let (address, name) = me.unwrap_or_default();
        Reply::Me {
            address: Cow::Owned(address),
            name: Cow::Owned(name),
        }
    }

    /// All counters, in the order of their keys. Those that the original does not have appear once they
    /// count.
    fn statistics(&self) -> Vec<(Counter, u64)> {
        // A connection ends by releasing its locks, counting them as orphans, and leaving, in that order.
        // Reading in the opposite one shows nobody a connection that is gone and orphans yet to come.
        let connections = self.registry.connections() as u64;
        let orphans = self.stats.exclusive_orphans();
        let shared_orphans = self.stats.shared_orphans();
        let commands = Verb::ALL
            .into_iter()
            .map(|verb| (Counter::Command(verb), self.stats.commands(verb)));
        let others = [
            (Counter::Connections, connections),
            (Counter::InvalidCommands, self.stats.invalid_commands()),
            (Counter::Locks, self.locks.count(LockKind::Exclusive) as u64),
            (Counter::Orphans, orphans),
            (
                Counter::RefusedConnections,
                self.stats.refused_connections(),
            ),
            (Counter::RefusedLocks, self.locks.refused()),
            (
                Counter::SharedLocks,
                self.locks.count(LockKind::Shared) as u64,
            ),
            (Counter::SharedOrphans, shared_orphans),
        ];
        commands
            .chain(others)
            .filter(|&(counter, count)| count > 0 || counter.is_documented())
            .collect()
    }
}

fn list(cursor: Cursor) -> Answer<'static> {
    Answer::List(Box::new(cursor))
}
