//! One connection, from its first frame to the release of its last lock.
//!
//! [`Connection::serve`] is the only place that waits for a peer, both ways. Whatever ends it (the peer,
//! an error, a panic, the server's end), dropping the `Connection` is what orphans its locks: there is no
//! path that could forget to.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use glockd_protocol::{Verb, parse};
use glockd_transports::{Frame, Frames, Peer, Session};
use tokio::task::yield_now;
use tokio::time::timeout;
use tracing::debug;

use crate::dispatcher::{Answer, Dispatcher};
use crate::hub::Hub;
use crate::listing::{Cursor, Step};
use crate::reaper::Orphan;
use crate::registry::ClientId;

/// Output is sent as soon as it is this long, and nothing more is run until it was taken: what a peer
/// does not read costs no more memory than this and one reply.
const CHUNK: usize = 64 * 1024;

/// Steps of a listing, of some ten microseconds each, before others get their turn.
const STEPS: usize = 8;

/// Locks that are released at once when a connection ends, in some ten microseconds. More are left to
/// the reaper, so that no thread is busy for long with what nobody waits for.
const RELEASE_AT_ONCE: usize = 256;

/// How long a goodbye may take: a peer that does not answer it is gone anyway.
const GOODBYE: Duration = Duration::from_secs(2);

/// A session, the identity it acts under, and the server it acts on.
pub(crate) struct Connection {
    /// There until the connection has ended.
    session: Option<Box<dyn Session>>,
    client: ClientId,
    /// What the hub knows its task by.
    task: usize,
    hub: Arc<Hub>,
}

impl Connection {
    /// The connection of a session that is past its handshake. From now on it counts.
    pub(crate) fn new(
        peer: &Peer,
        session: Box<dyn Session>,
        hub: Arc<Hub>,
        task: usize,
    ) -> Connection {
        let client = hub.dispatcher().connect(peer);
        debug!(%peer, "connected");
        Connection {
            session: Some(session),
            client,
            task,
            hub,
        }
    }

    /// Answers frames until the peer closes or something fails; then orphans what is held, and only then
    /// says goodbye.
    pub(crate) async fn serve(mut self) {
        if let Err(error) = self.answer_frames().await {
            debug!(peer = %address(self.hub.dispatcher(), self.client), %error, "connection failed");
        }
        let session = self.session.take();
        // Kept through the goodbye, because the server's end waits for it.
        let hub = Arc::clone(&self.hub);
        drop(self);
        if let Some(session) = session {
            // Boxed, or every idle connection would keep room for this timer.
            Box::pin(say_goodbye(session)).await;
        }
        drop(hub);
    }

    async fn answer_frames(&mut self) -> io::Result<()> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let (hub, client) = (&*self.hub, self.client);
        // Neither owns memory while there is nothing to do.
        let (mut input, mut output) = (Frames::new(), Frames::new());
        while session.recv(&mut input).await? > 0 {
            for frame in input.iter() {
                if let Some(cursor) = answer(hub, client, frame, &mut output) {
                    list(session, hub.dispatcher(), cursor, &mut output).await?;
                }
                output.end();
                if output.as_bytes().len() >= CHUNK {
                    session.send(&output).await?;
                    output.clear();
                }
            }
            input.clear();
            if !output.is_empty() {
                session.send(&output).await?;
                output.clear();
            }
        }
        Ok(())
    }
}

impl Drop for Connection {
    /// Orphans what the connection held. It still has its session if its task was aborted or panicked:
    /// the reaper then says goodbye.
    fn drop(&mut self) {
        self.hub.forget(self.task);
        let mut orphan = Orphan::new(self.client, self.session.take());
        let free = orphan.release(self.hub.dispatcher(), RELEASE_AT_ONCE);
        if !free || orphan.has_session() {
            self.hub.leave_to_reaper(orphan);
        }
    }
}

/// Says goodbye to a peer, but does not wait for it for long.
pub(crate) async fn say_goodbye(session: Box<dyn Session>) {
    // One that takes too long is simply dropped, which closes it.
    let _ = timeout(GOODBYE, session.close()).await;
}

/// Where a client comes from, for the log.
pub(crate) fn address(dispatcher: &Dispatcher, client: ClientId) -> String {
    let address = dispatcher.registry().look(client, |client| {
        String::from_utf8_lossy(client.address()).into_owned()
    });
    address.unwrap_or_default()
}

/// Runs one frame, and appends the bytes of its reply; or returns the listing that is to be appended.
fn answer(
    hub: &Hub,
    client: ClientId,
    frame: Frame<'_>,
    output: &mut Frames,
) -> Option<Box<Cursor>> {
    let dispatcher = hub.dispatcher();
    let out = output.buffer();
    let start = out.len();
    let logged = match frame {
        Frame::Data(bytes) | Frame::Part(bytes) => match parse(bytes) {
            Ok(command) => match dispatcher.dispatch(client, &command) {
                Answer::Reply(reply) => {
                    reply.encode(out);
                    matches!(command.verb(), Verb::G | Verb::R | Verb::Sg | Verb::Sr)
                }
                Answer::List(cursor) => return Some(cursor),
            },
            Err(error) => {
                debug!(peer = %address(dispatcher, client), line = %bytes.escape_ascii(), "{error}");
                dispatcher.reject(error).encode(out);
                false
            }
        },
        Frame::Oversized => {
            dispatcher
                .reject_oversized(hub.limits().max_line)
                .encode(out);
            true
        }
    };
    if logged {
        let reply = out[start..].trim_ascii_end();
        debug!(peer = %address(dispatcher, client), "{}", reply.escape_ascii());
    }
    None
}

/// Appends a listing to `output`, sending it in parts as it grows. Before others get their turn, whatever
/// was answered before it is sent.
async fn list(
    session: &mut Box<dyn Session>,
    dispatcher: &Dispatcher,
    mut cursor: Box<Cursor>,
    output: &mut Frames,
) -> io::Result<()> {
    loop {
        for _ in 0..STEPS {
            if cursor.step(dispatcher, output.buffer()) == Step::Done {
                return Ok(());
            }
            if output.unfinished() >= CHUNK {
                output.end_part();
                break;
            }
        }
        if !output.is_empty() {
            session.send(output).await?;
            output.clear_finished();
        }
        yield_now().await;
    }
}
