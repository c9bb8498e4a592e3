//! Locks, holders, waiters and rates, as they change.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, stdout};
use std::mem::take;
use std::time::Duration;

use futures_util::future::try_join_all;
use glockd_client::{Claim, Client, Error, LockKind};
use nix::sys::signal::{Signal, raise};
use nix::unistd::{getpgrp, tcgetpgrp};
use serde_json::{Map, Value, json};
use terminal_size::{Height, Width, terminal_size};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use unicode_width::UnicodeWidthChar;

use crate::args::{Watch, bytes};
use crate::failure::Failure;
use crate::show::{age, kind, print, put, table, text};
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
        signals.catch_stops()?;
    }
    let mut watcher = Watcher::new(client, args, is_drawn.then(Screen::default));
    loop {
        let signal = tokio::select! {
            outcome = watcher.frames() => return outcome.map(|()| 0),
            signal = signals.next() => signal,
        };
        if signal != Signal::SIGTSTP {
            // Nothing was promised, so to be told to end is no failure.
            return Ok(0);
        }
        watcher.stop();
    }
}

/// What shows one frame after the other.
struct Watcher<'a> {
    client: &'a Client,
    args: &'a Watch,
    /// What they are drawn on; otherwise they are printed.
    screen: Option<Screen>,
    ticks: Interval,
    count: u64,
    before: Option<Counted>,
}

impl<'a> Watcher<'a> {
    fn new(client: &'a Client, args: &'a Watch, screen: Option<Screen>) -> Watcher<'a> {
        let mut ticks = interval(args.interval.max(Duration::from_millis(10)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Watcher {
            client,
            args,
            screen,
            ticks,
            count: 0,
            before: None,
        }
    }

    /// Shows all that there are to be. Cancel-safe: a frame that was not shown yet is taken anew.
    async fn frames(&mut self) -> Result<(), Failure> {
        while self.args.count.is_none_or(|most| self.count < most) {
            self.ticks.tick().await;
            let (width, height) = match terminal_size() {
                Some((Width(width), Height(height))) if self.screen.is_some() => {
                    (width.into(), height.into())
                }
                _ => (usize::MAX, ROWS + HEAD),
            };
            let room = height.saturating_sub(HEAD).max(1);
            let frame = Frame::take(self.client, self.args, room, self.before.as_ref()).await?;
            match &mut self.screen {
                _ if self.args.output.json => print(&frame.json().to_string())?,
                Some(screen) => screen.draw(&frame.text(self.client), width, height)?,
                None => print(&frame.text(self.client))?,
            }
            self.before = Some(frame.counted);
            self.count += 1;
        }
        Ok(())
    }

    /// Stops this process, as Ctrl-Z would have, had it not been caught; returns when it goes on.
    fn stop(&mut self) {
        if let Some(screen) = &mut self.screen {
            screen.leave();
        }
        // One that is not caught, and that the kernel takes for nothing where no shell would let this go on.
        let _ = raise(Signal::SIGTTIN);
        // Who puts it back in the foreground wants to see something.
        self.ticks.reset_immediately();
    }
}

/// The other screen of the terminal, which is left when this is dropped.
#[derive(Default)]
struct Screen {
    is_entered: bool,
}

impl Screen {
    /// Draws as much of this as there is room for; nothing while the terminal is somebody else's, as after `bg`.
    fn draw(&mut self, text: &str, width: usize, height: usize) -> io::Result<()> {
        // Where this cannot be told, nobody else could want it.
        if tcgetpgrp(stdout()).is_ok_and(|group| group != getpgrp()) {
            return Ok(());
        }
        if !self.is_entered {
            print(ENTER)?;
            self.is_entered = true;
        }
        let lines = text.lines().take(height).map(|line| cut(line, width));
        print(&format!("{CLEAR}{}", lines.collect::<Vec<_>>().join("\n")))
    }

    fn leave(&mut self) {
        if take(&mut self.is_entered) {
            // If that fails, there is nothing to be left.
            let _ = print(LEAVE);
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}

/// As much of the start of a line as there are columns for: some characters take two, and some none.
fn cut(line: &str, columns: usize) -> &str {
    let mut taken = 0;
    let mut chars = line.char_indices();
    let end = chars.find(|&(_, char)| {
        taken += match char {
            // Makes a symbol of the character before it, which then takes one more.
            '\u{FE0F}' => 1,
            char => char.width().unwrap_or(0),
        };
        taken > columns
    });
    end.map_or(line, |(end, _)| &line[..end])
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
            let owners = try_join_all(rows.iter().map(|row| client.claims(&row.name))).await?;
            for (row, owners) in rows.iter_mut().zip(owners) {
                let of_kind = |owner: &&Claim| owner.kind == row.kind;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_no_wider_than_the_terminal() {
        for (line, columns, expect) in [
            ("abc", 0, ""),
            ("abc", 2, "ab"),
            ("abc", 3, "abc"),
            ("abc", usize::MAX, "abc"),
            // There is no half of one.
            ("a倉庫b", 4, "a倉"),
            ("a倉庫b", 5, "a倉庫"),
            // What goes with the last one has room.
            ("e\u{301}e\u{301}", 1, "e\u{301}"),
            ("a❤\u{FE0F}b", 3, "a❤\u{FE0F}"),
        ] {
            assert_eq!(cut(line, columns), expect, "{line:?} in {columns}");
        }
    }
}
