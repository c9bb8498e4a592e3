//! A server as plainly as it can be written.

use std::collections::{BTreeMap, HashMap};

use glockd_protocol::{Command, LockKind, ParseError, Verb};

use crate::naive;

/// Clients are numbered in the order in which they came.
pub(crate) struct Model {
    flags: Flags,
    limits: Limits,
    clients: Vec<Client>,
    exclusive: HashMap<Vec<u8>, Holder>,
    /// Holders in the order in which they came; a name that nobody holds is not there.
    shared: HashMap<Vec<u8>, Vec<Holder>>,
    /// All who wait, in the order in which they came, until they know how it ended.
    waits: Vec<Wait>,
    grants: usize,
    /// The counters of `q` that only grow.
    counters: BTreeMap<String, usize>,
}

/// What may be asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flags {
    pub(crate) dump: bool,
    pub(crate) registry: bool,
    pub(crate) extensions: bool,
}

/// How many locks may be held, and waited for.
pub(crate) struct Limits {
    pub(crate) in_all: Option<usize>,
    pub(crate) by_client: Option<usize>,
    pub(crate) waiters: Option<usize>,
}

/// What a line is answered by.
pub(crate) enum Answer {
    Bytes(Vec<u8>),
    /// A token, known by the number of its grant.
    Fence(Vec<u8>, Option<usize>),
    /// Roles, addresses, tokens as above, and names.
    Owners(Vec<u8>, Vec<Owner>),
    /// Nothing yet.
    Later,
}

pub(crate) struct Owner {
    pub(crate) role: &'static str,
    pub(crate) address: &'static str,
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
    /// Whether it is to hold the lock, rather than to see it free.
    get: bool,
    /// To get it: how many may hold it then. To see it: fewer than so many.
    limit: usize,
    /// How many held it when that was so.
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
    pub(crate) fn new(flags: Flags, limits: Limits) -> Model {
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
            flags,
            limits,
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

    /// Orphans what a client does not hold any more. How many exclusive and shared locks those were.
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

    /// How many held the lock that a client waits for, if it has got what it waits for.
    pub(crate) fn reached(&self, client: usize) -> Option<usize> {
        self.waits.iter().find(|wait| wait.client == client)?.done
    }

    /// Ends a client's wait, and says what it is answered: by what it waited for, if that was reached.
    pub(crate) fn end_wait(&mut self, client: usize, refusal: &str) -> Vec<u8> {
        let place = self.waits.iter().position(|wait| wait.client == client);
        let wait = self.waits.remove(place.unwrap());
        if wait.done.is_none() && wait.get {
            // Those behind it may have waited for nothing but it.
            self.serve_line(&wait.name);
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

    /// A client that holds nothing any more is gone.
    pub(crate) fn disconnect(&mut self, client: usize) {
        assert_eq!(self.held_by(client), 0);
        self.clients[client].connected = false;
    }

    /// What a line is answered by.
    pub(crate) fn answer(&mut self, client: usize, line: &[u8]) -> Answer {
        let parsed = naive::parse(line);
        let verb = match &parsed {
            Ok(command) => Some(command.verb()),
            Err(ParseError::BadArgument(verb)) => Some(*verb),
            Err(_) => None,
        };
        let known = |verb: &Verb| self.flags.extensions || DOCUMENTED.contains(verb);
        let Some(verb) = verb.filter(known) else {
            self.count("invalid_commands", 1);
            return Answer::Bytes(Vec::new());
        };
        self.count(&format!("command_{}", verb.as_str()), 1);
        let Ok(command) = parsed else {
            return Answer::Bytes(reply("0 Bad Argument", verb.as_str().as_bytes()));
        };
        let Flags { dump, registry, .. } = self.flags;
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
            Command::Claims(name) => return Answer::Owners(name.to_vec(), self.owners(&name)),
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

    /// Has a client wait, unless it has got what it would wait for.
    fn wait(
        &mut self,
        client: usize,
        name: &[u8],
        (kind, get, limit): (LockKind, bool, usize),
        got: Result<usize, Denied>,
        ms: u32,
    ) -> Answer {
        let waiting = self.line(kind, name).len();
        let full = |model: &mut Model| {
            get && (model.limits.waiters.is_some_and(|max| waiting >= max)
                || !model.has_room(client))
        };
        let (done, refusal) = match got {
            Ok(holders) => (Some(holders), ""),
            Err(Denied::TooMany) => (None, "Queue Full"),
            Err(Denied::Held) if ms == 0 => (None, "Timeout"),
            Err(Denied::Held) if full(self) => (None, "Queue Full"),
            Err(Denied::Held) => (None, ""),
        };
        if done.is_some() || !refusal.is_empty() {
            return Answer::Bytes(end(get, kind, done, refusal, name));
        }
        let name = name.to_vec();
        self.waits.push(Wait {
            client,
            kind,
            name,
            get,
            limit,
            done,
        });
        Answer::Later
    }

    fn get(&mut self, client: usize, name: &[u8]) -> Result<(), Denied> {
        if let Some(holder) = self.exclusive.get(name) {
            return match holder.client == client {
                true => Ok(()),
                false => Err(Denied::Held),
            };
        }
        if !self.has_room(client) {
            return Err(Denied::TooMany);
        }
        let grant = self.grant();
        self.exclusive.insert(name.into(), Holder { client, grant });
        Ok(())
    }

    fn release(&mut self, name: &[u8]) {
        self.exclusive.remove(name);
        self.tell(LockKind::Exclusive, name, 0);
        let first = self.line(LockKind::Exclusive, name);
        if let Some(&first) = first.first() {
            let (client, grant) = (self.waits[first].client, self.grant());
            self.exclusive.insert(name.into(), Holder { client, grant });
            self.waits[first].done = Some(1);
        }
    }

    /// As one who queues up where others wait.
    fn shared_get_in_turn(
        &mut self,
        client: usize,
        name: &[u8],
        limit: u32,
    ) -> Result<usize, Denied> {
        let free = self.line(LockKind::Shared, name).is_empty();
        let limit = if free { limit as usize } else { 0 };
        self.shared_get(client, name, limit)
    }

    fn shared_get(&mut self, client: usize, name: &[u8], limit: usize) -> Result<usize, Denied> {
        let holders = self.shared.get(name).into_iter().flatten();
        if !holders.clone().any(|holder| holder.client == client) {
            if holders.count() >= limit {
                return Err(Denied::Held);
            }
            if !self.has_room(client) {
                return Err(Denied::TooMany);
            }
            self.share(client, name);
        }
        Ok(self.number(name))
    }

    fn share(&mut self, client: usize, name: &[u8]) {
        let grant = self.grant();
        let holders = self.shared.entry(name.into()).or_default();
        holders.push(Holder { client, grant });
    }

    fn shared_release(&mut self, client: usize, name: &[u8]) -> bool {
        let before = self.number(name);
        if let Some(holders) = self.shared.get_mut(name) {
            holders.retain(|holder| holder.client != client);
        }
        self.shared.retain(|_, holders| !holders.is_empty());
        let after = self.number(name);
        if after < before {
            self.tell(LockKind::Shared, name, after);
            self.serve_line(name);
        }
        after < before
    }

    /// Gives a shared lock to those in line whose turn it is.
    fn serve_line(&mut self, name: &[u8]) {
        while let Some(first) = self.line(LockKind::Shared, name).first().copied()
            && self.number(name) < self.waits[first].limit
        {
            self.share(self.waits[first].client, name);
            self.waits[first].done = Some(self.number(name));
        }
    }

    /// Tells watchers that so many hold a lock now.
    fn tell(&mut self, kind: LockKind, name: &[u8], holders: usize) {
        for wait in &mut self.waits {
            if wait.kind == kind && wait.name == name && !wait.get && wait.limit > holders {
                wait.done.get_or_insert(holders);
            }
        }
    }

    /// Where those stand who wait to hold a lock.
    fn line(&self, kind: LockKind, name: &[u8]) -> Vec<usize> {
        let waits =
            |wait: &Wait| wait.get && wait.done.is_none() && wait.kind == kind && wait.name == name;
        let places = 0..self.waits.len();
        places.filter(|&place| waits(&self.waits[place])).collect()
    }

    /// How many hold a shared lock.
    fn number(&self, name: &[u8]) -> usize {
        self.shared.get(name).map_or(0, Vec::len)
    }

    fn grant(&mut self) -> usize {
        self.grants += 1;
        self.grants
    }

    /// Whether a client may hold one lock more. If not, that counts.
    fn has_room(&mut self, client: usize) -> bool {
        let in_all = self
            .limits
            .in_all
            .is_none_or(|limit| self.takers().count() < limit);
        let by_client = self.limits.by_client;
        let room = in_all && by_client.is_none_or(|limit| self.held_by(client) < limit);
        if !room {
            self.count("refused_locks", 1);
        }
        room
    }

    /// Who holds anything, or waits to.
    fn takers(&self) -> impl Iterator<Item = usize> {
        let exclusive = self.exclusive.values();
        let shared = self.shared.values().flatten();
        let holders = exclusive.chain(shared).map(|holder| holder.client);
        let waits = self.waits.iter();
        let waiters = waits.filter(|wait| wait.get && wait.done.is_none());
        holders.chain(waiters.map(|wait| wait.client))
    }

    fn held_by(&self, client: usize) -> usize {
        self.takers().filter(|taker| *taker == client).count()
    }

    fn owners(&self, name: &[u8]) -> Vec<Owner> {
        let owner = |role, client: usize, grant| Owner {
            role,
            address: self.clients[client].address,
            grant,
            name: self.clients[client].shown_as().to_vec(),
        };
        let exclusive = self.exclusive.get(name).into_iter();
        let shared = self.shared.get(name).into_iter().flatten();
        let of = |kind, role| {
            let line = self.line(kind, name);
            line.into_iter()
                .map(move |place| owner(role, self.waits[place].client, None))
        };
        exclusive
            .map(|holder| owner("x", holder.client, Some(holder.grant)))
            .chain(shared.map(|holder| owner("s", holder.client, Some(holder.grant))))
            .chain(of(LockKind::Exclusive, "xw"))
            .chain(of(LockKind::Shared, "sw"))
            .collect()
    }

    /// The locks of a kind and their holders, sorted by name.
    fn holders(&self, kind: LockKind) -> BTreeMap<&[u8], Vec<&Client>> {
        let clients = |holders: &[Holder]| {
            holders
                .iter()
                .map(|holder| &self.clients[holder.client])
                .collect()
        };
        match kind {
            LockKind::Exclusive => (self.exclusive.iter())
                .map(|(name, holder)| (&**name, clients(&[*holder])))
                .collect(),
            LockKind::Shared => (self.shared.iter())
                .map(|(name, holders)| (&**name, clients(holders)))
                .collect(),
        }
    }

    fn list(&self, kind: LockKind, filter: Option<&[u8]>, with_lengths: bool) -> Vec<u8> {
        let mut lines = Vec::new();
        for (name, holders) in self.holders(kind) {
            if filter.is_none_or(|filter| filter == name) {
                for holder in holders {
                    if with_lengths {
                        lines.extend(format!("{} ", name.len()).into_bytes());
                    }
                    lines.extend([name, b": ", holder.shown_as(), b"\n"].concat());
                }
            }
        }
        lines
    }

    fn dump(&self, kind: LockKind) -> Vec<u8> {
        let mut entries = Vec::new();
        for (name, holders) in self.holders(kind) {
            let addresses: Vec<&str> = holders.iter().map(|holder| holder.address).collect();
            let addresses = match kind {
                LockKind::Exclusive => addresses.concat(),
                LockKind::Shared => format!("[{}]", addresses.join(" ")),
            };
            entries.push([name, b":", addresses.as_bytes()].concat());
        }
        [b"map[", &entries.join(&b' ')[..], b"]\n"].concat()
    }

    fn who(&self, filter: Option<&[u8]>) -> Vec<u8> {
        let mut clients: Vec<&Client> = self
            .clients
            .iter()
            .filter(|client| client.connected)
            .collect();
        // Stable: of one address, the first to come stays first.
        clients.sort_by_key(|client| client.address);
        let mut lines = Vec::new();
        for client in clients {
            if let Some(name) = &client.name
                && filter.is_none_or(|filter| filter == name)
            {
                lines.extend([client.address.as_bytes(), b": ", name, b"\n"].concat());
            }
        }
        lines
    }

    fn statistics(&self) -> Vec<u8> {
        let connections = self.clients.iter().filter(|client| client.connected);
        let mut counters = self.counters.clone();
        counters.insert("connections".to_owned(), connections.count());
        counters.insert("locks".to_owned(), self.exclusive.len());
        counters.insert("shared_locks".to_owned(), self.shared.len());
        let lines = counters
            .iter()
            .map(|(key, value)| format!("{key}: {value}\n"));
        lines.collect::<String>().into()
    }

    fn count(&mut self, key: &str, number: usize) {
        *self.counters.entry(key.to_owned()).or_default() += number;
    }
}

/// Why a client does not get a lock.
enum Denied {
    Held,
    TooMany,
}

/// Those that the original has, too.
const DOCUMENTED: [Verb; 13] = {
    use Verb::{D, Dump, G, I, Iam, Me, Q, R, Sd, Sg, Si, Sr, Who};
    [D, Dump, G, I, Iam, Me, Q, R, Sd, Sg, Si, Sr, Who]
};

/// What a command that waits is answered, if it has got what it waits for, or else for this reason.
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

/// A listing in one block; how it is cut into several is not told by the model.
fn counted(what: &str, name: Option<&[u8]>, lines: Vec<u8>) -> Vec<u8> {
    let name = name.unwrap_or_default();
    let number = lines.iter().filter(|byte| **byte == b'\n').count();
    let end = reply(&format!("0 {what} List"), name);
    match number {
        0 => end,
        _ => [reply(&format!("{number} {what} List"), name), lines, end].concat(),
    }
}

fn reply(text: &str, name: &[u8]) -> Vec<u8> {
    [text.as_bytes(), b": ", name, b"\n"].concat()
}
