//! The connections of a client, and who uses which.
//!
//! A get of a lock that the same connection holds succeeds: so there is at most one guard of a kind and name on a
//! connection, from before it is asked for until after its release was sent. Who waits makes all others on the
//! connection wait, too, and can only stop by closing it: so a wait takes one that nobody uses. A connection that
//! was used is used again; of those that nobody uses, few are kept.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::connection::{Connection, Key, Usage};
use crate::wire::Wire;
use crate::{Endpoint, Error, Features, Lost, heartbeat};

/// How many connections are kept that nobody uses.
const IDLE: usize = 2;

/// What a server may take for too long, in bytes. Over a WebSocket it then hangs up.
const LONG: usize = 4096;

/// What a client was told at the start.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) reconnects: bool,
    pub(crate) connect_timeout: Duration,
    pub(crate) reply_timeout: Duration,
}

pub(crate) struct Pool {
    endpoint: Endpoint,
    options: Options,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Those that live, and those through which somebody still believes to hold a lock.
    connections: Vec<Arc<Connection>>,
    /// What the server could do when it was last asked.
    features: Features,
    /// Why all were lost, if that is why none lives.
    lost: Option<Lost>,
}

/// The use of a connection. Ends when dropped.
pub(crate) struct Lease {
    pub(crate) connection: Arc<Connection>,
    pub(crate) key: Option<Key>,
    has_taken: bool,
    pool: Weak<Pool>,
}

/// How a connection is to be used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// With others.
    Shared,
    /// Alone, until [`Lease::share`].
    Alone,
}

impl Pool {
    /// A pool with its first connection.
    pub(crate) async fn connect(endpoint: Endpoint, options: Options) -> Result<Arc<Pool>, Error> {
        let pool = Arc::new(Pool {
            endpoint,
            options,
            state: Mutex::default(),
        });
        let first = pool.open().await?;
        pool.state().add(first);
        Ok(pool)
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Time that is left to stop working when a lock is reported lost, if the server gives silent clients up.
    pub(crate) fn time_to_stop(&self) -> Option<Duration> {
        let peer_timeout = self.features().peer_timeout?;
        Some(heartbeat::time_to_stop(
            peer_timeout,
            self.options.reply_timeout,
        ))
    }

    pub(crate) fn features(&self) -> Features {
        self.state().features
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How a connection is to be used for a line of this length: on one that ends with it, nobody else may have a lock.
    pub(crate) fn use_for(&self, length: usize) -> Use {
        match &self.endpoint {
            Endpoint::WebSocket { .. } if length > LONG => Use::Alone,
            _ => Use::Shared,
        }
    }

    /// A connection on which `key`, if there is one, is neither held nor asked for.
    pub(crate) async fn lease(
        self: &Arc<Self>,
        key: Option<&Key>,
        how: Use,
    ) -> Result<Lease, Error> {
        {
            let mut state = self.state();
            state.tidy();
            state.check_for_loss(key)?;
            let mut connections = state.connections.iter();
            if let Some(lease) =
                connections.find_map(|connection| self.try_lease(connection, key, how))
            {
                return Ok(lease);
            }
            state.check_for_reconnect(self.options.reconnects)?;
        }
        let connection = self.open().await?;
        let mut state = self.state();
        // Meanwhile all may have been lost.
        state.tidy();
        state.check_for_loss(key)?;
        state.check_for_reconnect(self.options.reconnects)?;
        let lease = self.try_lease(&connection, key, how);
        state.add(connection);
        drop(state);
        lease.ok_or(Error::Lost(Lost::Closed))
    }

    /// Connects anew if no connection lives.
    pub(crate) async fn reconnect(&self) -> Result<(), Error> {
        {
            let mut state = self.state();
            state.tidy();
            if state.lives() {
                return Ok(());
            }
            state.check_for_reconnect(true)?;
        }
        let connection = self.open().await?;
        let mut state = self.state();
        state.tidy();
        state.check_for_reconnect(true)?;
        state.add(connection);
        Ok(())
    }

    async fn open(&self) -> Result<Arc<Connection>, Error> {
        let failed = |source| Error::Connect {
            endpoint: self.endpoint.clone(),
            source,
        };
        // The original is silent when it is asked what it can do, so it is asked once.
        let is_plain = {
            let state = self.state();
            state.lives() && state.features == Features::default()
        };
        let name = self.options.name.as_deref();
        let patience = self.options.connect_timeout;
        let started = Instant::now();
        let wire = match timeout(patience, Wire::connect(&self.endpoint)).await {
            Ok(connected) => connected.map_err(failed)?,
            Err(_) => return Err(failed(std::io::ErrorKind::TimedOut.into())),
        };
        let opened = Connection::open(wire, name, self.options.reply_timeout, is_plain);
        match timeout(patience.saturating_sub(started.elapsed()), opened).await {
            Ok(connection) => Ok(Arc::new(connection?)),
            Err(_) => Err(Lost::Silent(patience).into()),
        }
    }

    fn try_lease(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        key: Option<&Key>,
        how: Use,
    ) -> Option<Lease> {
        if connection.lost().is_some() {
            return None;
        }
        let mut usage = connection.usage();
        let is_used = key.is_some_and(|key| usage.keys.contains_key(key));
        if usage.is_taken
            || usage.is_abandoned
            || is_used
            || (how == Use::Alone && usage.leases > 0)
        {
            return None;
        }
        usage.leases += 1;
        usage.is_taken = how == Use::Alone;
        usage.keys.extend(key.map(|key| (key.clone(), false)));
        Some(Lease {
            connection: Arc::clone(connection),
            key: key.cloned(),
            has_taken: how == Use::Alone,
            pool: Arc::downgrade(self),
        })
    }
}

impl State {
    fn add(&mut self, connection: Arc<Connection>) {
        self.features = connection.features;
        self.connections.push(connection);
    }

    fn lives(&self) -> bool {
        self.connections
            .iter()
            .any(|connection| connection.lost().is_none())
    }

    /// Forgets what is lost, if nobody believes to hold a lock through it, and closes what nobody will miss.
    fn tidy(&mut self) {
        let (mut idle, mut lost) = (0, None);
        self.connections.retain(|connection| {
            let Usage {
                leases,
                is_abandoned,
                ..
            } = *connection.usage();
            if is_abandoned {
                return leases > 0;
            }
            if connection.lost().is_none() {
                idle += usize::from(leases == 0);
                return leases > 0 || idle <= IDLE;
            }
            lost = connection.was_lost().or(lost.take());
            leases > 0
        });
        self.lost = match self.lives() {
            true => None,
            false => lost.or(self.lost.take()),
        };
    }

    /// Whether somebody still believes to hold this lock, through a connection that is lost.
    fn check_for_loss(&self, key: Option<&Key>) -> Result<(), Error> {
        let believed = |connection: &Arc<Connection>| {
            let lost = connection.was_lost()?;
            connection.usage().holds(Some(key?)).then_some(lost)
        };
        match self.connections.iter().find_map(believed) {
            Some(lost) => Err(Error::LocksLost(lost)),
            None => Ok(()),
        }
    }

    /// Whether there may be a new connection: if all are lost, only if that was asked for, and nobody believes to
    /// hold a lock.
    fn check_for_reconnect(&self, reconnects: bool) -> Result<(), Error> {
        let Some(lost) = self.lost.clone().filter(|_| !self.lives()) else {
            return Ok(());
        };
        let believed = |connection: &Arc<Connection>| {
            connection.was_lost().is_some() && connection.usage().holds(None)
        };
        if self.connections.iter().any(believed) {
            return Err(Error::LocksLost(lost));
        }
        match reconnects {
            true => Ok(()),
            false => Err(Error::Lost(lost)),
        }
    }
}

impl Lease {
    /// The lock that this is for was given.
    pub(crate) fn mark_held(&self) {
        if let Some(key) = &self.key {
            self.connection.usage().keys.insert(key.clone(), true);
        }
    }

    /// Whether nobody else uses the connection.
    pub(crate) fn is_alone(&self) -> bool {
        self.has_taken
    }

    /// Lets others use the connection, too.
    pub(crate) fn share(&mut self) {
        if std::mem::take(&mut self.has_taken) {
            self.connection.usage().is_taken = false;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.share();
        {
            let mut usage = self.connection.usage();
            usage.leases -= 1;
            if let Some(key) = &self.key {
                usage.keys.remove(key);
            }
        }
        if let Some(pool) = self.pool.upgrade() {
            pool.state().tidy();
        }
    }
}

#[cfg(test)]
mod tests;
