//! glock, the command for people, shells and cron: runs commands under a lock, and shows who has which.
//!
//! [`args`] is what it can be told, and teaches it by example. [`run`] holds a [`lock`] around a command, whose
//! processes are a [`group`](mod@group); [`hold`] holds one around nothing. [`queries`] ask about others' locks,
//! [`watch`] again and again, and [`show`] says it to people and to programs. [`mod@bench`] makes load.
//!
//! It is made of `glockd-client`, and knows no words of the protocol but those of the load.

mod args;
mod bench;
mod failure;
mod group;
mod hold;
mod lock;
mod queries;
mod run;
mod show;
mod signals;
mod start;
mod watch;

use std::process::ExitCode;

use clap::Parser;
use glockd_client::Client;

use crate::args::{Action, Args};
use crate::failure::Failure;

fn main() -> ExitCode {
    if let Some(code) = start::in_child() {
        return ExitCode::from(code);
    }
    let args = Args::parse();
    match obey(args) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if let Some(message) = failure.message {
                show::complain(&message);
            }
            ExitCode::from(failure.code)
        }
    }
}

/// One thread, and the main one: what the kernel is to do to a command when this ends, it does when the thread that
/// started the command ends.
fn obey(args: Args) -> Result<u8, Failure> {
    let mask = signals::unblock().map_err(Failure::of_system)?;
    let server = args.server()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::of_system)?;
    let result = runtime.block_on(async {
        match args.action {
            Action::Run(run) => run::run(&server, run, &mask).await,
            Action::Get(get) => hold::hold(&server, get).await,
            Action::Inspect(inspect) => queries::inspect(&connect(&server).await?, &inspect).await,
            Action::Ls(ls) => queries::ls(&connect(&server).await?, &ls).await,
            Action::Own(own) => queries::own(&connect(&server).await?, &own).await,
            Action::Who(who) => queries::who(&connect(&server).await?, &who).await,
            Action::Stats(stats) => queries::stats(&connect(&server).await?, &stats).await,
            Action::Ping(ping) => queries::ping(&connect(&server).await?, &ping).await,
            Action::Watch(watch) => watch::watch(&connect(&server).await?, &watch).await,
            Action::Bench(bench) => bench::bench(&server, &bench).await,
        }
    });
    // A name may be being looked up on a thread, for as long as the nameserver is silent. Nobody waits for that.
    runtime.shutdown_background();
    result
}

async fn connect(server: &str) -> Result<Client, Failure> {
    Client::connect(server).await.map_err(Failure::of_connect)
}
