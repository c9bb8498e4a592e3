//! Questions about the locks, waiters and clients of the server, and its counters.

use std::time::{Duration, Instant};

use glockd_protocol::rows::{self, Listing, name_and_holder};
use glockd_protocol::{Command, LockKind, Reply, Verb};

use crate::client::Client;
use crate::error::{Error, Lost};
use crate::expected::Header;
use crate::features::Features;
use crate::key::fold_name;
use crate::lease::{Lease, Use};
use crate::request::line;

/// A held lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldLock {
    /// Name of the lock. For a server without [`Features::lengths`], see [`Client::locks`].
    pub name: Vec<u8>,
    /// Name that the holder registered, or its address if it registered none.
    pub holder: Vec<u8>,
}

/// A claim on a lock: a connection that holds it or waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Kind of the lock.
    pub kind: LockKind,
    /// True if the connection waits for the lock; false if it holds it.
    pub waits: bool,
    /// Address of the connection.
    pub address: Vec<u8>,
    /// Time since the grant, or since the wait began. Accurate to some milliseconds.
    pub since: Duration,
    /// Fencing token of a holder. `None` for a waiter, or if the server issues no tokens.
    pub fence: Option<u64>,
    /// Name that the connection registered, or its address if it registered none.
    pub name: Vec<u8>,
}

/// A connection that registered a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedClient {
    /// Address of the connection.
    pub address: Vec<u8>,
    /// Registered name.
    pub name: Vec<u8>,
}

/// All of these are cancel-safe: they change nothing on the server.
impl Client {
    /// Asks whether the exclusive lock of this name is held.
    ///
    /// # Errors
    ///
    /// - [`Error::BadName`] and [`Error::TooLong`] if the name is invalid.
    /// - [`Error::Lost`], [`Error::LocksLost`] and [`Error::Connect`] if there is no connection.
    pub async fn is_locked(&self, name: impl AsRef<[u8]>) -> Result<bool, Error> {
        let command = Command::Inspect(fold_name(name.as_ref())?.into());
        self.ask(&command, |reply| match reply {
            Reply::Inspect { locked, .. } => Some(locked),
            _ => None,
        })
        .await
    }

    /// Asks for the number of holders of the shared lock of this name.
    ///
    /// # Errors
    ///
    /// As [`is_locked`](Client::is_locked).
    pub async fn holders(&self, name: impl AsRef<[u8]>) -> Result<u32, Error> {
        let command = Command::SharedInspect(fold_name(name.as_ref())?.into());
        self.ask(&command, |reply| match reply {
            Reply::SharedInspect { holders, .. } => Some(holders),
            _ => None,
        })
        .await
    }

    /// Lists the held locks of this kind: all of them, sorted by name, or those of one name. A shared lock is listed
    /// once for each holder.
    ///
    /// A server without [`Features::lengths`] does not say where a name ends. If the name of a lock or of its holder
    /// contains `: `, this may then split the two in the wrong place, unless `name` is given.
    ///
    /// # Errors
    ///
    /// [`Error::Disabled`] if the server runs with `-dump=false`; otherwise as [`is_locked`](Client::is_locked).
    pub async fn locks(&self, kind: LockKind, name: Option<&[u8]>) -> Result<Vec<HeldLock>, Error> {
        let name = name.map(fold_name).transpose()?;
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
        let lease = self.lease_for_listing().await?;
        let connection = lease.connection();
        let has_lengths = connection.features.lengths;
        let header = Header::Listing(listing);
        let lines = match connection.features {
            Features { lengths: true, .. } => connection.counted(&with_lengths, header).await?,
            Features { list: true, .. } => connection.counted(&counted, header).await?,
            _ => connection.unmarked_listing(&plain).await?,
        };
        let read = |line: Vec<u8>| {
            let parts = match &name {
                _ if has_lengths => {
                    let parts = name_and_holder(&line);
                    parts.map(|(name, holder)| (name.to_vec(), holder.to_vec()))
                }
                Some(name) if !name.is_empty() => split_at_colon(&line, name.len()),
                // Both names may contain a colon. That of the lock is more likely to.
                _ => {
                    let at = line.windows(2).rposition(|two| two == b": ");
                    at.and_then(|at| split_at_colon(&line, at))
                }
            };
            let (name, holder) = parts.ok_or(Lost::Unexpected(line))?;
            Ok(HeldLock { name, holder })
        };
        lines.into_iter().map(read).collect()
    }

    /// Lists the claims on the locks of this name, exclusive and shared, in the order in which they were made. If there
    /// are more than some hundred, those that end while the server lists them are left out.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the server lacks [`Features::own`]; [`Error::Disabled`] if it runs with `-dump=false`;
    /// otherwise as [`is_locked`](Client::is_locked).
    pub async fn claims(&self, name: impl AsRef<[u8]>) -> Result<Vec<Claim>, Error> {
        let name = fold_name(name.as_ref())?;
        let command = Command::Claims(name.into());
        let lease = self.lease_for_listing().await?;
        if !lease.connection().features.own {
            return Err(Error::Unsupported(Verb::Own));
        }
        let lines = lease.connection().counted(&command, Header::Claims).await?;
        let read = |line: Vec<u8>| match rows::Claim::decode(&line) {
            Some(claim) => Ok(Claim {
                kind: claim.kind,
                waits: claim.waits,
                address: claim.address.to_vec(),
                since: Duration::from_millis(claim.ms),
                fence: Some(claim.token).filter(|&token| token > 0),
                name: claim.name.to_vec(),
            }),
            None => Err(Lost::Unexpected(line).into()),
        };
        let has_ended = |line: &Vec<u8>| rows::is_claim_gone(line);
        let lines = lines.into_iter().filter(|line| !has_ended(line));
        lines.map(read).collect()
    }

    /// Lists the connections that registered a name, or those that registered this name.
    ///
    /// # Errors
    ///
    /// [`Error::Disabled`] if the server runs with `-dump=false` or `-registry=false`; otherwise as
    /// [`is_locked`](Client::is_locked).
    pub async fn clients(&self, name: Option<&[u8]>) -> Result<Vec<NamedClient>, Error> {
        let name = name.map(fold_name).transpose()?;
        let filter = || name.as_deref().map(Into::into);
        let (counted, plain) = (Command::CountedWho(filter()), Command::Who(filter()));
        let lines = self.list(&counted, &plain, Listing::Clients).await?;
        let read = |line: Vec<u8>| {
            let at = line.windows(2).position(|two| two == b": ");
            let (address, name) = at
                .and_then(|at| split_at_colon(&line, at))
                .ok_or(Lost::Unexpected(line.clone()))?;
            Ok(NamedClient { address, name })
        };
        lines.into_iter().map(read).collect()
    }

    /// Reads the server's counters, each with its key.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`], [`Error::LocksLost`] and [`Error::Connect`] if there is no connection.
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

    /// Asks the server for a sign of life. Returns how long the answer took. (A server without [`Features::ping`] is
    /// asked whether some lock is held.)
    ///
    /// # Errors
    ///
    /// As [`statistics`](Client::statistics).
    pub async fn ping(&self) -> Result<Duration, Error> {
        let lease = self.pool().lease(None, Use::Shared).await?;
        let started = Instant::now();
        let command = match lease.connection().features.ping {
            true => Command::Ping(b"glockd-client"[..].into()),
            false => Command::Inspect(b"glockd-client"[..].into()),
        };
        lease.connection().ask(&command, |_| Some(())).await?;
        Ok(started.elapsed())
    }

    /// Leases a connection for a listing. It may take long, and no heartbeat runs meanwhile: so no lock may be held on
    /// that connection.
    async fn lease_for_listing(&self) -> Result<Lease, Error> {
        self.pool().lease(None, Use::Exclusive).await
    }

    async fn ask<T>(
        &self,
        command: &Command<'_>,
        read: impl FnOnce(Reply<'_>) -> Option<T>,
    ) -> Result<T, Error> {
        let how = self.pool().use_for(line(command).len());
        let lease = self.pool().lease(None, how).await?;
        lease.connection().ask(command, read).await
    }

    async fn list(
        &self,
        counted: &Command<'_>,
        plain: &Command<'_>,
        listing: Listing,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let lease = self.lease_for_listing().await?;
        let connection = lease.connection();
        match connection.features.list {
            true => connection.counted(counted, Header::Listing(listing)).await,
            false => connection.unmarked_listing(plain).await,
        }
    }
}

/// Splits a line before and after the `: ` at `at`. Returns `None` if it is not there.
fn split_at_colon(line: &[u8], at: usize) -> Option<(Vec<u8>, Vec<u8>)> {
    let (before, rest) = line.split_at_checked(at)?;
    Some((before.to_vec(), rest.strip_prefix(b": ")?.to_vec()))
}
