//! A dispatcher against a naive model of a server: clients come, send lines, wait and go, and every byte that
//! they are answered by is compared, listings and statistics included. Of tokens it is compared which grants
//! have the same, and that those of later ones are larger; of times nothing.
//!
//! The table's hash has random keys, so an input that fails by the order of its shards may not fail again.

#![no_main]

#[path = "dispatcher/model.rs"]
mod model;
#[path = "../../protocol/tests/reference/naive.rs"]
mod naive;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};

use glockd::core::dispatcher::{Dispatcher, Options, Outcome};
use glockd::core::locks::Disconnection;
use glockd::core::registry::ClientId;
use glockd::core::ticket::Ticket;
use glockd::{LockLimits, Policy};
use glockd_protocol::{LockKind, Refusal, Verb, parse};
use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;

use model::{Flags, Limits, Model};

/// Where clients come from: several may share an address. One is too long to be kept in place.
const ADDRESSES: [&str; 4] = [
    "192.0.2.1:57871",
    "[2001:db8::192:0:2:1]:57871",
    "unix:1",
    "unix:10",
];

/// Names that clients are likely to meet at.
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

/// All verbs, those that change a table more often.
const VERBS: [Verb; 46] = {
    use Verb::*;
    [
        G, G, G, Sg, Sg, Sg, R, R, R, Sr, Sr, Sr, Iam, Iam, I, Si, D, Sd, Dump, Me, Who, Q, Gw, Gw,
        Gw, Gw, Sgw, Sgw, Sgw, Sgw, Sgl, Iw, Iw, Siw, Siw, F, Ldl, Sf, Lsdl, Own, Ld, Lsd, Lwho,
        Lq, Cancel, Ping,
    ]
};

/// Names of which one line sends a whole range.
const RANGE: u8 = 32;

#[derive(Debug)]
struct Input<'a> {
    dump: bool,
    registry: bool,
    extensions: bool,
    max_locks: Option<usize>,
    max_locks_per_connection: Option<usize>,
    max_waiters: Option<usize>,
    steps: Vec<Step<'a>>,
}

/// Clients are numbered among those that are there.
#[derive(Debug)]
enum Step<'a> {
    Come {
        address: u8,
    },
    Refuse,
    Line {
        client: u8,
        verb: u8,
        name: Name<'a>,
    },
    /// One line for each of some names.
    Lines {
        client: u8,
        verb: u8,
        names: u8,
    },
    Raw {
        client: u8,
        line: &'a [u8],
    },
    Oversized {
        limit: u8,
    },
    /// A client that waits does so no more.
    Stop {
        client: u8,
        cancelled: bool,
    },
    /// A client is there no more, but all that it held is yet to be released.
    Go {
        client: u8,
    },
    /// One that has gone has some of it released.
    Release {
        client: u8,
        budget: u8,
    },
}

#[derive(Debug)]
enum Name<'a> {
    None,
    Likely(u8),
    Any(&'a [u8]),
}

// By hand, so that a step is few bytes, which all matter: what is derived spends five of them to choose a
// variant, and took some three times as long to find a bug.
impl<'a> Arbitrary<'a> for Input<'a> {
    fn arbitrary(bytes: &mut Unstructured<'a>) -> Result<Input<'a>> {
        let flags = u8::arbitrary(bytes)?;
        let mut limit = |flag| -> Result<Option<usize>> {
            Ok(match flags & flag {
                0 => None,
                _ => Some(usize::from(u8::arbitrary(bytes)? % 16)),
            })
        };
        let (max_locks, max_locks_per_connection) = (limit(1)?, limit(2)?);
        let max_waiters = limit(16)?;
        let mut steps = Vec::new();
        while !bytes.is_empty() {
            steps.push(Step::arbitrary(bytes)?);
        }
        Ok(Input {
            dump: flags & 4 == 0,
            registry: flags & 8 == 0,
            extensions: flags & 96 != 96,
            max_locks,
            max_locks_per_connection,
            max_waiters,
            steps,
        })
    }
}

impl<'a> Arbitrary<'a> for Step<'a> {
    fn arbitrary(bytes: &mut Unstructured<'a>) -> Result<Step<'a>> {
        let mut byte = || u8::arbitrary(bytes);
        Ok(match byte()? % 32 {
            0..18 => Step::Line {
                client: byte()?,
                verb: byte()?,
                name: Name::arbitrary(bytes)?,
            },
            18..20 => Step::Stop {
                client: byte()?,
                cancelled: byte()? % 2 == 0,
            },
            20..24 => Step::Come { address: byte()? },
            24..26 => Step::Go { client: byte()? },
            26..28 => Step::Release {
                client: byte()?,
                budget: byte()?,
            },
            28 => Step::Lines {
                client: byte()?,
                verb: byte()?,
                names: byte()? % RANGE,
            },
            29 => Step::Raw {
                client: byte()?,
                line: some(bytes)?,
            },
            30 => Step::Oversized { limit: byte()? },
            _ => Step::Refuse,
        })
    }
}

impl<'a> Arbitrary<'a> for Name<'a> {
    fn arbitrary(bytes: &mut Unstructured<'a>) -> Result<Name<'a>> {
        Ok(match u8::arbitrary(bytes)? {
            0 => Name::None,
            1 => Name::Any(some(bytes)?),
            number => Name::Likely(number),
        })
    }
}

/// A byte says how many.
fn some<'a>(bytes: &mut Unstructured<'a>) -> Result<&'a [u8]> {
    let length = usize::from(u8::arbitrary(bytes)?);
    bytes.bytes(length.min(bytes.len()))
}

fuzz_target!(|input: Input<'_>| {
    let limits = Limits {
        in_all: input.max_locks,
        by_client: input.max_locks_per_connection,
        waiters: input.max_waiters,
    };
    let flags = Flags {
        dump: input.dump,
        registry: input.registry,
        extensions: input.extensions,
    };
    let policy = Policy {
        dump: flags.dump,
        registry: flags.registry,
        extensions: flags.extensions,
        limits: LockLimits {
            max_locks: limits.in_all,
            max_locks_per_connection: limits.by_client,
            max_waiters: limits.waiters,
        },
    };
    let mut server = Server {
        dispatcher: Dispatcher::new(Options {
            policy,
            ..Options::default()
        }),
        model: Model::new(flags, limits),
        tokens: HashMap::new(),
        here: Vec::new(),
        going: Vec::new(),
    };
    // Locks are about two.
    server.come(ADDRESSES[0]);
    server.come(ADDRESSES[1]);
    for step in input.steps {
        server.take(step);
        server.check_waits();
    }
    server.end();
});

/// The dispatcher and its model, and the clients of both.
struct Server {
    dispatcher: Dispatcher,
    model: Model,
    here: Vec<Client>,
    going: Vec<(Client, Disconnection)>,
    /// The tokens of a name and a kind that were shown, by the number of their grant.
    tokens: HashMap<(Vec<u8>, bool), BTreeMap<usize, u64>>,
}

struct Client {
    id: ClientId,
    /// What the model knows it by.
    number: usize,
    wait: Option<Ticket>,
    woken: Arc<Woken>,
}

/// Whether it was woken since it last looked.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

impl Server {
    fn take(&mut self, step: Step<'_>) {
        match step {
            Step::Come { address } => self.come(pick(&ADDRESSES, address)),
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
            Step::Go { client } => {
                if !self.here.is_empty() {
                    self.go(usize::from(client) % self.here.len());
                }
            }
            Step::Stop { client, cancelled } => {
                if !self.here.is_empty() {
                    self.stop(usize::from(client) % self.here.len(), cancelled);
                }
            }
            Step::Release { client, budget } => {
                if !self.going.is_empty() {
                    self.release(usize::from(client) % self.going.len(), budget.into());
                }
            }
        }
    }

    /// Looks at all that there is, and once more when all connections have ended.
    fn end(mut self) {
        self.look();
        while !self.here.is_empty() {
            self.go(0);
        }
        while !self.going.is_empty() {
            self.release(0, 7);
        }
        let locks = self.dispatcher.locks();
        assert_eq!(locks.count(LockKind::Exclusive), 0);
        assert_eq!(locks.count(LockKind::Shared), 0);
        assert_eq!(self.dispatcher.registry().connections(), 0);
        self.look();
    }

    fn look(&mut self) {
        self.come(ADDRESSES[0]);
        let last = u8::try_from(self.here.len() - 1).unwrap_or(u8::MAX);
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

    /// A client is here no more, and waits no more.
    fn go(&mut self, client: usize) {
        self.stop(client, true);
        let client = self.here.remove(client);
        let disconnection = Disconnection::new(client.id);
        self.going.push((client, disconnection));
    }

    /// Ends a client's wait, if it has one.
    fn stop(&mut self, client: usize, cancelled: bool) {
        let client = &mut self.here[client];
        let Some(mut wait) = client.wait.take() else {
            return;
        };
        let reached = self.model.reached(client.number).is_some();
        let (refusal, text) = match cancelled {
            true => (Refusal::Cancelled, "Cancelled"),
            false => (Refusal::Timeout, "Timeout"),
        };
        let mut bytes = Vec::new();
        let (reply, ended) = self.dispatcher.end_wait(&mut wait, refusal);
        reply.encode(&mut bytes);
        assert_eq!(ended, !reached);
        check(&bytes, &self.model.end_wait(client.number, text));
    }

    /// Whether a client waits on, once it has looked.
    fn waits(&mut self, client: usize) -> bool {
        let client = &mut self.here[client];
        let Some(mut wait) = client.wait.take() else {
            return false;
        };
        let reached = self.model.reached(client.number).is_some();
        let waker = Waker::from(Arc::clone(&client.woken));
        client.woken.0.store(false, Relaxed);
        let mut bytes = Vec::new();
        match self
            .dispatcher
            .poll_wait(&mut wait, &Context::from_waker(&waker))
        {
            Poll::Ready(reply) => reply.encode(&mut bytes),
            Poll::Pending => {
                assert!(!reached);
                client.wait = Some(wait);
                return true;
            }
        }
        assert!(reached);
        check(&bytes, &self.model.end_wait(client.number, ""));
        false
    }

    /// Who has got what it waits for has been woken, and nobody else.
    fn check_waits(&self) {
        for client in self.here.iter().filter(|client| client.wait.is_some()) {
            let reached = self.model.reached(client.number).is_some();
            assert_eq!(client.woken.0.load(Relaxed), reached);
        }
    }

    fn come(&mut self, address: &'static str) {
        self.here.push(Client {
            id: self.dispatcher.connect(address.as_bytes()),
            number: self.model.connect(address),
            wait: None,
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

    /// Has a client that is here, and does not wait, send a line, and compares what it is answered.
    fn send(&mut self, client: u8, line: &[u8]) {
        if self.here.is_empty() {
            return;
        }
        let place = usize::from(client) % self.here.len();
        if self.waits(place) {
            return;
        }
        let client = &mut self.here[place];
        let mut bytes = Vec::new();
        match parse(line) {
            Ok(command) => match self.dispatcher.dispatch(client.id, &command) {
                Outcome::Reply(reply) => reply.encode(&mut bytes),
                Outcome::List(mut cursor) => {
                    while !cursor.step(self.dispatcher.state(), &mut bytes).done {}
                }
                Outcome::Wait(wait) => client.wait = Some(wait),
            },
            Err(error) => self.dispatcher.reject(error).encode(&mut bytes),
        }
        let shared = line.trim_ascii_start().starts_with(b"sf");
        match self.model.answer(client.number, line) {
            model::Answer::Later => {
                assert!(client.wait.is_some() && bytes.is_empty());
                assert!(self.waits(place));
            }
            model::Answer::Bytes(expect) => check(&joined(&bytes), &expect),
            model::Answer::Fence(name, grant) => {
                let (token, text) = number(&bytes);
                let expect = match grant {
                    Some(_) => " Lock Fence: ",
                    None => " Lock Fence Failure: ",
                };
                check(text, &[expect.as_bytes(), &name, b"\n"].concat());
                self.check_token(name, shared, grant, token);
            }
            model::Answer::Owners(name, owners) => {
                let (count, mut rest) = number(&bytes);
                assert_eq!(count, owners.len() as u64);
                let head = [b" Lock Owners: ", &name[..], b"\n"].concat();
                check(&rest[..head.len().min(rest.len())], &head);
                rest = &rest[head.len()..];
                for owner in owners {
                    let start = format!("{} {} ", owner.role, owner.address);
                    check(&rest[..start.len()], start.as_bytes());
                    let (_, after) = number(&rest[start.len()..]);
                    let (token, after) = number(&after[1..]);
                    let line = [b" ", &owner.name[..], b"\n"].concat();
                    check(&after[..line.len()], &line);
                    rest = &after[line.len()..];
                    self.check_token(name.clone(), owner.role == "s", owner.grant, token);
                }
                check(rest, b"");
            }
        }
    }

    /// Each grant has its token, and later ones have larger ones.
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

    /// Releases some of what a client that goes has held.
    fn release(&mut self, going: usize, budget: usize) {
        let (client, disconnection) = &mut self.going[going];
        let before = disconnection.orphans();
        let done = self.dispatcher.disconnect(disconnection, budget);
        let after = disconnection.orphans();
        // What goes first is the table's affair, so here the model is told.
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
            self.going.remove(going);
        } else {
            assert_eq!(exclusive + shared, budget);
        }
    }
}

/// The number at the start of a reply or of a field, and what follows it.
fn number(bytes: &[u8]) -> (u64, &[u8]) {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit());
    let (digits, rest) = bytes.split_at(digits.count());
    (str::from_utf8(digits).unwrap().parse().unwrap(), rest)
}

/// A counted listing with its blocks made one; anything else as it is.
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
        let is_one = names.iter().any(|name| rest.starts_with(name));
        let count = str::from_utf8(digits).ok()?.parse().ok()?;
        is_one.then(|| (count, rest.to_vec()))
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
