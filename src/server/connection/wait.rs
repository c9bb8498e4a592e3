//! What a connection does with frames that arrive while one of its commands waits.
//!
//! A `ping` and a `cancel` are answered at once. Other frames queue behind the wait, in bounded memory.

use std::task::{self, Poll};

use glockd_protocol::{Command, Refusal, parse};
use glockd_transports::InputFrame;

use super::backlog::{Backlog, Searched};
use super::budget::line_cost;
use super::deferred::PendingWait;
use super::responder::Responder;

/// Bytes that may queue behind a wait, in addition to those of the longest line.
const ROOM: usize = 64 * 1024;

/// The outcome of offering a frame that arrived during a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It was answered, or queues behind the wait.
    Done,
    /// It was not taken. It has to be offered again: to the wait, or after the wait if that has ended.
    Again,
    /// It is a line of HTTP on a session that refuses HTTP.
    Http,
}

/// A wait, and what frames that arrive meanwhile act on.
pub(super) struct WaitStep<'a> {
    pub(super) wait: &'a mut PendingWait,
    /// Frames that queue behind the wait. Boxed, because most waits have none.
    pub(super) backlog: &'a mut Option<Box<Backlog>>,
    pub(super) responder: &'a mut Responder,
    pub(super) refuses_http: bool,
}

impl WaitStep<'_> {
    /// Takes a frame that arrived during the wait.
    pub(super) fn take_frame(&mut self, frame: InputFrame<'_>) -> Taken {
        let mut waiting = None;
        match frame {
            InputFrame::Complete(bytes) => {
                self.responder.budget.spend(line_cost(bytes));
                match &parse(bytes) {
                    Ok(Command::Ping(text)) => {
                        let reply = self.responder.dispatcher().answer_ping(text);
                        self.responder.append(reply);
                        return Taken::Done;
                    }
                    Ok(Command::Cancel(name)) => return self.cancel(name),
                    Ok(command) => waiting = command.verb().waits().then_some(bytes),
                    Err(error) => {
                        if self.refuse_http(bytes) {
                            drop(self.responder.dispatcher().reject(*error));
                            return Taken::Http;
                        }
                    }
                }
            }
            // The rest of an oversized frame, which is in the backlog.
            InputFrame::OversizedEnds(ends) => {
                return match self.refuse_http(ends) {
                    true => Taken::Http,
                    false => Taken::Done,
                };
            }
            InputFrame::Oversized => self.responder.budget.spend(1),
        }
        let queued = self.backlog.as_ref().map_or(0, |backlog| backlog.bytes());
        let limit = self.responder.context.limits().max_line + ROOM;
        if queued + Backlog::cost(frame) > limit {
            self.wait.end(Refusal::Cancelled, self.responder);
            return Taken::Again;
        }
        let backlog = self.backlog.get_or_insert_default();
        match waiting {
            Some(line) => backlog.push_wait(line),
            None => backlog.push(frame),
        }
        Taken::Done
    }

    /// Returns true if a line, or what is left of an oversized one, is HTTP on a session that refuses it. Then counts the
    /// connection as closed for that.
    fn refuse_http(&self, line: &[u8]) -> bool {
        let is_refused = self.refuses_http && self.responder.dispatcher().is_http(line);
        if is_refused {
            self.responder.refuse_http();
        }
        is_refused
    }

    /// Cancels the wait for a lock: this one, or else the first one in the backlog. Appends the replies.
    fn cancel(&mut self, name: &[u8]) -> Taken {
        let mut cancelled = self.wait.searched_chunks == 0
            && self.wait.ticket.name() == name
            && self.wait.end(Refusal::Cancelled, self.responder);
        while !cancelled
            && let Some(backlog) = self.backlog
            && let Some(searched) = backlog.remove_wait(self.wait.searched_chunks, name)
        {
            let Searched { line, work } = searched;
            self.responder.budget.spend(work);
            self.wait.searched_chunks += 1;
            if let Some(line) = line {
                cancelled = true;
                if let Ok(command) = parse(&line)
                    && let Some(reply) = self.responder.dispatcher().cancel_unbegun(&command)
                {
                    self.responder.append(reply);
                }
            } else if self.responder.budget.is_spent() {
                // The search goes on when the connection has yielded.
                return Taken::Again;
            }
        }
        self.wait.searched_chunks = 0;
        let reply = self.responder.dispatcher().answer_cancel(name, cancelled);
        self.responder.append(reply);
        Taken::Done
    }
}

impl PendingWait {
    /// Ends the wait, and appends its reply. Returns true if this was the reason, and false if the wait had succeeded in
    /// the meantime.
    pub(super) fn end(&mut self, refusal: Refusal, responder: &mut Responder) -> bool {
        let dispatcher = responder.dispatcher();
        let (reply, ended) = dispatcher.end_wait(&mut self.ticket, refusal);
        responder.append(reply);
        ended
    }

    /// Appends the reply if the wait has succeeded. Until then, wakes the task when it has.
    pub(super) fn poll(
        &mut self,
        context: &task::Context<'_>,
        responder: &mut Responder,
    ) -> Poll<()> {
        let polled = responder.dispatcher().poll_wait(&mut self.ticket, context);
        polled.map(|reply| responder.append(reply))
    }
}
