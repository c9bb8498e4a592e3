//! A server as plainly as it can be written.

use std::collections::{BTreeMap, HashMap};

use glockd_protocol::{Command, LockKind, Verb};

use crate::naive;

/// Clients are numbered in the order in which they came.
pub(crate) struct Model {
    dump: bool,
    registry: bool,
    limits: Limits,
    clients: Vec<Client>,
    exclusive: HashMap<Vec<u8>, usize>,
    /// Holders in the order in which they came; a name that nobody holds is not there.
    shared: HashMap<Vec<u8>, Vec<usize>>,
    /// The counters of `q` that only grow.
    counters: BTreeMap<String, usize>,
}

/// How many locks may be held.
pub(crate) struct Limits {
    pub(crate) in_all: Option<usize>,
    pub(crate) by_client: Option<usize>,
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
    pub(crate) fn new(dump: bool, registry: bool, limits: Limits) -> Model {
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
            dump,
            registry,
            limits,
            clients: Vec::new(),
            exclusive: HashMap::new(),
            shared: HashMap::new(),
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
        let before = self.held();
        self.exclusive
            .retain(|name, holder| *holder != client || holds(name));
        let exclusive = before - self.held();
        self.shared.retain(|name, holders| {
            holders.retain(|holder| *holder != client || shares(name));
            !holders.is_empty()
        });
        let shared = before - exclusive - self.held();
        self.count("orphans", exclusive);
        self.count("shared_orphans", shared);
        (exclusive, shared)
    }

    /// A client that holds nothing any more is gone.
    pub(crate) fn disconnect(&mut self, client: usize) {
        assert_eq!(self.held_by(client), 0);
        self.clients[client].connected = false;
    }

    /// What a line is answered by.
    pub(crate) fn answer(&mut self, client: usize, line: &[u8]) -> Vec<u8> {
        let Ok(command) = naive::parse(line) else {
            self.count("invalid_commands", 1);
            return Vec::new();
        };
        self.count(&format!("command_{}", command.verb().as_str()), 1);
        let allowed = match command.verb() {
            Verb::D | Verb::Sd | Verb::Dump => self.dump,
            Verb::Iam => self.registry,
            Verb::Who => self.dump && self.registry,
            _ => true,
        };
        if !allowed {
            return b"0 disabled\n".into();
        }
        match command {
            Command::Get(name) => match self.get(client, &name) {
                true => reply("1 Lock Get Success", &name),
                false => reply("0 Lock Get Failure", &name),
            },
            Command::Release(name) => match self.exclusive.get(&*name) {
                Some(holder) if *holder == client => {
                    self.exclusive.remove(&*name);
                    reply("1 Lock Release Success", &name)
                }
                _ => reply("0 Lock Release Failure", &name),
            },
            Command::Inspect(name) => match self.exclusive.get(&*name) {
                Some(_) => reply("1 Lock Is Locked", &name),
                None => reply("0 Lock Not Locked", &name),
            },
            Command::SharedGet(name) => match self.shared_get(client, &name) {
                true => {
                    let holders = self.shared[&*name].len();
                    reply(&format!("{holders} Shared Lock Get Success"), &name)
                }
                false => reply("0 Shared Lock Get Failure", &name),
            },
            Command::SharedRelease(name) => match self.shared_release(client, &name) {
                true => reply("1 Shared Lock Release Success", &name),
                false => reply("0 Shared Lock Release Failure", &name),
            },
            Command::SharedInspect(name) => match self.shared.get(&*name) {
                Some(holders) => {
                    let holders = holders.len();
                    reply(&format!("{holders} Shared Lock Is Locked"), &name)
                }
                None => reply("0 Shared Lock Not Locked", &name),
            },
            Command::List(name) => self.list(LockKind::Exclusive, name.as_deref()),
            Command::SharedList(name) => self.list(LockKind::Shared, name.as_deref()),
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
        }
    }

    fn get(&mut self, client: usize, name: &[u8]) -> bool {
        if let Some(holder) = self.exclusive.get(name) {
            return *holder == client;
        }
        let room = self.has_room(client);
        if room {
            self.exclusive.insert(name.into(), client);
        }
        room
    }

    fn shared_get(&mut self, client: usize, name: &[u8]) -> bool {
        let holders = self.shared.get(name);
        if holders.is_some_and(|holders| holders.contains(&client)) {
            return true;
        }
        let room = self.has_room(client);
        if room {
            self.shared.entry(name.into()).or_default().push(client);
        }
        room
    }

    fn shared_release(&mut self, client: usize, name: &[u8]) -> bool {
        let before = self.held();
        if let Some(holders) = self.shared.get_mut(name) {
            holders.retain(|holder| *holder != client);
        }
        self.shared.retain(|_, holders| !holders.is_empty());
        self.held() < before
    }

    /// Whether a client may hold one lock more. If not, that counts.
    fn has_room(&mut self, client: usize) -> bool {
        let in_all = self.limits.in_all.is_none_or(|limit| self.held() < limit);
        let by_client = self.limits.by_client;
        let room = in_all && by_client.is_none_or(|limit| self.held_by(client) < limit);
        if !room {
            self.count("refused_locks", 1);
        }
        room
    }

    fn held(&self) -> usize {
        let shared: usize = self.shared.values().map(Vec::len).sum();
        self.exclusive.len() + shared
    }

    fn held_by(&self, client: usize) -> usize {
        let exclusive = self.exclusive.values();
        let shared = self.shared.values().flatten();
        let holders = exclusive.chain(shared);
        holders.filter(|holder| **holder == client).count()
    }

    /// The locks of a kind and their holders, sorted by name.
    fn holders(&self, kind: LockKind) -> BTreeMap<&[u8], Vec<&Client>> {
        let clients = |numbers: &[usize]| {
            numbers
                .iter()
                .map(|&number| &self.clients[number])
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

    fn list(&self, kind: LockKind, filter: Option<&[u8]>) -> Vec<u8> {
        let mut lines = Vec::new();
        for (name, holders) in self.holders(kind) {
            if filter.is_none_or(|filter| filter == name) {
                for holder in holders {
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

fn reply(text: &str, name: &[u8]) -> Vec<u8> {
    [text.as_bytes(), b": ", name, b"\n"].concat()
}
