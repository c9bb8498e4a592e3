//! A connection that records its commands and their replies, and checks the replies against what it knows.

mod replies;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::command::{Command, registered};
use crate::disconnected::{Disconnected, Sent};
use crate::history::{Lock, Token};
use crate::tally::Statistics;
use crate::wire::{Via, Wire};
use crate::world::World;

/// The end of a wait that a `cancel` may have caused.
struct Cancelled {
    name: usize,
    /// True if there can be no other cause.
    is_certain: bool,
}

pub(crate) struct Connection {
    world: Arc<World>,
    wire: Wire,
    /// The number of the connection, which is unique.
    pub(crate) number: u32,
    /// The client's address, as the server sees it.
    pub(crate) address: String,
    /// The locks that the connection holds, according to all replies so far.
    pub(crate) held: BTreeMap<Lock, Token>,
    /// The counters at the last `q`.
    pub(crate) statistics: Statistics,
    /// Number of commands sent.
    sent: u64,
    /// Commands that are answered in order, except for waits that are cancelled before they begin.
    pending: VecDeque<Sent>,
    /// Commands that are answered at once, even during a wait.
    urgent: VecDeque<Sent>,
    /// The end of the wait in the last reply, if a `cancel` must be its cause.
    cancelled: Option<Cancelled>,
    /// True once the sending side is closed, which ends a wait.
    is_ending: bool,
}

impl Connection {
    /// Connects, and registers the connection's name.
    pub(crate) async fn open(world: &Arc<World>, via: Via) -> Connection {
        let mut connection = Connection::open_unregistered(world, via).await;
        let number = connection.number;
        connection.ask(vec![Command::Iam(number)]).await;
        let me = connection.ask(vec![Command::Me]).await.remove(0);
        let named = format!(" {}", registered(number));
        let address = me.strip_prefix("1 ").and_then(|me| me.strip_suffix(&named));
        connection.address = address.unwrap_or_else(|| panic!("{me}")).to_owned();
        connection
    }

    pub(crate) async fn open_unregistered(world: &Arc<World>, via: Via) -> Connection {
        Connection {
            world: Arc::clone(world),
            wire: Wire::connect(&world.addresses, via).await,
            number: world.next_number(),
            address: String::new(),
            held: BTreeMap::new(),
            statistics: Statistics::new(),
            sent: 0,
            pending: VecDeque::new(),
            urgent: VecDeque::new(),
            cancelled: None,
            is_ending: false,
        }
    }

    /// Sends commands together, and waits for all replies. Returns the lines of the last one.
    pub(crate) async fn ask(&mut self, commands: Vec<Command>) -> Vec<String> {
        self.send(commands).await;
        let mut last = Vec::new();
        while let Some(answer) = self.receive().await {
            last = answer;
        }
        last
    }

    /// Closes the sending side, and waits until everything is answered and the server has closed. Then all locks are
    /// free.
    pub(crate) async fn finish(mut self) {
        let ending = self.world.clock.now();
        self.is_ending = true;
        self.wire.close_sending_side().await;
        while self.receive().await.is_some() {}
        self.wire.await_end().await;
        let disconnected = Disconnected {
            number: self.number,
            held: self.held,
            unanswered: Vec::new(),
            ending,
        };
        disconnected.record(&self.world);
    }

    /// Disconnects.
    pub(crate) fn disconnect(self, reset: bool) -> Disconnected {
        let ending = self.world.clock.now();
        self.wire.disconnect(reset);
        Disconnected {
            number: self.number,
            held: self.held,
            unanswered: self.pending.into_iter().chain(self.urgent).collect(),
            ending,
        }
    }

    /// Sends commands together.
    pub(crate) async fn send(&mut self, commands: Vec<Command>) {
        let invoked = self.world.clock.now();
        let lines: Vec<String> = commands.iter().flat_map(|it| it.lines()).collect();
        for command in commands {
            self.sent += 1;
            let queue = match command.is_urgent() {
                true => &mut self.urgent,
                false => &mut self.pending,
            };
            queue.push_back(Sent {
                command,
                number: self.sent,
                invoked,
                begun: None,
                lasted: invoked,
            });
        }
        if !lines.is_empty() {
            self.wire.send(&lines).await;
        }
    }

    /// Lets the time of the next wait pass, if it is short.
    pub(crate) async fn pause(&self) {
        let mut waits = self.pending.iter().map(|sent| sent.command);
        let ms = waits.find_map(|command| match command {
            Command::Wait { ms: ms @ 1..=2, .. } => Some(ms),
            _ => None,
        });
        if let Some(ms) = ms {
            sleep(Duration::from_millis(ms.into())).await;
        }
    }

    /// Waits for the next reply, and returns its lines; `None` if none is due.
    pub(crate) async fn receive(&mut self) -> Option<Vec<String>> {
        if self.pending.is_empty() && self.urgent.is_empty() {
            return None;
        }
        let line = self.wire.receive().await;
        let cancelled = self.cancelled.take();
        let urgent = self.urgent.front().map(|sent| sent.command);
        if let Some(command) = urgent.filter(|command| command.is_answered_by(&line)) {
            self.check_urgent(&line, cancelled);
            self.world.count(command, true);
            return Some(vec![line]);
        }
        let is_explained =
            self.is_ending || cancelled.is_none_or(|cancelled| !cancelled.is_certain);
        assert!(is_explained, "no cancel explains the reply before {line}");
        if self.is_cancelled_in_queue(&line) {
            return Some(vec![line]);
        }
        let sent = self.pending.pop_front().unwrap_or_else(|| panic!("{line}"));
        let urgent = self.urgent.front();
        let is_in_order = urgent.is_none_or(|urgent| urgent.number > sent.number);
        assert!(is_in_order, "reply out of order: {line}");
        let mut lines = vec![line];
        while !sent.command.is_complete(&lines) {
            lines.push(self.wire.receive().await);
        }
        self.world.count(sent.command, true);
        self.check(&sent, &mut lines);
        Some(lines)
    }

    /// Checks the reply to `ping` or `cancel`, which are answered at once during a wait.
    fn check_urgent(&mut self, line: &str, cancelled: Option<Cancelled>) {
        let Some(urgent) = self.urgent.pop_front() else {
            unreachable!("its reply has come");
        };
        let is_sent_before = |sent: &&Sent| sent.number < urgent.number;
        match urgent.command {
            Command::Cancel(_) if line.starts_with('1') => {
                let name = cancelled.map(|cancelled| cancelled.name);
                assert_eq!(Command::Cancel(name.expect(line)), urgent.command, "{line}");
            }
            Command::Cancel(name) => {
                let mut before = self.pending.iter().filter(is_sent_before);
                assert!(
                    before.all(|sent| sent.command.obeys() != Some(name)),
                    "{line}"
                );
            }
            _ => {
                // If the wait had been over, its reply would have come first.
                let now = self.world.clock.now();
                if let Some(first) = self.pending.front_mut()
                    && is_sent_before(&&*first)
                {
                    assert!(first.command.waits(), "{line}");
                    first.begun.get_or_insert(now);
                    first.lasted = urgent.invoked;
                }
            }
        }
    }

    /// Returns true if this is the reply to a wait that was cancelled in the queue of commands, before it ran.
    fn is_cancelled_in_queue(&mut self, line: &str) -> bool {
        let is_it = |sent: &Sent| sent.command.is_cancelled_by(line);
        let Some(found @ 1..) = self.pending.iter().position(is_it) else {
            return false;
        };
        let Some(sent) = self.pending.remove(found) else {
            unreachable!("it was found");
        };
        let name = sent.command.obeys();
        let mut before = self.pending.iter().take(found);
        assert!(
            before.all(|sent| sent.command.obeys() != name),
            "cancelled a later wait than the first: {line}"
        );
        self.cancelled = name.map(|name| Cancelled {
            name,
            is_certain: true,
        });
        self.world.count(sent.command, true);
        true
    }
}
