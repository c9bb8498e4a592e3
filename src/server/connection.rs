//! One connection, from its first frame to the release of its last lock.
//!
//! [`Connection::serve`] is the only place that waits for a peer, both ways. Whatever ends it (the peer,
//! an error, a panic, the server's end), dropping the `Connection` is what orphans its locks: there is no
//! path that could forget to.

mod backlog;
mod waiting;

use std::hint::cold_path;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use glockd_protocol::{ParseError, Reply, parse};
use glockd_transports::{Input, InputFrame, Output, Peer, Session};
use tokio::task::yield_now;
use tracing::{Level, debug, enabled};

use crate::core::cursor::Cursor;
use crate::core::dispatcher::{Dispatcher, Outcome};
use crate::core::registry::ClientId;
use crate::core::ticket::Ticket;
use crate::server::admission::Admitted;
use crate::server::context::Context;
use crate::server::ended_connection::EndedConnection;
use crate::server::log_text::{address, excerpt};

/// Output is sent as soon as it is this long, and nothing more is run until it was taken: what a peer
/// does not read costs no more memory than this and one reply.
const CHUNK: usize = 64 * 1024;

/// What a connection does before others get their turn, in commands of some hundred nanoseconds: about
/// 100 microseconds.
const TURN: u32 = 1024;

/// So many bytes of a line or of output cost as much again as a command.
const BYTES: usize = 128;

/// What a `q` costs, which visits every shard of the table.
const STATISTICS: u32 = 32;

/// Locks that are released at once when a connection ends, in some ten microseconds. More are left to
/// the reaper, so that no thread is busy for long with what nobody waits for.
const RELEASE_AT_ONCE: usize = 256;

/// A session, the identity it acts under, and the server it acts on.
pub(crate) struct Connection {
    /// There until the connection has ended.
    session: Option<Admitted>,
    client: ClientId,
    context: Arc<Context>,
}

impl Connection {
    /// The connection of a session that is past its handshake. From now on it counts.
    fn new(peer: &Peer, session: Admitted, context: Arc<Context>) -> Connection {
        let client = context.dispatcher().connect(peer.as_str().as_bytes());
        debug!(%peer, "connected");
        Connection {
            session: Some(session),
            client,
            context,
        }
    }

    /// Serves an admitted session in a task of its own, which [`Tasks`](crate::server::tasks::Tasks) can abort.
    pub(crate) fn spawn(peer: &Peer, session: Admitted, context: &Arc<Context>) {
        let connection = Connection::new(peer, session, Arc::clone(context));
        context.tasks().spawn(connection.client, connection.serve());
    }

    /// Answers frames until the peer closes or something fails; then orphans what is held, and only then
    /// says goodbye.
    //
    // What an idle connection keeps is this future, so what takes room and is seldom needed is boxed, here
    // and below.
    #[expect(
        clippy::manual_async_fn,
        reason = "an `async fn` keeps room for `self` twice"
    )]
    fn serve(mut self) -> impl Future<Output = ()> {
        async move {
            if let Err(error) = self.answer_frames().await {
                let peer = address(self.context.dispatcher(), self.client);
                debug!(%peer, %error, "connection failed");
            }
            Box::pin(self.finish()).await;
        }
    }

    async fn finish(&mut self) {
        if let Some(admitted) = self.end() {
            // `self` keeps the context until then, and the server's end waits for that.
            admitted.say_goodbye().await;
        }
    }

    /// Ends the connection. Gives back the session if everything is free; if not, the reaper has it.
    fn end(&mut self) -> Option<Admitted> {
        match self.depart()?.into_session() {
            Ok(session) => Some(session),
            Err(ended) => {
                self.context.hand_to_reaper(ended);
                None
            }
        }
    }

    /// Ends the connection, if it has not ended yet: orphans what it held, as far as that is done at once.
    fn depart(&mut self) -> Option<EndedConnection> {
        let session = self.session.take()?;
        self.context.tasks().forget(self.client);
        let mut ended = EndedConnection::new(self.client, session);
        ended.release_locks(self.context.dispatcher(), RELEASE_AT_ONCE);
        Some(ended)
    }

    #[expect(clippy::manual_async_fn, reason = "as for `serve`")]
    fn answer_frames(&mut self) -> impl Future<Output = io::Result<()>> {
        async move {
            // Neither owns memory while there is nothing to do.
            let (mut input, mut output) = (Input::new(), Output::new());
            let mut turn = Turn::default();
            let mut ended = false;
            loop {
                if ended || self.session().recv(&mut input).await? == 0 {
                    return Ok(());
                }
                let mut next = 0;
                while (next as usize) < input.len() {
                    let (context, client) = (&*self.context, self.client);
                    let later =
                        answer_some(context, client, &input, &mut next, &mut output, &mut turn);
                    // Made a future at once, so that there need be no room for both; and boxed again, because
                    // a box of one unnamed type is half as large as one of any.
                    if let Some(later) = later.map(|later| {
                        let (input, output) = (&mut input, &mut output);
                        Box::pin(
                            self.answer_later(later, input, &mut next, output, &mut turn, ended),
                        )
                    }) {
                        ended = later.await?;
                    }
                    if is_chunk(&output) || turn.is_over() {
                        turn.spend_output(&output);
                        self.session().send(&output).await?;
                        output.clear();
                        if turn.pass() {
                            yield_now().await;
                        }
                    }
                }
                input.clear();
                if !output.is_empty() {
                    turn.spend_output(&output);
                    self.session().send(&output).await?;
                    output.clear();
                }
            }
        }
    }

    /// Appends a reply that takes its time. `next` is then the frame of `input` to go on with. Whether the
    /// peer's input has ended.
    fn answer_later<'a>(
        &'a mut self,
        later: Later,
        input: &'a mut Input,
        next: &'a mut u32,
        output: &'a mut Output,
        turn: &'a mut Turn,
        ended: bool,
    ) -> Pin<Box<dyn Future<Output = io::Result<bool>> + Send + 'a>> {
        match later {
            Later::List(cursor) => Box::pin(async move {
                self.list(cursor, output, turn).await?;
                output.end();
                Ok(ended)
            }),
            Later::Wait(wait) => Box::pin(self.wait(wait, input, next, output, turn, ended)),
            Later::Http => Box::pin(async move {
                output.end();
                if !self.session().refuses_http() {
                    return Ok(ended);
                }
                self.context.refuse_http(self.client);
                // As if the input had ended before that line.
                input.clear();
                *next = 0;
                Ok(true)
            }),
        }
    }

    /// Appends a listing to `output`, sending it in parts as it grows. Before others get their turn,
    /// whatever was answered before it is sent.
    async fn list(
        &mut self,
        mut cursor: Box<Cursor>,
        output: &mut Output,
        turn: &mut Turn,
    ) -> io::Result<()> {
        loop {
            let step = cursor.step(self.context.dispatcher().state(), output.buffer());
            turn.spend(step.work);
            if step.done {
                return Ok(());
            }
            if output.unfinished() >= CHUNK {
                output.end_part();
            } else if !turn.is_over() {
                continue;
            }
            if !output.is_empty() {
                turn.spend_output(output);
                self.session().send(output).await?;
                output.clear_finished();
            }
            if turn.pass() {
                yield_now().await;
            }
        }
    }

    /// The session, before the end. Asked for each time: kept, the answer would take room while nothing is
    /// to do.
    fn session(&mut self) -> &mut dyn Session {
        match &mut self.session {
            Some(admitted) => &mut *admitted.session,
            None => unreachable!("whoever ends a connection asks no more"),
        }
    }
}

impl Drop for Connection {
    /// Orphans what the connection held, if its task was aborted or panicked: the reaper then does what
    /// is left to do, the goodbye included.
    fn drop(&mut self) {
        if let Some(ended) = self.depart() {
            self.context.hand_to_reaper(ended);
        }
    }
}

/// How much a connection has done since others last got their turn. It goes on from batch to batch: a
/// peer whose input never ends, and is never waited for, passes its turn on all the same.
#[derive(Default)]
struct Turn {
    work: u32,
}

impl Turn {
    fn spend(&mut self, work: u32) {
        self.work += work;
    }

    /// Charges output that is about to be sent: it was copied, and the kernel copies it once more. Not by the frame,
    /// since mostly these are many short ones.
    fn spend_output(&mut self, output: &Output) {
        self.spend((output.as_bytes().len() / BYTES) as u32);
    }

    fn is_over(&self) -> bool {
        self.work >= TURN
    }

    /// Ends the turn, if it is over. Then send what was answered, and let others run.
    fn pass(&mut self) -> bool {
        let over = self.is_over();
        if over {
            self.work = 0;
        }
        over
    }
}

/// Returns the cost of parsing and running a line, in plain commands.
fn cost(line: &[u8]) -> u32 {
    1 + (line.len() / BYTES) as u32
}

/// Whether there is so much output that it must be sent before more is run.
fn is_chunk(output: &Output) -> bool {
    output.as_bytes().len() >= CHUNK
}

/// What is left to do for a frame that is not answered at once.
enum Later {
    List(Box<Cursor>),
    Wait(Ticket),
    /// It is a line of HTTP, and has no reply. It ends the connection if the [session](Session::refuses_http) says
    /// so.
    Http,
}

/// Answers the frames of `input` from number `next` on: up to a reply that takes its time, and is then to be
/// appended, a chunk of output, or the end of the turn.
#[inline(never)] // Within the future, all that it uses would be read from memory.
fn answer_some(
    context: &Context,
    client: ClientId,
    input: &Input,
    next: &mut u32,
    output: &mut Output,
    turn: &mut Turn,
) -> Option<Later> {
    for frame in input.iter_from(*next as usize) {
        *next += 1;
        let later = answer(context, client, frame, output, turn);
        if later.is_some() {
            if output.is_empty() {
                // It may have to wait for long.
                output.clear();
            }
            return later;
        }
        output.end();
        if is_chunk(output) || turn.is_over() {
            break;
        }
    }
    None
}

/// Runs one frame, and appends the bytes of its reply; or returns the reply that takes its time.
#[inline(always)] // Its one caller is a loop around it.
fn answer(
    context: &Context,
    client: ClientId,
    frame: InputFrame<'_>,
    output: &mut Output,
    turn: &mut Turn,
) -> Option<Later> {
    let dispatcher = context.dispatcher();
    let out = output.buffer();
    let start = out.len();
    match frame {
        InputFrame::Complete(bytes) => {
            turn.spend(cost(bytes));
            match parse(bytes) {
                Ok(command) => match dispatcher.dispatch(client, &command) {
                    // Not moved: it is as large as it is short-lived.
                    Outcome::Reply(ref reply) => {
                        reply.encode(out);
                        // One comparison for all that is rare: these stand side by side in the enum.
                        if let Reply::Nothing | Reply::Statistics(_) | Reply::CountedStatistics(_) =
                            reply
                        {
                            cold_path();
                            match reply {
                                // It is a verb that is not known here.
                                Reply::Nothing if dispatcher.is_http(bytes) => {
                                    return Some(Later::Http);
                                }
                                Reply::Nothing => {}
                                _ => turn.spend(STATISTICS),
                            }
                        }
                        if enabled!(Level::DEBUG) && command.verb().is_logged() {
                            log_reply(dispatcher, client, &out[start..]);
                        }
                    }
                    Outcome::List(cursor) => return Some(Later::List(cursor)),
                    Outcome::Wait(ticket) => return Some(Later::Wait(ticket)),
                },
                Err(error) => return reject(context, client, bytes, error, out),
            }
        }
        // The rest of an oversized frame, which has been answered.
        InputFrame::OversizedEnds(ends) => {
            cold_path();
            if dispatcher.is_http(ends) {
                return Some(Later::Http);
            }
        }
        InputFrame::Oversized => {
            turn.spend(1);
            reject_oversized(context, client, out);
        }
    }
    None
}

/// Answers a line that is no command, or says that it is one of HTTP.
#[inline(never)] // Or the drop of a reply would be a call for commands, too.
fn reject(
    context: &Context,
    client: ClientId,
    line: &[u8],
    error: ParseError,
    out: &mut Vec<u8>,
) -> Option<Later> {
    let dispatcher = context.dispatcher();
    debug!(peer = %address(dispatcher, client), line = %excerpt(line), "{error}");
    dispatcher.reject(error).encode(out);
    dispatcher.is_http(line).then_some(Later::Http)
}

/// Answers a line that was too long.
#[cold]
fn reject_oversized(context: &Context, client: ClientId, out: &mut Vec<u8>) {
    let dispatcher = context.dispatcher();
    let start = out.len();
    dispatcher
        .reject_oversized(context.limits().max_line)
        .encode(out);
    if enabled!(Level::DEBUG) {
        log_reply(dispatcher, client, &out[start..]);
    }
}

#[cold]
fn log_reply(dispatcher: &Dispatcher, client: ClientId, reply: &[u8]) {
    debug!(peer = %address(dispatcher, client), "{}", excerpt(reply.trim_ascii_end()));
}

#[cfg(test)]
mod tests;
