//! Runs single frames, and collects their replies.

use std::hint::cold_path;
use std::sync::Arc;

use glockd_protocol::{ParseError, Reply, parse};
use glockd_transports::{Input, InputFrame, Output};
use tracing::{Level, debug, enabled};

use super::budget::{self, WorkBudget, line_cost};
use super::deferred::{Deferred, PendingWait};
use crate::core::dispatcher::{Dispatcher, Outcome};
use crate::core::registry::ClientId;
use crate::server::context::Context;
use crate::server::log_text::{address, excerpt};

/// Bytes of output that are sent before anything more is run. So output that a peer does not read takes no more memory
/// than this and one reply.
pub(super) const CHUNK: usize = 64 * 1024;

/// Runs frames for one client, and keeps the replies that have yet to be sent.
pub(super) struct Responder {
    pub(super) context: Arc<Context>,
    pub(super) client: ClientId,
    pub(super) output: Output,
    pub(super) budget: WorkBudget,
}

impl Responder {
    pub(super) fn new(context: Arc<Context>, client: ClientId) -> Responder {
        Responder {
            context,
            client,
            output: Output::new(),
            budget: WorkBudget::default(),
        }
    }

    pub(super) fn dispatcher(&self) -> &Dispatcher {
        self.context.dispatcher()
    }

    /// Counts the connection as closed because it spoke HTTP, and logs that.
    pub(super) fn refuse_http(&self) {
        self.context.refuse_http(self.client);
    }

    /// Returns true if the output must be sent, or the connection must yield, before more is run.
    pub(super) fn must_stop(&self) -> bool {
        self.output.as_bytes().len() >= CHUNK || self.budget.is_spent()
    }

    /// Charges the output to the budget, since it is about to be sent.
    pub(super) fn charge_output(&mut self) {
        self.budget.spend_output(self.output.as_bytes().len());
    }

    /// Gives the memory of the output back if there is none: the connection may be about to wait for long.
    pub(super) fn release_empty_output(&mut self) {
        if self.output.is_empty() && self.output.unfinished() == 0 {
            self.output.clear();
        }
    }

    /// Answers the frames of a batch from number `next` on, and advances `next`. Stops after a frame that is deferred,
    /// whose reply the caller appends later, or when the connection [must stop](Responder::must_stop).
    #[inline(never)] // Inlined into a future, it would read from memory all that it uses.
    pub(super) fn answer_some(&mut self, batch: &Input, next: &mut u32) -> Option<Deferred> {
        for frame in batch.iter_from(*next as usize) {
            *next += 1;
            let deferred = self.answer(frame);
            if deferred.is_some() {
                return deferred;
            }
            self.output.end();
            if self.must_stop() {
                break;
            }
        }
        None
    }

    /// Runs one frame, and appends the bytes of its reply, but not the end of the reply; or returns what is left to do
    /// for it.
    #[inline(always)] // Its one caller is a loop around it.
    fn answer(&mut self, frame: InputFrame<'_>) -> Option<Deferred> {
        let (dispatcher, client) = (self.context.dispatcher(), self.client);
        let out = self.output.buffer();
        let start = out.len();
        match frame {
            InputFrame::Complete(bytes) => {
                self.budget.spend(line_cost(bytes));
                match parse(bytes) {
                    Ok(command) => match dispatcher.dispatch(client, &command) {
                        // Not moved: it is as large as it is short-lived.
                        Outcome::Reply(ref reply) => {
                            reply.encode(out);
                            // One comparison covers all that is rare: these are neighbours in the enum.
                            if let Reply::Nothing
                            | Reply::Statistics(_)
                            | Reply::CountedStatistics(_) = reply
                            {
                                cold_path();
                                match reply {
                                    // The verb is unknown here.
                                    Reply::Nothing if dispatcher.is_http(bytes) => {
                                        return Some(Deferred::Http);
                                    }
                                    Reply::Nothing => {}
                                    _ => self.budget.spend(budget::STATISTICS),
                                }
                            }
                            if enabled!(Level::DEBUG) && command.verb().is_logged() {
                                log_reply(dispatcher, client, &out[start..]);
                            }
                        }
                        Outcome::List(cursor) => return Some(Deferred::List(cursor)),
                        Outcome::Wait(ticket) => {
                            return Some(Deferred::Wait(Box::new(PendingWait::new(ticket))));
                        }
                    },
                    Err(error) => return self.reject(bytes, error),
                }
            }
            // The rest of an oversized frame, which has its reply already.
            InputFrame::OversizedEnds(ends) => {
                cold_path();
                if dispatcher.is_http(ends) {
                    return Some(Deferred::Http);
                }
            }
            InputFrame::Oversized => {
                self.budget.spend(1);
                self.reject_oversized();
            }
        }
        None
    }

    /// Appends a reply, and ends it.
    pub(super) fn append(&mut self, reply: Reply<'_>) {
        let out = self.output.buffer();
        let start = out.len();
        reply.encode(out);
        log_reply(self.context.dispatcher(), self.client, &out[start..]);
        self.output.end();
    }

    /// Answers a line that is not a command. Returns [`Deferred::Http`] if it is a line of HTTP.
    #[inline(never)] // Otherwise, the drop of a reply would become a call for commands, too.
    fn reject(&mut self, line: &[u8], error: ParseError) -> Option<Deferred> {
        let dispatcher = self.context.dispatcher();
        debug!(peer = %address(dispatcher, self.client), line = %excerpt(line), "{error}");
        dispatcher.reject(error).encode(self.output.buffer());
        dispatcher.is_http(line).then_some(Deferred::Http)
    }

    /// Answers a line that is longer than the limit.
    #[cold]
    fn reject_oversized(&mut self) {
        let dispatcher = self.context.dispatcher();
        let out = self.output.buffer();
        let start = out.len();
        dispatcher
            .reject_oversized(self.context.limits().max_line)
            .encode(out);
        if enabled!(Level::DEBUG) {
            log_reply(dispatcher, self.client, &out[start..]);
        }
    }
}

#[cold]
fn log_reply(dispatcher: &Dispatcher, client: ClientId, reply: &[u8]) {
    debug!(peer = %address(dispatcher, client), "{}", excerpt(reply.trim_ascii_end()));
}
