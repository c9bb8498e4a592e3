//! A dispatcher against a naive model of a server: clients come, send lines and go, and every byte that
//! they are answered by is compared, listings and statistics included.
//!
//! The table's hash has random keys, so an input that fails by the order of its shards may not fail again.

#![no_main]

#[path = "dispatcher/model.rs"]
mod model;
#[path = "../../protocol/tests/reference/naive.rs"]
mod naive;

use glockd::Policy;
use glockd::dispatcher::{Answer, Departure, Dispatcher};
use glockd::registry::ClientId;
use glockd_protocol::{LockKind, Verb, parse};
use glockd_transports::Peer;
use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;

use model::{Limits, Model};

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
const VERBS: [Verb; 20] = {
    use Verb::{D, Dump, G, I, Iam, Me, Q, R, Sd, Sg, Si, Sr, Who};
    [
        G, G, G, Sg, Sg, Sg, R, R, Sr, Sr, Iam, Iam, I, Si, D, Sd, Dump, Me, Who, Q,
    ]
};

/// Names of which one line sends a whole range.
const RANGE: u8 = 32;

#[derive(Debug)]
struct Input<'a> {
    dump: bool,
    registry: bool,
    max_locks: Option<usize>,
    max_locks_per_connection: Option<usize>,
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
        let mut steps = Vec::new();
        while !bytes.is_empty() {
            steps.push(Step::arbitrary(bytes)?);
        }
        Ok(Input {
            dump: flags & 4 == 0,
            registry: flags & 8 == 0,
            max_locks,
            max_locks_per_connection,
            steps,
        })
    }
}

impl<'a> Arbitrary<'a> for Step<'a> {
    fn arbitrary(bytes: &mut Unstructured<'a>) -> Result<Step<'a>> {
        let mut byte = || u8::arbitrary(bytes);
        Ok(match byte()? % 32 {
            0..20 => Step::Line {
                client: byte()?,
                verb: byte()?,
                name: Name::arbitrary(bytes)?,
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
    };
    let policy = Policy::new(input.dump, input.registry)
        .with_max_locks(limits.in_all)
        .with_max_locks_per_connection(limits.by_client);
    let mut server = Server {
        dispatcher: Dispatcher::new(policy),
        model: Model::new(input.dump, input.registry, limits),
        here: Vec::new(),
        going: Vec::new(),
    };
    // Locks are about two.
    server.come(ADDRESSES[0]);
    server.come(ADDRESSES[1]);
    for step in input.steps {
        server.take(step);
    }
    server.end();
});

/// The dispatcher and its model, and the clients of both.
struct Server {
    dispatcher: Dispatcher,
    model: Model,
    here: Vec<Client>,
    going: Vec<(Client, Departure)>,
}

#[derive(Clone, Copy)]
struct Client {
    id: ClientId,
    /// What the model knows it by.
    number: usize,
}

impl Server {
    fn take(&mut self, step: Step<'_>) {
        match step {
            Step::Come { address } => self.come(pick(&ADDRESSES, address)),
            Step::Refuse => {
                self.dispatcher.refuse();
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
                    let client = self.here.remove(usize::from(client) % self.here.len());
                    self.going.push((client, Departure::new(client.id)));
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
        let here = self.here.drain(..);
        self.going
            .extend(here.map(|client| (client, Departure::new(client.id))));
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
        for line in ["d", "sd", "dump", "dump shared", "who", "q"] {
            self.send(0, line.as_bytes());
        }
    }

    fn come(&mut self, address: &'static str) {
        self.here.push(Client {
            id: self.dispatcher.connect(&Peer::new(address)),
            number: self.model.connect(address),
        });
    }

    fn send_command(&mut self, client: u8, verb: u8, name: &[u8]) {
        let verb = pick(&VERBS, verb).as_str().as_bytes();
        self.send(client, &[verb, name].join(&b' '));
    }

    /// Has a client that is here send a line, and compares what it is answered.
    fn send(&mut self, client: u8, line: &[u8]) {
        if self.here.is_empty() {
            return;
        }
        let client = pick(&self.here, client);
        let mut bytes = Vec::new();
        match parse(line) {
            Ok(command) => match self.dispatcher.dispatch(client.id, &command) {
                Answer::Reply(reply) => reply.encode(&mut bytes),
                Answer::List(mut cursor) => {
                    while !cursor.step(&self.dispatcher, &mut bytes).done {}
                }
            },
            Err(error) => self.dispatcher.reject(error).encode(&mut bytes),
        }
        check(&bytes, &self.model.answer(client.number, line));
    }

    /// Releases some of what a client that goes has held.
    fn release(&mut self, going: usize, budget: usize) {
        let (client, departure) = &mut self.going[going];
        let before = departure.orphans();
        let done = self.dispatcher.disconnect(departure, budget);
        let after = departure.orphans();
        // What goes first is the table's affair, so here the model is told.
        let locks = self.dispatcher.locks();
        let (exclusive, shared) = self.model.orphan(
            client.number,
            |name| locks.holder(name) == Some(client.id),
            |name| {
                locks
                    .look_at_shared_holder(name, client.id, || ())
                    .is_some()
            },
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
