//! What owns the wire of a connection.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use glockd_protocol::{Command, Reply};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::connection::line;
use crate::expect::{Expect, Step, Unended};
use crate::heartbeat::{Due, Heartbeat};
use crate::wire::{Outgoing, Received, Wire};
use crate::{Features, Lost};

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
    /// What is expected in answer to what was sent, in order, and when that was sent.
    expected: VecDeque<(Instant, Expect)>,
    outgoing: Outgoing,
    input: Vec<u8>,
    /// How much of the input is known to hold no line end.
    searched: usize,
    is_serial: bool,
    /// In the name of what is asked to find the end of a reply; another one each time.
    nonce: u64,
    /// An answer to that which may come once more.
    late: Option<Vec<u8>>,
    /// When the pings were sent that are not answered yet.
    pings: VecDeque<Instant>,
    /// Watches a server that may give this client up. Set once the server has announced `ping`; never over a Unix
    /// socket, which cannot be cut.
    heartbeat: Option<Heartbeat>,
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

/// Asks whether the server is there. No other reply looks like its answer, save a line of a listing: so it is not sent
/// while a listing is expected.
const PING: &[u8] = b"ping glockd-client is here\n";
const PONG: &[u8] = b"1 pong: glockd-client is here";

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
            pings: VecDeque::new(),
            heartbeat: None,
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
        let is_closed = matches!(lost, Lost::Abandoned | Lost::Closed);
        // Who asks why nobody answers must find the reason: so that comes first.
        loser.send_replace(Some(lost));
        drop((self.queue, self.expected));
        if is_closed {
            drop(self.wire);
            // What is being sent in this moment would otherwise stay in the channel, which it keeps open itself.
            self.requests.close();
            while self.requests.recv().await.is_some() {}
        } else {
            // The server may believe that all is well. To close the connection now would free its locks, while somebody
            // still works under them. So it stays open until nobody uses it any more.
            while self.requests.recv().await.is_some() {}
            drop(self.wire);
        }
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
            let deadline = self.deadline();
            let beat = self.next_beat();
            let (wire, outgoing, input) = (&mut self.wire, &mut self.outgoing, &mut self.input);
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
                () = sleep_until(beat.unwrap_or(self.heard)), if beat.is_some() => {
                    if let Err(lost) = self.beat() {
                        return lost;
                    }
                }
            }
        }
    }

    /// Returns until when the server must send something that it owes, if it owes anything.
    fn deadline(&self) -> Option<Instant> {
        let within = match self.expected.front() {
            _ if self.queue.is_empty() && self.expected.is_empty() => return None,
            Some((_, Expect::Unended(unended))) if unended.end.is_none() => unended.silence,
            Some((_, Expect::Unended(_))) => ASKED_AGAIN.min(self.reply_timeout),
            Some((_, Expect::Get(get))) if get.is_waiting() && self.heartbeat.is_some() => {
                return None;
            }
            _ => self.reply_timeout,
        };
        // What is too far off is never.
        let deadline = self.heard.checked_add(within)?;
        Some(self.overdue.unwrap_or(deadline))
    }

    /// Returns when the heartbeat is due next. A listing needs none: no lock is held on its connection, and each line
    /// that arrives shows that the server is alive.
    fn next_beat(&self) -> Option<Instant> {
        let heartbeat = self.heartbeat.as_ref()?;
        let is_listed = |(_, expect): &(Instant, Expect)| expect.is_listing();
        match self.expected.iter().any(is_listed) {
            true => None,
            false => Some(heartbeat.next()),
        }
    }

    fn beat(&mut self) -> Result<(), Lost> {
        let Some(heartbeat) = &mut self.heartbeat else {
            return Ok(());
        };
        let now = Instant::now();
        match heartbeat.due(now) {
            Due::Nothing => {}
            Due::Ping => {
                heartbeat.pinged();
                self.ping(now);
            }
            Due::Lost => return Err(Lost::Silent(heartbeat.patience())),
        }
        Ok(())
    }

    fn ping(&mut self, now: Instant) {
        self.pings.push_back(now);
        self.outgoing.push(PING);
    }

    fn start(&mut self, request: Request) {
        self.nonce = self.nonce.wrapping_add(1);
        let now = Instant::now();
        if self.expected.is_empty() {
            self.heard = now;
            self.overdue = None;
        }
        self.outgoing.push(&request.lines);
        self.expected.push_back((now, request.expect));
    }

    /// Nothing has come for as long as there should have.
    fn miss(&mut self) -> Result<(), Lost> {
        let question = match self.expected.front_mut().map(|(_, expect)| expect) {
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
            Some(Expect::Get(get)) if get.is_waiting() && self.pings.is_empty() => {
                if get.has_pings() {
                    self.ping(Instant::now());
                }
                Vec::new()
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
        let mut is_pong = false;
        while let Some(length) = input[searched..].iter().position(|&byte| byte == b'\n') {
            let line = &input[taken..searched + length];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            is_pong = self.take_pong(line);
            if !is_pong {
                self.take(line)?;
            }
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
        let is_whole = |(_, expect): &mut (Instant, Expect)| matches!(expect, Expect::Unended(unended) if unended.end.is_none());
        if received == Received::Message
            && !is_pong
            && let Some((_, Expect::Unended(unended))) = self.expected.pop_front_if(is_whole)
        {
            let _ = unended.reply.send(unended.lines);
        }
        Ok(())
    }

    /// Takes the answer to a ping, if this is one. Returns whether it is.
    fn take_pong(&mut self, line: &[u8]) -> bool {
        let Some(sent) = self.pings.pop_front_if(|_| line == PONG) else {
            return false;
        };
        if let Some(heartbeat) = &mut self.heartbeat {
            heartbeat.ponged(sent);
        }
        true
    }

    fn take(&mut self, line: &[u8]) -> Result<(), Lost> {
        if self.late.as_deref() == Some(line) {
            return Ok(());
        }
        let Some((sent, expect)) = self.expected.pop_front() else {
            // Nothing is ever sent unasked.
            return Err(Lost::Unexpected(line.to_vec()));
        };
        if let Expect::Unended(Unended { is_one: true, .. }) = expect {
            self.take_features(Features::read(line), sent)
                .map_err(|error| Lost::Io(error.into()))?;
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
        let confirmed = match &expect {
            // It may have been sent hours ago, and says nothing of how things stand since.
            Expect::Get(get) if get.is_waiting() => None,
            // Nobody holds a lock on this connection, and so there is nothing to be lost by some delay.
            expect if expect.is_listing() => Some(Instant::now()),
            _ => Some(sent),
        };
        if let (Some(heartbeat), Some(confirmed)) = (&mut self.heartbeat, confirmed) {
            heartbeat.confirm(confirmed);
        }
        match expect.step(line)? {
            Step::More(expect) => self.expected.push_front((sent, expect)),
            Step::Done => {}
        }
        Ok(())
    }

    /// Takes what a server can do, by its answer to a `hello` that was sent at `sent`.
    fn take_features(&mut self, features: Features, sent: Instant) -> std::io::Result<()> {
        if features.list {
            self.is_serial = false;
        }
        if features.ping && self.wire.may_be_cut() {
            let heartbeat = Heartbeat::new(features.peer_timeout, self.reply_timeout, sent);
            self.heartbeat = Some(heartbeat);
            self.wire.leave_to_heartbeat()?;
        }
        Ok(())
    }
}
