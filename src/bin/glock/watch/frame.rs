//! A frame of `glock watch`: the state of the server at one moment.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::try_join_all;
use glockd_client::{Claim, Client, Error, LockKind};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::show::{age, insert_name, kind, table, text};

/// Number of lines above and below the locks. The last one stays empty.
pub(super) const HEAD: usize = 7;

/// Locks, counters and rates at one moment.
pub(super) struct Frame {
    pub(super) counted: Counted,
    /// Events a second since the last frame, by their names.
    rates: Option<[(&'static str, f64); 4]>,
    rows: Vec<Row>,
    /// Number of locks that did not fit.
    left_out: usize,
}

/// The server's counters at some time.
pub(super) struct Counted {
    at: Instant,
    counters: BTreeMap<String, u64>,
}

/// A lock.
struct Row {
    kind: LockKind,
    name: Vec<u8>,
    holders: usize,
    /// The first of the holders.
    holder: Vec<u8>,
    /// Number of waiters. `None` if the server does not report them.
    waiters: Option<usize>,
    /// Time for which the first holder has held the lock. `None` if the server does not report it.
    held_for: Option<Duration>,
}

impl Frame {
    /// Asks the server for the locks, or for the locks of one name, and takes at most `max_rows` of them. `before` are
    /// the counters of the last frame.
    pub(super) async fn fetch(
        client: &Client,
        name: Option<&[u8]>,
        max_rows: usize,
        before: Option<&Counted>,
    ) -> Result<Frame, Error> {
        let counters = client.statistics().await?;
        let counted = Counted {
            at: Instant::now(),
            counters: counters.into_iter().collect(),
        };
        let exclusive = client.locks(LockKind::Exclusive, name).await?;
        let shared = client.locks(LockKind::Shared, name).await?;
        let mut rows: Vec<Row> = Vec::new();
        let all = exclusive
            .into_iter()
            .map(|lock| (LockKind::Exclusive, lock));
        for (kind, lock) in all.chain(shared.into_iter().map(|lock| (LockKind::Shared, lock))) {
            match rows.last_mut() {
                Some(last) if last.kind == kind && last.name == lock.name => last.holders += 1,
                _ => rows.push(Row {
                    kind,
                    name: lock.name,
                    holders: 1,
                    holder: lock.holder,
                    waiters: None,
                    held_for: None,
                }),
            }
        }
        let left_out = rows.len().saturating_sub(max_rows);
        rows.truncate(max_rows);
        if client.features().own {
            let claims = try_join_all(rows.iter().map(|row| client.claims(&row.name))).await?;
            for (row, claims) in rows.iter_mut().zip(claims) {
                let of_kind = claims.iter().filter(|claim| claim.kind == row.kind);
                let (waiters, holders): (Vec<_>, Vec<&Claim>) =
                    of_kind.partition(|claim| claim.waits);
                row.waiters = Some(waiters.len());
                row.held_for = holders.first().map(|claim| claim.since);
            }
        }
        Ok(Frame {
            rates: before.map(|before| counted.rates(before)),
            counted,
            rows,
            left_out,
        })
    }

    /// Returns the frame for people.
    pub(super) fn text(&self, client: &Client) -> String {
        let now = |key| self.counted.of(&[key]);
        let waiters: usize = self.rows.iter().filter_map(|row| row.waiters).sum();
        let rates = match self.rates {
            Some(rates) => rates
                .map(|(what, rate)| format!("{what} {rate:.1}"))
                .join("   "),
            None => "-".to_owned(),
        };
        let row = |row: &Row| {
            let others = match row.holders {
                0 | 1 => String::new(),
                more => format!(" and {} more", more - 1),
            };
            [
                kind(row.kind).to_owned(),
                text(&row.name),
                row.holders.to_string(),
                row.waiters
                    .map_or("-".to_owned(), |waiters| waiters.to_string()),
                row.held_for.map_or("-".to_owned(), age),
                text(&row.holder) + &others,
            ]
        };
        let heads = ["KIND", "LOCK", "HOLD", "WAIT", "FOR", "HOLDER"];
        let mut shown = format!(
            "{}   connections {}   locks {}   shared {}   waiters {waiters}\na second: {rates}\n\n{}",
            text(client.endpoint().to_string().as_bytes()),
            now("connections"),
            now("locks"),
            now("shared_locks"),
            table(heads, self.rows.iter().map(row).collect()),
        );
        if self.left_out > 0 {
            shown += &format!("and {} more\n", self.left_out);
        }
        shown
    }

    /// Returns the frame for programs.
    pub(super) fn json(&self) -> Value {
        let lock = |row: &Row| {
            let mut object = Map::new();
            object.insert("kind".to_owned(), json!(kind(row.kind)));
            insert_name(&mut object, "name", &row.name);
            object.insert("holders".to_owned(), json!(row.holders));
            insert_name(&mut object, "holder", &row.holder);
            object.insert("waiters".to_owned(), json!(row.waiters));
            object.insert(
                "held_ms".to_owned(),
                json!(row.held_for.map(|time| time.as_millis() as u64)),
            );
            Value::Object(object)
        };
        let rates = self.rates.map(|rates| {
            let rates = rates
                .into_iter()
                .map(|(what, rate)| (what.to_owned(), json!(rate)));
            rates.collect::<Map<_, _>>()
        });
        json!({
            "locks": self.rows.iter().map(lock).collect::<Vec<_>>(),
            "left_out": self.left_out,
            "rates": rates,
            "counters": self.counted.counters,
        })
    }
}

impl Counted {
    /// Returns the sum of some counters.
    fn of(&self, keys: &[&str]) -> u64 {
        keys.iter().filter_map(|key| self.counters.get(*key)).sum()
    }

    /// Returns events a second since `before`, by their names.
    fn rates(&self, before: &Counted) -> [(&'static str, f64); 4] {
        let seconds = (self.at - before.at).as_secs_f64();
        let rate = |keys: &[&str]| self.of(keys).saturating_sub(before.of(keys)) as f64 / seconds;
        let commands: Vec<_> = self.counters.keys().map(String::as_str).collect();
        let commands: Vec<_> = commands
            .into_iter()
            .filter(|key| key.starts_with("command_"))
            .collect();
        [
            (
                "gets",
                rate(&[
                    "command_g",
                    "command_gw",
                    "command_sg",
                    "command_sgl",
                    "command_sgw",
                ]),
            ),
            ("releases", rate(&["command_r", "command_sr"])),
            ("commands", rate(&commands)),
            ("orphans", rate(&["orphans", "shared_orphans"])),
        ]
    }
}
