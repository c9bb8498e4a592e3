//! One connection: a task that owns the wire, and what others keep of it.
//!
//! The task sends what it is asked for, and gives each reply to who asked, in order. It makes the guard of a lock as
//! it reads that the lock was given, so that a guard is there even if nobody waits for it any more: then it is
//! dropped, and the lock released.
//!
//! The original loses all lines of a read but the first, and answers no unknown command. So a connection begins by
//! asking `hello` and nothing else; as long as that was not answered, one command is sent at a time. Where a reply has
//! no end (a listing; nothing at all) silence is awaited, then something is asked whose answer is known: what stands
//! before that is the reply. So a slow network makes things slow, not wrong.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use glockd_protocol::rows::Listing;
use glockd_protocol::{Command, LockKind, Reply, Verb};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::expect::{Answer, Expect, Get, Unended};
use crate::pool::Lease;
use crate::task::{Request, Task};
use crate::wire::Wire;
use crate::{Error, Features, Lost};

/// How long the original is silent before it is taken for what it is.
const HELLO_WITHIN: Duration = Duration::from_secs(1);

/// How long a listing of the original's pauses before its end is asked for.
const LISTED_WITHIN: Duration = Duration::from_millis(200);

/// The longest line that the original takes, in bytes, its end included: it cuts what is longer, and runs the rest as
/// a command.
const LONGEST_PLAIN: usize = 4095;

/// A lock, as a connection can hold one of each.
pub(crate) type Key = (LockKind, Vec<u8>);

/// What others keep of a connection. It is closed when the last of them is dropped.
pub(crate) struct Connection {
    requests: mpsc::UnboundedSender<Request>,
    lost: watch::Receiver<Option<Lost>>,
    abandoned: Arc<Notify>,
    /// What the server can do.
    pub(crate) features: Features,
    usage: Mutex<Usage>,
}

/// Who uses a connection, and for what.
#[derive(Default)]
pub(crate) struct Usage {
    /// How many do.
    pub(crate) leases: usize,
    /// Whether one of them waits, and all others would have to wait for it.
    pub(crate) is_taken: bool,
    /// Whether it is about to be closed, here.
    pub(crate) is_abandoned: bool,
    /// The locks that are asked for through it, or held, and whether they are held.
    pub(crate) keys: HashMap<Key, bool>,
}

impl Usage {
    /// Whether somebody believes to hold this lock through it, or any.
    pub(crate) fn holds(&self, key: Option<&Key>) -> bool {
        match key {
            Some(key) => self.keys.get(key).is_some_and(|&is_held| is_held),
            None => self.keys.values().any(|&is_held| is_held),
        }
    }
}

impl Connection {
    /// Starts to talk. `name` is what the connection is to be known as. A server that is known to be plain is not asked
    /// what it can do.
    pub(crate) async fn open(
        wire: Wire,
        name: Option<&[u8]>,
        reply_timeout: Duration,
        is_plain: bool,
    ) -> Result<Connection, Error> {
        let (requests, receiver) = mpsc::unbounded_channel();
        let (loser, lost) = watch::channel(None);
        let abandoned = Arc::new(Notify::new());
        let task = Task::new(wire, receiver, reply_timeout);
        tokio::spawn(task.run(Arc::clone(&abandoned), loser));
        let mut connection = Connection {
            requests,
            lost,
            abandoned,
            features: Features::default(),
            usage: Mutex::default(),
        };
        if !is_plain {
            let hello = connection.unended(&Command::Hello, HELLO_WITHIN, true);
            if let Some(line) = hello.await?.first() {
                connection.features = Features::read(line);
            }
        }
        if let Some(name) = name {
            let iam = Command::Iam(Some(name.into()));
            // It is for people to see, and some servers are told to show nobody.
            match connection
                .ask(&iam, |reply| (reply == Reply::Ok).then_some(()))
                .await
            {
                Err(Error::Disabled(_)) => {}
                asked => asked?,
            }
        }
        Ok(connection)
    }

    pub(crate) fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why it is gone, if it is.
    pub(crate) fn lost(&self) -> Option<Lost> {
        match &*self.lost.borrow() {
            Some(lost) => Some(lost.clone()),
            // The task is gone without a word: its runtime is, or it panicked.
            None if self.lost.has_changed().is_err() => Some(Lost::Closed),
            None => None,
        }
    }

    /// Why it is gone, if that was not our own doing, which is nothing to be told.
    pub(crate) fn was_lost(&self) -> Option<Lost> {
        self.lost()
            .filter(|lost| !matches!(lost, Lost::Abandoned | Lost::TooLong))
    }

    /// Resolves when it is gone, with the reason.
    pub(crate) fn when_lost(&self) -> impl Future<Output = Lost> + Send + use<> {
        let mut lost = self.lost.clone();
        async move {
            match lost.wait_for(Option::is_some).await {
                Ok(lost) => lost.clone().unwrap_or(Lost::Closed),
                Err(_) => Lost::Closed,
            }
        }
    }

    fn why_lost(&self) -> Error {
        Error::Lost(self.lost().unwrap_or(Lost::Closed))
    }

    /// Closes it, and with it whatever it holds. Nobody gets it any more from now on.
    pub(crate) fn abandon(&self) {
        self.usage().is_abandoned = true;
        self.abandoned.notify_one();
    }

    /// The line that asks for this, if the server can take it.
    fn line(&self, command: &Command<'_>) -> Result<Vec<u8>, Error> {
        let line = line(command);
        match self.features == Features::default() && line.len() > LONGEST_PLAIN {
            true => Err(Error::TooLong {
                limit: LONGEST_PLAIN,
            }),
            false => Ok(line),
        }
    }

    fn request(&self, lines: Vec<u8>, expect: Expect) {
        // If the task is gone, so is whoever would answer, which is what the asker notices.
        let _ = self.requests.send(Request { lines, expect });
    }

    /// Asks for one line, and reads it.
    pub(crate) async fn ask<T>(
        &self,
        command: &Command<'_>,
        read: impl FnOnce(Reply<'_>) -> Option<T>,
    ) -> Result<T, Error> {
        let reply = self.send(command)?;
        let line = reply.await.map_err(|_| self.why_lost())?;
        match Reply::decode(command.verb(), &line).map(|reply| refusal_or(reply, command.verb())) {
            Some(Ok(reply)) => read(reply).ok_or_else(|| Lost::Unexpected(line.clone()).into()),
            Some(Err(error)) => Err(error),
            None => Err(Lost::Unexpected(line).into()),
        }
    }

    /// Sends a command that is answered by one line, now: the line may be awaited or not.
    pub(crate) fn send(&self, command: &Command<'_>) -> Result<oneshot::Receiver<Vec<u8>>, Error> {
        let (reply, receiver) = oneshot::channel();
        let (verb, name) = (command.verb(), lock_of(command).map(<[u8]>::to_vec));
        self.request(self.line(command)?, Expect::Line { verb, name, reply });
        Ok(receiver)
    }

    /// Asks for a lock, which `lease` is for.
    pub(crate) async fn get(
        lease: Lease,
        command: &Command<'_>,
        waits: bool,
    ) -> Result<Answer, Error> {
        let connection = Arc::clone(&lease.connection);
        let Some(key) = lease.key.clone() else {
            return Err(connection.why_lost());
        };
        let mut lines = connection.line(command)?;
        if connection.features.fence {
            let name = key.1.as_slice().into();
            lines.extend(line(&match key.0 {
                LockKind::Exclusive => Command::Fence(name),
                LockKind::Shared => Command::SharedFence(name),
            }));
        }
        let (reply, receiver) = oneshot::channel();
        let get = Get::new(command.verb(), lease, key, waits, reply);
        connection.request(lines, Expect::Get(Box::new(get)));
        receiver.await.map_err(|_| connection.why_lost())
    }

    /// Asks for lines behind headers that say how many there are.
    pub(crate) async fn counted(
        &self,
        command: &Command<'_>,
        listing: Option<Listing>,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let (reply, receiver) = oneshot::channel();
        let expect = Expect::counted(listing, reply);
        self.request(self.line(command)?, expect);
        let verb = command.verb();
        receiver
            .await
            .map_err(|_| self.why_lost())?
            .map_err(|line| match refused_by(verb, &line) {
                Some(error) => error,
                None => Lost::Unexpected(line).into(),
            })
    }

    /// Asks for lines that nothing counts.
    pub(crate) async fn listed(&self, command: &Command<'_>) -> Result<Vec<Vec<u8>>, Error> {
        self.unended(command, LISTED_WITHIN, false).await
    }

    async fn unended(
        &self,
        command: &Command<'_>,
        silence: Duration,
        is_one: bool,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let (reply, receiver) = oneshot::channel();
        let unended = Unended::new(silence, is_one, reply);
        let line = self.line(command)?;
        let length = line.len();
        self.request(line, Expect::Unended(unended));
        let lines = receiver.await.map_err(|_| self.why_lost())?;
        let refused = match lines.as_slice() {
            [only] => refused_by(command.verb(), only),
            _ => None,
        };
        match refused {
            // That is a lock of such a name.
            Some(Error::TooLong { limit }) if length <= limit => Ok(lines),
            Some(error) => Err(error),
            None => Ok(lines),
        }
    }
}

/// The reply, unless it is one that any command may be refused by.
pub(crate) fn refusal_or(reply: Reply<'_>, verb: Verb) -> Result<Reply<'_>, Error> {
    match reply {
        Reply::Disabled => Err(Error::Disabled(verb)),
        Reply::LineTooLong { limit } => Err(Error::TooLong { limit }),
        reply => Ok(reply),
    }
}

/// Why such a command is refused, if this line says that it is.
fn refused_by(verb: Verb, line: &[u8]) -> Option<Error> {
    refusal_or(Reply::decode(verb, line)?, verb).err()
}

/// The lock that the answer to a command must be about.
fn lock_of<'a>(command: &'a Command<'_>) -> Option<&'a [u8]> {
    match command {
        Command::Release(name)
        | Command::SharedRelease(name)
        | Command::Inspect(name)
        | Command::SharedInspect(name) => Some(name),
        _ => None,
    }
}

/// The line that asks for this.
pub(crate) fn line(command: &Command<'_>) -> Vec<u8> {
    let mut line = Vec::new();
    command.encode(&mut line);
    line
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use socket2::SockRef;
    use tokio::net::TcpListener;

    use super::*;

    /// Returns whether TCP may end the connection to a server that says this, because it is silent.
    async fn tcp_gives_up(hello: &'static str) -> bool {
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
            panic!("it is TCP");
        };
        let same = SockRef::from(stream).try_clone().unwrap();
        let opened = Connection::open(wire, None, Duration::from_secs(30), false);
        let _connection = opened.await.unwrap();
        drop(answering.join().unwrap());
        let (keepalive, user_timeout) = (same.keepalive(), same.tcp_user_timeout());
        let (keepalive, user_timeout) = (keepalive.unwrap(), user_timeout.unwrap());
        assert_eq!(keepalive, user_timeout.is_some());
        keepalive
    }

    /// Its reset would free the locks at once.
    #[tokio::test]
    async fn tcp_gives_no_server_up_that_the_heartbeat_watches() {
        assert!(!tcp_gives_up("1 hello: list ping timeout=30000\n").await);
        assert!(tcp_gives_up("1 hello: list\n").await);
    }
}
