//! `glock own`: the claims on a lock, that is, its holders and waiters.

use std::ffi::OsString;

use glockd_client::{Claim, Client};
use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::flags::{OutputFlags, bytes, lock_name};
use crate::show::{age, insert_name, kind, print, print_table, text, token};

/// Show who holds a lock, and who waits for it
#[derive(clap::Args)]
#[command(after_help = "\
Shows the exclusive and the shared lock of this name, how long each client has held it or waited, and the fencing \
tokens.

Examples:
  glock own backup
      For each of the two locks: holders, then waiters in the order of the queue
  glock own backup --json | jq -r '.[] | select(.waits) | .address'
      For programs: the addresses of the waiters")]
pub(crate) struct Own {
    #[command(flatten)]
    output: OutputFlags,
    /// Name of the lock
    #[arg(value_parser = lock_name())]
    name: OsString,
}

pub(crate) async fn own(client: &Client, args: &Own) -> Result<u8, Failure> {
    let claims = client.claims(bytes(&args.name)).await?;
    if args.output.json {
        print(&claims.iter().map(object).collect::<Value>().to_string())?;
    } else {
        let heads = ["KIND", "", "FOR", "ADDRESS", "FENCE", "NAME"];
        let if_empty = "nobody holds a lock of this name or waits for one";
        print_table(heads, claims.iter().map(row).collect(), if_empty)?;
    }
    Ok(0)
}

fn row(claim: &Claim) -> [String; 6] {
    [
        kind(claim.kind).to_owned(),
        if claim.waits { "waits" } else { "holds" }.to_owned(),
        age(claim.since),
        text(&claim.address),
        claim
            .fence
            .map_or("-".to_owned(), |token| token.to_string()),
        text(&claim.name),
    ]
}

fn object(claim: &Claim) -> Value {
    let mut object = Map::new();
    object.insert("kind".to_owned(), json!(kind(claim.kind)));
    object.insert("waits".to_owned(), json!(claim.waits));
    object.insert("ms".to_owned(), json!(claim.since.as_millis() as u64));
    object.insert("fence".to_owned(), token(claim.fence));
    insert_name(&mut object, "address", &claim.address);
    insert_name(&mut object, "name", &claim.name);
    Value::Object(object)
}
