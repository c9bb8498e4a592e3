//! The open connections of a client, and the leases on them.
//!
//! A get of a lock that the same connection already holds succeeds. So a connection has at most one guard of each kind
//! and name, from before the get is sent until after the release is sent. A wait delays every other command on its
//! connection, and can only be ended by closing the connection. So a wait has a connection to itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::connection::Connection;
use crate::error::{Error, Lost};
use crate::features::Features;
use crate::key::LockKey;

/// Maximum number of open connections without a lease.
pub(crate) const MAX_IDLE: usize = 2;

/// A connection and its use.
pub(crate) struct PooledConnection {
    connection: Connection,
    usage: Mutex<Usage>,
}

/// The use of a connection.
#[derive(Default)]
struct Usage {
    /// Number of leases.
    leases: usize,
    /// Whether one lease has the connection to itself.
    is_exclusive: bool,
    /// Whether this client is about to close the connection.
    is_abandoned: bool,
    /// Locks that are asked for or held through the connection.
    keys: HashMap<LockKey, KeyState>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum KeyState {
    Requested,
    Held,
}

impl Usage {
    fn holds(&self, key: &LockKey) -> bool {
        self.keys.get(key) == Some(&KeyState::Held)
    }

    fn holds_any(&self) -> bool {
        self.keys.values().any(|state| *state == KeyState::Held)
    }
}

impl PooledConnection {
    pub(crate) fn new(connection: Connection) -> PooledConnection {
        PooledConnection {
            connection,
            usage: Mutex::default(),
        }
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the connection, and so frees each lock that it holds. It is not leased any more from now on.
    pub(crate) fn abandon(&self) {
        self.usage().is_abandoned = true;
        self.connection.close();
    }
}

impl std::ops::Deref for PooledConnection {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

/// How a lease uses its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Together with other leases.
    Shared,
    /// Alone, until [`Lease::share`].
    Exclusive,
}

/// The connections of a client.
#[derive(Default)]
pub(crate) struct Connections {
    /// Open connections, and lost ones with locks whose guards are still alive.
    connections: Vec<Arc<PooledConnection>>,
    /// Features of the server when a connection was last opened.
    features: Features,
    /// The reason why the connections were lost, if none is open.
    lost: Option<Lost>,
}

impl Connections {
    pub(crate) fn add(&mut self, connection: Arc<PooledConnection>) {
        self.features = connection.features;
        self.connections.push(connection);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<PooledConnection>> {
        self.connections.iter()
    }

    pub(crate) fn features(&self) -> Features {
        self.features
    }

    /// Returns true if a connection is open.
    pub(crate) fn has_open(&self) -> bool {
        self.iter().any(|connection| connection.lost().is_none())
    }

    /// Forgets lost connections without guards, and closes idle ones beyond [`MAX_IDLE`].
    pub(crate) fn tidy(&mut self) {
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
                return leases > 0 || idle <= MAX_IDLE;
            }
            lost = connection.lost_unexpectedly().or(lost.take());
            leases > 0
        });
        self.lost = match self.has_open() {
            true => None,
            false => lost.or(self.lost.take()),
        };
    }

    /// Fails if a guard of this lock is still alive although its connection is lost.
    ///
    /// # Errors
    ///
    /// [`Error::LocksLost`].
    pub(crate) fn check_for_loss(&self, key: &LockKey) -> Result<(), Error> {
        let loss = |connection: &Arc<PooledConnection>| {
            let lost = connection.lost_unexpectedly()?;
            connection.usage().holds(key).then_some(lost)
        };
        match self.iter().find_map(loss) {
            Some(lost) => Err(Error::LocksLost(lost)),
            None => Ok(()),
        }
    }

    /// Fails if all connections are lost and guards of their locks are still alive.
    ///
    /// # Errors
    ///
    /// [`Error::LocksLost`].
    pub(crate) fn check_for_reconnect(&self) -> Result<(), Error> {
        let Some(lost) = self.loss() else {
            return Ok(());
        };
        let has_guards = |connection: &Arc<PooledConnection>| {
            connection.lost_unexpectedly().is_some() && connection.usage().holds_any()
        };
        match self.iter().any(has_guards) {
            true => Err(Error::LocksLost(lost)),
            false => Ok(()),
        }
    }

    /// Returns why all connections are lost, or `None` if one is open.
    pub(crate) fn loss(&self) -> Option<Lost> {
        self.lost.clone().filter(|_| !self.has_open())
    }
}

/// The right to use a connection. Ends when dropped.
pub(crate) struct Lease {
    connection: Arc<PooledConnection>,
    key: Option<LockKey>,
    is_exclusive: bool,
    connections: Weak<Mutex<Connections>>,
}

impl Lease {
    /// Leases a connection. Returns `None` if it is lost, if another lease has it or would have to share it, or if
    /// `key` is already asked for or held through it.
    pub(crate) fn try_new(
        connections: &Arc<Mutex<Connections>>,
        connection: &Arc<PooledConnection>,
        key: Option<&LockKey>,
        how: Use,
    ) -> Option<Lease> {
        if connection.lost().is_some() {
            return None;
        }
        let is_exclusive = how == Use::Exclusive;
        let mut usage = connection.usage();
        let has_key = key.is_some_and(|key| usage.keys.contains_key(key));
        if usage.is_exclusive || usage.is_abandoned || has_key || (is_exclusive && usage.leases > 0)
        {
            return None;
        }
        usage.leases += 1;
        usage.is_exclusive = is_exclusive;
        usage
            .keys
            .extend(key.map(|key| (key.clone(), KeyState::Requested)));
        Some(Lease {
            connection: Arc::clone(connection),
            key: key.cloned(),
            is_exclusive,
            connections: Arc::downgrade(connections),
        })
    }

    pub(crate) fn connection(&self) -> &Arc<PooledConnection> {
        &self.connection
    }

    /// Records that the lock of this lease was granted.
    pub(crate) fn mark_held(&self) {
        if let Some(key) = &self.key {
            let mut usage = self.connection.usage();
            usage.keys.insert(key.clone(), KeyState::Held);
        }
    }

    /// Returns true if no other lease uses the connection.
    pub(crate) fn is_exclusive(&self) -> bool {
        self.is_exclusive
    }

    /// Lets other leases use the connection as well.
    pub(crate) fn share(&mut self) {
        if std::mem::take(&mut self.is_exclusive) {
            self.connection.usage().is_exclusive = false;
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
        if let Some(connections) = self.connections.upgrade() {
            let mut connections = connections.lock().unwrap_or_else(PoisonError::into_inner);
            connections.tidy();
        }
    }
}
