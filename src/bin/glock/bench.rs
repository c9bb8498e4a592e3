//! Load, and what the server makes of it.
//!
//! Each connection is a task that writes a batch of commands, reads all replies, and writes the next batch. A thread
//! runs its share of them, and counts for itself; the counts are added at the end. The replies that are to be expected
//! are known as bytes, so that to check them costs little: only what differs is looked into.
//!
//! The time runs from when all are connected to when the last batch was answered. Both are taken where it happens, by
//! the connections: a thread that watched them would be late for one, or early for the other.

mod batch;

use std::cell::RefCell;
use std::convert::Infallible;
use std::io::{self, IsTerminal, stderr};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use glockd::protocol::{Command, Verb};
use glockd_client::{Client, Endpoint, Error};
use hdrhistogram::Histogram;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Barrier, Notify};
use tokio::task::{JoinSet, yield_now};
use tokio::time::sleep;

use self::batch::{Batch, WAIT_MS};
use crate::args::{Bench, Work};
use crate::failure::Failure;
use crate::show::{complain_as_is, print};

/// What latencies can be told apart: to three digits, up to a minute.
const HIGHEST: Duration = Duration::from_secs(60);

/// How often the progress is shown.
const PROGRESS: Duration = Duration::from_millis(500);

/// What clears a line of a terminal.
const CLEAR: &str = "\r\x1b[K";

/// After which pauses, in milliseconds, a connection is tried again that the server has refused: it may take its time to
/// see that another one is closed, above all the one that asked what it can do.
const PAUSES_MS: [u64; 5] = [50, 100, 200, 400, 800];

/// How long a server may be silent that could answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);

/// Asks the server what it can do, and loads it.
pub(crate) async fn bench(server: &str, args: &Bench) -> Result<u8, Failure> {
    let endpoint: Endpoint = server.parse().map_err(Error::from)?;
    if !matches!(endpoint, Endpoint::Tcp { .. } | Endpoint::Unix(_)) {
        return Err(Failure::usage("bench speaks tcp:// and unix: alone"));
    }
    let client = Client::connect(server).await.map_err(Failure::of_connect)?;
    let features = client.features();
    drop(client);
    // The client's task gets to close its connection, which would otherwise count against a limit of the server's.
    yield_now().await;
    if args.work == Work::Wait && !features.wait {
        return Err(Error::Unsupported(Verb::Gw).into());
    }
    run(endpoint, args)
}

/// Blocks, while threads of its own do the work.
fn run(endpoint: Endpoint, args: &Bench) -> Result<u8, Failure> {
    // Each connection takes a descriptor. If there are not enough all the same, that is said when they run out.
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
    let load = Load {
        endpoint,
        work: args.work,
        keys: args.keys,
        pipeline: args.pipeline,
        salt: fastrand::u32(..),
        time: args.time,
        operations: args.operations,
        taken: AtomicU64::new(0),
        done: AtomicU64::new(0),
        connections: args.connections,
        open: AtomicU32::new(0),
        ready: Barrier::new(args.connections as usize),
        start: OnceLock::new(),
        has_failed: AtomicBool::new(false),
        failed: Notify::new(),
    };
    let load = Arc::new(load);
    let threads = args.threads.min(args.connections);
    let of_thread =
        |thread| (0..args.connections).filter(move |connection| connection % threads == thread);
    // Nothing is ever sent: each thread has a sender, and drops it when it ends.
    let (alive, ended) = channel::<Infallible>();
    let running: Vec<_> = (0..threads)
        .map(|thread| {
            let (load, numbers) = (Arc::clone(&load), of_thread(thread).collect());
            let alive = alive.clone();
            thread::spawn(move || {
                let _alive = alive;
                one_thread(&load, numbers)
            })
        })
        .collect();
    drop(alive);
    if stderr().is_terminal() {
        watch(&load, &ended);
    }
    let mut sum = Tally::new()?;
    let mut failure = None;
    for thread in running {
        match thread.join() {
            Ok(Ok(tally)) => sum.add(&tally)?,
            Ok(Err(found)) => failure = Some(found),
            Err(_) => failure = Some(Failure::unavailable("a thread of the load has panicked")),
        }
    }
    if let Some(failure) = failure {
        return Err(failure);
    }
    let elapsed = load
        .start
        .get()
        .zip(sum.last)
        .map(|(start, last)| last - *start);
    report(args, &sum, elapsed.unwrap_or_default())?;
    Ok(0)
}

/// What all threads share.
struct Load {
    endpoint: Endpoint,
    work: Work,
    keys: u32,
    pipeline: u32,
    /// In the names of the locks, so that two runs at a time do not disturb each other. Chance, for containers and hosts
    /// have the same process ids.
    salt: u32,
    /// For how long commands are sent, instead of how many.
    time: Option<Duration>,
    operations: u64,
    /// How many of them were taken to be sent.
    taken: AtomicU64,
    /// How many were answered.
    done: AtomicU64,
    /// Number of connections in all.
    connections: u32,
    /// Number of connections on which the server has answered.
    open: AtomicU32,
    /// Where all wait until all are connected.
    ready: Barrier,
    /// When the first left there.
    start: OnceLock<Instant>,
    has_failed: AtomicBool,
    /// Tells those who wait there that somebody will not come.
    failed: Notify,
}

impl Load {
    /// Waits until all are connected, or somebody has failed. When the load began, if it did.
    async fn all_ready(&self) -> Option<Instant> {
        let failed = self.failed.notified();
        // Whoever fails says so first, and tells then.
        if self.has_failed.load(Relaxed) {
            return None;
        }
        tokio::select! {
            // Nobody sends anything before this is known.
            _ = self.ready.wait() => Some(*self.start.get_or_init(Instant::now)),
            () = failed => None,
        }
    }

    /// How many commands are to be sent next.
    fn take(&self) -> u64 {
        let most = u64::from(self.pipeline);
        if self.time.is_some() {
            return most;
        }
        let taken = self.taken.fetch_add(most, Relaxed);
        self.operations.saturating_sub(taken).min(most)
    }

    /// What a connection locks, by its number.
    fn lock_name(&self, number: u32) -> String {
        let key = match self.keys {
            0 => number,
            keys => number % keys,
        };
        format!("bench:{:08x}:{key:06}", self.salt)
    }

    fn not_connected(&self, source: io::Error) -> Failure {
        let endpoint = self.endpoint.clone();
        Error::Connect { endpoint, source }.into()
    }

    /// Fails if the server has refused connections. It has accepted each, and closed some without an answer.
    fn check_open(&self) -> Result<(), Failure> {
        let (open, connections) = (self.open.load(Relaxed), self.connections);
        if open == connections {
            return Ok(());
        }
        Err(Failure::unavailable(format!(
            "the server took {open} of {connections} connections and closed the others: it probably limits them \
             (-max-connections, -max-connections-per-ip)"
        )))
    }

    fn fail(&self) {
        self.has_failed.store(true, Relaxed);
        self.failed.notify_waiters();
    }
}

/// What came of it. A thread's connections share one, for it takes some 200 KiB.
#[derive(Clone)]
struct Tally {
    answered: u64,
    refused: u64,
    /// When the last batch was answered.
    last: Option<Instant>,
    latencies: Histogram<u64>,
}

impl Tally {
    fn new() -> Result<Tally, Failure> {
        let latencies = Histogram::new_with_bounds(1, HIGHEST.as_nanos() as u64, 3);
        Ok(Tally {
            answered: 0,
            refused: 0,
            last: None,
            latencies: latencies.map_err(|error| Failure::of_system(io::Error::other(error)))?,
        })
    }

    /// Counts a batch.
    fn count(&mut self, sent: Instant, answered: Instant, commands: u64, refused: u64) {
        let latency = u64::try_from((answered - sent).as_nanos()).unwrap_or(u64::MAX);
        self.latencies.saturating_record_n(latency, commands);
        self.last = self.last.max(Some(answered));
        self.answered += commands;
        self.refused += refused;
    }

    fn add(&mut self, other: &Tally) -> Result<(), Failure> {
        self.answered += other.answered;
        self.refused += other.refused;
        self.last = self.last.max(other.last);
        let added = self.latencies.add(&other.latencies);
        added.map_err(|error| Failure::of_system(io::Error::other(error)))
    }
}

/// Shows how far it is, until all threads have ended.
fn watch(load: &Load, ended: &Receiver<Infallible>) {
    let mut shown = None;
    while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(PROGRESS) {
        let Some(&start) = load.start.get() else {
            continue;
        };
        let (now, done) = (Instant::now(), load.done.load(Relaxed));
        let (then, before) = shown.unwrap_or((start, 0));
        let rate = (done - before) as f64 / (now - then).as_secs_f64();
        let part = match load.time {
            Some(time) => (now - start).as_secs_f64() / time.as_secs_f64(),
            None => done as f64 / load.operations as f64,
        };
        complain_as_is(&format!(
            "{CLEAR}{:3.0} %  {rate:.0} a second",
            part.min(1.0) * 100.0
        ));
        shown = Some((now, done));
    }
    complain_as_is(CLEAR);
}

/// Runs some of the connections. Whatever goes wrong with them, those of other threads do not wait for them.
fn one_thread(load: &Arc<Load>, connections: Vec<u32>) -> Result<Tally, Failure> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .event_interval(256)
        .build_local(LocalOptions::default())
        .map_err(Failure::of_system);
    let outcome = runtime.and_then(|runtime| {
        runtime.block_on(async {
            tokio::select! {
                outcome = all(load, connections) => outcome,
                silent = stalled(load) => Err(Failure::unavailable(format!(
                    "the server has not answered for {silent:?}"
                ))),
            }
        })
    });
    outcome.inspect_err(|_| load.fail())
}

async fn all(load: &Arc<Load>, connections: Vec<u32>) -> Result<Tally, Failure> {
    let tally = Rc::new(RefCell::new(Tally::new()?));
    let mut tasks = JoinSet::new();
    for number in connections {
        let (load, tally) = (Arc::clone(load), Rc::clone(&tally));
        tasks.spawn_local(async move { one_connection(&load, number, &tally).await });
    }
    while let Some(task) = tasks.join_next().await {
        task.map_err(|error| Failure::of_system(io::Error::other(error)))??;
    }
    // All tasks have ended, and nobody shares it any more.
    Ok(Rc::unwrap_or_clone(tally).into_inner())
}

/// Resolves when nobody was answered for longer than anybody has to wait: for how long.
async fn stalled(load: &Load) -> Duration {
    let limit = match load.work {
        Work::Wait => ANSWERED_WITHIN + Duration::from_millis(WAIT_MS.into()),
        _ => ANSWERED_WITHIN,
    };
    let (mut before, mut since) = (load.done.load(Relaxed), Instant::now());
    while since.elapsed() < limit {
        sleep(Duration::from_secs(1)).await;
        let done = load.done.load(Relaxed);
        if done != before {
            (before, since) = (done, Instant::now());
        }
    }
    limit
}

async fn one_connection(load: &Load, number: u32, tally: &RefCell<Tally>) -> Result<(), Failure> {
    match &load.endpoint {
        Endpoint::Tcp { host, port } => {
            let connect = async || {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Ok(stream)
            };
            let mut stream = open(load, number, connect).await?;
            let (reader, writer) = stream.split();
            batches(load, number, tally, reader, writer).await
        }
        Endpoint::Unix(path) => {
            let connect = async || UnixStream::connect(path).await;
            let mut stream = open(load, number, connect).await?;
            let (reader, writer) = stream.split();
            batches(load, number, tally, reader, writer).await
        }
        // Refused before.
        _ => Err(load.not_connected(io::ErrorKind::Unsupported.into())),
    }
}

/// Opens a connection, and asks for something on it: a server that takes no more connections accepts them as well, and
/// closes them. Whether it does is for [`Load::check_open`] to say, when all have been tried.
async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    load: &Load,
    number: u32,
    connect: impl AsyncFn() -> io::Result<S>,
) -> Result<S, Failure> {
    let mut question = Vec::new();
    Command::Inspect(load.lock_name(number).as_bytes().into()).encode(&mut question);
    let mut pauses = PAUSES_MS.into_iter();
    loop {
        let mut stream = connect().await.map_err(|error| load.not_connected(error))?;
        if is_answered(&mut stream, &question).await {
            load.open.fetch_add(1, Relaxed);
            return Ok(stream);
        }
        let Some(pause) = pauses.next() else {
            return Ok(stream);
        };
        drop(stream);
        sleep(Duration::from_millis(pause)).await;
    }
}

/// Whether the server answers to a line.
async fn is_answered(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), line: &[u8]) -> bool {
    let mut answer = Vec::new();
    stream.write_all(line).await.is_ok()
        && BufReader::new(stream)
            .read_until(b'\n', &mut answer)
            .await
            .is_ok()
        && answer.ends_with(b"\n")
}

/// Sends batch after batch.
async fn batches(
    load: &Load,
    number: u32,
    tally: &RefCell<Tally>,
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
) -> Result<(), Failure> {
    let mut batch = Batch::new(load.work, &load.lock_name(number), load.pipeline);
    let Some(start) = load.all_ready().await else {
        return Ok(());
    };
    load.check_open()?;
    while !load.has_failed.load(Relaxed) {
        let commands = load.take();
        if commands == 0 {
            break;
        }
        let sent = Instant::now();
        let exchanged = batch.exchange(commands as usize, &mut reader, &mut writer);
        let is_as_expected = exchanged.await.map_err(|error| {
            Failure::unavailable(format!("the server went away under load: {error}"))
        })?;
        let answered = Instant::now();
        let refused = if is_as_expected { 0 } else { batch.refused()? };
        tally.borrow_mut().count(sent, answered, commands, refused);
        load.done.fetch_add(commands, Relaxed);
        if load.time.is_some_and(|time| answered - start >= time) {
            break;
        }
    }
    Ok(())
}

fn report(args: &Bench, sum: &Tally, elapsed: Duration) -> Result<(), Failure> {
    let seconds = elapsed.as_secs_f64();
    let rate = sum.answered as f64 / seconds;
    let us = |ns: u64| ns as f64 / 1000.0;
    let at = |percentile| us(sum.latencies.value_at_quantile(percentile));
    let (least, mean) = (us(sum.latencies.min()), sum.latencies.mean() / 1000.0);
    let most = us(sum.latencies.max());
    if args.output.json {
        let latency = json!({
            "least": least, "mean": mean, "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999),
            "most": most,
        });
        let report = json!({
            "connections": args.connections, "pipeline": args.pipeline, "threads": args.threads,
            "seconds": seconds, "operations": sum.answered, "refused": sum.refused,
            "operations_per_second": rate, "latency_us": latency,
        });
        print(&report.to_string())?;
        return Ok(());
    }
    print(&format!(
        "{} commands in {seconds:.3} s over {} connections, {} at a time: {rate:.0} a second, {} refused\n\
         latency in µs: least {least:.1}, mean {mean:.1}, p50 {:.1}, p90 {:.1}, p99 {:.1}, p99.9 {:.1}, most {most:.1}",
        sum.answered,
        args.connections,
        args.pipeline,
        sum.refused,
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
    ))?;
    Ok(())
}
