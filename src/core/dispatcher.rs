//! What each command does: the protocol's table of contents.

use std::borrow::Cow;
use std::hint::cold_path;
use std::task::{Context, Poll};
use std::time::Duration;

use glockd_protocol::{Command, LockKind, ParseError, Refusal, Reply, Verb, parse};

use crate::core::cursor::Cursor;
use crate::core::fence::Fence;
use crate::core::locks::{Attempt, Disconnection, IfBusy, LockTable};
use crate::core::observer::{Event, Events};
use crate::core::policy::{Permission, Permissions, Policy};
use crate::core::registry::{Client, ClientId, Registry};
use crate::core::state::State;
use crate::core::statistics::Statistics;
use crate::core::ticket::{Purpose, Ticket};

/// The commands on the state of a server.
///
/// Does no I/O and never waits, except for the short mutexes of the state.
#[derive(Debug)]
pub struct Dispatcher {
    permissions: Permissions,
    state: State,
    events: Events,
    /// Time limit that `hello` announces.
    peer_timeout: Option<Duration>,
}

/// Outcome of a command.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// One reply, at once.
    Reply(Reply<'a>),
    /// A listing, in steps.
    List(Box<Cursor>),
    /// A wait; the reply comes when it ends.
    Wait(Ticket),
}

/// Settings of a [`Dispatcher`].
#[derive(Debug)]
pub struct Options {
    /// Commands and limits that clients may use.
    pub policy: Policy,
    /// Source of the fencing tokens.
    pub fence: Fence,
    /// Time limit that `hello` announces: a client that stays silent for longer is disconnected. `None`: never.
    pub peer_timeout: Option<Duration>,
    /// Destination of the events.
    pub events: Events,
}

impl Default for Options {
    /// Everything is allowed and unlimited, tokens start at the time of day, silent clients stay connected, and there is
    /// no observer.
    fn default() -> Options {
        Options {
            policy: Policy::default(),
            fence: Fence::from_clock(),
            peer_timeout: None,
            events: Events::default(),
        }
    }
}

impl Default for Dispatcher {
    fn default() -> Dispatcher {
        Dispatcher::new(Options::default())
    }
}

impl Dispatcher {
    /// Makes a server's state, with no locks and no connections.
    pub fn new(options: Options) -> Dispatcher {
        let Options {
            policy,
            fence,
            peer_timeout,
            events,
        } = options;
        Dispatcher {
            permissions: Permissions::new(&policy),
            state: State::new(LockTable::observed(policy.limits, events.clone()), fence),
            peer_timeout,
            events,
        }
    }

    /// Adds a connection from this address. It must end by [`disconnect`](Dispatcher::disconnect).
    pub fn connect(&self, address: &[u8]) -> ClientId {
        self.connect_prepared(address, |_| {})
    }

    /// Adds a connection as [`connect`](Dispatcher::connect) does. Calls `prepare` before anyone can find or observe it,
    /// with the registry locked.
    pub fn connect_prepared(&self, address: &[u8], prepare: impl FnOnce(ClientId)) -> ClientId {
        let registry = &self.state.registry;
        let client = registry.add_prepared(address, prepare);
        if self.events.are_observed()
            && let Some(id) = registry.with_client(client, Client::id)
        {
            self.events.emit_connected(client, id, address);
        }
        client
    }

    /// Counts a connection from this address that was refused by a limit.
    pub fn count_refused_connection(&self, address: &[u8]) {
        self.state.counters.count_refused_connection();
        self.events.emit_connection_refused(address);
    }

    /// Counts a connection that was closed because its peer spoke HTTP.
    pub fn count_refused_http(&self) {
        self.state.counters.count_refused_http();
    }

    /// Returns true if a line belongs to an HTTP request and is not a known command.
    pub fn is_http(&self, line: &[u8]) -> bool {
        let is_known = |verb| self.permissions.of(verb) != Permission::Unknown;
        glockd_protocol::is_http(line)
            && match parse(line) {
                Ok(command) => !is_known(command.verb()),
                Err(ParseError::BadArgument(verb)) => !is_known(verb),
                Err(_) => true,
            }
    }

    /// Runs a command of a client.
    pub fn dispatch<'a>(&self, client: ClientId, command: &'a Command<'_>) -> Outcome<'a> {
        let State {
            locks, counters, ..
        } = &self.state;
        let verb = command.verb();
        let permission = self.permissions.of(verb);
        if permission == Permission::Unknown {
            return Outcome::Reply(self.reject(ParseError::UnknownCommand));
        }
        counters.count_command(verb);
        if permission == Permission::Disabled {
            self.events
                .emit(client, |connection| Event::CommandRefused {
                    connection,
                    verb,
                });
            return Outcome::Reply(Reply::Disabled);
        }
        Outcome::Reply(match command {
            Command::Get(name) => Reply::Get {
                granted: locks.get(client, name),
                name,
            },
            Command::Release(name) => Reply::Release {
                released: locks.release(client, name),
                name,
            },
            Command::Inspect(name) => Reply::Inspect {
                locked: locks.holder(name).is_some(),
                name,
            },
            Command::SharedGet(name) => Reply::SharedGet {
                holders: locks.shared_get(client, name),
                name,
            },
            Command::SharedRelease(name) => Reply::SharedRelease {
                released: locks.shared_release(client, name),
                name,
            },
            Command::SharedInspect(name) => Reply::SharedInspect {
                holders: locks.shared_holder_count(name),
                name,
            },
            Command::GetWait { ms, name } => {
                let attempt = locks.get_or_wait(client, name, if_busy(*ms));
                return reply_or_wait(Purpose::Get(LockKind::Exclusive), name, *ms, attempt);
            }
            // In a function of its own. In one match, the compiler takes all arms for too rare to inline.
            other => {
                cold_path();
                return self.dispatch_other(client, other);
            }
        })
    }

    /// Runs a command that concerns several locks, or none, or that waits.
    #[inline(always)]
    fn dispatch_other<'a>(&self, client: ClientId, command: &'a Command<'_>) -> Outcome<'a> {
        let State {
            locks, registry, ..
        } = &self.state;
        Outcome::Reply(match command {
            Command::Get(_)
            | Command::Release(_)
            | Command::Inspect(_)
            | Command::SharedGet(_)
            | Command::SharedRelease(_)
            | Command::SharedInspect(_)
            | Command::GetWait { .. } => unreachable!("`dispatch` runs these"),
            Command::Me => self.me(client),
            Command::Iam(name) => {
                registry.rename(client, name.as_deref());
                Reply::Ok
            }
            Command::Statistics => Reply::Statistics(self.statistics().counters()),
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
                match locks.shared_get_or_wait(client, name, *limit, IfBusy::Refuse) {
                    Attempt::Done(holders) => Reply::SharedGet { holders, name },
                    Attempt::Busy | Attempt::Full | Attempt::Waits(_) => {
                        Reply::SharedGetFull { name }
                    }
                }
            }
            Command::SharedGetWait { ms, limit, name } => {
                let attempt = locks.shared_get_or_wait(client, name, *limit, if_busy(*ms));
                return reply_or_wait(Purpose::Get(LockKind::Shared), name, *ms, attempt);
            }
            // The connection carries out the cancellation of a wait. Here, the client does not wait.
            Command::Cancel(name) => Reply::Cancel {
                cancelled: false,
                name,
            },
            Command::InspectWait { ms, name } => {
                let attempt = locks.watch(client, LockKind::Exclusive, name, 1, if_busy(*ms));
                return reply_or_wait(Purpose::Inspect, name, *ms, attempt);
            }
            Command::SharedInspectWait { ms, below, name } => {
                let attempt = locks.watch(client, LockKind::Shared, name, *below, if_busy(*ms));
                return reply_or_wait(Purpose::Inspect, name, *ms, attempt);
            }
            Command::Fence(name) => self.answer_fence(client, LockKind::Exclusive, name),
            Command::SharedFence(name) => self.answer_fence(client, LockKind::Shared, name),
            Command::Claims(name) => return list(Cursor::claims(name)),
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
                let kind = LockKind::Shared;
                return list(Cursor::lines_with_lengths(kind, name.as_deref()));
            }
            Command::CountedWho(name) => return list(Cursor::counted_who(name.as_deref())),
            Command::CountedStatistics => Reply::CountedStatistics(self.statistics().counters()),
        })
    }

    /// Counts a line that cannot be parsed, and returns its reply. An unknown command gets no bytes.
    pub fn reject(&self, error: ParseError) -> Reply<'static> {
        match error {
            ParseError::BadArgument(verb) if self.permissions.of(verb) != Permission::Unknown => {
                self.state.counters.count_command(verb);
                Reply::BadArgument(verb)
            }
            // The enum may grow. A new error is not a command either.
            _ => {
                self.state.counters.count_invalid_command();
                Reply::Nothing
            }
        }
    }

    /// Counts a line that is longer than this limit as an invalid command, and returns its reply.
    pub fn reject_oversized(&self, limit: usize) -> Reply<'static> {
        self.state.counters.count_invalid_command();
        Reply::LineTooLong { limit }
    }

    /// Returns the reply if a wait has succeeded. Until then, wakes the task when it has.
    ///
    /// # Panics
    ///
    /// If the wait has already ended.
    pub fn poll_wait<'a>(&self, ticket: &'a mut Ticket, context: &Context<'_>) -> Poll<Reply<'a>> {
        ticket.poll(&self.state.locks, context)
    }

    /// Ends a wait. Returns the reply, and true if the wait failed for this reason; false if it had succeeded in the
    /// meantime.
    pub fn end_wait<'a>(&self, ticket: &'a mut Ticket, refusal: Refusal) -> (Reply<'a>, bool) {
        ticket.end(&self.state.locks, refusal)
    }

    /// Answers a command that was cancelled before its wait began; `None` if the command never waits.
    pub fn cancel_unbegun<'a>(&self, command: &'a Command<'_>) -> Option<Reply<'a>> {
        let (purpose, name) = Purpose::of(command)?;
        self.state.counters.count_command(command.verb());
        Some(purpose.fail(Refusal::Cancelled, name))
    }

    /// Answers the `cancel` of a client that waits. The caller knows the client's waits, and has tried to cancel one.
    pub fn answer_cancel<'a>(&self, name: &'a [u8], cancelled: bool) -> Reply<'a> {
        self.state.counters.count_command(Verb::Cancel);
        Reply::Cancel { cancelled, name }
    }

    /// Answers the `ping` of a client that waits.
    pub fn answer_ping<'a>(&self, text: &'a [u8]) -> Reply<'a> {
        self.state.counters.count_command(Verb::Ping);
        Reply::Pong(text)
    }

    /// Takes a disconnection further: releases about `budget` locks of the client, or fewer, and counts them as
    /// orphans. Once the client holds none, its name and its connection are removed.
    ///
    /// Returns true if that is done, and false if this must be called again. From the first call on, no command of
    /// the client may be dispatched.
    pub fn disconnect(&self, disconnection: &mut Disconnection, budget: usize) -> bool {
        let State {
            locks,
            registry,
            counters,
            ..
        } = &self.state;
        if disconnection.is_complete() {
            return true;
        }
        let released = locks.release_some(disconnection, budget);
        counters.count_orphans(released.exclusive as u64, released.shared as u64);
        if disconnection.is_complete() {
            let client = disconnection.client();
            self.events
                .emit(client, |connection| Event::Disconnected { connection });
            registry.remove(client);
        }
        disconnection.is_complete()
    }

    /// Returns the state that the commands act on.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Returns the locks.
    pub fn locks(&self) -> &LockTable {
        &self.state.locks
    }

    /// Returns the connections.
    pub fn registry(&self) -> &Registry {
        &self.state.registry
    }

    /// Reads all counters.
    pub fn statistics(&self) -> Statistics {
        Statistics::of(&self.state)
    }

    fn answer_fence<'a>(&self, client: ClientId, kind: LockKind, name: &'a [u8]) -> Reply<'a> {
        let State { locks, fence, .. } = &self.state;
        let stamp = locks.held_since(client, kind, name);
        Reply::Fence {
            token: stamp.and_then(|stamp| fence.token(stamp)),
            name,
        }
    }

    fn me(&self, client: ClientId) -> Reply<'static> {
        let me = self.state.registry.with_client(client, |client| {
            (client.address().to_vec(), client.shown_as().to_vec())
        });
        let (address, name) = me.unwrap_or_default();
        Reply::Me {
            address: Cow::Owned(address),
            name: Cow::Owned(name),
        }
    }
}

/// A command that may wait for 0 ms does not wait.
fn if_busy(ms: u32) -> IfBusy {
    match ms {
        0 => IfBusy::Refuse,
        _ => IfBusy::Wait,
    }
}

/// Returns the outcome of a command that may wait.
fn reply_or_wait<'a>(purpose: Purpose, name: &'a [u8], ms: u32, attempt: Attempt) -> Outcome<'a> {
    Outcome::Reply(match attempt {
        Attempt::Done(holders) => purpose.succeed(holders, name),
        Attempt::Busy => purpose.fail(Refusal::Timeout, name),
        Attempt::Full => purpose.fail(Refusal::QueueFull, name),
        Attempt::Waits(handle) => {
            return Outcome::Wait(Ticket::new(purpose, name, ms, handle));
        }
    })
}

fn list(cursor: Cursor) -> Outcome<'static> {
    Outcome::List(Box::new(cursor))
}

#[cfg(test)]
mod tests;
