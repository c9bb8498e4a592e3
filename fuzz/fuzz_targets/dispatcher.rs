//! A dispatcher against a naive model of a server. Clients connect, send lines, wait and disconnect. Every byte of
//! every reply is compared, those of listings and statistics too. Two exceptions: fencing tokens must be one for each
//! grant, and larger for later grants; times are not compared.
//!
//! The hash of the lock table has random keys. An input that fails because of the order of the shards may not fail
//! again.

#![no_main]

#[path = "dispatcher/case.rs"]
mod case;
#[path = "dispatcher/model.rs"]
mod model;
#[path = "../../protocol/tests/reference/naive.rs"]
mod naive;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};

use glockd::internals::dispatcher::{Dispatcher, Options, Outcome};
use glockd::internals::locks::Disconnection;
use glockd::internals::registry::ClientId;
use glockd::internals::ticket::Ticket;
use glockd_protocol::{LockKind, Refusal, Verb, parse};
use libfuzzer_sys::fuzz_target;

use case::{Case, Name, Step};
use model::{Answer, Model};

/// Addresses of clients, which may share one. The second is too long to be stored inline.
const ADDRESSES: [&str; 4] = [
    "192.0.2.1:57871",
    "[2001:db8::192:0:2:1]:57871",
    "unix:1",
    "unix:10",
];

/// Names that several clients are likely to use.
const NAMES: [&[u8]; 8] = [
    b"",
    b"a",
    b"a b",
    b"ab",
    b"shared",
    b"\0\xFF",
    b"a name of twenty-one.",
    b"a name of twenty-one,",
];

/// All verbs. Those that change the lock table are more frequent.
const VERBS: [Verb; 46] = {
    use Verb::*;
    [
        G, G, G, Sg, Sg, Sg, R, R, R, Sr, Sr, Sr, Iam, Iam, I, Si, D, Sd, Dump, Me, Who, Q, Gw, Gw,
        Gw, Gw, Sgw, Sgw, Sgw, Sgw, Sgl, Iw, Iw, Siw, Siw, F, Ldl, Sf, Lsdl, Own, Ld, Lsd, Lwho,
        Lq, Cancel, Ping,
    ]
};

fuzz_target!(|case: Case<'_>| {
    let mut comparison = Comparison {
        dispatcher: Dispatcher::new(Options {
            policy: case.policy,
            ..Options::default()
        }),
        model: Model::new(case.policy),
        tokens: HashMap::new(),
        connected: Vec::new(),
        disconnected: Vec::new(),
    };
    // It takes two clients for a lock to matter.
    comparison.connect(ADDRESSES[0]);
    comparison.connect(ADDRESSES[1]);
    for step in case.steps {
        comparison.run(step);
        comparison.check_wake_ups();
    }
    comparison.end();
});

/// The dispatcher, its model, and the clients of both.
struct Comparison {
    dispatcher: Dispatcher,
    model: Model,
    connected: Vec<Client>,
    /// Disconnected clients, of which some locks may not have been released yet.
    disconnected: Vec<(Client, Disconnection)>,
    /// Tokens so far, by name and kind (true: shared), then by the number of the grant.
    tokens: HashMap<(Vec<u8>, bool), BTreeMap<usize, u64>>,
}

struct Client {
    id: ClientId,
    /// Its number in the model.
    number: usize,
    /// The wait of its last command, until it ends.
    ticket: Option<Ticket>,
    woken: Arc<Woken>,
}

/// A waker that notes whether it has been woken since the last poll.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

impl Comparison {
    fn run(&mut self, step: Step<'_>) {
        match step {
            Step::Connect { address } => self.connect(pick(&ADDRESSES, address)),
            Step::Refuse => {
                self.dispatcher.count_refused_connection(b"refused");
                self.model.refuse();
            }
            Step::Line { client, verb, name } => match name {
                Name::None => self.send(client, pick(&VERBS, verb).as_str().as_bytes()),
                Name::Likely(name) => self.send_command(client, verb, pick(&NAMES, name)),
                Name::Any(name) => self.send_command(client, verb, name),
            },
            Step::Lines {
                client,
                verb,
                names,
            } => {
                for name in 0..names {
                    self.send_command(client, verb, name.to_string().as_bytes());
                }
            }
            Step::Raw { line, client } => self.send(client, line),
            Step::Oversized { limit } => {
                let mut bytes = Vec::new();
                let reply = self.dispatcher.reject_oversized(limit.into());
                reply.encode(&mut bytes);
                check(&bytes, &self.model.reject_oversized(limit.into()));
            }
            Step::Disconnect { client } => {
                if !self.connected.is_empty() {
                    self.disconnect(usize::from(client) % self.connected.len());
                }
            }
            Step::EndWait { client, cancelled } => {
                if !self.connected.is_empty() {
                    self.end_wait(usize::from(client) % self.connected.len(), cancelled);
                }
            }
            Step::Release { client, budget } => {
                if !self.disconnected.is_empty() {
                    self.release(usize::from(client) % self.disconnected.len(), budget.into());
                }
            }
        }
    }

    /// Compares all listings, and again when all clients have disconnected.
    fn end(mut self) {
        self.compare_listings();
        while !self.connected.is_empty() {
            self.disconnect(0);
        }
        while !self.disconnected.is_empty() {
            self.release(0, 7);
        }
        let locks = self.dispatcher.locks();
        assert_eq!(locks.count(LockKind::Exclusive), 0);
        assert_eq!(locks.count(LockKind::Shared), 0);
        assert_eq!(self.dispatcher.registry().connections(), 0);
        self.compare_listings();
    }

    fn compare_listings(&mut self) {
        self.connect(ADDRESSES[0]);
        let last = u8::try_from(self.connected.len() - 1).unwrap_or(u8::MAX);
        for line in [
            "d",
            "sd",
            "dump",
            "dump shared",
            "who",
            "q",
            "lsd",
            "ldl",
            "lsdl",
        ] {
            self.send(last, line.as_bytes());
        }
    }

    /// Disconnects a client, whose wait ends by that.
    fn disconnect(&mut self, client: usize) {
        self.end_wait(client, true);
        let client = self.connected.remove(client);
        let disconnection = Disconnection::new(client.id);
        self.disconnected.push((client, disconnection));
    }

    /// Ends a client's wait, if it has one.
    fn end_wait(&mut self, client: usize, cancelled: bool) {
        let client = &mut self.connected[client];
        let Some(mut ticket) = client.ticket.take() else {
            return;
        };
        let reached = self.model.reached(client.number).is_some();
        let (refusal, text) = match cancelled {
            true => (Refusal::Cancelled, "Cancelled"),
            false => (Refusal::Timeout, "Timeout"),
        };
        let mut bytes = Vec::new();
        let (reply, ended) = self.dispatcher.end_wait(&mut ticket, refusal);
        reply.encode(&mut bytes);
        assert_eq!(ended, !reached);
        check(&bytes, &self.model.end_wait(client.number, text));
    }

    /// Polls a client's wait, if it has one. Returns true if it goes on.
    fn poll_wait(&mut self, client: usize) -> bool {
        let client = &mut self.connected[client];
        let Some(mut ticket) = client.ticket.take() else {
            return false;
        };
        let reached = self.model.reached(client.number).is_some();
        let waker = Waker::from(Arc::clone(&client.woken));
        client.woken.0.store(false, Relaxed);
        let mut bytes = Vec::new();
        match self
            .dispatcher
            .poll_wait(&mut ticket, &Context::from_waker(&waker))
        {
            Poll::Ready(reply) => reply.encode(&mut bytes),
            Poll::Pending => {
                assert!(!reached);
                client.ticket = Some(ticket);
                return true;
            }
        }
        assert!(reached);
        check(&bytes, &self.model.end_wait(client.number, ""));
        false
    }

    /// Checks that exactly the clients whose wait has succeeded have been woken.
    fn check_wake_ups(&self) {
        for client in self
            .connected
            .iter()
            .filter(|client| client.ticket.is_some())
        {
            let reached = self.model.reached(client.number).is_some();
            assert_eq!(client.woken.0.load(Relaxed), reached);
        }
    }

    fn connect(&mut self, address: &'static str) {
        self.connected.push(Client {
            id: self.dispatcher.connect(address.as_bytes()),
            number: self.model.connect(address),
            ticket: None,
            woken: Arc::default(),
        });
    }

    fn send_command(&mut self, client: u8, verb: u8, name: &[u8]) {
        let number = usize::from(verb) / VERBS.len();
        let verb = pick(&VERBS, verb);
        let ms = [60_000, 0, 60_000][number % 3];
        let verb = match verb {
            Verb::Gw | Verb::Iw => format!("{} {ms}", verb.as_str()),
            Verb::Sgl => format!("sgl {number}"),
            Verb::Sgw | Verb::Siw => format!("{} {ms} {number}", verb.as_str()),
            _ => verb.as_str().to_owned(),
        };
        self.send(client, &[verb.as_bytes(), name].join(&b' '));
    }

    /// Sends a line of a connected client, unless it waits, and compares the reply.
    fn send(&mut self, client: u8, line: &[u8]) {
        if self.connected.is_empty() {
            return;
        }
        let index = usize::from(client) % self.connected.len();
        if self.poll_wait(index) {
            return;
        }
        let client = &mut self.connected[index];
        let mut bytes = Vec::new();
        match parse(line) {
            Ok(command) => match self.dispatcher.dispatch(client.id, &command) {
                Outcome::Reply(reply) => reply.encode(&mut bytes),
                Outcome::List(mut cursor) => {
                    while !cursor.step(self.dispatcher.state(), &mut bytes).done {}
                }
                Outcome::Wait(ticket) => client.ticket = Some(ticket),
            },
            Err(error) => self.dispatcher.reject(error).encode(&mut bytes),
        }
        let shared = line.trim_ascii_start().starts_with(b"sf");
        match self.model.answer(client.number, line) {
            Answer::Wait => {
                assert!(client.ticket.is_some() && bytes.is_empty());
                assert!(self.poll_wait(index));
            }
            Answer::Bytes(expect) => check(&joined(&bytes), &expect),
            Answer::Fence(name, grant) => {
                let (token, text) = number(&bytes);
                let expect = match grant {
                    Some(_) => " Lock Fence: ",
                    None => " Lock Fence Failure: ",
                };
                check(text, &[expect.as_bytes(), &name, b"\n"].concat());
                self.check_token(name, shared, grant, token);
            }
            Answer::Claims(name, claims) => {
                let (count, mut rest) = number(&bytes);
                assert_eq!(count, claims.len() as u64);
                let head = [b" Lock Owners: ", &name[..], b"\n"].concat();
                check(&rest[..head.len().min(rest.len())], &head);
                rest = &rest[head.len()..];
                for claim in claims {
                    let start = format!("{} {} ", claim.role, claim.address);
                    check(&rest[..start.len()], start.as_bytes());
                    let (_, after) = number(&rest[start.len()..]);
                    let (token, after) = number(&after[1..]);
                    let line = [b" ", &claim.name[..], b"\n"].concat();
                    check(&after[..line.len()], &line);
                    rest = &after[line.len()..];
                    self.check_token(name.clone(), claim.role == "s", claim.grant, token);
                }
                check(rest, b"");
            }
        }
    }

    /// Checks that a grant has one token, and that later grants have larger ones.
    fn check_token(&mut self, name: Vec<u8>, shared: bool, grant: Option<usize>, token: u64) {
        let Some(grant) = grant else {
            assert_eq!(token, 0);
            return;
        };
        assert!(token > 0 && token < 1 << 63);
        let tokens = self.tokens.entry((name, shared)).or_default();
        assert_eq!(*tokens.entry(grant).or_insert(token), token);
        let before = tokens.range(..grant).next_back();
        let after = tokens.range(grant + 1..).next();
        assert!(before.is_none_or(|(_, before)| *before < token));
        assert!(after.is_none_or(|(_, after)| *after > token));
    }

    /// Releases some locks of a disconnected client, at most `budget`.
    fn release(&mut self, index: usize, budget: usize) {
        let (client, disconnection) = &mut self.disconnected[index];
        let before = disconnection.orphans();
        let done = self.dispatcher.disconnect(disconnection, budget);
        let after = disconnection.orphans();
        // The table may choose which locks it releases first, so the model follows it.
        let locks = self.dispatcher.locks();
        let (exclusive, shared) = self.model.orphan(
            client.number,
            |name| locks.holder(name) == Some(client.id),
            |name| locks.with_shared_holder(name, client.id, || ()).is_some(),
        );
        assert_eq!(after.exclusive - before.exclusive, exclusive);
        assert_eq!(after.shared - before.shared, shared);
        assert!(exclusive + shared <= budget);
        if done {
            self.model.disconnect(client.number);
            self.disconnected.remove(index);
        } else {
            assert_eq!(exclusive + shared, budget);
        }
    }
}

/// Splits a number from the start of a reply or a field. Returns it and the rest.
fn number(bytes: &[u8]) -> (u64, &[u8]) {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit());
    let (digits, rest) = bytes.split_at(digits.count());
    (str::from_utf8(digits).unwrap().parse().unwrap(), rest)
}

/// Joins the blocks of a counted listing into one. Returns any other reply unchanged.
fn joined(bytes: &[u8]) -> Vec<u8> {
    let header = |line: &[u8]| -> Option<(usize, Vec<u8>)> {
        let digits = line.iter().take_while(|byte| byte.is_ascii_digit());
        let (digits, rest) = line.split_at(digits.count());
        let names: [&[u8]; 4] = [
            b" Lock List: ",
            b" Shared Lock List: ",
            b" Client List: ",
            b" Stats List: ",
        ];
        let is_header = names.iter().any(|name| rest.starts_with(name));
        let count = str::from_utf8(digits).ok()?.parse().ok()?;
        is_header.then(|| (count, rest.to_vec()))
    };
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let (mut total, mut body, mut title) = (0, Vec::new(), Vec::new());
    while let Some(line) = lines.next() {
        let Some((count, rest)) = header(line) else {
            // Not a listing.
            return bytes.to_vec();
        };
        title = rest;
        if count == 0 {
            assert!(lines.next().is_none());
            break;
        }
        total += count;
        for _ in 0..count {
            body.extend_from_slice(lines.next().unwrap());
        }
    }
    let header = |count: usize| [count.to_string().as_bytes(), &title[..]].concat();
    match total {
        0 if title.is_empty() => bytes.to_vec(),
        0 => header(0),
        _ => [header(total), body, header(0)].concat(),
    }
}

fn pick<T: Copy>(all: &[T], number: u8) -> T {
    all[usize::from(number) % all.len()]
}

#[track_caller]
fn check(bytes: &[u8], expect: &[u8]) {
    assert!(
        bytes == expect,
        "\n{}\nrather than\n{}",
        bytes.escape_ascii(),
        expect.escape_ascii()
    );
}
