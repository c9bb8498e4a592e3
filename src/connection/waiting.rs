//! A connection one of whose commands waits.
//!
//! It goes on reading: a `ping` and a `cancel` are answered at once, all else queues behind the wait, in
//! bounded memory. What it needs for that is there only while it waits.

use std::future::poll_fn;
use std::io;
use std::mem::take;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use byteview::ByteView;
use glockd_protocol::{Command, Refusal, Reply, parse};
use glockd_transports::{Frame, Frames};
use tokio::task::yield_now;
use tokio::time::sleep;

use super::{Connection, Turn, is_chunk, log_reply};
use crate::dispatcher::{Wait, waits_for};
use crate::hub::Hub;
use crate::registry::ClientId;

/// Bytes that may queue behind a wait, beyond those of the longest line.
const ROOM: usize = 64 * 1024;

/// Queued frames that are looked through in the time of a command.
const LOOKED_THROUGH: usize = 16;

impl Connection {
    /// Waits for what a command waits for, and appends its reply to `output`. `input` is the batch in which
    /// that command was found, before frame `next`; and in the end, what has queued behind the wait. Whether
    /// the peer's input has `ended`, which ends the wait, too.
    pub(super) async fn wait(
        &mut self,
        wait: Wait,
        input: &mut Frames,
        next: &mut u32,
        output: &mut Frames,
        turn: &mut Turn,
        mut ended: bool,
    ) -> io::Result<bool> {
        let mut arrived = take(input);
        let mut time = pin!(sleep(Duration::from_millis(wait.ms().into())));
        let mut waiting = Waiting {
            hub: Arc::clone(&self.hub),
            client: self.client,
            wait,
            queue: Queue::default(),
            refuses_http: self.session().refuses_http(),
            met_http: false,
        };
        let room = self.hub.limits().max_line + ROOM;
        loop {
            while (*next as usize) < arrived.len() {
                waiting.take_some(&arrived, next, output, turn);
                if waiting.met_http {
                    // As if the input had ended before that line.
                    ended = true;
                    break;
                }
                if is_chunk(output) || turn.is_over() {
                    self.session().send(output).await?;
                    output.clear();
                    if turn.pass() {
                        yield_now().await;
                    }
                }
            }
            arrived.clear();
            *next = 0;
            if !waiting.wait.is_over() && (ended || waiting.queue.len() > room) {
                waiting.end(Refusal::Cancelled, output);
            }
            if waiting.wait.is_over() {
                waiting.queue.move_to(input);
                return Ok(ended);
            }
            if !output.is_empty() {
                self.session().send(output).await?;
                output.clear();
            }
            tokio::select! {
                biased;
                () = poll_fn(|context| waiting.poll(context, output)) => {}
                () = &mut time => {
                    waiting.end(Refusal::Timeout, output);
                }
                received = self.session().recv(&mut arrived) => ended = received? == 0,
            }
        }
    }
}

/// A wait, and what has queued behind it. Whatever ends the connection ends the wait, before what the
/// connection holds is released: so nothing is granted to one that has ended.
struct Waiting {
    hub: Arc<Hub>,
    client: ClientId,
    wait: Wait,
    queue: Queue,
    /// Whether a line of HTTP ends the connection.
    refuses_http: bool,
    /// Whether such a line has come. Nothing behind it is to be taken.
    met_http: bool,
}

impl Waiting {
    /// Takes frames from number `next` on: up to a chunk of output, the end of the turn, or a line of HTTP.
    fn take_some(
        &mut self,
        arrived: &Frames,
        next: &mut u32,
        output: &mut Frames,
        turn: &mut Turn,
    ) {
        for frame in arrived.iter_from(*next as usize) {
            *next += 1;
            self.take(frame, output, turn);
            if is_chunk(output) || turn.is_over() || self.met_http {
                break;
            }
        }
    }

    fn take(&mut self, frame: Frame<'_>, output: &mut Frames, turn: &mut Turn) {
        turn.spend(1);
        let bytes = match frame {
            Frame::Data(bytes) => bytes,
            Frame::Oversized => return self.queue.push_oversized(),
            Frame::Part(ends) => return self.meet_http(ends),
        };
        let command = parse(bytes);
        match &command {
            // Nothing waits any more, so all is in order.
            _ if self.wait.is_over() => self.queue.push(bytes, None),
            Ok(Command::Ping(text)) => self.reply(&self.hub.dispatcher().answer_ping(text), output),
            Ok(Command::Cancel(name)) => {
                turn.spend((self.queue.frames.len() / LOOKED_THROUGH) as u32);
                let cancelled = self.cancel(name, output);
                let reply = self.hub.dispatcher().answer_cancel(name, cancelled);
                self.reply(&reply, output);
            }
            Ok(command) => self.queue.push(bytes, waits_for(command)),
            Err(error) => {
                self.meet_http(bytes);
                match self.met_http {
                    true => drop(self.hub.dispatcher().reject(*error)),
                    false => self.queue.push(bytes, None),
                }
            }
        }
    }

    /// Refuses a line that is no command, or what is left of one that was too long, if it is one of HTTP.
    fn meet_http(&mut self, line: &[u8]) {
        if self.refuses_http && self.hub.dispatcher().is_http(line) {
            self.hub.refuse_http(self.client);
            self.met_http = true;
        }
    }

    /// Cancels the wait, or the first that is queued behind it, if it is for that lock, and appends its reply.
    /// Whether there was one.
    fn cancel(&mut self, name: &[u8], output: &mut Frames) -> bool {
        if self.wait.name() == name && self.end(Refusal::Cancelled, output) {
            return true;
        }
        let Some(line) = self.queue.remove(name) else {
            return false;
        };
        if let Ok(command) = parse(&line)
            && let Some(reply) = self.hub.dispatcher().cancel_unbegun(&command)
        {
            self.reply(&reply, output);
        }
        true
    }

    /// Ends the wait, and appends its reply. Whether that was the reason; if not, it had come to its end.
    fn end(&mut self, refusal: Refusal, output: &mut Frames) -> bool {
        let hub = Arc::clone(&self.hub);
        let (reply, ended) = hub.dispatcher().end_wait(&mut self.wait, refusal);
        append(&hub, self.client, &reply, output);
        ended
    }

    /// Whether the wait has come to its end, and its reply is appended.
    fn poll(&mut self, context: &Context<'_>, output: &mut Frames) -> Poll<()> {
        let polled = self.hub.dispatcher().poll_wait(&mut self.wait, context);
        polled.map(|reply| append(&self.hub, self.client, &reply, output))
    }

    fn reply(&self, reply: &Reply<'_>, output: &mut Frames) {
        append(&self.hub, self.client, reply, output);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.wait.is_over() {
            let dispatcher = self.hub.dispatcher();
            dispatcher.end_wait(&mut self.wait, Refusal::Cancelled);
        }
    }
}

fn append(hub: &Hub, client: ClientId, reply: &Reply<'_>, output: &mut Frames) {
    let out = output.buffer();
    let start = out.len();
    reply.encode(out);
    log_reply(hub.dispatcher(), client, &out[start..]);
    output.end();
}

/// Frames that are to be run once the wait is over. Not a [`Frames`], whose memory is that of a whole batch: mostly
/// these are few.
#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    frames: Vec<Queued>,
    /// Which of the frames will wait, and for which lock.
    waits: Vec<(usize, ByteView)>,
}

/// One of them, which starts where the one before it ends.
struct Queued {
    end: u32,
    oversized: bool,
}

impl Queue {
    fn push(&mut self, bytes: &[u8], waits_for: Option<&[u8]>) {
        if let Some(name) = waits_for {
            self.waits.push((self.frames.len(), name.into()));
        }
        self.bytes.extend_from_slice(bytes);
        self.end(false);
    }

    fn push_oversized(&mut self) {
        self.end(true);
    }

    fn end(&mut self, oversized: bool) {
        let end = self.bytes.len() as u32;
        self.frames.push(Queued { end, oversized });
    }

    /// How many bytes have queued, with the end of each line.
    fn len(&self) -> usize {
        self.bytes.len() + self.frames.len()
    }

    /// Takes out the first frame that will wait for that lock.
    fn remove(&mut self, name: &[u8]) -> Option<Vec<u8>> {
        let found = self.waits.iter().position(|(_, lock)| **lock == *name)?;
        let (frame, _) = self.waits.remove(found);
        let line: Vec<u8> = self.bytes.drain(self.range(frame)).collect();
        self.frames.remove(frame);
        for later in &mut self.frames[frame..] {
            later.end -= line.len() as u32;
        }
        for (later, _) in &mut self.waits[found..] {
            *later -= 1;
        }
        Some(line)
    }

    /// Hands the frames over, in order.
    fn move_to(&self, input: &mut Frames) {
        for (number, frame) in self.frames.iter().enumerate() {
            match frame.oversized {
                true => input.push_oversized(),
                false => input.push(&self.bytes[self.range(number)]),
            }
        }
    }

    fn range(&self, frame: usize) -> Range<usize> {
        let start = frame
            .checked_sub(1)
            .map_or(0, |before| self.frames[before].end);
        start as usize..self.frames[frame].end as usize
    }
}
