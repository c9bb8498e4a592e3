//! `glock who`: the connections that have registered a name.

use std::ffi::OsString;

use glockd_client::Client;

use crate::failure::Failure;
use crate::flags::{OutputFlags, bytes};
use crate::show::List;

/// List the connections that have registered a name
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glock who
      All of them
  glock who 'cron on db1'
      Those with this name")]
pub(crate) struct Who {
    #[command(flatten)]
    output: OutputFlags,
    /// List only connections with this name
    name: Option<OsString>,
}

pub(crate) async fn who(client: &Client, args: &Who) -> Result<u8, Failure> {
    let clients = client.clients(args.name.as_ref().map(bytes)).await?;
    let list = List {
        keys: ["address", "name"],
        heads: ["ADDRESS", "NAME"],
        rows: clients
            .iter()
            .map(|client| [client.address.as_slice(), client.name.as_slice()])
            .collect(),
        if_empty: match &args.name {
            None => "no client has registered a name",
            Some(_) => "no client has registered this name",
        },
    };
    list.print(&args.output)?;
    Ok(0)
}
