//! The commands of clients, and their possible replies.

use glockd::protocol::Verb;

use crate::history::{Act, Lock};

/// Sent after a command whose reply has any number of lines. The reply to this marks their end.
const MARK: &str = "i mark";
const MARKED: &str = "0 Lock Not Locked: mark";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// An operation on a lock, other than [`Act::End`], which is not a command.
    Lock(Lock, Act),
    /// An operation that waits for at most this number of milliseconds; 0 does not wait.
    Wait {
        lock: Lock,
        act: Act,
        ms: u32,
    },
    /// With the number of a name.
    Cancel(usize),
    Ping(u32),
    Fence(Lock),
    /// With the number of a name.
    Claims(usize),
    List {
        shared: bool,
        counted: bool,
    },
    /// A counted listing with the length of each name.
    ListWithLengths {
        shared: bool,
    },
    Dump {
        shared: bool,
    },
    Me,
    Iam(u32),
    Who {
        of: Option<u32>,
        counted: bool,
    },
    Statistics {
        counted: bool,
    },
    Unknown,
}

/// The outcome of an operation on a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Failed,
    TimedOut,
    QueueFull,
    Cancelled,
}

impl Command {
    fn verb(self) -> Option<Verb> {
        Some(match self {
            Command::Lock(lock, act) => match (lock.shared, act) {
                (false, Act::Get) => Verb::G,
                (false, Act::Release) => Verb::R,
                (false, _) => Verb::I,
                (true, Act::Get) => Verb::Sg,
                (true, Act::GetBelow { .. }) => Verb::Sgl,
                (true, Act::Release) => Verb::Sr,
                (true, _) => Verb::Si,
            },
            Command::Wait { lock, act, .. } => match (lock.shared, act) {
                (false, Act::GetBelow { .. }) => Verb::Gw,
                (false, _) => Verb::Iw,
                (true, Act::GetBelow { .. }) => Verb::Sgw,
                (true, _) => Verb::Siw,
            },
            Command::Cancel(_) => Verb::Cancel,
            Command::Ping(_) => Verb::Ping,
            Command::Fence(Lock { shared: false, .. }) => Verb::F,
            Command::Fence(Lock { shared: true, .. }) => Verb::Sf,
            Command::Claims(_) => Verb::Own,
            Command::List { shared, counted } => match (shared, counted) {
                (false, false) => Verb::D,
                (false, true) => Verb::Ld,
                (true, false) => Verb::Sd,
                (true, true) => Verb::Lsd,
            },
            Command::ListWithLengths { shared: false } => Verb::Ldl,
            Command::ListWithLengths { shared: true } => Verb::Lsdl,
            Command::Dump { .. } => Verb::Dump,
            Command::Me => Verb::Me,
            Command::Iam(_) => Verb::Iam,
            Command::Who { counted: false, .. } => Verb::Who,
            Command::Who { counted: true, .. } => Verb::Lwho,
            Command::Statistics { counted: false } => Verb::Q,
            Command::Statistics { counted: true } => Verb::Lq,
            Command::Unknown => return None,
        })
    }

    /// Returns the lines to send.
    pub(crate) fn lines(self) -> Vec<String> {
        let verb = self.verb().map_or("no command", Verb::as_str);
        let argument = match self {
            Command::Lock(lock, Act::GetBelow { limit, .. }) => format!("{limit} {}", lock.name()),
            Command::Lock(lock, _) | Command::Fence(lock) => lock.name(),
            Command::Wait { lock, act, ms } => match (lock.shared, act) {
                (true, Act::GetBelow { limit: count, .. } | Act::Watch { below: count, .. }) => {
                    format!("{ms} {count} {}", lock.name())
                }
                _ => format!("{ms} {}", lock.name()),
            },
            Command::Cancel(number) | Command::Claims(number) => name(number),
            Command::Ping(text) => text.to_string(),
            Command::Iam(connection) => registered(connection),
            Command::Who { of, .. } => of.map(registered).unwrap_or_default(),
            Command::Dump { shared: true } => "shared".to_owned(),
            _ => String::new(),
        };
        let line = match argument.as_str() {
            "" => verb.to_owned(),
            argument => format!("{verb} {argument}"),
        };
        let mark = self.is_marked().then(|| MARK.to_owned());
        [line].into_iter().chain(mark).collect()
    }

    pub(crate) fn is_marked(self) -> bool {
        matches!(
            self,
            Command::List { counted: false, .. }
                | Command::Who { counted: false, .. }
                | Command::Unknown
        )
    }

    /// Returns the key of the command's counter.
    pub(crate) fn counter(self) -> String {
        match self.verb() {
            Some(verb) => format!("command_{}", verb.as_str()),
            None => "invalid_commands".to_owned(),
        }
    }

    /// Returns true if the command runs at once, even during a wait.
    pub(crate) fn is_urgent(self) -> bool {
        matches!(self, Command::Cancel(_) | Command::Ping(_))
    }

    /// Returns true if this line is the reply to an urgent command.
    pub(crate) fn is_answered_by(self, line: &str) -> bool {
        match self {
            Command::Ping(text) => line == format!("1 pong: {text}"),
            Command::Cancel(number) => {
                let name = name(number);
                line == format!("1 Cancel Success: {name}")
                    || line == format!("0 Cancel Failure: {name}")
            }
            _ => false,
        }
    }

    /// Returns true if the reply may come later than the command begins.
    pub(crate) fn waits(self) -> bool {
        matches!(self, Command::Wait { act, .. } if act.waits())
    }

    /// Returns the number of the name whose `cancel` ends the command.
    pub(crate) fn obeys(self) -> Option<usize> {
        match self {
            Command::Wait { lock, .. } => Some(lock.number),
            _ => None,
        }
    }

    /// Returns true if this line may be the reply of the cancelled command.
    pub(crate) fn is_cancelled_by(self, line: &str) -> bool {
        match self {
            Command::Wait { lock, act, .. } => {
                let text = match (lock.shared, act) {
                    (_, Act::Watch { .. }) => "Lock Is Locked",
                    (false, _) => "Lock Get Cancelled",
                    (true, _) => "Shared Lock Get Cancelled",
                };
                line == format!("0 {text}: {}", lock.name())
            }
            _ => false,
        }
    }

    /// Reads the reply to an operation on a lock: the number at its beginning, and the meaning of its text.
    pub(crate) fn outcome(self, line: &str) -> (u32, Outcome) {
        let (Command::Lock(lock, act) | Command::Wait { lock, act, .. }) = self else {
            unreachable!("not an operation on a lock: {self:?}");
        };
        let (number, text) = line.split_once(' ').unwrap();
        let number = number.parse().unwrap();
        let kind = if lock.shared { "Shared Lock" } else { "Lock" };
        let name = lock.name();
        let outcomes = match (self, act) {
            (Command::Lock(..), Act::GetBelow { .. }) => {
                vec![
                    (kind, "Get Success", Outcome::Done),
                    (kind, "Get Full", Outcome::Failed),
                ]
            }
            (_, Act::GetBelow { .. }) => vec![
                (kind, "Get Success", Outcome::Done),
                (kind, "Get Timeout", Outcome::TimedOut),
                (kind, "Get Queue Full", Outcome::QueueFull),
                (kind, "Get Cancelled", Outcome::Cancelled),
            ],
            (_, Act::Watch { .. }) => {
                vec![
                    ("Lock", "Is Free", Outcome::Done),
                    ("Lock", "Is Locked", Outcome::Failed),
                ]
            }
            (_, Act::Get) => {
                vec![
                    (kind, "Get Success", Outcome::Done),
                    (kind, "Get Failure", Outcome::Failed),
                ]
            }
            (_, Act::Release) => vec![
                (kind, "Release Success", Outcome::Done),
                (kind, "Release Failure", Outcome::Failed),
            ],
            _ => {
                vec![
                    (kind, "Is Locked", Outcome::Done),
                    (kind, "Not Locked", Outcome::Failed),
                ]
            }
        };
        let is_it =
            |(kind, said, _): &&(&str, &str, Outcome)| text == format!("{kind} {said}: {name}");
        let &(.., outcome) = outcomes
            .iter()
            .find(is_it)
            .unwrap_or_else(|| panic!("{line}"));
        assert_eq!(number > 0, outcome == Outcome::Done, "{line}");
        (number, outcome)
    }

    /// Returns the line that ends a counted listing.
    fn counted_end(self) -> Option<&'static str> {
        Some(match self {
            Command::List {
                shared: false,
                counted: true,
            }
            | Command::ListWithLengths { shared: false } => "0 Lock List: ",
            Command::List {
                shared: true,
                counted: true,
            }
            | Command::ListWithLengths { shared: true } => "0 Shared Lock List: ",
            Command::Who { counted: true, .. } => "0 Client List: ",
            Command::Statistics { counted: true } => "0 Stats List: ",
            _ => return None,
        })
    }

    /// Returns true if these are all lines of the reply. There is at least one.
    pub(crate) fn is_complete(self, lines: &[String]) -> bool {
        let last = lines.last().map_or("", String::as_str);
        match self {
            _ if self.is_marked() => last == MARKED,
            Command::Claims(_) => lines.len() == 1 + count(&lines[0]),
            // Always the last line.
            Command::Statistics { counted: false } => last.starts_with("shared_orphans: "),
            _ => self.counted_end().is_none_or(|end| last.starts_with(end)),
        }
    }

    /// Removes what marks the end from the reply.
    pub(crate) fn strip(self, lines: &mut Vec<String>) {
        if self.is_marked() {
            lines.pop();
        }
        let Some(end) = self.counted_end() else {
            return;
        };
        let header = &end[1..];
        let blocks = std::mem::take(lines);
        let mut rest = &blocks[..];
        while let [first, after @ ..] = rest {
            assert!(first.contains(header), "{blocks:#?}");
            let (block, after) = after.split_at(count(first));
            assert_eq!(block.is_empty(), after.is_empty(), "{blocks:#?}");
            lines.extend_from_slice(block);
            rest = after;
        }
        if let Command::ListWithLengths { .. } = self {
            for line in lines {
                let (length, rest) = line.split_once(' ').unwrap();
                let (name, _) = rest.split_at(length.parse().unwrap());
                assert_eq!(rest.split_once(": ").unwrap().0, name, "{line}");
                *line = rest.to_owned();
            }
        }
    }
}

/// Returns the name that a connection registers.
pub(crate) fn registered(connection: u32) -> String {
    format!("connection {connection}")
}

/// Returns the name of this number.
fn name(number: usize) -> String {
    let shared = false;
    Lock { shared, number }.name()
}

/// Returns the number at the beginning of a line.
fn count(line: &str) -> usize {
    let (count, _) = line.split_once(' ').unwrap();
    count.parse().unwrap()
}
