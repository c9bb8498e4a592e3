//! A connection one of whose commands waits.
//!
//! It goes on reading: a `ping` and a `cancel` are answered at once, all else queues behind the wait, in
//! bounded memory. What it needs for that is there only while it waits.

use std::future::poll_fn;
use std::io;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::Duration;

use glockd_protocol::{Command, Refusal, Reply, parse};
use glockd_transports::{Input, InputFrame, Output};
use tokio::task::yield_now;
use tokio::time::sleep;

use super::backlog::{Backlog, Searched};
use super::{Connection, Later, Turn, answer_some, cost, is_chunk, log_reply};
use crate::core::registry::ClientId;
use crate::core::ticket::Ticket;
use crate::server::context::Context;

/// Bytes that may queue behind a wait, beyond those of the longest line.
const ROOM: usize = 64 * 1024;

impl Connection {
    /// Waits for what a command waits for, and appends its reply to `output`; then runs what has queued behind it,
    /// which may wait as well. `input` is the batch in which that command was found, before frame `next`, and in the
    /// end the last batch that was received. Returns whether the peer's input has `ended`, which ends a wait, too.
    //
    // What a waiter keeps is mostly this future.
    #[expect(
        clippy::manual_async_fn,
        reason = "an `async fn` keeps room for its arguments twice"
    )]
    pub(super) fn wait<'a>(
        &'a mut self,
        wait: Ticket,
        input: &'a mut Input,
        next: &'a mut u32,
        output: &'a mut Output,
        turn: &'a mut Turn,
        mut ended: bool,
    ) -> impl Future<Output = io::Result<bool>> + Send + 'a {
        async move {
            let mut waiting = Waiting {
                context: Arc::clone(&self.context),
                client: self.client,
                wait,
                backlog: Backlog::default(),
                searched: 0,
                refuses_http: self.session().refuses_http(),
                met_http: false,
            };
            loop {
                let mut time = pin!(sleep(Duration::from_millis(waiting.wait.ms().into())));
                'waiting: loop {
                    while (*next as usize) < input.len() {
                        let taken = waiting.take_some(input, next, output, turn);
                        if waiting.met_http {
                            // As if the input had ended before that line.
                            ended = true;
                            *next = input.len() as u32;
                        }
                        if *next as usize == input.len() {
                            // Not kept while others have their turn.
                            input.clear();
                        }
                        self.send_if_due(output, turn).await?;
                        if taken.is_break() {
                            break 'waiting;
                        }
                    }
                    if ended {
                        waiting.end(Refusal::Cancelled, output);
                        break;
                    }
                    input.clear();
                    *next = 0;
                    if !output.is_empty() {
                        turn.spend_output(output);
                        self.session().send(output).await?;
                    }
                    // Also if it is empty: a waiter keeps no buffer.
                    output.clear();
                    tokio::select! {
                        biased;
                        () = poll_fn(|waker| waiting.poll(waker, output)) => break,
                        () = &mut time => {
                            waiting.end(Refusal::Timeout, output);
                            break;
                        }
                        received = self.session().recv(input) => ended = received? == 0,
                    }
                }
                self.send_if_due(output, turn).await?;
                match self.run_backlog(&mut waiting, output, turn).await? {
                    Some(wait) => waiting.wait = wait,
                    None => return Ok(ended),
                }
            }
        }
    }

    /// Runs what has queued, up to a command that waits; `None` if nothing is left.
    async fn run_backlog(
        &mut self,
        waiting: &mut Waiting,
        output: &mut Output,
        turn: &mut Turn,
    ) -> io::Result<Option<Ticket>> {
        loop {
            match waiting.run_some(output, turn) {
                Some(Later::Wait(wait)) => return Ok(Some(wait)),
                Some(Later::List(cursor)) => {
                    Box::pin(self.list(cursor, output, turn)).await?;
                    output.end();
                }
                // Of a session that does not refuse it: else it would have ended the wait.
                Some(Later::Http) => output.end(),
                None if waiting.backlog.is_empty() => return Ok(None),
                None => {}
            }
            self.send_if_due(output, turn).await?;
        }
    }

    /// Sends a chunk of output. Sends what there is and lets others run if the turn is over.
    async fn send_if_due(&mut self, output: &mut Output, turn: &mut Turn) -> io::Result<()> {
        if is_chunk(output) || turn.is_over() {
            turn.spend_output(output);
            self.session().send(output).await?;
            output.clear();
            if turn.pass() {
                yield_now().await;
            }
        }
        Ok(())
    }
}

/// A wait, and what has queued behind it. Whatever ends the connection ends the wait, before what the
/// connection holds is released: so nothing is granted to one that has ended.
struct Waiting {
    context: Arc<Context>,
    client: ClientId,
    wait: Ticket,
    backlog: Backlog,
    /// Chunks of the backlog that were searched for what the next frame of the input cancels.
    searched: usize,
    /// Whether a line of HTTP ends the connection.
    refuses_http: bool,
    /// Whether such a line has come. Nothing behind it is to be taken.
    met_http: bool,
}

impl Waiting {
    /// Takes frames from number `next` on: up to a chunk of output, the end of the turn, or a line of HTTP; or the end of
    /// the wait, which breaks it off.
    fn take_some(
        &mut self,
        input: &Input,
        next: &mut u32,
        output: &mut Output,
        turn: &mut Turn,
    ) -> ControlFlow<()> {
        for frame in input.iter_from(*next as usize) {
            if self.take(frame, output, turn).is_break() {
                break;
            }
            *next += 1;
            if self.wait.is_over() || is_chunk(output) || turn.is_over() {
                break;
            }
        }
        match self.wait.is_over() && self.searched == 0 {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// Takes a frame. Breaks off if it is to be taken once more: in the next turn, or after the wait.
    fn take(
        &mut self,
        frame: InputFrame<'_>,
        output: &mut Output,
        turn: &mut Turn,
    ) -> ControlFlow<()> {
        let mut waits = false;
        match frame {
            InputFrame::Complete(bytes) => {
                turn.spend(cost(bytes));
                match &parse(bytes) {
                    Ok(Command::Ping(text)) => {
                        self.reply(self.context.dispatcher().answer_ping(text), output);
                        return ControlFlow::Continue(());
                    }
                    Ok(Command::Cancel(name)) => return self.cancel(name, output, turn),
                    Ok(command) => waits = command.verb().waits(),
                    Err(error) => {
                        if self.meets_http(bytes) {
                            drop(self.context.dispatcher().reject(*error));
                            return ControlFlow::Break(());
                        }
                    }
                }
            }
            // The rest of an oversized frame, which is in the backlog.
            InputFrame::OversizedEnds(ends) => {
                return match self.meets_http(ends) {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                };
            }
            InputFrame::Oversized => turn.spend(1),
        }
        if self.backlog.bytes() + Backlog::cost(frame) > self.context.limits().max_line + ROOM {
            self.end(Refusal::Cancelled, output);
            return ControlFlow::Break(());
        }
        self.backlog.push(frame, waits);
        ControlFlow::Continue(())
    }

    /// Refuses a line that is no command, or what is left of one that was too long, if it is one of HTTP. Returns whether
    /// it is.
    fn meets_http(&mut self, line: &[u8]) -> bool {
        self.met_http = self.refuses_http && self.context.dispatcher().is_http(line);
        if self.met_http {
            self.context.refuse_http(self.client);
        }
        self.met_http
    }

    /// Cancels the wait, or the first one in the backlog, if it is for that lock, and appends the replies. Breaks off if
    /// the search is to go on in the next turn.
    fn cancel(&mut self, name: &[u8], output: &mut Output, turn: &mut Turn) -> ControlFlow<()> {
        let mut cancelled =
            self.searched == 0 && self.wait.name() == name && self.end(Refusal::Cancelled, output);
        while !cancelled
            && let Some(Searched { line, work }) = self.backlog.remove_wait(self.searched, name)
        {
            turn.spend(work);
            self.searched += 1;
            if let Some(line) = line {
                cancelled = true;
                if let Ok(command) = parse(&line)
                    && let Some(reply) = self.context.dispatcher().cancel_unbegun(&command)
                {
                    self.reply(reply, output);
                }
            } else if turn.is_over() {
                return ControlFlow::Break(());
            }
        }
        self.searched = 0;
        let reply = self.context.dispatcher().answer_cancel(name, cancelled);
        self.reply(reply, output);
        ControlFlow::Continue(())
    }

    /// Runs frames of the backlog: up to a reply that takes its time, a chunk of output, or the end of the turn.
    fn run_some(&mut self, output: &mut Output, turn: &mut Turn) -> Option<Later> {
        // One at a time: how many can run is only known once they have.
        let mut batch = Input::new();
        while let Some(frame) = self.backlog.front() {
            match frame {
                InputFrame::Complete(bytes) => batch.push(bytes),
                InputFrame::Oversized => batch.push_oversized(),
                InputFrame::OversizedEnds(ends) => batch.push_oversized_ends(ends),
            }
            self.backlog.pop_front();
            let later = answer_some(&self.context, self.client, &batch, &mut 0, output, turn);
            batch.clear();
            if later.is_some() || is_chunk(output) || turn.is_over() {
                return later;
            }
        }
        None
    }

    /// Ends the wait, and appends its reply. Whether that was the reason; if not, it had come to its end.
    fn end(&mut self, refusal: Refusal, output: &mut Output) -> bool {
        let context = Arc::clone(&self.context);
        let (reply, ended) = context.dispatcher().end_wait(&mut self.wait, refusal);
        append(&context, self.client, reply, output);
        ended
    }

    /// Whether the wait has come to its end, and its reply is appended.
    fn poll(&mut self, waker: &task::Context<'_>, output: &mut Output) -> Poll<()> {
        let polled = self.context.dispatcher().poll_wait(&mut self.wait, waker);
        polled.map(|reply| append(&self.context, self.client, reply, output))
    }

    fn reply(&self, reply: Reply<'_>, output: &mut Output) {
        append(&self.context, self.client, reply, output);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.wait.is_over() {
            let dispatcher = self.context.dispatcher();
            dispatcher.end_wait(&mut self.wait, Refusal::Cancelled);
        }
    }
}

fn append(context: &Context, client: ClientId, reply: Reply<'_>, output: &mut Output) {
    let out = output.buffer();
    let start = out.len();
    reply.encode(out);
    log_reply(context.dispatcher(), client, &out[start..]);
    output.end();
}
