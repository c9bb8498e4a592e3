//! `glock inspect`: whether a lock is held.

use std::ffi::OsString;

use glockd_client::Client;
use serde_json::{Map, Value, json};

use crate::exit_code::CONFLICT;
use crate::failure::Failure;
use crate::flags::{OutputFlags, bytes, lock_name};
use crate::show::{insert_name, print_answer};

/// Show whether a lock is held: exit code 0 if it is, 1 if it is free
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glock inspect backup
      Prints `held` or `free`
  glock inspect -s gpu
      Prints the number of holders
  while glock inspect -q deploy; do sleep 1; done
      Polls until the lock is free, or the command fails. If the server supports waiting, use
      glock run deploy -- true instead")]
pub(crate) struct Inspect {
    /// Inspect the shared lock of this name
    #[arg(short, long)]
    shared: bool,
    /// Print nothing
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    output: OutputFlags,
    /// Name of the lock
    #[arg(value_parser = lock_name())]
    name: OsString,
}

pub(crate) async fn inspect(client: &Client, args: &Inspect) -> Result<u8, Failure> {
    let name = bytes(&args.name);
    let holders = match args.shared {
        true => client.holders(name).await?,
        false => u32::from(client.is_locked(name).await?),
    };
    if args.output.json {
        let mut object = Map::new();
        insert_name(&mut object, "name", name);
        object.insert("holders".to_owned(), json!(holders));
        print_answer(&Value::Object(object).to_string())?;
    } else if !args.quiet {
        match (args.shared, holders) {
            (_, 0) => print_answer("free")?,
            (false, _) => print_answer("held")?,
            (true, holders) => print_answer(&format!("held by {holders}"))?,
        }
    }
    Ok(if holders == 0 { CONFLICT } else { 0 })
}
