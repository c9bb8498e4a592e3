//! The daemon: flags, pidfile, signals and log around a [`glockd::Server`].
//!
//! Things are claimed in the order in which they can fail (flags, pidfile, addresses), and given back in
//! the opposite one, whether it failed or ran: nothing here calls `process::exit`. The status says how
//! far it came; [`Failure::status`] has them all.

mod args;
mod bind;
mod config;
mod go_flags;
mod go_values;
mod log;
mod pidfile;
mod signals;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::pin::pin;
use std::process::ExitCode;
use std::thread::available_parallelism;

use glockd::{BindError, Fence, FenceError, Server};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};

use crate::args::{ArgsError, Stream};
use crate::config::{Config, ConfigError};
use crate::pidfile::{Pidfile, PidfileError};

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How many tasks a worker polls before it looks for input again: as many as a worker's own queue holds. With
/// tokio's 61, under load from some hundred connections, those that were just served are ready again before
/// the rest had their turn, and the rest waited 60 ms.
const TASKS_A_ROUND: u32 = 256;

/// Descriptors that the daemon needs beside those that it was started with, its doors and its connections: for
/// the runtime, signals and files, and some to spare.
const OWN_DESCRIPTORS: usize = 16;

/// Environment variable by which users of tokio set the number of its threads.
const WORKER_THREADS: &str = "TOKIO_WORKER_THREADS";

/// Upper limit of that number: tokio panics if it cannot start as many threads.
const MOST_WORKERS: usize = 1024;

/// Bytes of a thread's stack: the standard library's default, unless `RUST_MIN_STACK` changes that, which can
/// ask for more than there is.
const STACK: usize = 2 * 1024 * 1024;

/// Why the daemon did not run.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Args(#[from] ArgsError),
    #[error("glockd: {0}")]
    Pidfile(#[from] PidfileError),
    #[error("glockd: {0}")]
    Config(#[from] ConfigError),
    #[error("glockd: {0}")]
    Fence(#[from] FenceError),
    #[error("glockd: {0}")]
    Bind(#[from] BindError),
    #[error("glockd: cannot start: {0}")]
    System(#[from] io::Error),
    #[error("glockd: cannot start: it may have {limit} descriptors, and needs {needed}")]
    Descriptors { limit: usize, needed: usize },
    #[error(
        "glockd: cannot start: {WORKER_THREADS} is {text:?}, and must be a number of threads from 1 to {MOST_WORKERS}"
    )]
    Workers { text: OsString },
}

impl Failure {
    fn status(&self) -> u8 {
        match self {
            Failure::Args(ArgsError::Answer { .. }) => 0,
            Failure::Config(_)
            | Failure::Fence(_)
            | Failure::Bind(_)
            | Failure::System(_)
            | Failure::Descriptors { .. }
            | Failure::Workers { .. } => 1,
            Failure::Args(ArgsError::Mistake { .. }) => 2,
            Failure::Pidfile(PidfileError::Unusable { .. }) => 3,
            Failure::Pidfile(PidfileError::Locked { .. }) => 4,
        }
    }
}

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let text = failure.to_string();
            let text = text.trim_end();
            // Not `println!` and `eprintln!`: they panic if nobody reads.
            let _ = match failure {
                Failure::Args(ArgsError::Answer {
                    stream: Stream::Stdout,
                    ..
                }) => writeln!(io::stdout(), "{text}"),
                _ => writeln!(io::stderr(), "{text}"),
            };
            ExitCode::from(failure.status())
        }
    }
}

fn start() -> Result<(), Failure> {
    let argv: Vec<OsString> = env::args_os().skip(1).collect();
    let config = args::parse(&argv)?;
    log::to_stderr(config.verbose);
    let descriptors = Descriptors {
        limit: raise_descriptor_limit(),
        inherited: open_descriptors(),
    };
    // Checked first: the runtime's own errors would be obscure.
    descriptors.room(0)?;
    let workers = worker_threads(env::var_os(WORKER_THREADS))?;
    // Before there are threads, which inherit it.
    signals::defer()?;
    runtime(workers)?.block_on(run(&config, &descriptors))
}

/// Takes as many descriptors as may be had: the soft limit is often 1024, for the sake of programs that use
/// `select`. How many these are, unless it is any number.
fn raise_descriptor_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Without it fewer clients can be served at a time, which is no reason to serve none.
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current
}

/// The descriptors that this process may have, unless it is any number, and those that it was started with.
struct Descriptors {
    limit: Option<u64>,
    inherited: usize,
}

impl Descriptors {
    /// How many connections there are descriptors for, beside those that the daemon needs for itself: it must
    /// always be able to accept one more, if only to turn it away.
    fn room(&self, doors: usize) -> Result<Option<usize>, Failure> {
        let Some(limit) = self.limit else {
            return Ok(None);
        };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        // A door takes one to listen, and one for whoever stands in it.
        let needed = self.inherited + OWN_DESCRIPTORS + 2 * doors + 1;
        match limit.checked_sub(needed) {
            Some(more) => Ok(Some(more + 1)),
            None => Err(Failure::Descriptors { limit, needed }),
        }
    }
}

/// Descriptors that are open: the standard streams, where it cannot be known.
fn open_descriptors() -> usize {
    // One is that of the directory itself.
    fs::read_dir("/proc/self/fd").map_or(3, |open| open.count() - 1)
}

/// As many connections as were asked for, but no more than there is room for.
fn max_connections(asked: Option<usize>, room: Option<usize>) -> Option<usize> {
    if let (Some(asked), Some(room)) = (asked, room)
        && asked > room
    {
        tracing::warn!("there are descriptors for {room} connections, and not for {asked}");
    }
    asked.into_iter().chain(room).min()
}

/// Number of worker threads that the environment asks for, or else one for each processor. An empty variable
/// counts as none.
///
/// tokio reads the variable, too, but panics if it cannot be used.
fn worker_threads(asked: Option<OsString>) -> Result<usize, Failure> {
    match asked.filter(|text| !text.is_empty()) {
        None => Ok(available_parallelism().map_or(1, NonZeroUsize::get)),
        Some(text) => text
            .to_str()
            .and_then(|text| text.parse().ok())
            .filter(|number| (1..=MOST_WORKERS).contains(number))
            .ok_or(Failure::Workers { text }),
    }
}

/// Makes the runtime. Where there is but one processor, it runs on this thread alone: then the kernel need not
/// count the users of a descriptor, nor tokio the threads to wake.
fn runtime(workers: usize) -> io::Result<Runtime> {
    let mut builder = match available_parallelism() {
        Ok(NonZeroUsize::MIN) => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder
        .worker_threads(workers)
        .thread_stack_size(STACK)
        .event_interval(TASKS_A_ROUND)
        .enable_all()
        .build()
}

async fn run(config: &Config, descriptors: &Descriptors) -> Result<(), Failure> {
    // From here on a signal can no longer leave anything behind.
    let mut stop = pin!(signals::stop()?);
    let _pidfile = match &config.pidfile {
        Some(path) => Some(Pidfile::take(path)?),
        None => None,
    };
    let transports = config.transports()?;
    let room = descriptors.room(transports.len())?;
    let max_connections = max_connections(config.max_connections, room);
    let mut server = Server::builder()
        .policy(config.policy())
        .limits(config.limits())
        .max_connections(max_connections)
        .max_connections_per_ip(config.max_connections_per_ip);
    if let Some(directory) = &config.state_dir {
        server = server.fence(Fence::open(directory)?);
    }
    let mut kinds = Vec::new();
    for transport in transports {
        kinds.push(transport.name().to_owned());
        server = server.boxed_transport(transport);
    }
    let server = tokio::select! {
        server = server.bind() => server?,
        () = &mut stop => return Ok(()),
    };
    let doors = kinds.iter().zip(server.addresses());
    let doors: Vec<String> = doors
        .map(|(kind, address)| format!("{kind} {address} to {}", config.audience(kind, &address)))
        .collect();
    let places = max_connections.map_or("any number of".to_owned(), |max| max.to_string());
    tracing::info!("open for {places} connections: {}", doors.join("; "));
    server.run(stop).await;
    tracing::info!("stopped");
    Ok(())
}
