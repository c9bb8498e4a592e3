//! The cost of commands in parts: the parser, the encoder, the lock table, and all three behind the dispatcher. Without
//! I/O: `tests/instructions.rs` measures the whole daemon.
//!
//! ```text
//! cargo bench               all benchmarks
//! cargo bench -- dispatch   the benchmarks whose names contain this
//! cargo bench -- --test     each benchmark once, without a measurement
//! ```
//!
//! An element is a command, or one operation of the table: 10 Melem/s are 100 ns each. The time of a pair, such as get
//! and release, is the time of both. Results are asserted during the measurement, so that nothing is fast because it
//! fails. That costs a branch which is always predicted.

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

/// Maximum number of threads that lock at the same time.
const THREADS: usize = 4;

/// Number of names that each thread uses. They do not all fit into the first-level cache.
const NAMES: usize = 1 << 14;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    parser(&mut criterion);
    encoder(&mut criterion);
    for held in [0, 1_000_000] {
        // Made on first use, since the arguments may exclude its benchmarks.
        let state = LazyCell::new(|| State::new(held));
        let title = |subject| format!("{subject}, {held} held");
        locks(criterion.benchmark_group(title("locks")), &state);
        threads(criterion.benchmark_group(title("threads")), &state);
        dispatcher(criterion.benchmark_group(title("dispatch")), &state);
    }
    criterion.final_summary();
}

type Group<'a> = BenchmarkGroup<'a, WallTime>;

/// Measures parsing a line into a command.
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

/// Measures encoding a reply into bytes.
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

/// A dispatcher with some locks that are held.
struct State {
    dispatcher: Dispatcher,
    /// The clients that lock, one for each thread.
    clients: [ClientId; THREADS],
}

impl State {
    /// Returns a state in which another client holds this number of exclusive locks, as many shared locks, and the
    /// exclusive lock `taken`.
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

    /// Runs a line, and checks that its reply begins with `start`.
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

/// Measures the lock table alone.
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

/// Measures operations of the lock table, with a different name each time.
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

/// Measures the lock table with several threads at the same time, each with its own names.
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
                // Starting the threads does not matter: there are some ten thousand rounds.
                start.elapsed()
            });
        });
    }
}

/// Measures whole commands, from a line to the bytes of its reply.
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

/// Returns the names of a thread.
fn names(thread: usize) -> Vec<String> {
    (0..NAMES)
        .map(|number| format!("lock-{thread:04}-{number:06}"))
        .collect()
}
