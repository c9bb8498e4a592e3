//! Locks, holders, waiters and rates, as they change.

use std::collections::BTreeMap;
use std::io::{IsTerminal, stdout};
use std::time::Duration;

use futures_util::future::try_join_all;
use glockd_client::{Client, Error, LockKind, Owner};
use serde_json::{Map, Value, json};
use terminal_size::{Height, Width, terminal_size};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::args::{Watch, bytes};
use crate::failure::Failure;
use crate::queries::kind;
use crate::show::{age, print, put, table, text};
use crate::signals::Signals;

/// How many locks are shown where there is no terminal that says how many lines it has.
const ROWS: usize = 100;

/// The other screen, as editors use: with the cursor hidden. And back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// What clears that screen.
const CLEAR: &str = "\x1b[H\x1b[2J";

pub(crate) async fn watch(client: &Client, args: &Watch) -> Result<u8, Failure> {
    let mut signals = Signals::new()?;
    let is_drawn = stdout().is_terminal() && !args.output.json;
    if is_drawn {
        print(ENTER)?;
    }
    let outcome = tokio::select! {
        outcome = frames(client, args, is_drawn) => outcome,
        // Nothing was promised, so to be told to end is no failure.
        _ = signals.next() => Ok(()),
    };
    if is_drawn {
        print(LEAVE)?;
    }
    outcome.map(|()| 0)
}

async fn frames(client: &Client, args: &Watch, is_drawn: bool) -> Result<(), Failure> {
    let mut ticks = interval(args.interval.max(Duration::from_millis(10)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = None;
    let mut count = 0;
    while args.count.is_none_or(|most| count < most) {
        ticks.tick().await;
        count += 1;
        let (width, height) = match terminal_size() {
            Some((Width(width), Height(height))) if is_drawn => (width.into(), height.into()),
            _ => (usize::MAX, ROWS + HEAD),
        };
        let frame = Frame::take(
            client,
            args,
            height.saturating_sub(HEAD).max(1),
            before.as_ref(),
        )
        .await?;
        match (args.output.json, is_drawn) {
            (true, _) => print(&frame.json().to_string())?,
            (false, true) => {
                let lines = frame.text(client);
                let lines = lines
                    .lines()
                    .take(height)
                    .map(|line| line.chars().take(width).collect());
                print(&format!(
                    "{CLEAR}{}",
                    lines.collect::<Vec<String>>().join("\n")
                ))?;
            }
            (false, false) => print(&frame.text(client))?,
        }
        before = Some(frame.counted);
    }
    Ok(())
}

/// The lines above and below the locks, the last of which stays empty.
const HEAD: usize = 7;

/// What is to be seen at one moment.
struct Frame {
    counted: Counted,
    /// Of each, how often it happened a second since the last frame.
    rates: Option<[(&'static str, f64); 4]>,
    rows: Vec<Row>,
    /// How many locks there was no room for.
    left_out: usize,
}

/// The server's counters at some time.
struct Counted {
    at: Instant,
    counters: BTreeMap<String, u64>,
}

struct Row {
    kind: LockKind,
    name: Vec<u8>,
    holders: usize,
    /// Whoever came first of them.
    holder: Vec<u8>,
    /// `None` if the server does not say.
    waiters: Option<usize>,
    held_for: Option<Duration>,
}

impl Frame {
    async fn take(
        client: &Client,
        args: &Watch,
        room: usize,
        before: Option<&Counted>,
    ) -> Result<Frame, Error> {
        let counters = client.statistics().await?;
        let counted = Counted {
            at: Instant::now(),
            counters: counters.into_iter().collect(),
        };
        let filter = args.name.as_ref().map(bytes);
        let exclusive = client.locks(LockKind::Exclusive, filter).await?;
        let shared = client.locks(LockKind::Shared, filter).await?;
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
        let left_out = rows.len().saturating_sub(room);
        rows.truncate(room);
        if client.features().own {
            let owners = try_join_all(rows.iter().map(|row| client.owners(&row.name))).await?;
            for (row, owners) in rows.iter_mut().zip(owners) {
                let of_kind = |owner: &&Owner| owner.kind == row.kind;
                row.waiters = Some(
                    owners
                        .iter()
                        .filter(of_kind)
                        .filter(|owner| owner.waits)
                        .count(),
                );
                let mut holders = owners.iter().filter(of_kind).filter(|owner| !owner.waits);
                row.held_for = holders.next().map(|owner| owner.since);
            }
        }
        Ok(Frame {
            rates: before.map(|before| counted.rates(before)),
            counted,
            rows,
            left_out,
        })
    }

    fn text(&self, client: &Client) -> String {
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

    fn json(&self) -> Value {
        let lock = |row: &Row| {
            let mut object = Map::new();
            object.insert("kind".to_owned(), json!(kind(row.kind)));
            put(&mut object, "name", &row.name);
            object.insert("holders".to_owned(), json!(row.holders));
            put(&mut object, "holder", &row.holder);
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
    fn of(&self, keys: &[&str]) -> u64 {
        keys.iter().filter_map(|key| self.counters.get(*key)).sum()
    }

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
