//! What each command does: the protocol's table of contents.

use std::borrow::Cow;
use std::hint::cold_path;
use std::task::{Context, Poll};
use std::time::Duration;

use byteview::ByteView;
use glockd_protocol::{Command, Counter, LockKind, ParseError, Refusal, Reply, Verb, parse};
use glockd_transports::Peer;

use crate::core::cursor::Cursor;
use crate::core::fence::Fence;
use crate::core::locks::{self, Attempt, LockTable, Stamp, Ticket};
use crate::core::policy::{Permission, Policy};
use crate::core::registry::{ClientId, Registry};
use crate::core::stats::Stats;

/// The state of a server and the commands on it. Does no I/O and never waits, but for the short mutexes
/// of what it is made of.
#[derive(Debug)]
pub struct Dispatcher {
    policy: Policy,
    locks: LockTable,
    fence: Fence,
    registry: Registry,
    stats: Stats,
    /// What `hello` says of it.
    peer_timeout: Option<Duration>,
}

/// What a command is answered by.
#[derive(Debug)]
pub enum Answer<'a> {
    /// One reply, at once.
    Reply(Reply<'a>),
    /// A listing, in steps.
    List(Box<Cursor>),
    /// A reply, later.
    Later(Wait),
}

/// A command that waits. To be ended by [`Dispatcher::poll_wait`] or [`Dispatcher::end_wait`] before anything
/// else is dispatched for its client, and before that is [disconnected](Dispatcher::disconnect).
#[derive(Debug)]
#[must_use = "a wait goes on until it is ended"]
pub struct Wait {
    goal: Goal,
    name: ByteView,
    ms: u32,
    /// `None` once it has ended.
    ticket: Option<Ticket>,
}

/// What a command waits for.
#[derive(Clone, Copy, Debug)]
enum Goal {
    /// `gw`, `sgw`.
    Get(LockKind),
    /// `iw`, `siw`.
    Inspect,
}

impl Wait {
    /// For how long to wait at most, in milliseconds.
    pub fn ms(&self) -> u32 {
        self.ms
    }

    /// The lock.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.ticket.is_none()
    }
}

impl Goal {
    /// What a command that waits is for, and the lock.
    fn of<'a>(command: &'a Command<'_>) -> Option<(Goal, &'a [u8])> {
        match command {
            Command::GetWait { name, .. } => Some((Goal::Get(LockKind::Exclusive), name)),
            Command::SharedGetWait { name, .. } => Some((Goal::Get(LockKind::Shared), name)),
            Command::InspectWait { name, .. } | Command::SharedInspectWait { name, .. } => {
                Some((Goal::Inspect, name))
            }
            _ => None,
        }
    }

    fn reached(self, holders: u32, name: &[u8]) -> Reply<'_> {
        match self {
            Goal::Get(LockKind::Exclusive) => Reply::Get {
                granted: true,
                name,
            },
            Goal::Get(LockKind::Shared) => Reply::SharedGet { holders, name },
            Goal::Inspect => Reply::InspectWait { free: true, name },
        }
    }

    fn missed(self, refusal: Refusal, name: &[u8]) -> Reply<'_> {
        match self {
            Goal::Get(LockKind::Exclusive) => Reply::GetRefused { refusal, name },
            Goal::Get(LockKind::Shared) => Reply::SharedGetRefused { refusal, name },
            Goal::Inspect => Reply::InspectWait { free: false, name },
        }
    }
}

/// The lock that a command waits for, if it is one that does.
pub fn waits_for<'a>(command: &'a Command<'_>) -> Option<&'a [u8]> {
    Goal::of(command).map(|(_, name)| name)
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

impl Default for Dispatcher {
    fn default() -> Dispatcher {
        Dispatcher::new(Policy::default())
    }
}

impl Dispatcher {
    /// A server's state, with nothing locked and nobody connected.
    pub fn new(policy: Policy) -> Dispatcher {
        Dispatcher::with_fence(policy, Fence::from_clock())
    }

    /// The same, with fencing tokens from elsewhere.
    pub fn with_fence(policy: Policy, fence: Fence) -> Dispatcher {
        Dispatcher {
            policy,
            locks: LockTable::with_limits(
                policy.max_locks(),
                policy.max_locks_per_connection(),
                policy.max_waiters(),
            ),
            fence,
            registry: Registry::default(),
            stats: Stats::new(),
            peer_timeout: None,
        }
    }

    /// Sets what `hello` says of how soon a silent client is given up; by default, that it never is.
    pub fn with_peer_timeout(self, peer_timeout: Option<Duration>) -> Dispatcher {
        Dispatcher {
            peer_timeout,
            ..self
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

    /// Counts a connection that is closed because it spoke HTTP.
    pub fn refuse_http(&self) {
        self.stats.refused_http_connection();
    }

    /// Whether a line is one of an HTTP request, and not a command that is known here.
    pub fn is_http(&self, line: &[u8]) -> bool {
        let is_known = |verb| self.policy.permission(verb) != Permission::Unknown;
        glockd_protocol::is_http(line)
            && match parse(line) {
                Ok(command) => !is_known(command.verb()),
                Err(ParseError::BadArgument(verb)) => !is_known(verb),
                Err(_) => true,
            }
    }

    /// Answers a command.
    pub fn dispatch<'a>(&self, client: ClientId, command: &'a Command<'_>) -> Answer<'a> {
        let verb = command.verb();
        let permission = self.policy.permission(verb);
        if permission == Permission::Unknown {
            return Answer::Reply(self.reject(ParseError::UnknownCommand));
        }
        self.stats.command(verb);
        if permission == Permission::Disabled {
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
            Command::GetWait { ms, name } => {
                let attempt = self.locks.get_or_wait(client, name, *ms > 0);
                return waiting(Goal::Get(LockKind::Exclusive), name, *ms, attempt);
            }
            // Apart, or a compiler would take all of these for too rare to be worth inlining.
            other => {
                cold_path();
                return self.dispatch_other(client, other);
            }
        })
    }

    /// Answers a command that is about more than one lock, or waits, or is about none.
    #[inline(always)]
    fn dispatch_other<'a>(&self, client: ClientId, command: &'a Command<'_>) -> Answer<'a> {
        Answer::Reply(match command {
            Command::Get(_)
            | Command::Release(_)
            | Command::Inspect(_)
            | Command::SharedGet(_)
            | Command::SharedRelease(_)
            | Command::SharedInspect(_)
            | Command::GetWait { .. } => unreachable!("these are answered above"),
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
            Command::Hello => Reply::Hello {
                peer_timeout: self.peer_timeout,
            },
            Command::Ping(text) => Reply::Pong(text),
            Command::SharedGetLimited { limit, name } => {
                match self.locks.shared_get_or_wait(client, name, *limit, false) {
                    Attempt::Done(holders) => Reply::SharedGet { holders, name },
                    Attempt::Busy | Attempt::Full | Attempt::Waits(_) => {
                        Reply::SharedGetFull { name }
                    }
                }
            }
            Command::SharedGetWait { ms, limit, name } => {
                let attempt = self.locks.shared_get_or_wait(client, name, *limit, *ms > 0);
                return waiting(Goal::Get(LockKind::Shared), name, *ms, attempt);
            }
            // Of a client that waits for nothing.
            Command::Cancel(name) => Reply::Cancel {
                cancelled: false,
                name,
            },
            Command::InspectWait { ms, name } => {
                let kind = LockKind::Exclusive;
                let attempt = self.locks.watch(client, kind, name, 1, *ms > 0);
                return waiting(Goal::Inspect, name, *ms, attempt);
            }
            Command::SharedInspectWait { ms, below, name } => {
                let kind = LockKind::Shared;
                let attempt = self.locks.watch(client, kind, name, *below, *ms > 0);
                return waiting(Goal::Inspect, name, *ms, attempt);
            }
            Command::Fence(name) => self.answer_fence(client, LockKind::Exclusive, name),
            Command::SharedFence(name) => self.answer_fence(client, LockKind::Shared, name),
            Command::Claims(name) => return list(Cursor::owners(name)),
            Command::CountedList(name) => {
                return list(Cursor::counted_lines(LockKind::Exclusive, name.as_deref()));
            }
            Command::CountedSharedList(name) => {
                return list(Cursor::counted_lines(LockKind::Shared, name.as_deref()));
            }
            Command::ListWithLengths(name) => {
                let kind = LockKind::Exclusive;
                return list(Cursor::lines_with_lengths(kind, name.as_deref()));
            }
            Command::SharedListWithLengths(name) => {
                return list(Cursor::lines_with_lengths(
                    LockKind::Shared,
                    name.as_deref(),
                ));
            }
            Command::CountedWho(name) => return list(Cursor::counted_who(name.as_deref())),
            Command::CountedStatistics => Reply::CountedStatistics(self.statistics()),
        })
    }

    /// Answers what is no command: counted, and met by no bytes.
    pub fn reject(&self, error: ParseError) -> Reply<'static> {
        match error {
            ParseError::BadArgument(verb)
                if self.policy.permission(verb) != Permission::Unknown =>
            {
                self.stats.command(verb);
                Reply::BadArgument(verb)
            }
            // The enum may grow; what is new there is no command either.
            _ => {
                self.stats.invalid_command();
                Reply::Nothing
            }
        }
    }

    /// Answers a frame that was too long to be looked at: counted as no command.
    pub fn reject_oversized(&self, limit: usize) -> Reply<'static> {
        self.stats.invalid_command();
        Reply::LineTooLong { limit }
    }

    /// The reply of a wait that has got what it was for; until then the task is woken when it has.
    pub fn poll_wait<'a>(&self, wait: &'a mut Wait, context: &Context<'_>) -> Poll<Reply<'a>> {
        let holders = self.locks.poll(&mut wait.ticket, context);
        holders.map(|holders| wait.goal.reached(holders, &wait.name))
    }

    /// Ends a wait, for this reason unless it has got what it was for meanwhile; its reply says so, and the
    /// second part of the result whether it was ended.
    pub fn end_wait<'a>(&self, wait: &'a mut Wait, refusal: Refusal) -> (Reply<'a>, bool) {
        let reached = wait
            .ticket
            .take()
            .and_then(|ticket| self.locks.give_up(ticket));
        match reached {
            Some(holders) => (wait.goal.reached(holders, &wait.name), false),
            None => (wait.goal.missed(refusal, &wait.name), true),
        }
    }

    /// Answers a command that was cancelled before it could begin to wait, if it is one that waits.
    pub fn cancel_unbegun<'a>(&self, command: &'a Command<'_>) -> Option<Reply<'a>> {
        let (goal, name) = Goal::of(command)?;
        self.stats.command(command.verb());
        Some(goal.missed(Refusal::Cancelled, name))
    }

    /// Answers a `cancel` of a client that waits: whoever knows of its waits has carried it out, or not.
    pub fn answer_cancel<'a>(&self, name: &'a [u8], cancelled: bool) -> Reply<'a> {
        self.stats.command(Verb::Cancel);
        Reply::Cancel { cancelled, name }
    }

    /// Answers a `ping` of a client that waits.
    pub fn answer_ping<'a>(&self, text: &'a [u8]) -> Reply<'a> {
        self.stats.command(Verb::Ping);
        Reply::Pong(text)
    }

    /// The fencing token of a grant, if it can be vouched for.
    pub fn token(&self, stamp: Stamp) -> Option<u64> {
        self.fence.token(stamp)
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

    /// Where the fencing tokens come from. A server [keeps](Fence::keep) it.
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// The locks.
    pub fn locks(&self) -> &LockTable {
        &self.locks
    }

    /// The connections.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    fn answer_fence<'a>(&self, client: ClientId, kind: LockKind, name: &'a [u8]) -> Reply<'a> {
        let stamp = self.locks.held_since(client, kind, name);
        Reply::Fence {
            token: stamp.and_then(|stamp| self.token(stamp)),
            name,
        }
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
            (Counter::RefusedHttp, self.stats.refused_http()),
            (Counter::RefusedLocks, self.locks.refused()),
            (
                Counter::SharedLocks,
                self.locks.count(LockKind::Shared) as u64,
            ),
            (Counter::SharedOrphans, shared_orphans),
        ];
        commands
            .chain(others)
            .filter(|&(counter, count)| count > 0 || counter.is_always_shown())
            .collect()
    }
}

/// The answer of a command that is ready to wait.
fn waiting<'a>(goal: Goal, name: &'a [u8], ms: u32, attempt: Attempt) -> Answer<'a> {
    Answer::Reply(match attempt {
        Attempt::Done(holders) => goal.reached(holders, name),
        Attempt::Busy => goal.missed(Refusal::Timeout, name),
        Attempt::Full => goal.missed(Refusal::QueueFull, name),
        Attempt::Waits(ticket) => {
            return Answer::Later(Wait {
                goal,
                name: name.into(),
                ms,
                ticket: Some(ticket),
            });
        }
    })
}

fn list(cursor: Cursor) -> Answer<'static> {
    Answer::List(Box::new(cursor))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::testing::spawn_until_blocked;

    /// Runs `blocked` in a thread of its own while the registry is locked; and `meanwhile`, once that thread waits for
    /// the registry. Returns what `blocked` does, when the registry is unlocked again.
    fn with_locked_registry<T: Send>(
        dispatcher: &Dispatcher,
        client: ClientId,
        blocked: impl FnOnce() -> T + Send,
        meanwhile: impl FnOnce(),
    ) -> T {
        thread::scope(|scope| {
            let locked = dispatcher.registry.look(client, |_| {
                let thread = spawn_until_blocked(scope, blocked);
                meanwhile();
                thread
            });
            locked.unwrap().join().unwrap()
        })
    }

    /// What `q` shows must include the locks of every connection that it does not count any more. So it is to look at
    /// the connections before it looks at the orphans.
    #[test]
    fn statistics_count_orphans_after_connections() {
        let dispatcher = Dispatcher::default();
        let client = dispatcher.connect(&Peer::new("a"));
        let statistics = with_locked_registry(
            &dispatcher,
            client,
            || dispatcher.statistics(),
            || dispatcher.stats.orphans(3, 5),
        );
        for counted in [
            (Counter::Connections, 1),
            (Counter::Orphans, 3),
            (Counter::SharedOrphans, 5),
        ] {
            assert!(
                statistics.contains(&counted),
                "no {counted:?} in {statistics:?}"
            );
        }
    }

    /// For the same reason a connection that ends counts its orphans before it leaves.
    #[test]
    fn a_connection_leaves_after_its_orphans_are_counted() {
        let dispatcher = Dispatcher::default();
        let client = dispatcher.connect(&Peer::new("a"));
        assert!(dispatcher.locks.get(client, b"x"));
        assert_eq!(dispatcher.locks.shared_get(client, b"x"), 1);
        let mut departure = Departure::new(client);
        let has_left = with_locked_registry(
            &dispatcher,
            client,
            || dispatcher.disconnect(&mut departure, usize::MAX),
            || {
                assert_eq!(dispatcher.stats.exclusive_orphans(), 1);
                assert_eq!(dispatcher.stats.shared_orphans(), 1);
                assert_eq!(dispatcher.locks.holder(b"x"), None);
            },
        );
        assert!(has_left);
        assert_eq!(dispatcher.registry.connections(), 0);
    }
}
