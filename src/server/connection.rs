//! One connection, from its first frame to the release of its last lock.
//!
//! [`Connection::run`] is the only place that awaits a peer, in both directions. All that a connection knows is in the
//! [`Connection`], nothing in that future alone: the future may be dropped at any await, and another call of `run` goes
//! on where it stopped. So a connection can be inspected, and handed over.
//!
//! ```text
//!  exchange                        what a connection knows, and what it has to do next; it never awaits
//!   |     \
//!  wait    |                       frames that arrive while a command waits
//!   |  \   |
//!   |   responder   budget         runs frames, collects replies; the work until the next turn of others
//!   |        |
//!  backlog  deferred               frames that queue behind a wait; what is left to do for a frame
//! ```
//!
//! Whatever ends a connection (the peer, an error, a panic, the end of the server), the drop of the `Connection` ends
//! its wait and orphans its locks: no path can forget to.

mod backlog;
mod budget;
mod deferred;
mod exchange;
mod responder;
mod wait;

use std::future::poll_fn;
use std::io;
use std::sync::Arc;

use glockd_protocol::Refusal;
use glockd_transports::{Peer, Session};
use tokio::task::yield_now;
use tokio::time::sleep_until;
use tracing::debug;

use self::exchange::{Exchange, Step, Waiting};
use crate::core::registry::ClientId;
use crate::server::admission::Admitted;
use crate::server::context::Context;
use crate::server::ended_connection::EndedConnection;
use crate::server::log_text::address;

/// Locks that are released at once when a connection ends, in some ten microseconds. The reaper releases the rest, so
/// that no thread is busy for long with work that nobody awaits.
const RELEASE_AT_ONCE: usize = 256;

/// A session, and the state of its exchange of requests and replies.
pub(crate) struct Connection {
    /// `None` once the connection has ended.
    session: Option<Admitted>,
    exchange: Exchange,
}

impl Connection {
    /// Returns the connection of an admitted session, which from now on counts.
    ///
    /// Calls `prepare` before anyone can find it.
    fn new(
        peer: &Peer,
        session: Admitted,
        context: Arc<Context>,
        prepare: impl FnOnce(ClientId),
    ) -> Connection {
        let address = peer.as_str().as_bytes();
        let client = context.dispatcher().connect_prepared(address, prepare);
        debug!(%peer, "connected");
        let refuses_http = session.session.refuses_http();
        Connection {
            session: Some(session),
            exchange: Exchange::new(context, client, refuses_http),
        }
    }

    /// Serves an admitted session in a task of its own, which [`Tasks`](crate::server::tasks::Tasks) can abort.
    pub(crate) fn spawn(peer: &Peer, session: Admitted, context: &Arc<Context>) {
        let tasks = context.tasks();
        let mut reserved = None;
        let connection = Connection::new(peer, session, Arc::clone(context), |client| {
            reserved = tasks.reserve(client);
        });
        if let Some(reservation) = reserved {
            tasks.spawn(reservation, connection.serve());
        }
    }

    /// Answers frames until the input ends or something fails. Then releases the locks, and only then says goodbye.
    //
    // The memory of an idle connection is mostly this future. So what is large and rare is boxed, here and below.
    #[expect(
        clippy::manual_async_fn,
        reason = "an `async fn` keeps room for `self` twice"
    )]
    fn serve(mut self) -> impl Future<Output = ()> {
        async move {
            if let Err(error) = self.run().await {
                let peer = address(self.context().dispatcher(), self.client());
                debug!(%peer, %error, "connection failed");
            }
            Box::pin(self.finish()).await;
        }
    }

    /// Answers frames until the input ends and every reply is sent.
    ///
    /// Cancel-safe: another call goes on where a dropped one stopped.
    #[expect(clippy::manual_async_fn, reason = "as for `serve`")]
    fn run(&mut self) -> impl Future<Output = io::Result<()>> {
        async move {
            loop {
                match self.exchange.step() {
                    Step::Run => self.exchange.run(),
                    Step::Send => {
                        let (session, exchange) = self.parts();
                        session.send(&mut exchange.responder.output).await?;
                        self.exchange.finish_send();
                    }
                    Step::Yield => {
                        self.exchange.resume();
                        yield_now().await;
                    }
                    Step::Receive => {
                        let (session, exchange) = self.parts();
                        let received = session.recv(&mut exchange.input).await?;
                        self.exchange.finish_receive(received);
                    }
                    Step::Wait => Box::pin(self.wait()).await?,
                    Step::End => return Ok(()),
                }
            }
        }
    }

    /// Awaits the end of the wait, or the next batch.
    async fn wait(&mut self) -> io::Result<()> {
        let (session, exchange) = self.parts();
        let Some(Waiting {
            wait,
            responder,
            input,
        }) = exchange.waiting()
        else {
            return Ok(());
        };
        let deadline = wait.deadline;
        tokio::select! {
            biased;
            () = poll_fn(|context| wait.poll(context, responder)) => exchange.resume(),
            () = sleep_until(deadline) => {
                wait.end(Refusal::Timeout, responder);
                exchange.resume();
            }
            received = session.recv(input) => exchange.finish_receive(received?),
        }
        Ok(())
    }

    async fn finish(&mut self) {
        let Some(ended) = self.end() else {
            return;
        };
        match ended.into_session() {
            // `self` keeps the context until the goodbye is said, and the end of the server waits for that.
            Ok(session) => session.say_goodbye().await,
            Err(ended) => self.context().hand_to_reaper(ended),
        }
    }

    /// Ends the connection, unless it has ended already: ends its wait, and releases its locks as far as that is
    /// possible at once.
    fn end(&mut self) -> Option<EndedConnection> {
        let session = self.session.take()?;
        // First, so that nothing is granted to a connection that has ended.
        self.exchange.abandon();
        self.context().tasks().forget(self.client());
        let mut ended = EndedConnection::new(self.client(), session);
        ended.release_locks(self.context().dispatcher(), RELEASE_AT_ONCE);
        Some(ended)
    }

    fn context(&self) -> &Context {
        &self.exchange.responder.context
    }

    fn client(&self) -> ClientId {
        self.exchange.responder.client
    }

    /// Returns the session and the exchange, before the end of the connection. Called for each use: kept across an await,
    /// the references would take memory while the connection is idle.
    fn parts(&mut self) -> (&mut dyn Session, &mut Exchange) {
        match &mut self.session {
            Some(admitted) => (&mut *admitted.session, &mut self.exchange),
            None => unreachable!("an ended connection is not run"),
        }
    }
}

impl Drop for Connection {
    /// Ends the connection if its task was aborted or has panicked. The reaper does the rest, the goodbye included.
    fn drop(&mut self) {
        if let Some(ended) = self.end() {
            self.context().hand_to_reaper(ended);
        }
    }
}

#[cfg(test)]
mod tests;
