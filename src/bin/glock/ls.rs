//! `glock ls`: the locks that are held.

use std::ffi::OsString;

use glockd_client::{Client, LockKind};

use crate::failure::Failure;
use crate::flags::{OutputFlags, bytes, lock_name};
use crate::show::List;

/// List the locks that are held
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glock ls
      Exclusive locks and their holders
  glock ls -s gpu
      Holders of the shared lock gpu, in the order in which they got it
  glock ls --json | jq -r '.[].name'
      For programs: the names of the locks")]
pub(crate) struct Ls {
    /// List shared locks, one line for each holder
    #[arg(short, long)]
    shared: bool,
    #[command(flatten)]
    output: OutputFlags,
    /// List only the lock of this name
    #[arg(value_parser = lock_name())]
    name: Option<OsString>,
}

pub(crate) async fn ls(client: &Client, args: &Ls) -> Result<u8, Failure> {
    let kind = match args.shared {
        true => LockKind::Shared,
        false => LockKind::Exclusive,
    };
    let locks = client.locks(kind, args.name.as_ref().map(bytes)).await?;
    let list = List {
        keys: ["name", "holder"],
        heads: ["LOCK", "HOLDER"],
        rows: locks
            .iter()
            .map(|lock| [lock.name.as_slice(), lock.holder.as_slice()])
            .collect(),
        if_empty: match (args.shared, &args.name) {
            (false, None) => "no exclusive lock is held",
            (true, None) => "no shared lock is held",
            (false, Some(_)) => "no exclusive lock of this name is held",
            (true, Some(_)) => "no shared lock of this name is held",
        },
    };
    list.print(&args.output)?;
    Ok(0)
}
