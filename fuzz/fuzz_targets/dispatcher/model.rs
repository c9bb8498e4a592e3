//! A naive model of a server.

mod listings;
mod locks;

use std::collections::{BTreeMap, HashMap};

use glockd::Policy;
use glockd_protocol::{Command, LockKind, ParseError, Verb};

use listings::counted;
use locks::Denied;

use crate::naive;

/// State of the server. Clients are numbered in the order in which they connected.
pub(crate) struct Model {
    policy: Policy,
    clients: Vec<Client>,
    exclusive: HashMap<Vec<u8>, Holder>,
    /// Holders, in the order of their grants. A name without holders has no entry.
    shared: HashMap<Vec<u8>, Vec<Holder>>,
    /// Waits in the order in which they began. One that has succeeded stays until its client has the reply.
    waits: Vec<Wait>,
    /// Number of grants so far.
    grants: usize,
    /// Counters of `q`, without its gauges.
    counters: BTreeMap<String, usize>,
}

/// The reply to a line.
pub(crate) enum Answer {
    Bytes(Vec<u8>),
    /// The reply to `f` or `sf`: the name, and the number of the grant whose token it shows.
    Fence(Vec<u8>, Option<usize>),
    /// The reply to `own`: the name and its claims.
    Claims(Vec<u8>, Vec<Claim>),
    /// None yet: the command waits.
    Wait,
}

/// A line of `own`.
pub(crate) struct Claim {
    pub(crate) role: &'static str,
    pub(crate) address: &'static str,
    /// Number of the grant whose token it shows; `None` for a waiter, which has no token.
    pub(crate) grant: Option<usize>,
    pub(crate) name: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Holder {
    client: usize,
    grant: usize,
}

struct Wait {
    client: usize,
    kind: LockKind,
    name: Vec<u8>,
    /// True: it waits to hold the lock. False: it waits to see it free.
    get: bool,
    /// Maximum number of holders, including this one, if it waits to hold the lock; otherwise it waits for fewer
    /// holders than this.
    limit: usize,
    /// Number of holders at the moment of success; `None` until then.
    done: Option<usize>,
}

struct Client {
    address: &'static str,
    name: Option<Vec<u8>>,
    connected: bool,
}

impl Client {
    fn shown_as(&self) -> &[u8] {
        self.name.as_deref().unwrap_or(self.address.as_bytes())
    }
}

impl Model {
    pub(crate) fn new(policy: Policy) -> Model {
        let always = [
            "command_d",
            "command_dump",
            "command_g",
            "command_i",
            "command_q",
            "command_r",
            "command_sd",
            "command_sg",
            "command_si",
            "command_sr",
            "invalid_commands",
            "orphans",
            "shared_orphans",
        ];
        Model {
            policy,
            clients: Vec::new(),
            exclusive: HashMap::new(),
            shared: HashMap::new(),
            waits: Vec::new(),
            grants: 0,
            counters: always.map(|key| (key.to_owned(), 0)).into(),
        }
    }

    pub(crate) fn connect(&mut self, address: &'static str) -> usize {
        self.clients.push(Client {
            address,
            name: None,
            connected: true,
        });
        self.clients.len() - 1
    }

    pub(crate) fn refuse(&mut self) {
        self.count("refused_connections", 1);
    }

    pub(crate) fn reject_oversized(&mut self, limit: usize) -> Vec<u8> {
        self.count("invalid_commands", 1);
        format!("0 Line Too Long: limit {limit}\n").into()
    }

    /// Releases the locks of a client that the server has released, according to `holds` and `shares`. Returns the
    /// numbers of exclusive and shared locks.
    pub(crate) fn orphan(
        &mut self,
        client: usize,
        holds: impl Fn(&[u8]) -> bool,
        shares: impl Fn(&[u8]) -> bool,
    ) -> (usize, usize) {
        let exclusive: Vec<Vec<u8>> = (self.exclusive.iter())
            .filter(|(name, holder)| holder.client == client && !holds(name))
            .map(|(name, _)| name.clone())
            .collect();
        let shared: Vec<Vec<u8>> = (self.shared.iter())
            .filter(|(name, holders)| {
                holders.iter().any(|holder| holder.client == client) && !shares(name)
            })
            .map(|(name, _)| name.clone())
            .collect();
        exclusive.iter().for_each(|name| self.release(name));
        (shared.iter()).for_each(|name| assert!(self.shared_release(client, name)));
        self.count("orphans", exclusive.len());
        self.count("shared_orphans", shared.len());
        (exclusive.len(), shared.len())
    }

    /// Returns the number of holders at the moment when a client's wait succeeded, if it has.
    pub(crate) fn reached(&self, client: usize) -> Option<usize> {
        self.waits.iter().find(|wait| wait.client == client)?.done
    }

    /// Ends a client's wait. Returns the reply: success if the wait has succeeded, otherwise the refusal.
    pub(crate) fn end_wait(&mut self, client: usize, refusal: &str) -> Vec<u8> {
        let index = self.waits.iter().position(|wait| wait.client == client);
        let wait = self.waits.remove(index.unwrap());
        if wait.done.is_none() && wait.get {
            // The waiters behind it may have had to wait only because of it.
            self.serve_shared_waiters(&wait.name);
        }
        let Wait {
            kind,
            name,
            get,
            done,
            ..
        } = wait;
        end(get, kind, done, refusal, &name)
    }

    /// Removes a client, which must hold nothing.
    pub(crate) fn disconnect(&mut self, client: usize) {
        assert_eq!(self.claims_of(client), 0);
        self.clients[client].connected = false;
    }

    /// Runs a line of a client. Returns the reply.
    pub(crate) fn answer(&mut self, client: usize, line: &[u8]) -> Answer {
        let parsed = naive::parse(line);
        let verb = match &parsed {
            Ok(command) => Some(command.verb()),
            Err(ParseError::BadArgument(verb)) => Some(*verb),
            Err(_) => None,
        };
        let known = |verb: &Verb| self.policy.extensions || DOCUMENTED.contains(verb);
        let Some(verb) = verb.filter(known) else {
            self.count("invalid_commands", 1);
            return Answer::Bytes(Vec::new());
        };
        self.count(&format!("command_{}", verb.as_str()), 1);
        let Ok(command) = parsed else {
            return Answer::Bytes(reply("0 Bad Argument", verb.as_str().as_bytes()));
        };
        let Policy { dump, registry, .. } = self.policy;
        let allowed = match verb {
            Verb::D | Verb::Sd | Verb::Dump | Verb::Own => dump,
            Verb::Ld | Verb::Lsd | Verb::Ldl | Verb::Lsdl => dump,
            Verb::Iam => registry,
            Verb::Who | Verb::Lwho => dump && registry,
            _ => true,
        };
        if !allowed {
            return Answer::Bytes(b"0 disabled\n".into());
        }
        Answer::Bytes(match command {
            Command::Get(name) => match self.get(client, &name) {
                Ok(()) => reply("1 Lock Get Success", &name),
                Err(_) => reply("0 Lock Get Failure", &name),
            },
            Command::Release(name) => match self.exclusive.get(&*name) {
                Some(holder) if holder.client == client => {
                    self.release(&name);
                    reply("1 Lock Release Success", &name)
                }
                _ => reply("0 Lock Release Failure", &name),
            },
            Command::Inspect(name) => match self.exclusive.get(&*name) {
                Some(_) => reply("1 Lock Is Locked", &name),
                None => reply("0 Lock Not Locked", &name),
            },
            Command::SharedGet(name) => match self.shared_get(client, &name, usize::MAX) {
                Ok(holders) => reply(&format!("{holders} Shared Lock Get Success"), &name),
                Err(_) => reply("0 Shared Lock Get Failure", &name),
            },
            Command::SharedRelease(name) => match self.shared_release(client, &name) {
                true => reply("1 Shared Lock Release Success", &name),
                false => reply("0 Shared Lock Release Failure", &name),
            },
            Command::SharedInspect(name) => match self.number(&name) {
                0 => reply("0 Shared Lock Not Locked", &name),
                holders => reply(&format!("{holders} Shared Lock Is Locked"), &name),
            },
            Command::List(name) => self.list(LockKind::Exclusive, name.as_deref(), false),
            Command::SharedList(name) => self.list(LockKind::Shared, name.as_deref(), false),
            Command::Dump(kind) => self.dump(kind),
            Command::Me => {
                let client = &self.clients[client];
                let words = [b"1", client.address.as_bytes(), client.shown_as()];
                [&words.join(&b' ')[..], b"\n"].concat()
            }
            Command::Iam(name) => {
                self.clients[client].name = name.map(|name| name.into_owned());
                b"1 ok\n".into()
            }
            Command::Who(name) => self.who(name.as_deref()),
            Command::Statistics => self.statistics(),
            Command::Hello => b"1 hello: wait limit fence list own ping lengths timeout=0\n".into(),
            Command::Ping(text) => reply("1 pong", &text),
            Command::GetWait { ms, name } => {
                let got = self.get(client, &name).map(|()| 1);
                let wait = (LockKind::Exclusive, true, 1);
                return self.wait(client, &name, wait, got, ms);
            }
            Command::SharedGetLimited { limit, name } => {
                match self.shared_get_in_turn(client, &name, limit) {
                    Ok(holders) => reply(&format!("{holders} Shared Lock Get Success"), &name),
                    Err(_) => reply("0 Shared Lock Get Full", &name),
                }
            }
            Command::SharedGetWait { ms, limit, name } => {
                let got = self.shared_get_in_turn(client, &name, limit);
                let wait = (LockKind::Shared, true, limit as usize);
                return self.wait(client, &name, wait, got, ms);
            }
            Command::Cancel(name) => reply("0 Cancel Failure", &name),
            Command::InspectWait { ms, name } => {
                let holders = usize::from(self.exclusive.contains_key(&*name));
                let seen = if holders < 1 {
                    Ok(holders)
                } else {
                    Err(Denied::Held)
                };
                let wait = (LockKind::Exclusive, false, 1);
                return self.wait(client, &name, wait, seen, ms);
            }
            Command::SharedInspectWait { ms, below, name } => {
                let holders = self.number(&name);
                let below = below as usize;
                let seen = if holders < below {
                    Ok(holders)
                } else {
                    Err(Denied::Held)
                };
                let wait = (LockKind::Shared, false, below);
                return self.wait(client, &name, wait, seen, ms);
            }
            Command::Fence(name) => {
                let holder = self.exclusive.get(&*name);
                let own = holder.filter(|holder| holder.client == client);
                return Answer::Fence(name.to_vec(), own.map(|holder| holder.grant));
            }
            Command::SharedFence(name) => {
                let mut holders = self.shared.get(&*name).into_iter().flatten();
                let own = holders.find(|holder| holder.client == client);
                return Answer::Fence(name.to_vec(), own.map(|holder| holder.grant));
            }
            Command::Claims(name) => return Answer::Claims(name.to_vec(), self.claims(&name)),
            Command::CountedList(name) => counted(
                "Lock",
                name.as_deref(),
                self.list(LockKind::Exclusive, name.as_deref(), false),
            ),
            Command::CountedSharedList(name) => counted(
                "Shared Lock",
                name.as_deref(),
                self.list(LockKind::Shared, name.as_deref(), false),
            ),
            Command::ListWithLengths(name) => counted(
                "Lock",
                name.as_deref(),
                self.list(LockKind::Exclusive, name.as_deref(), true),
            ),
            Command::SharedListWithLengths(name) => counted(
                "Shared Lock",
                name.as_deref(),
                self.list(LockKind::Shared, name.as_deref(), true),
            ),
            Command::CountedWho(name) => {
                counted("Client", name.as_deref(), self.who(name.as_deref()))
            }
            Command::CountedStatistics => counted("Stats", None, self.statistics()),
        })
    }

    fn count(&mut self, key: &str, number: usize) {
        *self.counters.entry(key.to_owned()).or_default() += number;
    }
}

/// The commands that the original has.
const DOCUMENTED: [Verb; 13] = {
    use Verb::{D, Dump, G, I, Iam, Me, Q, R, Sd, Sg, Si, Sr, Who};
    [D, Dump, G, I, Iam, Me, Q, R, Sd, Sg, Si, Sr, Who]
};

/// Returns the reply to a command that waits: success if `done`, otherwise the refusal.
fn end(get: bool, kind: LockKind, done: Option<usize>, refusal: &str, name: &[u8]) -> Vec<u8> {
    match (get, kind, done) {
        (true, LockKind::Exclusive, Some(_)) => reply("1 Lock Get Success", name),
        (true, LockKind::Exclusive, None) => reply(&format!("0 Lock Get {refusal}"), name),
        (true, LockKind::Shared, Some(holders)) => {
            reply(&format!("{holders} Shared Lock Get Success"), name)
        }
        (true, LockKind::Shared, None) => reply(&format!("0 Shared Lock Get {refusal}"), name),
        (false, _, Some(_)) => reply("1 Lock Is Free", name),
        (false, _, None) => reply("0 Lock Is Locked", name),
    }
}

fn reply(text: &str, name: &[u8]) -> Vec<u8> {
    [text.as_bytes(), b": ", name, b"\n"].concat()
}
