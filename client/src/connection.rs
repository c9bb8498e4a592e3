//! One connection, as its users see it. Its [task](crate::task) owns the wire.
//!
//! The original loses all lines of a read but the first, and does not answer unknown commands. So a connection begins
//! with `hello` and nothing else, and until that is answered, sends one command at a time. How the end of a reply is
//! found where the server does not mark it, see [`UnmarkedReply`].

use std::sync::Arc;
use std::time::Duration;

use glockd_protocol::{Command, Reply, Verb};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::error::{Error, Lost};
use crate::expected::{
    CountedReply, ExpectedReply, GetReply, Header, OnGetOutcome, UnmarkedKind, UnmarkedReply,
};
use crate::features::Features;
use crate::key::LockKey;
use crate::request::{Request, line};
use crate::task::ConnectionTask;
use crate::wire::Wire;

/// Silence after `hello` after which the server may be the original.
const HELLO_PAUSE: Duration = Duration::from_secs(1);

/// Silence in a listing of the original after which it may be complete.
const LISTING_PAUSE: Duration = Duration::from_millis(200);

/// Longest line that the original accepts, in bytes, with its line end. It cuts a longer line and runs the rest as a
/// command.
const MAX_LINE_OF_ORIGINAL: usize = 4095;

/// A connection. It is closed when this is dropped.
pub(crate) struct Connection {
    requests: mpsc::UnboundedSender<Request>,
    lost: watch::Receiver<Option<Lost>>,
    close: Arc<Notify>,
    /// Features of the server.
    pub(crate) features: Features,
}

/// Whether a new connection asks for the server's features.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hello {
    Ask,
    /// Does not ask: the server is known to have none, and the original's silence would cost a second.
    Skip,
}

impl Connection {
    /// Starts a connection on a wire: asks for the features, and registers `name`.
    pub(crate) async fn open(
        wire: Wire,
        name: Option<&[u8]>,
        reply_timeout: Duration,
        hello: Hello,
    ) -> Result<Connection, Error> {
        let (requests, receiver) = mpsc::unbounded_channel();
        let (loss, lost) = watch::channel(None);
        let close = Arc::new(Notify::new());
        let task = ConnectionTask::new(wire, receiver, reply_timeout);
        tokio::spawn(task.run(Arc::clone(&close), loss));
        let mut connection = Connection {
            requests,
            lost,
            close,
            features: Features::default(),
        };
        if hello == Hello::Ask {
            let lines = connection.unmarked(&Command::Hello, UnmarkedKind::Hello, HELLO_PAUSE);
            if let Some(line) = lines.await?.first() {
                connection.features = Features::read(line);
            }
        }
        if let Some(name) = name {
            let iam = Command::Iam(Some(name.into()));
            let registered = connection
                .ask(&iam, |reply| (reply == Reply::Ok).then_some(()))
                .await;
            match registered {
                // The name only helps people. A server that shows none does not take it.
                Err(Error::Disabled(_)) => {}
                registered => registered?,
            }
        }
        Ok(connection)
    }

    /// Returns why the connection is lost, or `None` if it is not.
    pub(crate) fn lost(&self) -> Option<Lost> {
        match &*self.lost.borrow() {
            Some(lost) => Some(lost.clone()),
            // The task ended without a reason: its runtime was shut down, or it panicked.
            None if self.lost.has_changed().is_err() => Some(Lost::Closed),
            None => None,
        }
    }

    /// Returns why the connection is lost, if this client did not cause that itself, which is not worth a report.
    pub(crate) fn lost_unexpectedly(&self) -> Option<Lost> {
        self.lost()
            .filter(|lost| !matches!(lost, Lost::Abandoned | Lost::TooLong))
    }

    /// Waits until the connection is lost, and returns the reason. Cancel-safe.
    pub(crate) fn when_lost(&self) -> impl Future<Output = Lost> + Send + use<> {
        let mut lost = self.lost.clone();
        async move {
            match lost.wait_for(Option::is_some).await {
                Ok(lost) => lost.clone().unwrap_or(Lost::Closed),
                Err(_) => Lost::Closed,
            }
        }
    }

    /// Returns the error for a request whose completion was dropped.
    pub(crate) fn loss_error(&self) -> Error {
        Error::Lost(self.lost().unwrap_or(Lost::Closed))
    }

    /// Closes the connection, and so frees each lock that it holds.
    pub(crate) fn close(&self) {
        self.close.notify_one();
    }

    /// Encodes a command.
    ///
    /// # Errors
    ///
    /// [`Error::TooLong`] if the server may be the original, and would cut the line.
    fn line(&self, command: &Command<'_>) -> Result<Vec<u8>, Error> {
        let line = line(command);
        match self.features.is_empty() && line.len() > MAX_LINE_OF_ORIGINAL {
            true => Err(Error::TooLong {
                limit: MAX_LINE_OF_ORIGINAL,
            }),
            false => Ok(line),
        }
    }

    fn request(&self, lines: Vec<u8>, expected: ExpectedReply) {
        // If the task has ended, the request is dropped with its completion, which tells the caller.
        let _ = self.requests.send(Request { lines, expected });
    }

    /// Sends a command that has one line of reply, and returns what `read` makes of the reply.
    pub(crate) async fn ask<T>(
        &self,
        command: &Command<'_>,
        read: impl FnOnce(Reply<'_>) -> Option<T>,
    ) -> Result<T, Error> {
        let line = self.send(command)?;
        let line = line.await.map_err(|_| self.loss_error())?;
        let verb = command.verb();
        match Reply::decode(verb, &line).map(|reply| refusal_or(reply, verb)) {
            Some(Ok(reply)) => read(reply).ok_or_else(|| Lost::Unexpected(line.clone()).into()),
            Some(Err(error)) => Err(error),
            None => Err(Lost::Unexpected(line).into()),
        }
    }

    /// Queues a command that has one line of reply, without waiting. The command is sent even if the receiver of the
    /// line is dropped.
    pub(crate) fn send(&self, command: &Command<'_>) -> Result<oneshot::Receiver<Vec<u8>>, Error> {
        let (done, receiver) = oneshot::channel();
        let (verb, name) = (command.verb(), lock_of(command).map(<[u8]>::to_vec));
        self.request(
            self.line(command)?,
            ExpectedReply::Line { verb, name, done },
        );
        Ok(receiver)
    }

    /// Queues a get for the lock `key`, without waiting. `done` is called with the outcome.
    pub(crate) fn send_get(
        &self,
        command: &Command<'_>,
        key: &LockKey,
        done: OnGetOutcome,
    ) -> Result<(), Error> {
        let mut lines = self.line(command)?;
        let asks_token = self.features.fence;
        if asks_token {
            lines.extend(line(&key.fence()));
        }
        let reply = GetReply::new(command.verb(), key.clone(), asks_token, done);
        self.request(lines, ExpectedReply::Get(Box::new(reply)));
        Ok(())
    }

    /// Sends a command whose reply has headers that state the number of lines. Returns the lines.
    pub(crate) async fn counted(
        &self,
        command: &Command<'_>,
        header: Header,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let (done, receiver) = oneshot::channel();
        let reply = CountedReply::new(header, done);
        self.request(self.line(command)?, ExpectedReply::Counted(reply));
        let verb = command.verb();
        receiver
            .await
            .map_err(|_| self.loss_error())?
            .map_err(|line| match refused_by(verb, &line) {
                Some(error) => error,
                None => Lost::Unexpected(line).into(),
            })
    }

    /// Sends a command whose reply is a listing of unmarked length. Returns the lines.
    pub(crate) async fn unmarked_listing(
        &self,
        command: &Command<'_>,
    ) -> Result<Vec<Vec<u8>>, Error> {
        self.unmarked(command, UnmarkedKind::Listing, LISTING_PAUSE)
            .await
    }

    async fn unmarked(
        &self,
        command: &Command<'_>,
        kind: UnmarkedKind,
        pause: Duration,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let (done, receiver) = oneshot::channel();
        let reply = UnmarkedReply::new(kind, pause, done);
        let line = self.line(command)?;
        let length = line.len();
        self.request(line, ExpectedReply::Unmarked(reply));
        let lines = receiver.await.map_err(|_| self.loss_error())?;
        let refused = match lines.as_slice() {
            [only] => refused_by(command.verb(), only),
            _ => None,
        };
        match refused {
            // Not a refusal, but a lock with a name that looks like one.
            Some(Error::TooLong { limit }) if length <= limit => Ok(lines),
            Some(error) => Err(error),
            None => Ok(lines),
        }
    }
}

/// Returns the reply, or the error if it is a refusal that any command may get.
pub(crate) fn refusal_or(reply: Reply<'_>, verb: Verb) -> Result<Reply<'_>, Error> {
    match reply {
        Reply::Disabled => Err(Error::Disabled(verb)),
        Reply::LineTooLong { limit } => Err(Error::TooLong { limit }),
        reply => Ok(reply),
    }
}

/// Returns the error if this line refuses a command of this verb.
fn refused_by(verb: Verb, line: &[u8]) -> Option<Error> {
    refusal_or(Reply::decode(verb, line)?, verb).err()
}

/// Returns the name of the lock that the reply to a command must be about.
fn lock_of<'a>(command: &'a Command<'_>) -> Option<&'a [u8]> {
    match command {
        Command::Release(name)
        | Command::SharedRelease(name)
        | Command::Inspect(name)
        | Command::SharedInspect(name) => Some(name),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use socket2::SockRef;
    use tokio::net::TcpListener;

    use super::*;

    /// Connects to a server that replies to `hello` with this line. Returns true if the kernel may then end the
    /// connection because the server is silent.
    async fn kernel_watches(hello: &'static str) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("tcp://{}", listener.local_addr().unwrap());
        let endpoint = endpoint.parse().unwrap();
        let (wire, accepted) = tokio::join!(Wire::connect(&endpoint), listener.accept());
        let server = accepted.unwrap().0.into_std().unwrap();
        server.set_nonblocking(false).unwrap();
        let answering = std::thread::spawn(move || {
            let (mut server, mut asked) = (server, [0; 64]);
            assert!(server.read(&mut asked).unwrap() > 0);
            server.write_all(hello.as_bytes()).unwrap();
            server
        });
        let wire = wire.unwrap();
        let Wire::Tcp(stream) = &wire else {
            panic!("not a TCP stream");
        };
        let same = SockRef::from(stream).try_clone().unwrap();
        let opened = Connection::open(wire, None, Duration::from_secs(30), Hello::Ask);
        let _connection = opened.await.unwrap();
        drop(answering.join().unwrap());
        let (keepalive, user_timeout) = (same.keepalive(), same.tcp_user_timeout());
        let (keepalive, user_timeout) = (keepalive.unwrap(), user_timeout.unwrap());
        assert_eq!(keepalive, user_timeout.is_some());
        keepalive
    }

    /// The kernel's reset would free the locks at once.
    #[tokio::test]
    async fn kernel_does_not_time_out_a_server_with_a_heartbeat() {
        assert!(!kernel_watches("1 hello: list ping timeout=30000\n").await);
        assert!(kernel_watches("1 hello: list\n").await);
    }
}
