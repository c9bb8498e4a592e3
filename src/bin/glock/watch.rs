//! `glock watch`: locks, holders, waiters and rates, as they change.

mod frame;
mod screen;

use std::ffi::OsString;
use std::io::{IsTerminal, stdout};
use std::time::Duration;

use glockd_client::Client;
use nix::sys::signal::{Signal, raise};
use tokio::time::{Interval, MissedTickBehavior, interval};

use self::frame::{Counted, Frame, HEAD};
use self::screen::{Screen, Size};
use crate::failure::Failure;
use crate::flags::{OutputFlags, bytes, lock_name, seconds};
use crate::show::print;
use crate::signals::{Inherited, Signals};

/// Show locks, holders, waiters and rates, and refresh them
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glock watch
      Until Ctrl-C; as many locks as fit on the terminal
  glock watch -i 0.5 backup
      This lock, twice a second
  glock watch --json | jq .rates.gets
      For programs: a line of JSON each second")]
pub(crate) struct Watch {
    /// Time between two frames, in seconds
    #[arg(short, long, value_name = "SECS", value_parser = seconds, allow_negative_numbers = true, default_value = "1")]
    interval: Duration,
    /// Number of frames [default: unlimited]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    output: OutputFlags,
    /// Show only the locks of this name
    #[arg(value_parser = lock_name())]
    name: Option<OsString>,
}

/// Maximum number of locks in a frame where no terminal limits it.
const MAX_ROWS: usize = 100;

/// Shortest time between two frames.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

pub(crate) async fn watch(
    client: &Client,
    args: &Watch,
    inherited: &Inherited,
) -> Result<u8, Failure> {
    let mut signals = Signals::catch_forwarded(inherited)?;
    let is_drawn = stdout().is_terminal() && !args.output.json;
    if is_drawn {
        signals.catch_stops()?;
    }
    let mut watcher = Watcher::new(client, args, is_drawn.then(Screen::default));
    loop {
        let signal = tokio::select! {
            outcome = watcher.show_frames() => return outcome.map(|()| 0),
            signal = signals.next() => signal,
        };
        if signal != Signal::SIGTSTP {
            // A signal is the usual way to end this command, and not a failure.
            return Ok(0);
        }
        watcher.stop();
    }
}

/// Shows one frame after the other.
struct Watcher<'a> {
    client: &'a Client,
    args: &'a Watch,
    /// Screen that frames are drawn on. Without one, they are printed.
    screen: Option<Screen>,
    ticks: Interval,
    /// Number of frames shown.
    count: u64,
    /// Counters of the last frame.
    before: Option<Counted>,
}

impl<'a> Watcher<'a> {
    fn new(client: &'a Client, args: &'a Watch, screen: Option<Screen>) -> Watcher<'a> {
        let mut ticks = interval(args.interval.max(SHORTEST_INTERVAL));
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

    /// Shows all frames that were requested. Cancel-safe: a frame that was not shown yet is fetched again.
    async fn show_frames(&mut self) -> Result<(), Failure> {
        while self.args.count.is_none_or(|most| self.count < most) {
            self.ticks.tick().await;
            let size = self.screen.as_ref().and_then(Screen::size);
            let size = size.unwrap_or(Size {
                columns: usize::MAX,
                lines: MAX_ROWS + HEAD,
            });
            let max_rows = size.lines.saturating_sub(HEAD).max(1);
            let name = self.args.name.as_ref().map(bytes);
            let frame = Frame::fetch(self.client, name, max_rows, self.before.as_ref()).await?;
            match &mut self.screen {
                _ if self.args.output.json => print(&frame.json().to_string())?,
                Some(screen) => screen.draw(&frame.text(self.client), size)?,
                None => print(&frame.text(self.client))?,
            }
            self.before = Some(frame.counted);
            self.count += 1;
        }
        Ok(())
    }

    /// Stops this process, as Ctrl-Z does where it is not caught. Returns when the process continues.
    fn stop(&mut self) {
        if let Some(screen) = &mut self.screen {
            screen.leave();
        }
        // SIGTTIN is not caught, and the kernel discards it where there is no shell to continue this process.
        let _ = raise(Signal::SIGTTIN);
        // Shows a frame at once, for example after `fg`.
        self.ticks.reset_immediately();
    }
}
