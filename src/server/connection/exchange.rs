//! The exchange of requests and replies on one connection, without input or output.
//!
//! [`Exchange`] is all that a connection knows between two polls of its task: what was read and has not run, what was
//! answered and has not been sent, the command that waits, and the frames behind it. It only computes.
//! [`run`](Exchange::run) works until something has to be awaited, and says what. So the task can be dropped at any
//! await, and another one goes on where it stopped.

use std::sync::Arc;

use glockd_protocol::Refusal;
use glockd_transports::{Input, InputFrame};

use super::backlog::Backlog;
use super::deferred::{Deferred, PendingWait};
use super::responder::{CHUNK, Responder};
use super::wait::{Taken, WaitStep};
use crate::core::registry::ClientId;
use crate::server::context::Context;

/// The next step of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Compute: [`Exchange::run`].
    Run,
    /// Send the output, then yield if the budget is spent.
    Send,
    /// Let other tasks run.
    Yield,
    /// Receive the next batch.
    Receive,
    /// Await the end of the wait, or the next batch.
    Wait,
    /// End the connection: its input has ended, and all is answered.
    End,
}

/// State of a connection above its session.
pub(super) struct Exchange {
    /// Runs frames, and holds what was answered and not sent.
    pub(super) responder: Responder,
    /// The last batch that was received. It owns no memory once all of its frames have run.
    pub(super) input: Input,
    /// Number of the first frame of `input` that has not run.
    next: u32,
    /// The next step. It stays the same while it is awaited, so that it is done again if the future is dropped.
    step: Step,
    /// True once no more input will come.
    input_ended: bool,
    /// True if a line of HTTP ends the connection.
    refuses_http: bool,
    /// The rest of the work on the last frame that was begun.
    deferred: Option<Deferred>,
    /// Frames that queued behind a wait. They run before the rest of `input`. Boxed, because it is rare.
    backlog: Option<Box<Backlog>>,
}

/// Parts of an exchange that are used while a command waits.
pub(super) struct Waiting<'a> {
    pub(super) wait: &'a mut PendingWait,
    pub(super) responder: &'a mut Responder,
    pub(super) input: &'a mut Input,
}

impl Exchange {
    pub(super) fn new(context: Arc<Context>, client: ClientId, refuses_http: bool) -> Exchange {
        Exchange {
            responder: Responder::new(context, client),
            input: Input::new(),
            next: 0,
            step: Step::Receive,
            input_ended: false,
            refuses_http,
            deferred: None,
            backlog: None,
        }
    }

    /// Returns what to do next.
    pub(super) fn step(&self) -> Step {
        self.step
    }

    /// Works until something has to be awaited, which is the next step then.
    pub(super) fn run(&mut self) {
        self.step = self.run_to_await();
    }

    /// Takes note of the number of frames that were received.
    pub(super) fn finish_receive(&mut self, received: usize) {
        self.input_ended = received == 0;
        self.step = Step::Run;
    }

    /// Takes note that the output is sent.
    pub(super) fn finish_send(&mut self) {
        self.responder.output.clear_finished();
        self.step = if self.responder.budget.renew_if_spent() {
            Step::Yield
        } else if self.is_idle() {
            self.await_input()
        } else {
            Step::Run
        };
    }

    /// Takes note that other tasks have run, or are about to, or that the wait has ended.
    pub(super) fn resume(&mut self) {
        self.step = Step::Run;
    }

    fn run_to_await(&mut self) -> Step {
        loop {
            if self.deferred.is_none() && self.backlog.is_none() {
                self.run_input();
            } else if let Some(step) = self.run_deferred() {
                return step;
            }
            if self.responder.must_stop() {
                return self.send();
            }
            if self.is_idle() {
                return self.finish_batch();
            }
        }
    }

    /// Returns true if all that was received has run.
    fn is_idle(&self) -> bool {
        self.input.is_empty() && self.deferred.is_none() && self.backlog.is_none()
    }

    /// Works on what was deferred, or on the backlog. Returns `None` if there is more to run.
    #[cold]
    fn run_deferred(&mut self) -> Option<Step> {
        match self.deferred {
            None => {
                self.run_backlog();
                None
            }
            Some(Deferred::List(_)) => self.run_listing(),
            Some(Deferred::Wait(_)) => self.run_wait(),
            Some(Deferred::Http) => {
                self.meet_http();
                None
            }
        }
    }

    /// Returns what is used while a command waits; `None` if none does.
    pub(super) fn waiting(&mut self) -> Option<Waiting<'_>> {
        match &mut self.deferred {
            Some(Deferred::Wait(wait)) => Some(Waiting {
                wait,
                responder: &mut self.responder,
                input: &mut self.input,
            }),
            _ => None,
        }
    }

    /// Ends the wait, if there is one, and drops all input and output.
    pub(super) fn abandon(&mut self) {
        if let Some(Deferred::Wait(wait)) = self.deferred.take() {
            wait.abandon(self.responder.dispatcher());
        }
        self.backlog = None;
        self.input.clear();
        self.responder.output.clear();
    }

    /// Answers frames of the input.
    fn run_input(&mut self) {
        if let Some(deferred) = self.responder.answer_some(&self.input, &mut self.next) {
            self.deferred = Some(deferred);
            self.responder.release_empty_output();
        }
        self.release_input_if_done();
    }

    /// Answers frames of the backlog, after the wait.
    fn run_backlog(&mut self) {
        // One frame a batch: how many of them can run is known only once they have.
        let mut batch = Input::new();
        while let Some(backlog) = &mut self.backlog
            && self.deferred.is_none()
            && !self.responder.must_stop()
        {
            match backlog.front() {
                Some(InputFrame::Complete(bytes) | InputFrame::OversizedEnds(bytes)) => {
                    batch.push(bytes)
                }
                Some(InputFrame::Oversized) => batch.push_oversized(),
                None => {
                    self.backlog = None;
                    break;
                }
            }
            backlog.pop_front();
            self.deferred = self.responder.answer_some(&batch, &mut 0);
            batch.clear();
        }
    }

    /// Appends more of the listing. Returns `None` once it is complete.
    fn run_listing(&mut self) -> Option<Step> {
        let Some(Deferred::List(cursor)) = &mut self.deferred else {
            return None;
        };
        let Responder {
            context,
            output,
            budget,
            ..
        } = &mut self.responder;
        loop {
            let step = cursor.step(context.dispatcher().state(), output.buffer());
            budget.spend(step.work);
            if step.done {
                output.end();
                self.deferred = None;
                return None;
            }
            if output.unfinished() >= CHUNK {
                output.end_part();
                break;
            }
            if budget.is_spent() {
                break;
            }
        }
        if output.is_empty() {
            budget.renew_if_spent();
            return Some(Step::Yield);
        }
        Some(self.send())
    }

    /// Takes frames of the input while a command waits. Returns `None` if there is more to run.
    fn run_wait(&mut self) -> Option<Step> {
        let Some(Deferred::Wait(wait)) = &mut self.deferred else {
            return None;
        };
        let mut during = WaitStep {
            wait,
            backlog: &mut self.backlog,
            responder: &mut self.responder,
            refuses_http: self.refuses_http,
        };
        while !during.wait.is_done()
            && let Some(frame) = self.input.iter_from(self.next as usize).next()
        {
            match during.take_frame(frame) {
                Taken::Done => self.next += 1,
                Taken::Again => {}
                Taken::Http => {
                    // As if the input had ended before that line.
                    self.input_ended = true;
                    self.next = self.input.len() as u32;
                }
            }
            if during.wait.ticket.is_over() || during.responder.must_stop() {
                break;
            }
        }
        let is_done = wait.is_done();
        self.release_input_if_done();
        if is_done {
            self.deferred = None;
            return None;
        }
        if self.responder.must_stop() || !self.input.is_empty() {
            return None;
        }
        if self.input_ended {
            self.end_wait();
            return None;
        }
        if !self.responder.output.is_empty() {
            return Some(self.send());
        }
        self.responder.release_empty_output();
        Some(Step::Wait)
    }

    /// Ends the wait because the input has ended.
    fn end_wait(&mut self) {
        if let Some(Deferred::Wait(mut wait)) = self.deferred.take() {
            wait.end(Refusal::Cancelled, &mut self.responder);
        }
    }

    /// Ends the input before a line of HTTP, if the session refuses HTTP. Otherwise, the line gets an empty reply.
    fn meet_http(&mut self) {
        self.deferred = None;
        self.responder.output.end();
        if self.refuses_http {
            self.responder.refuse_http();
            self.backlog = None;
            self.input.clear();
            self.next = 0;
            self.input_ended = true;
        }
    }

    /// Returns what to do once all that was received has run.
    fn finish_batch(&mut self) -> Step {
        if !self.responder.output.is_empty() {
            return self.send();
        }
        self.responder.release_empty_output();
        self.await_input()
    }

    /// Returns what to do once all replies are sent.
    fn await_input(&self) -> Step {
        match self.input_ended {
            true => Step::End,
            false => Step::Receive,
        }
    }

    fn send(&mut self) -> Step {
        self.responder.charge_output();
        Step::Send
    }

    /// Gives the memory of the input back once all of its frames have run.
    fn release_input_if_done(&mut self) {
        if self.next as usize >= self.input.len() {
            self.input.clear();
            self.next = 0;
        }
    }
}
