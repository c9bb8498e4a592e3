//! The pool of connections: opens them as needed, and leases them.
//!
//! A connection is reused once its lease has ended; only a few idle ones are kept.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::connection::{Connection, Hello};
use crate::endpoint::Endpoint;
use crate::error::{Error, Lost};
use crate::features::Features;
use crate::heartbeat;
use crate::key::LockKey;
use crate::lease::{Connections, Lease, PooledConnection, Use};
use crate::wire::Wire;

/// Length of a command, in bytes, from which a server may refuse it as too long. Over a WebSocket it then closes the
/// connection.
const LONG_COMMAND: usize = 4096;

/// The settings of a client.
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
    connections: Arc<Mutex<Connections>>,
}

impl Pool {
    /// Opens the first connection. Cancel-safe.
    pub(crate) async fn connect(endpoint: Endpoint, options: Options) -> Result<Pool, Error> {
        let pool = Pool {
            endpoint,
            options,
            connections: Arc::default(),
        };
        let first = pool.open().await?;
        pool.connections().add(first);
        Ok(pool)
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Returns the time from the report of a loss until the server may grant the lock to another client. `None` if the
    /// server does not disconnect silent clients.
    pub(crate) fn time_to_stop(&self) -> Option<Duration> {
        let peer_timeout = self.features().peer_timeout?;
        Some(heartbeat::time_to_stop(
            peer_timeout,
            self.options.reply_timeout,
        ))
    }

    pub(crate) fn features(&self) -> Features {
        self.connections().features()
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how a command of this length, in bytes, must use its connection: if the server may close the
    /// connection because of the command, no other lease may hold a lock on it.
    pub(crate) fn use_for(&self, length: usize) -> Use {
        match &self.endpoint {
            Endpoint::WebSocket { .. } if length > LONG_COMMAND => Use::Exclusive,
            _ => Use::Shared,
        }
    }

    /// Leases a connection on which the lock `key` is neither held nor asked for. Opens one if there is none.
    pub(crate) async fn lease(&self, key: Option<&LockKey>, how: Use) -> Result<Lease, Error> {
        {
            let mut connections = self.connections();
            self.check(&mut connections, key)?;
            let leased = connections
                .iter()
                .find_map(|connection| self.try_lease(connection, key, how));
            if let Some(lease) = leased {
                return Ok(lease);
            }
            self.check_for_reconnect(&connections)?;
        }
        let connection = self.open().await?;
        let mut connections = self.connections();
        // All connections may have been lost meanwhile.
        self.check(&mut connections, key)?;
        self.check_for_reconnect(&connections)?;
        let lease = self.try_lease(&connection, key, how);
        connections.add(connection);
        drop(connections);
        lease.ok_or(Error::Lost(Lost::Closed))
    }

    /// Opens a connection if none is open.
    pub(crate) async fn reconnect(&self) -> Result<(), Error> {
        {
            let mut connections = self.connections();
            connections.tidy();
            if connections.has_open() {
                return Ok(());
            }
            connections.check_for_reconnect()?;
        }
        let connection = self.open().await?;
        let mut connections = self.connections();
        connections.tidy();
        connections.check_for_reconnect()?;
        connections.add(connection);
        Ok(())
    }

    /// Fails if the lock `key` was lost and its guard is still alive.
    fn check(&self, connections: &mut Connections, key: Option<&LockKey>) -> Result<(), Error> {
        connections.tidy();
        match key {
            Some(key) => connections.check_for_loss(key),
            None => Ok(()),
        }
    }

    /// Fails if all connections are lost and this client must not open another one.
    fn check_for_reconnect(&self, connections: &Connections) -> Result<(), Error> {
        connections.check_for_reconnect()?;
        match connections.loss() {
            Some(lost) if !self.options.reconnects => Err(Error::Lost(lost)),
            _ => Ok(()),
        }
    }

    async fn open(&self) -> Result<Arc<PooledConnection>, Error> {
        let failed = |source| Error::Connect {
            endpoint: self.endpoint.clone(),
            source,
        };
        let hello = {
            let connections = self.connections();
            match connections.has_open() && connections.features().is_empty() {
                true => Hello::Skip,
                false => Hello::Ask,
            }
        };
        let name = self.options.name.as_deref();
        let limit = self.options.connect_timeout;
        let started = Instant::now();
        let wire = match timeout(limit, Wire::connect(&self.endpoint)).await {
            Ok(connected) => connected.map_err(failed)?,
            Err(_) => return Err(failed(std::io::ErrorKind::TimedOut.into())),
        };
        let opened = Connection::open(wire, name, self.options.reply_timeout, hello);
        match timeout(limit.saturating_sub(started.elapsed()), opened).await {
            Ok(connection) => Ok(Arc::new(PooledConnection::new(connection?))),
            Err(_) => Err(Lost::Silent(limit).into()),
        }
    }

    fn try_lease(
        &self,
        connection: &Arc<PooledConnection>,
        key: Option<&LockKey>,
        how: Use,
    ) -> Option<Lease> {
        Lease::try_new(&self.connections, connection, key, how)
    }
}

#[cfg(test)]
mod tests;
