//! A connection, which notes what it asks for and is answered, and holds it against what it knows.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use glockd::protocol::Verb;
use parking_lot::Mutex;

use crate::history::{Act, Clock, Lock, NAMES, Operation};
use crate::tally::{Statistics, Tally, counters};
use crate::wire::{Doors, Size, Via, Wire};

/// Behind a command that is answered by any number of lines comes this, whose answer marks their end.
const MARK: &str = "i mark";
const MARKED: &str = "0 Lock Not Locked: mark";

/// What all connections to a server share.
pub(crate) struct World {
    pub(crate) doors: Doors,
    pub(crate) clock: Clock,
    /// All that was done to locks, for each connection in the order in which it was done.
    pub(crate) history: Mutex<Vec<(Lock, Operation)>>,
    pub(crate) tally: Mutex<Tally>,
    connections: AtomicU32,
}

impl World {
    pub(crate) fn new(doors: Doors) -> World {
        World {
            doors,
            clock: Clock::default(),
            history: Mutex::default(),
            tally: Mutex::default(),
            connections: AtomicU32::new(0),
        }
    }

    /// Counts a command that was answered, or one that was perhaps not even run.
    fn count(&self, command: Command, answered: bool) {
        let mut tally = self.tally.lock();
        tally.add(command.counter(), answered);
        if command.is_marked() {
            tally.add("command_i", answered);
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Command {
    /// Not [`Act::End`], which is no command.
    Lock(Lock, Act),
    List {
        shared: bool,
    },
    Dump {
        shared: bool,
    },
    Me,
    Iam(u32),
    Who(Option<u32>),
    Statistics,
    Unknown,
}

impl Command {
    fn verb(self) -> Option<Verb> {
        Some(match self {
            Command::Lock(lock, act) => match (lock.shared, act) {
                (false, Act::Get) => Verb::G,
                (false, Act::Release) => Verb::R,
                (false, _) => Verb::I,
                (true, Act::Get) => Verb::Sg,
                (true, Act::Release) => Verb::Sr,
                (true, _) => Verb::Si,
            },
            Command::List { shared: false } => Verb::D,
            Command::List { shared: true } => Verb::Sd,
            Command::Dump { .. } => Verb::Dump,
            Command::Me => Verb::Me,
            Command::Iam(_) => Verb::Iam,
            Command::Who(_) => Verb::Who,
            Command::Statistics => Verb::Q,
            Command::Unknown => return None,
        })
    }

    fn text(self) -> String {
        let verb = self.verb().map_or("no command", Verb::as_str);
        match self {
            Command::Lock(lock, _) => format!("{verb} {}", lock.name()),
            Command::Iam(connection) | Command::Who(Some(connection)) => {
                format!("{verb} {}", registered(connection))
            }
            Command::Dump { shared: true } => format!("{verb} shared"),
            _ => verb.to_owned(),
        }
    }

    fn is_marked(self) -> bool {
        matches!(
            self,
            Command::List { .. } | Command::Who(_) | Command::Unknown
        )
    }

    fn size(self) -> Size {
        match self {
            _ if self.is_marked() => Size::UpTo(MARKED),
            // Always the last of its lines.
            Command::Statistics => Size::UpTo("shared_orphans: "),
            _ => Size::Line,
        }
    }

    /// What it is counted as.
    fn counter(self) -> String {
        match self.verb() {
            Some(verb) => format!("command_{}", verb.as_str()),
            None => "invalid_commands".to_owned(),
        }
    }
}

/// The name that a connection registers.
pub(crate) fn registered(connection: u32) -> String {
    format!("connection {connection}")
}

/// Commands that were sent together, and have yet to be answered.
struct Batch {
    invoked: u64,
    commands: VecDeque<Command>,
}

pub(crate) struct Connection {
    world: Arc<World>,
    wire: Wire,
    /// No other has the same, ever.
    pub(crate) number: u32,
    /// As the server sees it.
    pub(crate) address: String,
    /// By all that was answered.
    pub(crate) held: BTreeSet<Lock>,
    /// What it last saw of them.
    pub(crate) statistics: Statistics,
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
            held: BTreeSet::new(),
            statistics: Statistics::new(),
        }
    }

    /// Sends commands together, and waits for all answers. Gives back the lines of the last one.
    pub(crate) async fn ask(&mut self, commands: Vec<Command>) -> Vec<String> {
        let mut batch = self.send(commands).await;
        let mut last = Vec::new();
        while let Some(answer) = self.hear(&mut batch).await {
            last = answer;
        }
        last
    }

    /// Sends commands together, closes the sending side, and waits until all is answered and the server has
    /// closed. Then all that was held is free.
    pub(crate) async fn finish(mut self, commands: Vec<Command>) {
        let mut batch = self.send(commands).await;
        let ending = self.world.clock.now();
        self.wire.close_sending_side().await;
        while self.hear(&mut batch).await.is_some() {}
        self.wire.await_end().await;
        let gone = Gone {
            number: self.number,
            held: self.held,
            batch,
            ending,
        };
        gone.note(&self.world);
    }

    /// Sends commands together, waits for so many answers, and goes without a word.
    pub(crate) async fn vanish(
        mut self,
        commands: Vec<Command>,
        answers: usize,
        reset: bool,
    ) -> Gone {
        let mut batch = self.send(commands).await;
        for _ in 0..answers {
            self.hear(&mut batch).await;
        }
        let ending = self.world.clock.now();
        self.wire.vanish(reset);
        Gone {
            number: self.number,
            held: self.held,
            batch,
            ending,
        }
    }

    async fn send(&mut self, commands: Vec<Command>) -> Batch {
        let invoked = self.world.clock.now();
        let mut lines = Vec::new();
        for command in &commands {
            lines.push(command.text());
            if command.is_marked() {
                lines.push(MARK.to_owned());
            }
        }
        self.wire.send(&lines).await;
        Batch {
            invoked,
            commands: commands.into(),
        }
    }

    /// Waits for the next answer to a batch, and gives back its lines; `None` if there is none to come.
    async fn hear(&mut self, batch: &mut Batch) -> Option<Vec<String>> {
        let command = batch.commands.pop_front()?;
        let mut lines = self.wire.receive(command.size()).await;
        if command.is_marked() {
            lines.pop();
        }
        let answered = self.world.clock.now();
        self.world.count(command, true);
        match command {
            Command::Lock(lock, act) => {
                let answer = self.check_lock(lock, act, &lines[0]);
                let operation = Operation {
                    connection: self.number,
                    act,
                    invoked: batch.invoked,
                    answered,
                    answer: Some(answer),
                };
                self.world.history.lock().push((lock, operation));
            }
            Command::List { shared } => self.check_listing(shared, &lines),
            Command::Statistics => self.check_statistics(&lines),
            Command::Iam(_) => assert_eq!(lines, ["1 ok"]),
            Command::Who(Some(number)) if number == self.number => {
                let name = registered(number);
                assert_eq!(lines, [format!("{}: {name}", self.address)]);
            }
            // What these are answered is looked at by who asked.
            Command::Who(_) | Command::Me | Command::Dump { .. } => {}
            Command::Unknown => assert_eq!(lines, [""; 0]),
        }
        Some(lines)
    }

    /// The number that an answer begins with, whose text must go with it.
    fn check_lock(&mut self, lock: Lock, act: Act, line: &str) -> u32 {
        let (number, text) = line.split_once(' ').unwrap();
        let number: u32 = number.parse().unwrap();
        let done = number > 0;
        let expect = match (act, done) {
            (Act::Get, true) => "Get Success",
            (Act::Get, false) => "Get Failure",
            (Act::Release, true) => "Release Success",
            (Act::Release, false) => "Release Failure",
            (_, true) => "Is Locked",
            (_, false) => "Not Locked",
        };
        let kind = if lock.shared { "Shared Lock" } else { "Lock" };
        assert_eq!(text, format!("{kind} {expect}: {}", lock.name()));
        match act {
            Act::Get if done => drop(self.held.insert(lock)),
            Act::Release => assert_eq!(self.held.remove(&lock), done, "{line}"),
            _ => {}
        }
        number
    }

    /// A listing has the locks of this connection, to which nothing can happen meanwhile; and of others, what
    /// may be.
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
        let held = self.held.iter().filter(|lock| lock.shared == shared);
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

/// A connection that its client has ended.
pub(crate) struct Gone {
    pub(crate) number: u32,
    held: BTreeSet<Lock>,
    /// What was not answered.
    batch: Batch,
    ending: u64,
}

impl Gone {
    /// Notes that it was just seen to have ended, and everything it held to be free.
    pub(crate) fn note(self, world: &World) {
        let ended = world.clock.now();
        let mut history = world.history.lock();
        let mut note = |lock, act, invoked| {
            let operation = Operation {
                connection: self.number,
                act,
                invoked,
                answered: ended,
                answer: None,
            };
            history.push((lock, operation));
        };
        let (mut surely, mut maybe) = (self.held.clone(), self.held);
        for command in self.batch.commands {
            world.count(command, false);
            if let Command::Lock(lock, act) = command {
                note(lock, act, self.batch.invoked);
                match act {
                    Act::Get => drop(maybe.insert(lock)),
                    Act::Release => drop(surely.remove(&lock)),
                    _ => {}
                }
            }
        }
        for lock in maybe {
            note(lock, Act::End, self.ending);
            let orphans = if lock.shared {
                "shared_orphans"
            } else {
                "orphans"
            };
            world.tally.lock().add(orphans, surely.contains(&lock));
        }
    }
}
