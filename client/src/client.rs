//! The client and its settings.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use glockd_protocol::LockKind;

use crate::endpoint::{Endpoint, EndpointError};
use crate::error::Error;
use crate::features::Features;
use crate::key::fold_name;
use crate::lock::LockRequest;
use crate::pool::{Options, Pool};

/// A client of one server. Clones share its connections, and any number of tasks can use it: two of them never hold the
/// same exclusive lock, because a lock belongs to a connection, and each guard of a name has a connection to itself.
///
/// Connections are opened as needed: one for each guard of the same name, and one for each wait. They are closed when
/// the last client and the last guard that use them are dropped. A client must be used within the tokio runtime on
/// which it was connected.
#[derive(Clone)]
pub struct Client {
    pool: Arc<Pool>,
}

/// The settings of a [`Client`], from [`Client::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing unless it connects"]
pub struct Builder {
    endpoint: Result<Endpoint, EndpointError>,
    options: Options,
}

impl Builder {
    /// Registers a name for each connection (`iam`), which the server shows to people who list its locks. White space
    /// in the name is folded. The client ignores it if the server does not accept names (`-registry=false`).
    pub fn name(mut self, name: impl AsRef<[u8]>) -> Builder {
        self.options.name = Some(name.as_ref().to_vec());
        self
    }

    /// Sets whether the client reconnects when it is used after all its connections were lost. By default, it does not.
    /// It never reconnects while guards of lost locks are alive: see [`Error::LocksLost`].
    pub fn reconnect(mut self, reconnects: bool) -> Builder {
        self.options.reconnects = reconnects;
        self
    }

    /// Sets the maximum time to connect, including handshakes. The default is 10 seconds.
    pub fn connect_timeout(mut self, timeout: Duration) -> Builder {
        self.options.connect_timeout = timeout;
        self
    }

    /// Sets the maximum time for which the server may owe a reply and send nothing. The default is 30 seconds. After
    /// that, the connection is [lost](crate::Lost::Silent), and so are its locks. During a wait for a lock, the server
    /// owes the replies to pings, which the client sends at this interval.
    ///
    /// Over TCP and WebSocket the client also sends pings when the server owes nothing. The connection is then lost
    /// once the last answered request is half of the server's peer timeout old (15 seconds with default flags), or this
    /// time if that is shorter; but never in less than 3 seconds. See [`Client::time_to_stop`].
    pub fn reply_timeout(mut self, timeout: Duration) -> Builder {
        self.options.reply_timeout = timeout;
        self
    }

    /// Connects to the server. Cancel-safe: if the future is dropped, the connection is closed.
    ///
    /// # Errors
    ///
    /// - [`Error::Endpoint`] if the address is invalid, and [`Error::BadName`] if the name is.
    /// - [`Error::Connect`] if the server cannot be reached.
    /// - [`Error::Lost`] if the server closes the connection, or is not glockd.
    pub async fn connect(self) -> Result<Client, Error> {
        if let Some(name) = &self.options.name {
            fold_name(name)?;
        }
        let pool = Pool::connect(self.endpoint?, self.options).await?;
        Ok(Client {
            pool: Arc::new(pool),
        })
    }
}

impl Client {
    /// Connects to a server: `tcp://HOST[:PORT]`, `unix:PATH` or `ws://HOST[:PORT]/`. See [`Endpoint`].
    ///
    /// The first connection asks for the server's [features](Client::features). The original does not answer that, so
    /// that connecting to it takes a second longer. Cancel-safe.
    ///
    /// # Errors
    ///
    /// As [`Builder::connect`].
    pub async fn connect(endpoint: &str) -> Result<Client, Error> {
        Client::builder(endpoint).connect().await
    }

    /// Returns the default settings for a client of this server. An invalid address is reported by
    /// [`Builder::connect`].
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

    /// Returns the address of the server.
    pub fn endpoint(&self) -> &Endpoint {
        self.pool.endpoint()
    }

    /// Returns what the server offers beyond the original.
    pub fn features(&self) -> Features {
        self.pool.features()
    }

    /// Returns the time that is left to stop work when [`LockGuard::lost`](crate::LockGuard::lost) reports that the
    /// network has failed. The server does not grant the lock to another client before that time is over, with a margin
    /// of two seconds. With default flags of the server, it is 12 seconds.
    ///
    /// `None` if there is no such time: over a Unix socket; if the server does not disconnect silent clients
    /// (`-keepalive 0 -write-timeout 0`); or if it does not say, as the original.
    pub fn time_to_stop(&self) -> Option<Duration> {
        match self.endpoint() {
            Endpoint::Unix(_) => None,
            _ => self.pool.time_to_stop(),
        }
    }

    /// Returns a request for the exclusive lock of this name.
    pub fn lock(&self, name: impl AsRef<[u8]>) -> LockRequest {
        LockRequest::new(Arc::clone(&self.pool), LockKind::Exclusive, name.as_ref())
    }

    /// Returns a request for the shared lock of this name. It is independent of the exclusive lock of the same name.
    pub fn shared(&self, name: impl AsRef<[u8]>) -> LockRequest {
        LockRequest::new(Arc::clone(&self.pool), LockKind::Shared, name.as_ref())
    }

    /// Reconnects if all connections are lost. Does nothing otherwise. Cancel-safe.
    ///
    /// # Errors
    ///
    /// As [`Builder::connect`]; and [`Error::LocksLost`] while guards of lost locks are alive.
    pub async fn reconnect(&self) -> Result<(), Error> {
        self.pool.reconnect().await
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Client({})", self.endpoint())
    }
}
