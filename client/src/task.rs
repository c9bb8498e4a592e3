//! What owns the wire of a connection.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use glockd_protocol::{Command, Reply, features};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::Lost;
use crate::connection::line;
use crate::expect::{Expect, Step, Unended};
use crate::wire::{Outgoing, Received, Wire};

/// Something to send, and what is expected in answer.
pub(crate) struct Request {
    pub(crate) lines: Vec<u8>,
    pub(crate) expect: Expect,
}

/// What owns the wire.
pub(crate) struct Task {
    wire: Wire,
    requests: mpsc::UnboundedReceiver<Request>,
    /// What was asked for and is not sent yet, because one command is sent at a time.
    queue: VecDeque<Request>,
    /// What is expected in answer to what was sent, in order.
    expected: VecDeque<Expect>,
    outgoing: Outgoing,
    input: Vec<u8>,
    /// How much of the input is known to hold no line end.
    searched: usize,
    is_serial: bool,
    /// In the name of what is asked to find the end of a reply; another one each time.
    nonce: u64,
    /// An answer to that which may come once more.
    late: Option<Vec<u8>>,
    /// How many pongs are to come that no other reply waits for.
    pings: usize,
    /// When something last came, or was asked of a server that owed nothing.
    heard: Instant,
    /// Until when the server may yet answer, if it has been silent for too long.
    overdue: Option<Instant>,
    reply_timeout: Duration,
}

/// How long after the end of a reply was asked for it is asked for again: the original loses the question if that comes
/// together with what was asked before.
const ASKED_AGAIN: Duration = Duration::from_secs(1);

/// How much longer than its time a server is listened to: if it was this process that stood still, the answer may have
/// come long ago.
const LISTENED_TO: Duration = Duration::from_secs(1);

/// The longest line that a server may send, in bytes. None of ours comes near.
const LONGEST: usize = 1 << 30;

/// The same of one that has not said that it is a glockd, and may be anything.
const LONGEST_OF_UNKNOWN: usize = 1 << 20;

/// As much of a longer one is kept, for the error.
const SHOWN: usize = 1024;

/// What is sent during a wait, to see whether the server is there. Its answer looks like nothing else that can come.
const PING: &[u8] = b"ping glockd-client waits\n";
const PONG: &[u8] = b"1 pong: glockd-client waits";

impl Task {
    pub(crate) fn new(
        wire: Wire,
        requests: mpsc::UnboundedReceiver<Request>,
        reply_timeout: Duration,
    ) -> Task {
        Task {
            wire,
            requests,
            queue: VecDeque::new(),
            expected: VecDeque::new(),
            outgoing: Outgoing::default(),
            input: Vec::new(),
            searched: 0,
            is_serial: true,
            nonce: fastrand::u64(..),
            late: None,
            pings: 0,
            heard: Instant::now(),
            overdue: None,
            reply_timeout,
        }
    }

    /// Runs until the connection is lost, not wanted any more, or abandoned; and says so.
    pub(crate) async fn run(mut self, abandoned: Arc<Notify>, loser: watch::Sender<Option<Lost>>) {
        let lost = tokio::select! {
            lost = self.serve() => lost,
            () = abandoned.notified() => Lost::Abandoned,
        };
        // Who asks why nobody answers must find the reason: so that comes first.
        loser.send_replace(Some(lost));
        drop((self.wire, self.queue, self.expected));
        // What is being sent in this moment would otherwise stay in the channel, which it keeps open itself.
        self.requests.close();
        while self.requests.recv().await.is_some() {}
    }

    /// Serves until it can no more, or nobody wants it to.
    async fn serve(&mut self) -> Lost {
        let mut is_wanted = true;
        loop {
            while (!self.is_serial || self.expected.is_empty())
                && let Some(request) = self.queue.pop_front()
            {
                self.start(request);
            }
            if !is_wanted && self.queue.is_empty() && self.outgoing.is_empty() {
                return Lost::Abandoned;
            }
            let (wire, outgoing, input) = (&mut self.wire, &mut self.outgoing, &mut self.input);
            let within = match self.expected.front() {
                _ if self.queue.is_empty() && self.expected.is_empty() => None,
                Some(Expect::Unended(unended)) if unended.end.is_none() => Some(unended.silence),
                Some(Expect::Unended(_)) => Some(ASKED_AGAIN.min(self.reply_timeout)),
                _ => Some(self.reply_timeout),
            };
            // What is too far off is never.
            let deadline = within.and_then(|within| self.heard.checked_add(within));
            let deadline = deadline.map(|deadline| self.overdue.unwrap_or(deadline));
            tokio::select! {
                biased;
                received = poll_fn(|context| wire.poll(context, outgoing, input)) => match received {
                    Ok(Some(received)) => {
                        if let Err(lost) = self.receive(received) {
                            return lost;
                        }
                    }
                    Ok(None) => {}
                    Err(lost) => return lost,
                },
                request = self.requests.recv(), if is_wanted => match request {
                    Some(request) => self.queue.push_back(request),
                    None => is_wanted = false,
                },
                () = sleep_until(deadline.unwrap_or(self.heard)), if deadline.is_some() => {
                    if let Err(lost) = self.miss() {
                        return lost;
                    }
                }
            }
        }
    }

    fn start(&mut self, request: Request) {
        self.nonce = self.nonce.wrapping_add(1);
        if self.expected.is_empty() {
            self.heard = Instant::now();
            self.overdue = None;
        }
        self.outgoing.push(&request.lines);
        self.expected.push_back(request.expect);
    }

    /// Nothing has come for as long as there should have.
    fn miss(&mut self) -> Result<(), Lost> {
        let question = match self.expected.front_mut() {
            Some(Expect::Unended(unended)) if ASKED_AGAIN * unended.asked <= self.reply_timeout => {
                unended.asked += 1;
                let name = format!("glockd-client {:016x}", self.nonce);
                let mut answer = Vec::new();
                let reply = Reply::Inspect {
                    locked: false,
                    name: name.as_bytes(),
                };
                reply.encode(&mut answer);
                answer.pop();
                unended.end = Some(answer);
                line(&Command::Inspect(name.as_bytes().into()))
            }
            // It may be silent, but not dead.
            Some(Expect::Get(get)) if get.is_waiting() && self.pings == 0 => {
                match get.has_pings() {
                    true => {
                        self.pings += 1;
                        PING.to_vec()
                    }
                    false => Vec::new(),
                }
            }
            _ if self.overdue.is_none() => {
                self.overdue = Some(Instant::now() + LISTENED_TO);
                return Ok(());
            }
            _ => return Err(Lost::Silent(self.reply_timeout)),
        };
        self.heard = Instant::now();
        self.outgoing.push(&question);
        Ok(())
    }

    fn receive(&mut self, received: Received) -> Result<(), Lost> {
        self.heard = Instant::now();
        self.overdue = None;
        let mut input = std::mem::take(&mut self.input);
        let (mut taken, mut searched) = (0, self.searched);
        while let Some(length) = input[searched..].iter().position(|&byte| byte == b'\n') {
            let line = &input[taken..searched + length];
            self.take(line.strip_suffix(b"\r").unwrap_or(line))?;
            (taken, searched) = (searched + length + 1, searched + length + 1);
        }
        input.drain(..taken);
        self.searched = input.len();
        let longest = match self.is_serial {
            true => LONGEST_OF_UNKNOWN,
            false => LONGEST,
        };
        if input.len() > longest {
            input.truncate(SHOWN);
            return Err(Lost::Unexpected(input));
        }
        self.input = input;
        // A message is a whole reply, so nothing has to be asked to find its end. If something was, as the reply was
        // late, that has an answer of its own, which is to be awaited.
        let is_whole = |expect: &mut Expect| matches!(expect, Expect::Unended(unended) if unended.end.is_none());
        if received == Received::Message
            && let Some(Expect::Unended(unended)) = self.expected.pop_front_if(is_whole)
        {
            let _ = unended.reply.send(unended.lines);
        }
        Ok(())
    }

    fn take(&mut self, line: &[u8]) -> Result<(), Lost> {
        if self.pings > 0 && line == PONG {
            self.pings -= 1;
            return Ok(());
        }
        if self.late.as_deref() == Some(line) {
            return Ok(());
        }
        let Some(expect) = self.expected.pop_front() else {
            // Nothing is ever sent unasked.
            return Err(Lost::Unexpected(line.to_vec()));
        };
        if let Expect::Unended(Unended { is_one: true, .. }) = expect
            && features(line).is_some_and(|mut words| words.any(|word| word == b"list"))
        {
            self.is_serial = false;
        }
        if let Expect::Unended(Unended {
            end: Some(end),
            asked: 2..,
            ..
        }) = &expect
            && end == line
        {
            // It will be answered as often as it was asked, or not.
            self.late = Some(end.clone());
        }
        match expect.step(line)? {
            Step::More(expect) => self.expected.push_front(expect),
            Step::Done => {}
        }
        Ok(())
    }
}
