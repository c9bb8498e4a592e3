//! The task that owns the wire of a connection.
//!
//! It sends requests, reads replies, and completes each [`ExpectedReply`] in the order of the requests. It ends when
//! the connection is lost, closed, or not used any more.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::error::Lost;
use crate::expected::{ExpectedReply, Step};
use crate::features::Features;
use crate::heartbeat::{Due, Heartbeat};
use crate::request::{Request, line};
use crate::wire::{Outgoing, Received, Wire};

/// The task of one connection.
pub(crate) struct ConnectionTask {
    wire: Wire,
    requests: mpsc::UnboundedReceiver<Request>,
    /// Requests that are not sent yet, because the server takes one command at a time.
    queue: VecDeque<Request>,
    /// Replies that the server owes, in order, each with the time at which its request was sent.
    expected: VecDeque<(Instant, ExpectedReply)>,
    outgoing: Outgoing,
    input: Vec<u8>,
    /// Length of the beginning of `input` that contains no line end.
    searched: usize,
    /// Features of the server; none before the reply to `hello`.
    features: Features,
    /// Part of the name in a probe. Changes with each request.
    nonce: u64,
    /// The answer to an earlier probe, which may come once more.
    repeated_answer: Option<Vec<u8>>,
    /// Times at which the unanswered pings were sent.
    pings: VecDeque<Instant>,
    /// Watches a server that may disconnect this client for its silence. Set once the server has announced `ping`;
    /// never over a Unix socket, which cannot fail silently.
    heartbeat: Option<Heartbeat>,
    /// Time of the last input, or of the last request to a server that owed nothing.
    last_activity: Instant,
    /// Extended deadline of a server that has been silent for too long.
    grace_until: Option<Instant>,
    reply_timeout: Duration,
}

/// Time after which an unanswered probe is sent again: the original loses a probe that arrives together with the
/// request before it.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Additional time for a server that has been silent for too long: if this process was stopped, the answer may have
/// arrived meanwhile and only needs to be read.
const GRACE: Duration = Duration::from_secs(1);

/// Longest line that is accepted from a server, in bytes. glockd sends none that comes near.
const MAX_LINE: usize = 1 << 30;

/// Longest line that is accepted from a server that has not said that it is glockd, in bytes.
const MAX_LINE_OF_UNKNOWN: usize = 1 << 20;

/// Length of the part of an overlong line that is kept for the error, in bytes.
const EXCERPT: usize = 1024;

/// Asks the server for a sign of life. No other reply looks like the answer, except a line of a listing: so no ping is
/// sent while a listing is expected.
const PING: &[u8] = b"ping glockd-client is here\n";
const PONG: &[u8] = b"1 pong: glockd-client is here";

impl ConnectionTask {
    pub(crate) fn new(
        wire: Wire,
        requests: mpsc::UnboundedReceiver<Request>,
        reply_timeout: Duration,
    ) -> ConnectionTask {
        ConnectionTask {
            wire,
            requests,
            queue: VecDeque::new(),
            expected: VecDeque::new(),
            outgoing: Outgoing::default(),
            input: Vec::new(),
            searched: 0,
            features: Features::default(),
            nonce: fastrand::u64(..),
            repeated_answer: None,
            pings: VecDeque::new(),
            heartbeat: None,
            last_activity: Instant::now(),
            grace_until: None,
            reply_timeout,
        }
    }

    /// Runs until the connection is lost, closed by `close`, or not used any more. Publishes the reason through `loss`.
    pub(crate) async fn run(mut self, close: Arc<Notify>, loss: watch::Sender<Option<Lost>>) {
        let lost = tokio::select! {
            lost = self.exchange() => lost,
            () = close.notified() => Lost::Abandoned,
        };
        let is_closed = matches!(lost, Lost::Abandoned | Lost::Closed);
        // First, so that a caller whose completion is dropped below finds the reason.
        loss.send_replace(Some(lost));
        drop((self.queue, self.expected));
        if is_closed {
            drop(self.wire);
            // A request may be in the channel, and may itself keep the channel open through its lease.
            self.requests.close();
            while self.requests.recv().await.is_some() {}
        } else {
            // The server may still regard the connection as good. Closing it now would free its locks while tasks still
            // work under them. So it stays open until the last user is gone.
            while self.requests.recv().await.is_some() {}
            drop(self.wire);
        }
    }

    /// Sends requests and reads replies until the connection is lost or not used any more. Returns the reason.
    async fn exchange(&mut self) -> Lost {
        let mut is_used = true;
        loop {
            while (self.pipelines() || self.expected.is_empty())
                && let Some(request) = self.queue.pop_front()
            {
                self.send_request(request);
            }
            if !is_used && self.queue.is_empty() && self.outgoing.is_empty() {
                return Lost::Abandoned;
            }
            let deadline = self.reply_deadline();
            let beat = self.next_beat();
            let (wire, outgoing, input) = (&mut self.wire, &mut self.outgoing, &mut self.input);
            tokio::select! {
                biased;
                received = poll_fn(|context| wire.poll(context, outgoing, input)) => match received {
                    Ok(Some(received)) => {
                        if let Err(lost) = self.read_input(received) {
                            return lost;
                        }
                    }
                    Ok(None) => {}
                    Err(lost) => return lost,
                },
                request = self.requests.recv(), if is_used => match request {
                    Some(request) => self.queue.push_back(request),
                    None => is_used = false,
                },
                () = sleep_until(deadline.unwrap_or(self.last_activity)), if deadline.is_some() => {
                    if let Err(lost) = self.handle_silence() {
                        return lost;
                    }
                }
                () = sleep_until(beat.unwrap_or(self.last_activity)), if beat.is_some() => {
                    if let Err(lost) = self.beat() {
                        return lost;
                    }
                }
            }
        }
    }

    /// Returns true if the server takes more than one command at a time. The original loses all lines of a read but the
    /// first. A server that marks the end of listings does not.
    fn pipelines(&self) -> bool {
        self.features.list
    }

    /// Returns the time by which the server must send something, if it owes anything.
    fn reply_deadline(&self) -> Option<Instant> {
        let within = match self.expected.front() {
            _ if self.queue.is_empty() && self.expected.is_empty() => return None,
            Some((_, ExpectedReply::Unmarked(reply))) if reply.probes() == 0 => reply.pause(),
            Some((_, ExpectedReply::Unmarked(_))) => PROBE_INTERVAL.min(self.reply_timeout),
            Some((_, ExpectedReply::Get(get))) if get.is_waiting() && self.heartbeat.is_some() => {
                return None;
            }
            _ => self.reply_timeout,
        };
        // A sum that overflows means never.
        let deadline = self.last_activity.checked_add(within)?;
        Some(self.grace_until.unwrap_or(deadline))
    }

    /// Returns when the heartbeat is due next. A listing needs none: no lock is held on its connection, and each line
    /// that arrives shows that the server is alive.
    fn next_beat(&self) -> Option<Instant> {
        let heartbeat = self.heartbeat.as_ref()?;
        let is_listing = |(_, expected): &(Instant, ExpectedReply)| expected.is_listing();
        match self.expected.iter().any(is_listing) {
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
                self.send_ping(now);
            }
            Due::Lost => return Err(Lost::Silent(heartbeat.patience())),
        }
        Ok(())
    }

    fn send_ping(&mut self, now: Instant) {
        self.pings.push_back(now);
        self.outgoing.push(PING);
    }

    fn send_request(&mut self, request: Request) {
        self.nonce = self.nonce.wrapping_add(1);
        let now = Instant::now();
        if self.expected.is_empty() {
            self.last_activity = now;
            self.grace_until = None;
        }
        self.outgoing.push(&request.lines);
        self.expected.push_back((now, request.expected));
    }

    /// Acts on a server that has let its deadline pass: sends a probe or a ping if that may help, or else gives the
    /// connection up.
    fn handle_silence(&mut self) -> Result<(), Lost> {
        match self.expected.front_mut().map(|(_, expected)| expected) {
            Some(ExpectedReply::Unmarked(reply))
                if PROBE_INTERVAL * reply.probes() <= self.reply_timeout =>
            {
                let probe = reply.probe(self.nonce);
                self.outgoing.push(&line(&probe));
            }
            // The server may keep the client waiting, but must answer pings meanwhile.
            Some(ExpectedReply::Get(get)) if get.is_waiting() && self.pings.is_empty() => {
                if self.features.ping {
                    self.send_ping(Instant::now());
                }
            }
            _ if self.grace_until.is_none() => {
                self.grace_until = Some(Instant::now() + GRACE);
                return Ok(());
            }
            _ => return Err(Lost::Silent(self.reply_timeout)),
        }
        self.last_activity = Instant::now();
        Ok(())
    }

    /// Reads the complete lines of the input.
    fn read_input(&mut self, received: Received) -> Result<(), Lost> {
        self.last_activity = Instant::now();
        self.grace_until = None;
        let mut input = std::mem::take(&mut self.input);
        let (mut read, mut searched) = (0, self.searched);
        let mut is_pong = false;
        while let Some(length) = input[searched..].iter().position(|&byte| byte == b'\n') {
            let line = &input[read..searched + length];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            is_pong = self.read_pong(line);
            if !is_pong {
                self.read_line(line)?;
            }
            (read, searched) = (searched + length + 1, searched + length + 1);
        }
        input.drain(..read);
        self.searched = input.len();
        let max_line = match self.pipelines() {
            true => MAX_LINE,
            false => MAX_LINE_OF_UNKNOWN,
        };
        if input.len() > max_line {
            input.truncate(EXCERPT);
            return Err(Lost::Unexpected(input));
        }
        self.input = input;
        // A message is a complete reply, so it needs no probe. But if a probe was sent because the reply was late, the
        // answer to that must be read first.
        let is_unprobed = |(_, expected): &mut (Instant, ExpectedReply)| match expected {
            ExpectedReply::Unmarked(reply) => reply.probes() == 0,
            _ => false,
        };
        if received == Received::Message
            && !is_pong
            && let Some((_, ExpectedReply::Unmarked(reply))) =
                self.expected.pop_front_if(is_unprobed)
        {
            reply.complete();
        }
        Ok(())
    }

    /// Reads the answer to a ping. Returns false if the line is something else.
    fn read_pong(&mut self, line: &[u8]) -> bool {
        let Some(sent) = self.pings.pop_front_if(|_| line == PONG) else {
            return false;
        };
        if let Some(heartbeat) = &mut self.heartbeat {
            heartbeat.ponged(sent);
        }
        true
    }

    /// Reads a line of the first expected reply.
    fn read_line(&mut self, line: &[u8]) -> Result<(), Lost> {
        if self.repeated_answer.as_deref() == Some(line) {
            return Ok(());
        }
        let Some((sent, expected)) = self.expected.pop_front() else {
            // The server never sends a line unasked.
            return Err(Lost::Unexpected(line.to_vec()));
        };
        if let ExpectedReply::Unmarked(reply) = &expected {
            if reply.is_hello() {
                self.apply_features(Features::read(line), sent)
                    .map_err(|error| Lost::Io(error.into()))?;
            }
            // The other probes may be answered, too, or be lost.
            if let Some(answer) = reply.repeated_answer().filter(|&answer| answer == line) {
                self.repeated_answer = Some(answer.to_vec());
            }
        }
        let confirmed = match &expected {
            // The get may have been sent hours ago. Its reply does not show that the server has heard from this client
            // since.
            ExpectedReply::Get(get) if get.is_waiting() => None,
            // No lock is held on the connection of a listing, so a later report of a loss does no harm.
            expected if expected.is_listing() => Some(Instant::now()),
            _ => Some(sent),
        };
        if let (Some(heartbeat), Some(confirmed)) = (&mut self.heartbeat, confirmed) {
            heartbeat.confirm(confirmed);
        }
        match expected.read_line(line)? {
            Step::More(expected) => self.expected.push_front((sent, expected)),
            Step::Complete => {}
        }
        Ok(())
    }

    /// Adapts to the features of the server, which has replied to a `hello` sent at `sent`.
    fn apply_features(&mut self, features: Features, sent: Instant) -> std::io::Result<()> {
        // The answer to a probe comes after the reply to `hello`, and is not one.
        if !features.is_empty() {
            self.features = features;
        }
        if features.ping && self.wire.can_fail_silently() {
            let heartbeat = Heartbeat::new(features.peer_timeout, self.reply_timeout, sent);
            self.heartbeat = Some(heartbeat);
            self.wire.disable_kernel_timeouts()?;
        }
        Ok(())
    }
}
