//! What is asked about others' locks.

use std::io::{IsTerminal, stdout};
use std::iter::zip;
use std::time::Duration;

use glockd_client::{Claim, Client, LockKind};
use serde_json::{Map, Value, json};
use tokio::time::sleep;

use crate::args::{Inspect, Ls, Own, Ping, Stats, Who, bytes};
use crate::failure::{CONFLICT, Failure};
use crate::show::{age, kind, print, put, table, tell, text, token};

pub(crate) async fn inspect(client: &Client, args: &Inspect) -> Result<u8, Failure> {
    let name = bytes(&args.name);
    let holders = match args.shared {
        true => client.holders(name).await?,
        false => u32::from(client.is_locked(name).await?),
    };
    if args.output.json {
        let mut object = Map::new();
        put(&mut object, "name", name);
        object.insert("holders".to_owned(), json!(holders));
        tell(&Value::Object(object).to_string())?;
    } else if !args.quiet {
        match (args.shared, holders) {
            (_, 0) => tell("free")?,
            (false, _) => tell("held")?,
            (true, holders) => tell(&format!("held by {holders}"))?,
        }
    }
    Ok(if holders == 0 { CONFLICT } else { 0 })
}

pub(crate) async fn ls(client: &Client, args: &Ls) -> Result<u8, Failure> {
    let kind = match args.shared {
        true => LockKind::Shared,
        false => LockKind::Exclusive,
    };
    let locks = client.locks(kind, args.name.as_ref().map(bytes)).await?;
    let parts = locks
        .iter()
        .map(|lock| [lock.name.as_slice(), lock.holder.as_slice()]);
    let none = match (args.shared, &args.name) {
        (false, None) => "no exclusive lock is held",
        (true, None) => "no shared lock is held",
        (false, Some(_)) => "no exclusive lock of this name is held",
        (true, Some(_)) => "no shared lock of this name is held",
    };
    list(
        args.output.json,
        ["name", "holder"],
        ["LOCK", "HOLDER"],
        parts,
        none,
    )
}

pub(crate) async fn who(client: &Client, args: &Who) -> Result<u8, Failure> {
    let clients = client.clients(args.name.as_ref().map(bytes)).await?;
    let parts = clients
        .iter()
        .map(|client| [client.address.as_slice(), client.name.as_slice()]);
    let none = match &args.name {
        None => "no client has registered a name",
        Some(_) => "no client has registered this name",
    };
    list(
        args.output.json,
        ["address", "name"],
        ["ADDRESS", "NAME"],
        parts,
        none,
    )
}

/// A list of what others have said.
fn list<'a, const N: usize>(
    json: bool,
    keys: [&str; N],
    heads: [&str; N],
    rows: impl Iterator<Item = [&'a [u8]; N]>,
    none: &str,
) -> Result<u8, Failure> {
    if json {
        let object = |row: [&[u8]; N]| {
            let mut object = Map::new();
            zip(keys, row).for_each(|(key, part)| put(&mut object, key, part));
            Value::Object(object)
        };
        print(&Value::Array(rows.map(object).collect()).to_string())?;
    } else {
        print_table(heads, rows.map(|row| row.map(text)).collect(), none)?;
    }
    Ok(0)
}

/// Prints a table. If it has no rows, prints `none` on a terminal, where people would take silence for a failure, and
/// nothing where programs read lines.
fn print_table<const N: usize>(
    heads: [&str; N],
    rows: Vec<[String; N]>,
    none: &str,
) -> Result<(), Failure> {
    match rows.is_empty() {
        false => print(&table(heads, rows))?,
        true if stdout().is_terminal() => print(none)?,
        true => {}
    }
    Ok(())
}

pub(crate) async fn own(client: &Client, args: &Own) -> Result<u8, Failure> {
    let owners = client.claims(bytes(&args.name)).await?;
    if args.output.json {
        print(&owners.iter().map(owner).collect::<Value>().to_string())?;
        return Ok(0);
    }
    let row = |owner: &Claim| {
        [
            kind(owner.kind).to_owned(),
            if owner.waits { "waits" } else { "holds" }.to_owned(),
            age(owner.since),
            text(&owner.address),
            owner
                .fence
                .map_or("-".to_owned(), |token| token.to_string()),
            text(&owner.name),
        ]
    };
    let heads = ["KIND", "", "FOR", "ADDRESS", "FENCE", "NAME"];
    let none = "nobody holds a lock of this name or waits for one";
    print_table(heads, owners.iter().map(row).collect(), none)?;
    Ok(0)
}

fn owner(owner: &Claim) -> Value {
    let mut object = Map::new();
    object.insert("kind".to_owned(), json!(kind(owner.kind)));
    object.insert("waits".to_owned(), json!(owner.waits));
    object.insert("ms".to_owned(), json!(owner.since.as_millis() as u64));
    object.insert("fence".to_owned(), token(owner.fence));
    put(&mut object, "address", &owner.address);
    put(&mut object, "name", &owner.name);
    Value::Object(object)
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

pub(crate) async fn ping(client: &Client, args: &Ping) -> Result<u8, Failure> {
    let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
    let mut times = Vec::new();
    for round in 0..args.count {
        if round > 0 {
            sleep(args.interval).await;
        }
        let time = client.ping().await?;
        times.push(time);
        match args.output.json {
            true => print(&json!({"ms": ms(time)}).to_string())?,
            false => print(&format!("{}: {:.3} ms", client.endpoint(), ms(time)))?,
        }
    }
    if let (Some(least), Some(most)) = (times.iter().min(), times.iter().max())
        && args.count > 1
        && !args.output.json
    {
        let mean = times.iter().sum::<Duration>() / args.count;
        let (least, mean, most) = (ms(*least), ms(mean), ms(*most));
        print(&format!(
            "least {least:.3} ms, mean {mean:.3} ms, most {most:.3} ms"
        ))?;
    }
    Ok(0)
}
