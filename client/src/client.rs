//! What connects, and what is asked about others' locks.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use glockd_protocol::rows::{self, Listing};
use glockd_protocol::{Command, LockKind, Reply, Verb, fold, name_and_holder};

use crate::connection::line;
use crate::pool::{Lease, Options, Pool, Use};
use crate::{Endpoint, Error, Features, LockRequest, Lost};

/// A client of one server. Clones share its connections, and so may any number of tasks: two of them never hold the
/// same exclusive lock, for a lock belongs to a connection, and each that is held or asked for has one to itself.
///
/// Connections are opened as needed: one for each guard of the same name, and one for each wait that is under way.
/// They are closed when the last client and the last guard that use them are gone. To be used within a tokio
/// runtime, the one that it was connected on.
#[derive(Clone)]
pub struct Client {
    pool: Arc<Pool>,
}

/// How a [`Client`] is to behave. Made by [`Client::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing unless it connects"]
pub struct Builder {
    endpoint: Result<Endpoint, crate::EndpointError>,
    options: Options,
}

impl Builder {
    /// Registers a name on each connection (`iam`), for people who look who holds a lock. White space in it folds.
    /// A server that allows no names (`-registry=false`) is not told.
    pub fn name(mut self, name: impl AsRef<[u8]>) -> Builder {
        self.options.name = Some(name.as_ref().to_vec());
        self
    }

    /// Whether the client connects anew, when next asked for something, once all its connections are gone; by default
    /// it does not. It never does so as long as there are guards of locks that went with them: see
    /// [`Error::LocksLost`].
    pub fn reconnect(mut self, reconnects: bool) -> Builder {
        self.options.reconnects = reconnects;
        self
    }

    /// How long it may take to connect and to shake hands; by default 10 seconds.
    pub fn connect_timeout(mut self, timeout: Duration) -> Builder {
        self.options.connect_timeout = timeout;
        self
    }

    /// How long the server may owe an answer and send nothing; by default 30 seconds. After that the connection is
    /// [lost](Lost::Silent), and what is held through it. While it lets a client wait for a lock, it is asked now and
    /// then whether it is there.
    ///
    /// Over TCP and WebSocket the client also asks by itself, even if the server owes nothing, and the connection is lost
    /// once its last answered request is half of the server's peer timeout old (15 seconds with default flags), or this
    /// long if that is shorter; but never in less than 3 seconds. See [`Client::time_to_stop`].
    pub fn reply_timeout(mut self, timeout: Duration) -> Builder {
        self.options.reply_timeout = timeout;
        self
    }

    /// Connects.
    ///
    /// Cancel-safe: what is dropped before it is done is not connected.
    ///
    /// # Errors
    ///
    /// [`Error::Endpoint`] and [`Error::Connect`]; [`Error::Lost`] if the server turns the client away, or is no
    /// glockd.
    pub async fn connect(self) -> Result<Client, Error> {
        if let Some(name) = &self.options.name {
            check(name)?;
        }
        let pool = Pool::connect(self.endpoint?, self.options).await?;
        Ok(Client { pool })
    }
}

impl Client {
    /// Connects to a server: `tcp://HOST[:PORT]`, `unix:PATH` or `ws://HOST[:PORT]/`. See [`Endpoint`].
    ///
    /// The first connection asks what the server can do. The original answers that by nothing, so then this takes a
    /// second longer.
    ///
    /// # Errors
    ///
    /// As [`Builder::connect`].
    pub async fn connect(endpoint: &str) -> Result<Client, Error> {
        Client::builder(endpoint).connect().await
    }

    /// A client to be.
    pub fn builder(endpoint: &str) -> Builder {
        Builder {
            endpoint: endpoint.parse(),
            options: Options {
                name: None,
                reconnects: false,
                connect_timeout: Duration::from_secs(10),
                reply_timeout: Duration::from_secs(30),
            },
        }
    }

    /// Where the server is.
    pub fn endpoint(&self) -> &Endpoint {
        self.pool.endpoint()
    }

    /// What the server can do beyond the original.
    pub fn features(&self) -> Features {
        self.pool.features()
    }

    /// Time that is left to stop working when [`LockGuard::lost`](crate::LockGuard::lost) reports that the network has
    /// failed: the server gives the lock to nobody else any sooner, with two seconds to spare. 12 s of a server with
    /// default flags.
    ///
    /// `None` if there is no such limit: over a Unix socket, or if the server gives no client up
    /// (`-keepalive 0 -write-timeout 0`); or if the server does not say, as the original.
    pub fn time_to_stop(&self) -> Option<Duration> {
        match self.endpoint() {
            Endpoint::Unix(_) => None,
            _ => self.pool.time_to_stop(),
        }
    }

    /// The exclusive lock of this name, to be acquired.
    pub fn lock(&self, name: impl AsRef<[u8]>) -> LockRequest {
        LockRequest::new(Arc::clone(&self.pool), LockKind::Exclusive, name.as_ref())
    }

    /// The shared lock of this name, to be acquired. It has nothing to do with the exclusive one.
    pub fn shared(&self, name: impl AsRef<[u8]>) -> LockRequest {
        LockRequest::new(Arc::clone(&self.pool), LockKind::Shared, name.as_ref())
    }

    /// Connects anew, if all connections are gone, and does nothing otherwise.
    ///
    /// # Errors
    ///
    /// As [`connect`](Client::connect); and [`Error::LocksLost`] as long as there are guards of locks that went with
    /// the connections.
    pub async fn reconnect(&self) -> Result<(), Error> {
        self.pool.reconnect().await
    }

    /// Whether anybody holds this exclusive lock.
    ///
    /// # Errors
    ///
    /// [`Error::BadName`], [`Error::TooLong`], and whatever ends a connection.
    pub async fn is_locked(&self, name: impl AsRef<[u8]>) -> Result<bool, Error> {
        let command = Command::Inspect(check(name.as_ref())?.into());
        self.ask(&command, |reply| match reply {
            Reply::Inspect { locked, .. } => Some(locked),
            _ => None,
        })
        .await
    }

    /// How many hold this shared lock.
    ///
    /// # Errors
    ///
    /// As [`is_locked`](Client::is_locked).
    pub async fn holders(&self, name: impl AsRef<[u8]>) -> Result<u32, Error> {
        let command = Command::SharedInspect(check(name.as_ref())?.into());
        self.ask(&command, |reply| match reply {
            Reply::SharedInspect { holders, .. } => Some(holders),
            _ => None,
        })
        .await
    }

    /// The locks that are held, by name, or all of one name. A shared lock is listed once for each holder.
    ///
    /// A server without [`Features::lengths`] does not say where a name ends. If `: ` is in the name of a lock or of its
    /// holder, this may then take a part of one for a part of the other, unless it asks for the locks of one name.
    ///
    /// # Errors
    ///
    /// [`Error::Disabled`] under `-dump=false`; else as [`is_locked`](Client::is_locked).
    pub async fn locks(&self, kind: LockKind, name: Option<&[u8]>) -> Result<Vec<HeldLock>, Error> {
        let name = name.map(check).transpose()?;
        let filter = || name.as_deref().map(Into::into);
        let (with_lengths, counted, plain, listing) = match kind {
            LockKind::Exclusive => (
                Command::ListWithLengths(filter()),
                Command::CountedList(filter()),
                Command::List(filter()),
                Listing::Locks,
            ),
            LockKind::Shared => (
                Command::SharedListWithLengths(filter()),
                Command::CountedSharedList(filter()),
                Command::SharedList(filter()),
                Listing::SharedLocks,
            ),
        };
        let lease = self.lease_to_list().await?;
        let connection = &lease.connection;
        let says_lengths = connection.features.lengths;
        let lines = match connection.features {
            Features { lengths: true, .. } => {
                connection.counted(&with_lengths, Some(listing)).await?
            }
            Features { list: true, .. } => connection.counted(&counted, Some(listing)).await?,
            _ => connection.listed(&plain).await?,
        };
        let read = |line: Vec<u8>| {
            let parts = match &name {
                _ if says_lengths => {
                    let parts = name_and_holder(&line);
                    parts.map(|(name, holder)| (name.to_vec(), holder.to_vec()))
                }
                Some(name) if !name.is_empty() => parts(&line, name.len()),
                // Both may have a colon in them. Names of locks do rather.
                _ => {
                    let at = line.windows(2).rposition(|two| two == b": ");
                    at.and_then(|at| parts(&line, at))
                }
            };
            let (name, holder) = parts.ok_or(Lost::Unexpected(line))?;
            Ok(HeldLock { name, holder })
        };
        lines.into_iter().map(read).collect()
    }

    /// Who holds the locks of this name, and who waits for them, in the order in which they came. Of more than some
    /// hundred owners, those that go while the server lists them are left out.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the server cannot say; [`Error::Disabled`] under `-dump=false`; else as
    /// [`is_locked`](Client::is_locked).
    pub async fn claims(&self, name: impl AsRef<[u8]>) -> Result<Vec<Claim>, Error> {
        let name = check(name.as_ref())?;
        let command = Command::Claims(name.into());
        let lease = self.lease_to_list().await?;
        if !lease.connection.features.own {
            return Err(Error::Unsupported(Verb::Own));
        }
        let lines = lease.connection.counted(&command, None).await?;
        let read = |line: Vec<u8>| match rows::Claim::decode(&line) {
            Some(owner) => Ok(Claim {
                kind: owner.kind,
                waits: owner.waits,
                address: owner.address.to_vec(),
                since: Duration::from_millis(owner.ms),
                fence: Some(owner.token).filter(|&token| token > 0),
                name: owner.name.to_vec(),
            }),
            None => Err(Lost::Unexpected(line).into()),
        };
        let is_there = |line: &Vec<u8>| !rows::is_claim_gone(line);
        lines.into_iter().filter(is_there).map(read).collect()
    }

    /// The connections that registered a name, or this name.
    ///
    /// # Errors
    ///
    /// [`Error::Disabled`] under `-dump=false` or `-registry=false`; else as [`is_locked`](Client::is_locked).
    pub async fn clients(&self, name: Option<&[u8]>) -> Result<Vec<NamedClient>, Error> {
        let name = name.map(check).transpose()?;
        let filter = || name.as_deref().map(Into::into);
        let (counted, plain) = (Command::CountedWho(filter()), Command::Who(filter()));
        let lines = self.list(&counted, &plain, Listing::Clients).await?;
        let read = |line: Vec<u8>| {
            let at = line.windows(2).position(|two| two == b": ");
            let (address, name) = at
                .and_then(|at| parts(&line, at))
                .ok_or(Lost::Unexpected(line.clone()))?;
            Ok(NamedClient { address, name })
        };
        lines.into_iter().map(read).collect()
    }

    /// The server's counters, by key.
    ///
    /// # Errors
    ///
    /// Whatever ends a connection.
    pub async fn statistics(&self) -> Result<Vec<(String, u64)>, Error> {
        let (counted, plain) = (Command::CountedStatistics, Command::Statistics);
        let lines = self.list(&counted, &plain, Listing::Statistics).await?;
        let read = |line: Vec<u8>| {
            let text = str::from_utf8(&line).ok();
            let parts = text.and_then(|text| text.split_once(": "));
            let counter =
                parts.and_then(|(key, value)| Some((key.to_owned(), value.parse().ok()?)));
            counter.ok_or_else(|| Lost::Unexpected(line).into())
        };
        lines.into_iter().map(read).collect()
    }

    /// Asks the server whether it is there: how long the answer took. (The original is asked whether some lock is
    /// held.)
    ///
    /// # Errors
    ///
    /// Whatever ends a connection.
    pub async fn ping(&self) -> Result<Duration, Error> {
        let lease = self.pool.lease(None, Use::Shared).await?;
        let started = Instant::now();
        let command = match lease.connection.features.ping {
            true => Command::Ping(b"glockd-client"[..].into()),
            false => Command::Inspect(b"glockd-client"[..].into()),
        };
        lease.connection.ask(&command, |_| Some(())).await?;
        Ok(started.elapsed())
    }

    /// A connection to ask this on.
    async fn lease(&self, command: &Command<'_>) -> Result<Lease, Error> {
        let how = self.pool.use_for(line(command).len());
        self.pool.lease(None, how).await
    }

    /// A connection for a listing. It may take long, and no heartbeat goes with it: so no lock may be held there.
    async fn lease_to_list(&self) -> Result<Lease, Error> {
        self.pool.lease(None, Use::Alone).await
    }

    async fn ask<T>(
        &self,
        command: &Command<'_>,
        read: impl FnOnce(Reply<'_>) -> Option<T>,
    ) -> Result<T, Error> {
        self.lease(command)
            .await?
            .connection
            .ask(command, read)
            .await
    }

    async fn list(
        &self,
        counted: &Command<'_>,
        plain: &Command<'_>,
        listing: Listing,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let lease = self.lease_to_list().await?;
        match lease.connection.features.list {
            true => lease.connection.counted(counted, Some(listing)).await,
            false => lease.connection.listed(plain).await,
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Client({})", self.endpoint())
    }
}

/// A lock that somebody holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldLock {
    /// Its name. Of a server without [`Features::lengths`] see [`Client::locks`].
    pub name: Vec<u8>,
    /// The name that its holder registered, or else where it comes from.
    pub holder: Vec<u8>,
}

/// Who holds a lock, or waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Of which kind the lock is.
    pub kind: LockKind,
    /// Whether it is waited for, rather than held.
    pub waits: bool,
    /// Where the connection comes from.
    pub address: Vec<u8>,
    /// For how long, give or take some milliseconds.
    pub since: Duration,
    /// The fencing token, of who holds it and where there is one.
    pub fence: Option<u64>,
    /// The name that it registered, or else the address again.
    pub name: Vec<u8>,
}

/// A connection that registered a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedClient {
    /// Where it comes from.
    pub address: Vec<u8>,
    /// The name.
    pub name: Vec<u8>,
}

/// A name as the server takes it.
pub(crate) fn check(name: &[u8]) -> Result<Vec<u8>, Error> {
    if name.contains(&b'\n') {
        return Err(Error::BadName(name.to_vec()));
    }
    Ok(fold(name).into_owned())
}

/// What stands before and behind the `: ` at this place.
fn parts(line: &[u8], at: usize) -> Option<(Vec<u8>, Vec<u8>)> {
    let (key, rest) = line.split_at_checked(at)?;
    Some((key.to_vec(), rest.strip_prefix(b": ")?.to_vec()))
}
