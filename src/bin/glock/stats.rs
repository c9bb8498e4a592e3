//! `glock stats`: the server's counters.

use glockd_client::Client;
use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::flags::OutputFlags;
use crate::show::{print, print_table, text};

/// Show the server's counters
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glock stats
      All counters
  glock stats --json | jq .locks
      For programs: the number of exclusive locks that are held")]
pub(crate) struct Stats {
    #[command(flatten)]
    output: OutputFlags,
}

pub(crate) async fn stats(client: &Client, args: &Stats) -> Result<u8, Failure> {
    let counters = client.statistics().await?;
    if args.output.json {
        let object: Map<_, _> = counters
            .into_iter()
            .map(|(key, value)| (key, json!(value)))
            .collect();
        print(&Value::Object(object).to_string())?;
    } else {
        let row = |(key, value): (String, u64)| [text(key.as_bytes()), value.to_string()];
        let rows = counters.into_iter().map(row).collect();
        print_table(["COUNTER", "VALUE"], rows, "there are no counters")?;
    }
    Ok(0)
}
