//! glock, the command for people, shells and cron: runs commands under a lock, and shows who holds which lock.
//!
//! It uses the client library `glockd-client`, and knows the protocol only for the load of `glock bench`.
//!
//! ```text
//!                    main            reads the command line, starts the runtime, calls the verb
//!                     |
//!                    args            the list of verbs, the address of the server
//!                     |
//!   a verb a file, with its flags and help:
//!   run   get     inspect  ls  own  who  stats  ping     watch          bench
//!    |  \  |                                             watch/screen   bench/batch, load, tally
//!    |  lock          acquires and releases a lock as the flags say
//!    |
//!   group             the processes of a command: forwards signals, stops, ends them
//!    |
//!   start             fork, exec: the only unsafe code
//!    |    \
//!   signals  terminal
//!
//!   used by all: flags (shared flags), show (output), failure (message and exit code), exit_code
//! ```
//!
//! Imports go downwards only.

mod args;
mod bench;
mod exit_code;
mod failure;
mod flags;
mod get;
mod group;
mod inspect;
mod lock;
mod ls;
mod own;
mod ping;
mod run;
mod show;
mod signals;
mod start;
mod stats;
mod terminal;
mod watch;
mod who;

use std::process::ExitCode;

use clap::Parser;
use glockd_client::Client;
use tokio::runtime::{Builder, LocalOptions};

use crate::args::{Action, Args};
use crate::failure::Failure;
use crate::signals::Inherited;

fn main() -> ExitCode {
    match run_verb(Args::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if let Some(message) = failure.message {
                show::complain(&message);
            }
            ExitCode::from(failure.code)
        }
    }
}

/// Runs the verb on a runtime of one thread, the main thread: the kernel kills a command of `glock run` when the thread
/// that has started it ends.
///
/// A local runtime, because a `Runtime` could have several threads. It would bring their scheduler into the program, and
/// with it the mathematics library, for which each start takes 0.1 ms longer.
fn run_verb(args: Args) -> Result<u8, Failure> {
    let inherited = Inherited::take().map_err(Failure::of_system)?;
    let server = args.server()?;
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .map_err(Failure::of_system)?;
    let result = runtime.block_on(async {
        match args.action {
            Action::Run(run) => run::run(&server, run, &inherited).await,
            Action::Get(get) => get::get(&server, get, &inherited).await,
            Action::Inspect(inspect) => inspect::inspect(&connect(&server).await?, &inspect).await,
            Action::Ls(ls) => ls::ls(&connect(&server).await?, &ls).await,
            Action::Own(own) => own::own(&connect(&server).await?, &own).await,
            Action::Who(who) => who::who(&connect(&server).await?, &who).await,
            Action::Stats(stats) => stats::stats(&connect(&server).await?, &stats).await,
            Action::Ping(ping) => ping::ping(&connect(&server).await?, &ping).await,
            Action::Watch(watch) => {
                watch::watch(&connect(&server).await?, &watch, &inherited).await
            }
            Action::Bench(bench) => bench::bench(&server, &bench).await,
        }
    });
    // A thread may still be looking up a name, for as long as the name server is silent. The process does not wait for
    // it.
    runtime.shutdown_background();
    result
}

async fn connect(server: &str) -> Result<Client, Failure> {
    Client::connect(server).await.map_err(Failure::of_connect)
}
