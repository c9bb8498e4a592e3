//! What commands cost, piece by piece: the parser, the encoder, the lock table, and all of them behind
//! the dispatcher. No I/O; `tests/instructions.rs` has that of the whole daemon.
//!
//! ```text
//! cargo bench               all of them
//! cargo bench -- dispatch   those whose names have this in them
//! cargo bench -- --test     each once, unmeasured
//! ```
//!
//! An element is a command, or what the table does for one: 10 Melem/s are 100 ns each; the time of a
//! pair is that of both. What it answers is asserted as it is measured, for the price of a branch that
//! always goes the same way, so nothing is fast because it fails.

use std::borrow::Cow;
use std::cell::LazyCell;
use std::hint::black_box;
use std::ops::Deref;
use std::thread;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use glockd::internals::dispatcher::{Dispatcher, Outcome};
use glockd::internals::locks::LockTable;
use glockd::internals::registry::ClientId;
use glockd::protocol::{Command, Counter, ParseError, Reply, Verb, parse};

/// The most threads that lock at once.
const THREADS: usize = 4;

/// How many names each thread goes through: they do not all stay in the nearest cache.
const NAMES: usize = 1 << 14;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    parser(&mut criterion);
    encoder(&mut criterion);
    for held in [0, 1_000_000] {
        // Made when it is needed, since benchmarks may be left out.
        let state = LazyCell::new(|| State::new(held));
        let title = |subject| format!("{subject}, {held} held");
        locks(criterion.benchmark_group(title("locks")), &state);
        threads(criterion.benchmark_group(title("threads")), &state);
        dispatcher(criterion.benchmark_group(title("dispatch")), &state);
    }
    criterion.final_summary();
}

type Group<'a> = BenchmarkGroup<'a, WallTime>;

/// From a line to a command.
fn parser(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    group.throughput(Throughput::Elements(1));
    let get = |name: &'static str| Ok(Command::Get(Cow::Borrowed(name.as_bytes())));
    let lines = [
        ("name", "g lock-0000-000000", get("lock-0000-000000")),
        (
            "name with spaces",
            "g lock of the job",
            get("lock of the job"),
        ),
        (
            "name to be folded",
            "g lock  of\tthe job",
            get("lock of the job"),
        ),
        ("d", "d", Ok(Command::List(None))),
        (
            "unknown",
            "x lock-0000-000000",
            Err(ParseError::UnknownCommand),
        ),
    ];
    for (title, line, expect) in lines {
        group.bench_function(title, |bencher| {
            bencher.iter(|| assert_eq!(parse(black_box(line.as_bytes())), expect));
        });
    }
}

/// From a reply to its bytes.
fn encoder(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Elements(1));
    let name = b"lock-0000-000000";
    let get = |granted| Reply::Get { granted, name };
    let holders = 1234;
    let statistics = Verb::SORTED.map(|verb| (Counter::Command(verb), 123_456_789));
    let replies = [
        ("success", get(true), "1 Lock Get Success: lock-"),
        ("failure", get(false), "0 Lock Get Failure: lock-"),
        (
            "shared",
            Reply::SharedGet { holders, name },
            "1234 Shared Lock Get Success: lock-",
        ),
        (
            "statistics",
            Reply::Statistics(statistics.to_vec()),
            "command_cancel: 123456789\n",
        ),
    ];
    let mut out = Vec::new();
    for (title, reply, start) in replies {
        group.bench_function(title, |bencher| {
            bencher.iter(|| {
                out.clear();
                black_box(&reply).encode(&mut out);
                assert!(out.starts_with(start.as_bytes()));
            });
        });
    }
}

/// A server's state, in which some locks are held already.
struct State {
    dispatcher: Dispatcher,
    /// Those who lock, each in a thread.
    clients: [ClientId; THREADS],
}

impl State {
    /// As many exclusive and as many shared locks are held, and `taken` is one of them.
    fn new(held: usize) -> State {
        let dispatcher = Dispatcher::default();
        let holder = dispatcher.connect(b"holder");
        let clients = [(); THREADS].map(|()| dispatcher.connect(b"client"));
        let locks = dispatcher.locks();
        assert!(locks.get(holder, b"taken"));
        for number in 0..held {
            let name = format!("held-{number:011}");
            assert!(locks.get(holder, name.as_bytes()));
            assert_eq!(locks.shared_get(holder, name.as_bytes()), 1);
        }
        State {
            dispatcher,
            clients,
        }
    }

    /// Answers a line by what has this beginning.
    fn answer(&self, line: &[u8], out: &mut Vec<u8>, start: &[u8]) {
        out.clear();
        if let Ok(command) = parse(line)
            && let Outcome::Reply(reply) = self.dispatcher.dispatch(self.clients[0], &command)
        {
            reply.encode(out);
        }
        assert!(out.starts_with(start), "{}", out.escape_ascii());
    }
}

/// The lock table alone.
fn locks(mut group: Group<'_>, state: &impl Deref<Target = State>) {
    measure(
        &mut group,
        "get, release",
        2,
        state,
        |table, client, name| {
            assert!(table.get(client, name));
            assert!(table.release(client, name));
        },
    );
    measure(&mut group, "get again", 1, state, |table, client, _| {
        assert!(table.get(client, black_box(b"own")));
    });
    measure(&mut group, "get another's", 1, state, |table, client, _| {
        assert!(!table.get(client, black_box(b"taken")));
    });
    measure(&mut group, "inspect", 1, state, |table, _, _| {
        assert!(table.holder(black_box(b"taken")).is_some());
    });
    measure(
        &mut group,
        "shared get, release",
        2,
        state,
        |table, client, name| {
            assert_eq!(table.shared_get(client, name), 1);
            assert!(table.shared_release(client, name));
        },
    );
}

/// Measures operations on one name after the other.
fn measure(
    group: &mut Group<'_>,
    title: &str,
    operations: u64,
    state: &impl Deref<Target = State>,
    operate: impl Fn(&LockTable, ClientId, &[u8]),
) {
    let names = names(0);
    let mut names = names.iter().cycle();
    group.throughput(Throughput::Elements(operations));
    group.bench_function(title, |bencher| {
        let (table, client) = (state.dispatcher.locks(), state.clients[0]);
        bencher.iter(|| {
            if let Some(name) = names.next() {
                operate(table, client, name.as_bytes());
            }
        });
    });
}

/// The lock table, used by several threads at once, each with names of its own.
fn threads(mut group: Group<'_>, state: &impl Deref<Target = State>) {
    for threads in [1, 2, THREADS] {
        let names: Vec<Vec<String>> = (0..threads).map(names).collect();
        group.throughput(Throughput::Elements(2 * threads as u64));
        group.bench_function(format!("get, release by {threads}"), |bencher| {
            let state: &State = state;
            bencher.iter_custom(|rounds| {
                let start = Instant::now();
                thread::scope(|scope| {
                    for (names, &client) in names.iter().zip(&state.clients) {
                        scope.spawn(move || {
                            let table = state.dispatcher.locks();
                            for (name, _) in names.iter().cycle().zip(0..rounds) {
                                assert!(table.get(client, name.as_bytes()));
                                assert!(table.release(client, name.as_bytes()));
                            }
                        });
                    }
                });
                // Starting them is lost in some ten thousand rounds.
                start.elapsed()
            });
        });
    }
}

/// Whole commands, from a line to the bytes of its reply.
fn dispatcher(mut group: Group<'_>, state: &impl Deref<Target = State>) {
    let verbs = [
        ("g, r", "1 Lock "),
        ("gw 60000, r", "1 Lock "),
        ("i", "0 Lock Not Locked: "),
        ("sg, sr", "1 Shared Lock "),
        ("sgw 60000 9, sr", "1 Shared Lock "),
    ];
    for (verbs, start) in verbs {
        let verbs: Vec<&str> = verbs.split(", ").collect();
        let lines = |name| {
            let line = |verb| format!("{verb} {name}");
            verbs.iter().map(line).collect::<Vec<String>>()
        };
        let lines: Vec<_> = names(0).iter().map(lines).collect();
        let mut lines = lines.iter().cycle();
        let mut out = Vec::new();
        group.throughput(Throughput::Elements(verbs.len() as u64));
        group.bench_function(verbs.join(", "), |bencher| {
            let state: &State = state;
            bencher.iter(|| {
                for line in lines.next().into_iter().flatten() {
                    state.answer(line.as_bytes(), &mut out, start.as_bytes());
                }
            });
        });
    }
}

/// The names that a thread goes through.
fn names(thread: usize) -> Vec<String> {
    (0..NAMES)
        .map(|number| format!("lock-{thread:04}-{number:06}"))
        .collect()
}
