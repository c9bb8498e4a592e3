//! Load, and what the server makes of it.
//!
//! Each connection is a task that writes a batch of commands, reads all replies, and writes the next batch. A thread
//! runs its share of them, and counts for itself; the counts are added at the end. The replies that are to be expected
//! are known as bytes, so that to check them costs little: only what differs is looked into.

mod batch;

use std::io::{self, IsTerminal, stderr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use glockd::protocol::Verb;
use glockd_client::{Client, Endpoint, Error};
use hdrhistogram::Histogram;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Builder;
use tokio::sync::{Barrier, Notify};
use tokio::task::JoinSet;
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

/// How long a server may be silent that could answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);

/// Asks the server what it can do, and loads it.
pub(crate) async fn bench(server: &str, args: &Bench) -> Result<u8, Failure> {
    let endpoint: Endpoint = server.parse().map_err(Error::from)?;
    if matches!(endpoint, Endpoint::WebSocket { .. }) {
        return Err(Failure::usage("bench speaks tcp:// and unix: alone"));
    }
    let features = Client::connect(server).await?.features();
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
        salt: std::process::id(),
        budget: match args.time {
            Some(_) => AtomicU64::new(u64::MAX),
            None => AtomicU64::new(args.operations),
        },
        done: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
        ready: Barrier::new(args.connections as usize + 1),
        failed: Notify::new(),
    };
    let load = Arc::new(load);
    let threads = args.threads.min(args.connections);
    let of_thread =
        |thread| (0..args.connections).filter(move |connection| connection % threads == thread);
    let running: Vec<_> = (0..threads)
        .map(|thread| {
            let (load, numbers) = (Arc::clone(&load), of_thread(thread).collect());
            thread::spawn(move || one_thread(&load, numbers))
        })
        .collect();
    let watcher = {
        let (load, time) = (Arc::clone(&load), args.time);
        thread::spawn(move || watch(&load, time))
    };
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
    let elapsed = watcher.join().ok().flatten().unwrap_or_default();
    report(args, &sum, elapsed)?;
    Ok(0)
}

/// What all threads share.
struct Load {
    endpoint: Endpoint,
    work: Work,
    keys: u32,
    pipeline: u32,
    /// In the names of the locks, so that two runs at a time do not disturb each other.
    salt: u32,
    /// How many commands are still to be sent.
    budget: AtomicU64,
    /// How many were answered.
    done: AtomicU64,
    /// Whether the time is over, or something has failed.
    is_over: AtomicBool,
    /// Where all wait until all are connected.
    ready: Barrier,
    /// Tells those who wait there that somebody will not come.
    failed: Notify,
}

impl Load {
    /// Waits until all are connected, or somebody has failed.
    async fn all_ready(&self) {
        let failed = self.failed.notified();
        // Whoever fails says so first, and tells then.
        if !self.is_over.load(Relaxed) {
            tokio::select! {
                _ = self.ready.wait() => {}
                () = failed => {}
            }
        }
    }

    /// What a connection locks, by its number.
    fn lock_name(&self, number: u32) -> String {
        let key = match self.keys {
            0 => number,
            keys => number % keys,
        };
        format!("bench:{}:{key:06}", self.salt)
    }

    fn fail(&self) {
        self.is_over.store(true, Relaxed);
        self.failed.notify_waiters();
    }
}

/// What came of it.
struct Tally {
    answered: u64,
    refused: u64,
    latencies: Histogram<u64>,
}

impl Tally {
    fn new() -> Result<Tally, Failure> {
        let latencies = Histogram::new_with_bounds(1, HIGHEST.as_nanos() as u64, 3);
        Ok(Tally {
            answered: 0,
            refused: 0,
            latencies: latencies.map_err(|error| Failure::of_system(io::Error::other(error)))?,
        })
    }

    fn add(&mut self, other: &Tally) -> Result<(), Failure> {
        self.answered += other.answered;
        self.refused += other.refused;
        let added = self.latencies.add(&other.latencies);
        added.map_err(|error| Failure::of_system(io::Error::other(error)))
    }
}

/// Shows how far it is, and ends it when its time is over. How long it took, once all were connected.
fn watch(load: &Load, time: Option<Duration>) -> Option<Duration> {
    let runtime = Builder::new_current_thread().enable_time().build().ok()?;
    runtime.block_on(async {
        load.all_ready().await;
        let start = Instant::now();
        let is_shown = stderr().is_terminal();
        let whole = load.budget.load(Relaxed);
        let (mut before, mut shown) = (0, start);
        loop {
            let (now, done) = (Instant::now(), load.done.load(Relaxed));
            let elapsed = now - start;
            if time.is_some_and(|time| elapsed >= time) {
                load.is_over.store(true, Relaxed);
            }
            if load.is_over.load(Relaxed) || done >= whole {
                break;
            }
            if is_shown && now - shown >= PROGRESS {
                let rate = (done - before) as f64 / (now - shown).as_secs_f64();
                let part = match time {
                    Some(time) => elapsed.as_secs_f64() / time.as_secs_f64(),
                    None => done as f64 / whole as f64,
                };
                complain_as_is(&format!(
                    "{CLEAR}{:3.0} %  {rate:.0} a second",
                    part * 100.0
                ));
                (before, shown) = (done, now);
            }
            sleep(Duration::from_millis(1)).await;
        }
        if is_shown {
            complain_as_is(CLEAR);
        }
        Some(start.elapsed())
    })
}

/// Runs some of the connections. Whatever goes wrong with them, those of other threads do not wait for them.
fn one_thread(load: &Arc<Load>, connections: Vec<u32>) -> Result<Tally, Failure> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .event_interval(256)
        .build()
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
    let mut tasks = JoinSet::new();
    for number in connections {
        let load = Arc::clone(load);
        tasks.spawn(async move { one_connection(&load, number).await });
    }
    let mut sum = Tally::new()?;
    while let Some(task) = tasks.join_next().await {
        let tally = task.map_err(|error| Failure::of_system(io::Error::other(error)))?;
        sum.add(&tally?)?;
    }
    Ok(sum)
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

async fn one_connection(load: &Load, number: u32) -> Result<Tally, Failure> {
    let failed = |source| Error::Connect {
        endpoint: load.endpoint.clone(),
        source,
    };
    match &load.endpoint {
        Endpoint::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await;
            let mut stream = stream.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            let (reader, writer) = stream.split();
            batches(load, number, reader, writer).await
        }
        Endpoint::Unix(path) => {
            let mut stream = UnixStream::connect(path).await.map_err(failed)?;
            let (reader, writer) = stream.split();
            batches(load, number, reader, writer).await
        }
        _ => Err(Failure::usage("bench speaks tcp:// and unix: alone")),
    }
}

/// Sends batch after batch.
async fn batches(
    load: &Load,
    number: u32,
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
) -> Result<Tally, Failure> {
    let mut tally = Tally::new()?;
    let mut batch = Batch::new(load.work, &load.lock_name(number), load.pipeline);
    load.all_ready().await;
    while !load.is_over.load(Relaxed) {
        let commands = take(&load.budget, u64::from(load.pipeline));
        if commands == 0 {
            break;
        }
        let start = Instant::now();
        let exchanged = batch.exchange(commands as usize, &mut reader, &mut writer);
        let is_as_expected = exchanged.await.map_err(|error| {
            Failure::unavailable(format!("the server went away under load: {error}"))
        })?;
        let latency = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        tally.latencies.saturating_record_n(latency, commands);
        tally.answered += commands;
        if !is_as_expected {
            tally.refused += batch.refused()?;
        }
        load.done.fetch_add(commands, Relaxed);
    }
    Ok(tally)
}

/// Takes as much of the budget as there is, up to this.
fn take(budget: &AtomicU64, most: u64) -> u64 {
    if budget.load(Relaxed) == u64::MAX {
        return most;
    }
    let taken = budget.try_update(Relaxed, Relaxed, |left| {
        (left > 0).then(|| left.saturating_sub(most))
    });
    taken.map_or(0, |left| left.min(most))
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
