//! The daemon: flags, pidfile, signals and log around a [`glockd::Server`].
//!
//! ```text
//!  flags <- usage, values, go_syntax, go_values, bind      the command line
//!  transports, audience                                    where to listen, and who can connect there
//!  pidfile, signals, log, descriptors, runtime             the process and its operating system
//!  main                                                    puts them together, and runs the server
//! ```
//!
//! The daemon reads its flags, locks its pidfile and binds its addresses in this order, and releases them in the
//! reverse order, whether it failed or ran. So nothing here calls `process::exit`. The exit status says which of the
//! steps failed: see [`Failure::status`].

#![forbid(unsafe_code)]

mod audience;
mod bind;
mod descriptors;
mod flags;
mod go_syntax;
mod go_values;
mod log;
mod pidfile;
mod runtime;
mod signals;
mod transports;
mod usage;
mod values;

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::pin::pin;
use std::process::ExitCode;

use glockd::{BindError, FenceError, FenceFile, Limits, LockLimits, Policy, Server};

use crate::descriptors::{Descriptors, TooFewDescriptors};
use crate::flags::{Flags, FlagsError, Stream};
use crate::pidfile::{Pidfile, PidfileError};
use crate::runtime::{BadWorkerThreads, WORKER_THREADS, worker_threads};
use crate::transports::TransportsError;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The reason why the daemon did not run.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Flags(#[from] FlagsError),
    #[error("glockd: {0}")]
    Pidfile(#[from] PidfileError),
    #[error("glockd: {0}")]
    Transports(#[from] TransportsError),
    #[error("glockd: {0}")]
    Fence(#[from] FenceError),
    #[error("glockd: {0}")]
    Bind(#[from] BindError),
    #[error("glockd: cannot start: {0}")]
    System(#[from] io::Error),
    #[error("glockd: cannot start: {0}")]
    Descriptors(#[from] TooFewDescriptors),
    #[error("glockd: cannot start: {0}")]
    Workers(#[from] BadWorkerThreads),
}

impl Failure {
    fn status(&self) -> u8 {
        match self {
            Failure::Flags(FlagsError::Answer { .. }) => 0,
            Failure::Transports(_)
            | Failure::Fence(_)
            | Failure::Bind(_)
            | Failure::System(_)
            | Failure::Descriptors(_)
            | Failure::Workers(_) => 1,
            Failure::Flags(FlagsError::Mistake { .. }) => 2,
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
                Failure::Flags(FlagsError::Answer {
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
    let flags = flags::parse(&argv)?;
    log::to_stderr(flags.verbose);
    let descriptors = Descriptors::raise_limit();
    // Checked first: the runtime's own errors would be obscure.
    descriptors.max_connections(0)?;
    let workers = worker_threads(env::var_os(WORKER_THREADS))?;
    // Before there are threads, which inherit the mask.
    signals::block()?;
    runtime::build(workers)?.block_on(run(&flags, &descriptors))
}

async fn run(flags: &Flags, descriptors: &Descriptors) -> Result<(), Failure> {
    // From here on, a signal stops the daemon in order, so that it leaves no file behind.
    let mut stop = pin!(signals::stop()?);
    let _pidfile = match &flags.pidfile {
        Some(path) => Some(Pidfile::lock(path)?),
        None => None,
    };
    let transports = transports::all(flags)?;
    let possible = descriptors.max_connections(transports.len())?;
    let max_connections = lower(flags.max_connections, possible);
    let mut server = Server::builder()
        .policy(policy(flags))
        .limits(limits(flags))
        .max_connections(max_connections)
        .max_connections_per_ip(flags.max_connections_per_ip);
    if let Some(directory) = &flags.state_dir {
        server = server.fence_file(FenceFile::open(directory)?);
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
    let open: Vec<String> = kinds
        .iter()
        .zip(server.addresses())
        .map(|(kind, address)| {
            let audience = audience::of(flags, kind, &address);
            format!("{kind} {address} to {audience}")
        })
        .collect();
    let max = max_connections.map_or("unlimited".to_owned(), |max| max.to_string());
    tracing::info!("open for {max} connections: {}", open.join("; "));
    server.run(stop).await;
    tracing::info!("stopped");
    Ok(())
}

/// Returns the lower one of the requested and the possible number of connections. Logs a warning if that is not the
/// requested one.
fn lower(asked: Option<usize>, possible: Option<usize>) -> Option<usize> {
    if let (Some(asked), Some(possible)) = (asked, possible)
        && asked > possible
    {
        tracing::warn!(
            "-max-connections {asked} is lowered to {possible}: there are no descriptors for more"
        );
    }
    asked.into_iter().chain(possible).min()
}

/// Returns which commands clients may use, and how many locks they may hold.
fn policy(flags: &Flags) -> Policy {
    Policy {
        dump: flags.dump,
        registry: flags.registry,
        extensions: flags.extensions,
        limits: LockLimits {
            max_locks: flags.max_locks,
            max_locks_per_connection: flags.max_locks_per_connection,
            max_waiters: flags.max_waiters,
        },
    }
}

/// Returns the limits of a connection.
fn limits(flags: &Flags) -> Limits {
    Limits::default()
        .with_max_line(flags.max_line)
        .with_keepalive(flags.keepalive)
        .with_write_timeout(flags.write_timeout)
        .with_handshake_timeout(flags.handshake_timeout)
}
