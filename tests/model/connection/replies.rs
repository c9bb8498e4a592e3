//! Checks of the replies to a connection.

use std::sync::Arc;
use std::time::Duration;

use super::{Cancelled, Connection};
use crate::claim::{Claim, record_token};
use crate::command::{Command, Outcome, registered};
use crate::disconnected::Sent;
use crate::history::{Act, Lock, NAMES, Operation};
use crate::tally::{Statistics, counters};

impl Connection {
    /// Checks a reply, as far as this connection can. Removes the mark of its end.
    pub(super) fn check(&mut self, sent: &Sent, lines: &mut Vec<String>) {
        let command = sent.command;
        match command {
            Command::Lock(lock, act) => self.check_lock(sent, lock, act, None, &lines[0]),
            Command::Wait { lock, act, ms } => {
                self.check_lock(sent, lock, act, Some(ms), &lines[0]);
            }
            Command::Fence(lock) => self.check_fence(lock, &lines[0]),
            Command::Claims(number) => self.check_claims(number, lines),
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
                is_certain: outcome == Outcome::Cancelled,
            });
        }
        let is_full = act.gets() && self.is_full(lock);
        match outcome {
            Outcome::Done => assert!(!is_full, "granted beyond the maximum: {line}"),
            Outcome::QueueFull => assert!(is_full, "refused below the maximum: {line}"),
            // A connection at its maximum is refused before it waits.
            Outcome::TimedOut => assert!(
                !is_full || ms == Some(0),
                "waited beyond the maximum: {line}"
            ),
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
            let begun = begun.unwrap_or_else(|| panic!("timed out in less than {ms} ms: {line}"));
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
        let max_locks = self.world.max_locks;
        let is_full = max_locks.is_some_and(|max| self.held.len() >= max);
        is_full && !self.held.contains_key(&lock)
    }

    /// Checks a fencing token: a held lock has one, which stays the same.
    fn check_fence(&self, lock: Lock, line: &str) {
        let (token, text) = line.split_once(' ').unwrap();
        let said = match self.held.get(&lock) {
            Some(held) => {
                record_token(held, token);
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
    fn check_claims(&self, number: usize, lines: &[String]) {
        let claims = Claim::parse(number, lines);
        let own_name = registered(self.number);
        let mut own_claims = claims.iter().filter(|claim| claim.name == own_name);
        for shared in [false, true] {
            let lock = Lock { shared, number };
            if let Some(held) = self.held.get(&lock) {
                let claim = own_claims.next().unwrap_or_else(|| panic!("{lines:#?}"));
                assert_eq!((claim.waits, claim.lock), (false, lock), "{lines:#?}");
                assert_eq!(claim.address, self.address, "{lines:#?}");
                record_token(held, claim.token);
            }
        }
        assert_eq!(own_claims.next(), None, "{lines:#?}");
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
