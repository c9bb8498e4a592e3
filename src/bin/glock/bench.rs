//! `glock bench`: makes a load, and measures how the server handles it.
//!
//! Each connection is a task that writes a batch of commands, reads all replies, and writes the next batch. A thread
//! runs its share of the connections, and counts for itself; the counts are added at the end. The expected replies are
//! known as bytes, so that to check them costs little: only unexpected replies are decoded.
//!
//! The time runs from the moment at which all connections are open to the last reply. The connections themselves take
//! both times: a thread that watched them would be late for one, or early for the other.

mod batch;
mod load;
mod tally;
mod worker;

use std::convert::Infallible;
use std::io::{IsTerminal, stderr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use glockd::protocol::Verb;
use glockd_client::{Client, Endpoint, Error};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::yield_now;

use self::batch::Work;
use self::load::{Load, Plan};
use self::tally::{Setting, Tally};
use crate::failure::Failure;
use crate::flags::{OutputFlags, seconds};
use crate::show::{print, print_raw_on_stderr};

/// Send load to the server, and measure latency and throughput
#[derive(clap::Args)]
#[command(after_help = "\
Each connection sends a batch of commands in one write, and the next batch when all are answered. A latency is the \
time from the write of a batch to the last byte of its replies. Every reply is checked; refusals are counted, and any \
other unexpected reply ends the run. The load takes all that the server can handle: do not use a server that others need.

Examples:
  glock bench
      50 connections, one command at a time, 1,000,000 commands
  glock bench -c 100 -P 16 -t 10
      100 connections, 16 commands at a time, for 10 seconds
  glock bench --work inspect --threads 2
      Reads only; two threads, if the server leaves a core idle
  glock bench -c 8 --keys 1
      All want the same lock, and ask again if they do not get it
  glock bench -c 8 --keys 1 --work wait
      All want the same lock, and wait in its queue")]
pub(crate) struct Bench {
    /// Number of connections
    #[arg(short, long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: u32,
    /// Number of commands in a batch
    #[arg(short = 'P', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pipeline: u32,
    /// Number of commands in all
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    operations: u64,
    /// Time for which commands are sent, in seconds, instead of a number of commands
    #[arg(short, long, value_name = "SECS", value_parser = seconds, allow_negative_numbers = true, conflicts_with = "operations")]
    time: Option<Duration>,
    /// Commands to send
    #[arg(long, value_enum, default_value_t = Work::Getrel)]
    work: Work,
    /// Number of locks that all connections contend for; 0 means that each connection has a lock of its own
    #[arg(long, value_name = "N", default_value_t = 0)]
    keys: u32,
    /// Number of threads that make the load
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    #[command(flatten)]
    output: OutputFlags,
}

/// Time between two displays of the progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// Clears a line of a terminal.
const CLEAR: &str = "\r\x1b[K";

/// Asks the server for its features, and loads it.
pub(crate) async fn bench(server: &str, args: &Bench) -> Result<u8, Failure> {
    let endpoint: Endpoint = server.parse().map_err(Error::from)?;
    if !matches!(endpoint, Endpoint::Tcp { .. } | Endpoint::Unix(_)) {
        return Err(Failure::usage("bench supports only tcp:// and unix:"));
    }
    let client = Client::connect(server).await.map_err(Failure::of_connect)?;
    let features = client.features();
    drop(client);
    // Lets the client's task close its connection, which would otherwise count against a limit of the server.
    yield_now().await;
    if args.work == Work::Wait && !features.wait {
        return Err(Error::Unsupported(Verb::Gw).into());
    }
    run(endpoint, args)
}

/// Makes the load on threads of its own. Blocks until they have ended.
fn run(endpoint: Endpoint, args: &Bench) -> Result<u8, Failure> {
    // Each connection takes a descriptor. Too low a limit is reported when they run out.
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
    let load = Arc::new(Load::new(Plan {
        endpoint,
        work: args.work,
        keys: args.keys,
        connections: args.connections,
        pipeline: args.pipeline,
        operations: args.operations,
        time: args.time,
    }));
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
                worker::run(&load, numbers)
            })
        })
        .collect();
    drop(alive);
    if stderr().is_terminal() {
        show_progress(&load, &ended);
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
    let summary = sum.summarize(load.start());
    let setting = Setting {
        connections: args.connections,
        pipeline: args.pipeline,
        threads: args.threads,
    };
    match args.output.json {
        true => print(&summary.json(setting))?,
        false => print(&summary.text(setting))?,
    }
    Ok(0)
}

/// Shows the progress until all threads have ended.
fn show_progress(load: &Load, ended: &Receiver<Infallible>) {
    let mut shown = None;
    while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(PROGRESS_INTERVAL) {
        let Some(start) = load.start() else {
            continue;
        };
        let (now, done) = (Instant::now(), load.done());
        let (then, before) = shown.unwrap_or((start, 0));
        let rate = (done - before) as f64 / (now - then).as_secs_f64();
        let part = match load.plan.time {
            Some(time) => (now - start).as_secs_f64() / time.as_secs_f64(),
            None => done as f64 / load.plan.operations as f64,
        };
        print_raw_on_stderr(&format!(
            "{CLEAR}{:3.0} %  {rate:.0} a second",
            part.min(1.0) * 100.0
        ));
        shown = Some((now, done));
    }
    print_raw_on_stderr(CLEAR);
}
