//! A connection that records its commands and their replies, and checks the replies against what it knows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::sleep;

use crate::command::{Command, Outcome};
use crate::history::{Act, Clock, Lock, NAMES, Operation, Token};
use crate::tally::{Statistics, Tally, counters};
use crate::wire::{Doors, Via, Wire};

/// The state that all connections to a server share.
pub(crate) struct World {
    pub(crate) doors: Doors,
    /// Maximum number of locks of a connection.
    pub(crate) most: Option<usize>,
    pub(crate) clock: Clock,
    /// All operations on locks; those of each connection are in order.
    pub(crate) history: Mutex<Vec<(Lock, Operation)>>,
    pub(crate) tally: Mutex<Tally>,
    connections: AtomicU32,
}

impl World {
    pub(crate) fn new(doors: Doors, most: Option<usize>) -> World {
        World {
            doors,
            most,
            clock: Clock::default(),
            history: Mutex::default(),
            tally: Mutex::default(),
            connections: AtomicU32::new(0),
        }
    }

    /// Counts a command that was answered, or one that possibly never ran.
    fn count(&self, command: Command, answered: bool) {
        let mut tally = self.tally.lock();
        tally.add(command.counter(), answered);
        if command.is_marked() {
            tally.add("command_i", answered);
        }
    }
}

/// Returns the name that a connection registers.
pub(crate) fn registered(connection: u32) -> String {
    format!("connection {connection}")
}

/// A command that is not answered yet.
struct Sent {
    command: Command,
    /// The number of the command on its connection.
    number: u64,
    invoked: u64,
    /// The moment by which a wait had certainly begun.
    begun: Option<u64>,
    /// The moment until which a wait had certainly not ended.
    lasted: u64,
}

/// The end of a wait that a `cancel` may have caused.
struct Cancelled {
    name: usize,
    /// Whether there can be no other cause.
    surely: bool,
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
    /// Whether the sending side is closed, which ends a wait.
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
            wire: Wire::connect(&world.doors, via).await,
            number: world.connections.fetch_add(1, Relaxed),
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
        let gone = Gone {
            number: self.number,
            held: self.held,
            unanswered: Vec::new(),
            ending,
        };
        gone.note(&self.world);
    }

    /// Disconnects.
    pub(crate) fn disconnect(self, reset: bool) -> Gone {
        let ending = self.world.clock.now();
        self.wire.disconnect(reset);
        Gone {
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
        let is_explained = self.is_ending || cancelled.is_none_or(|cancelled| !cancelled.surely);
        assert!(is_explained, "nobody cancelled what came before {line}");
        if self.is_cancelled_in_queue(&line) {
            return Some(vec![line]);
        }
        let sent = self.pending.pop_front().unwrap_or_else(|| panic!("{line}"));
        let urgent = self.urgent.front();
        let is_in_order = urgent.is_none_or(|urgent| urgent.number > sent.number);
        assert!(is_in_order, "{line} came before what was sent before");
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
            unreachable!("it has an answer");
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
            "{line} is not for the first"
        );
        self.cancelled = name.map(|name| Cancelled { name, surely: true });
        self.world.count(sent.command, true);
        true
    }

    fn check(&mut self, sent: &Sent, lines: &mut Vec<String>) {
        let command = sent.command;
        match command {
            Command::Lock(lock, act) => self.check_lock(sent, lock, act, None, &lines[0]),
            Command::Wait { lock, act, ms } => {
                self.check_lock(sent, lock, act, Some(ms), &lines[0]);
            }
            Command::Fence(lock) => self.check_fence(lock, &lines[0]),
            Command::Owners(number) => self.check_owners(number, lines),
            _ => command.strip(lines),
        }
        match command {
            Command::List { shared, .. } | Command::ListWithLengths { shared } => {
                self.check_listing(shared, lines)
            }
            Command::Statistics { .. } => self.check_statistics(lines),
            Command::Iam(_) => assert_eq!(*lines, ["1 ok"]),
            Command::Who { of, .. } if of == Some(self.number) => {
                let name = registered(self.number);
                assert_eq!(*lines, [format!("{}: {name}", self.address)]);
            }
            Command::Unknown => assert_eq!(*lines, [""; 0]),
            // The caller checks other replies.
            _ => {}
        }
    }

    /// Records an operation on a lock, and the time of its wait, if it has one.
    fn check_lock(&mut self, sent: &Sent, lock: Lock, act: Act, ms: Option<u32>, line: &str) {
        let answered = self.world.clock.now();
        let (number, outcome) = sent.command.outcome(line);
        let is_asked_to_end = self.is_ending || {
            let mut urgent = self.urgent.iter().map(|urgent| urgent.command);
            urgent.any(|command| command == Command::Cancel(lock.number))
        };
        let may_be_cancelled = match outcome {
            Outcome::Cancelled => true,
            Outcome::Failed => ms.is_some() && is_asked_to_end,
            _ => false,
        };
        if may_be_cancelled {
            self.cancelled = Some(Cancelled {
                name: lock.number,
                surely: outcome == Outcome::Cancelled,
            });
        }
        let is_full = act.gets() && self.is_full(lock);
        match outcome {
            Outcome::Done => assert!(!is_full, "it holds enough: {line}"),
            Outcome::QueueFull => assert!(is_full, "it may hold more: {line}"),
            // A connection at its maximum is refused before it waits.
            Outcome::TimedOut => assert!(!is_full || ms == Some(0), "it holds enough: {line}"),
            Outcome::Failed | Outcome::Cancelled => {}
        }
        let is_refused = is_full && matches!(outcome, Outcome::Failed | Outcome::QueueFull);
        if is_refused {
            // Other holders may be the cause, unless they do not matter.
            let certainly = outcome == Outcome::QueueFull || lock.shared && act == Act::Get;
            self.world.tally.lock().add("refused_locks", certainly);
        }
        if is_refused || may_be_cancelled && !act.waits() {
            // The operation possibly never ran.
            return;
        }

        let mut operation = Operation {
            answered,
            answer: Some(number),
            ..sent.unanswered(self.number, act)
        };
        if let Some(ms) = ms.filter(|_| act.waits() && number == 0 && !may_be_cancelled) {
            let time = Duration::from_millis(ms.into());
            let begun = self.world.clock.before(answered, time);
            let begun = begun.filter(|&begun| begun >= sent.invoked);
            let begun = begun.unwrap_or_else(|| panic!("it took less than {ms} ms: {line}"));
            operation.begun = Some(sent.begun.unwrap_or(begun).min(begun));
            let lasted = self.world.clock.after(sent.invoked, time);
            operation.lasted = operation.lasted.max(lasted);
        }
        if act.gets() && number > 0 {
            self.held
                .entry(lock)
                .or_insert_with(|| Arc::clone(&operation.token));
        }
        if act == Act::Release {
            assert_eq!(self.held.remove(&lock).is_some(), number > 0, "{line}");
        }
        self.world.history.lock().push((lock, operation));
    }

    /// Returns true if the connection is at its maximum, so that it can get no other lock.
    fn is_full(&self, lock: Lock) -> bool {
        let is_full = self.world.most.is_some_and(|most| self.held.len() >= most);
        is_full && !self.held.contains_key(&lock)
    }

    /// Checks a fencing token: a held lock has one, which stays the same.
    fn check_fence(&self, lock: Lock, line: &str) {
        let (token, text) = line.split_once(' ').unwrap();
        let said = match self.held.get(&lock) {
            Some(held) => {
                know(held, token);
                "Lock Fence"
            }
            None => {
                assert_eq!(token, "0", "{line}");
                "Lock Fence Failure"
            }
        };
        assert_eq!(text, format!("{said}: {}", lock.name()));
    }

    /// Checks that the claims include those of this connection, with its locks, and that it does not wait.
    fn check_owners(&self, number: usize, lines: &[String]) {
        let owners = Owner::parse(number, lines);
        let own = registered(self.number);
        let mut owned = owners.iter().filter(|owner| owner.name == own);
        for shared in [false, true] {
            let lock = Lock { shared, number };
            if let Some(held) = self.held.get(&lock) {
                let owner = owned.next().unwrap_or_else(|| panic!("{lines:#?}"));
                assert_eq!((owner.waits, owner.lock), (false, lock), "{lines:#?}");
                assert_eq!(owner.address, self.address, "{lines:#?}");
                know(held, owner.token);
            }
        }
        assert_eq!(owned.next(), None, "{lines:#?}");
    }

    /// Checks that a listing has the locks of this connection, which do not change meanwhile, and of others only
    /// possible ones.
    fn check_listing(&self, shared: bool, lines: &[String]) {
        let own = registered(self.number);
        let (mut names, mut listed) = (Vec::new(), Vec::new());
        for line in lines {
            let (name, holder) = line.split_once(": ").unwrap();
            names.push(name);
            if holder == own {
                listed.push(name.to_owned());
            }
        }
        let held = self.held.keys().filter(|lock| lock.shared == shared);
        let held: Vec<String> = held.map(|lock| lock.name()).collect();
        assert_eq!(listed, held, "{lines:#?}");
        let in_order = |pair: &[&str]| pair[0] < pair[1] || shared && pair[0] == pair[1];
        assert!(names.windows(2).all(in_order), "{lines:#?}");
    }

    fn check_statistics(&mut self, lines: &[String]) {
        let counter = |line: &String| {
            let (key, value) = line.split_once(": ").unwrap();
            (key.to_owned(), value.parse().unwrap())
        };
        let statistics: Statistics = lines.iter().map(counter).collect();
        for gauge in ["locks", "shared_locks"] {
            assert!(statistics[gauge] <= NAMES as u64, "{statistics:?}");
        }
        for (key, before) in counters(&self.statistics) {
            assert!(statistics[key] >= *before, "{key} {before}: {statistics:?}");
        }
        self.statistics = statistics;
    }
}

/// Records the token of a grant, which must be the known one.
pub(crate) fn know(held: &Token, token: &str) {
    let token: u64 = token.parse().unwrap();
    assert!((1..1 << 63).contains(&token), "{token}");
    assert_eq!(*held.get_or_init(|| token), token);
}

/// A line of `own`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Owner<'a> {
    pub(crate) lock: Lock,
    pub(crate) waits: bool,
    pub(crate) address: &'a str,
    pub(crate) token: &'a str,
    pub(crate) name: &'a str,
}

impl Owner<'_> {
    /// Reads all claims on the locks of a name.
    pub(crate) fn parse(number: usize, lines: &[String]) -> Vec<Owner<'_>> {
        let lines = lines[1..].iter();
        lines.map(|line| Owner::parse_line(number, line)).collect()
    }

    fn parse_line(number: usize, line: &str) -> Owner<'_> {
        let words: Vec<&str> = line.splitn(5, ' ').collect();
        let [kind, address, ms, token, name] = words[..] else {
            panic!("{line}");
        };
        assert!(ms.parse::<u64>().is_ok(), "{line}");
        let shared = kind.starts_with('s');
        Owner {
            lock: Lock { shared, number },
            waits: kind.ends_with('w'),
            address,
            token,
            name,
        }
    }
}

impl Sent {
    fn unanswered(&self, connection: u32, act: Act) -> Operation {
        Operation {
            begun: self.begun,
            lasted: self.lasted,
            ..Operation::unanswered(connection, act, self.invoked)
        }
    }
}

/// A connection that its client has closed.
pub(crate) struct Gone {
    pub(crate) number: u32,
    held: BTreeMap<Lock, Token>,
    unanswered: Vec<Sent>,
    ending: u64,
}

impl Gone {
    /// Records that the connection has been observed to have ended, and its locks to be free.
    pub(crate) fn note(self, world: &World) {
        let ended = world.clock.now();
        let mut history = world.history.lock();
        let mut note = |lock, operation| {
            let answered = ended;
            history.push((
                lock,
                Operation {
                    answered,
                    ..operation
                },
            ));
        };
        let mut surely: BTreeSet<Lock> = self.held.into_keys().collect();
        let mut maybe = surely.clone();
        for sent in self.unanswered {
            world.count(sent.command, false);
            let (Command::Lock(lock, act) | Command::Wait { lock, act, .. }) = sent.command else {
                continue;
            };
            note(lock, sent.unanswered(self.number, act));
            if act.gets() {
                maybe.insert(lock);
                if world.most.is_some() {
                    world.tally.lock().add("refused_locks", false);
                }
            }
            if act == Act::Release {
                surely.remove(&lock);
            }
        }
        for lock in maybe {
            note(
                lock,
                Operation::unanswered(self.number, Act::End, self.ending),
            );
            let orphans = if lock.shared {
                "shared_orphans"
            } else {
                "orphans"
            };
            world.tally.lock().add(orphans, surely.contains(&lock));
        }
    }
}
