//! A server: its transports, its state, and its life from the first accept to the last goodbye.
//!
//! ```text
//!     handle   drain                         what an embedder asks of a server
//!        |
//!    lifecycle                               the phases of its life
//!
//!     accept  <- admission                   one loop for each transport; limits on connections
//!        |
//!   connection                               one task for each connection
//!        |
//!     context  <- tasks                      what the connections share; their tasks, to be aborted
//!        |
//!  ended_connection -> reaper                what is left to do when one has ended
//!
//!  fence_file   log_text   log_throttle      beside it
//! ```

mod accept;
mod admission;
mod connection;
mod context;
mod drain;
mod ended_connection;
mod fence_file;
mod handle;
mod lifecycle;
mod log_text;
mod log_throttle;
mod reaper;
mod tasks;

use std::future::{pending, poll_fn};
use std::sync::Arc;

use glockd_transports::{Address, BindError, Limits, Listener, Transport};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, yield_now};
use tracing::{error, info};

use crate::core::dispatcher::{self, Dispatcher};
use crate::core::fence::Fence;
use crate::core::observer::{Events, Observer};
use crate::core::policy::Policy;
use crate::server::accept::accept_connections;
use crate::server::admission::Capacity;
use crate::server::context::Context;
use crate::server::ended_connection::EndedConnection;
use crate::server::lifecycle::{Lifecycle, Phase};

pub use fence_file::{FenceError, FenceFile};
pub use handle::{ConnectionInfo, Handle};
pub use lifecycle::StopReason;

/// A server that listens, and serves its clients once it [runs](Server::run).
///
/// It owns all of its state: two servers in one process do not see each other's locks.
#[must_use = "a server answers no client unless it is run"]
pub struct Server {
    transports: Vec<(String, Listener)>,
    dispatcher: Arc<Dispatcher>,
    fence_file: Option<FenceFile>,
    lifecycle: Arc<Lifecycle>,
    // Dropped in this order if the server never runs: it stops, and then it has ended.
    end: EndOnDrop,
    ended: EndedConnections,
}

/// The configuration of a [`Server`]. Made by [`Server::builder`].
#[derive(Default)]
#[must_use = "a builder does nothing unless it is bound"]
pub struct Builder {
    policy: Policy,
    fence_file: Option<FenceFile>,
    limits: Limits,
    capacity: Capacity,
    events: Events,
    transports: Vec<Box<dyn Transport>>,
}

impl Builder {
    /// Adds a transport. A server can have any number of transports, of any kinds.
    pub fn transport(self, transport: impl Transport + 'static) -> Builder {
        self.boxed_transport(Box::new(transport))
    }

    /// Adds a transport whose type is known only when the program runs.
    pub fn boxed_transport(mut self, transport: Box<dyn Transport>) -> Builder {
        self.transports.push(transport);
        self
    }

    /// Sets which commands are allowed and how many locks may be held. The default allows all commands and an
    /// unlimited number of locks.
    pub fn policy(self, policy: Policy) -> Builder {
        Builder { policy, ..self }
    }

    /// Sets the file that keeps fencing tokens growing across restarts. By default they start at the time of day.
    pub fn fence_file(mut self, fence_file: FenceFile) -> Builder {
        self.fence_file = Some(fence_file);
        self
    }

    /// Sets the longest line, and the time limits for peers.
    pub fn limits(self, limits: Limits) -> Builder {
        // The field may have been set to any value, and what is added to it must not overflow.
        let limits = limits.with_max_line(limits.max_line);
        Builder { limits, ..self }
    }

    /// Sets the observer of the server's events. By default there is none, which costs nothing.
    ///
    /// See [`Observer`] for the order of events and for what a slow observer costs.
    pub fn observer(mut self, observer: impl Observer + 'static) -> Builder {
        self.events = Events::to(Box::new(observer));
        self
    }

    /// Sets the maximum number of connections; `None`, the default, means unlimited. A connection beyond it is
    /// [refused](glockd_transports::Pending::refuse) at once, and counted.
    ///
    /// Each connection takes a descriptor. Keep the maximum somewhat below the number of descriptors that the process
    /// may have. Without a free descriptor a connection cannot even be refused: it stays in the kernel's queue until
    /// another one ends.
    pub fn max_connections(mut self, max: Option<usize>) -> Builder {
        self.capacity.in_all = max;
        self
    }

    /// Sets the maximum number of connections from one [IP address](glockd_transports::Peer::ip); `None`, the default,
    /// means unlimited.
    pub fn max_connections_per_ip(mut self, max: Option<usize>) -> Builder {
        self.capacity.per_ip = max;
        self
    }

    /// Makes the server's state, and starts to listen on all transports. From then on clients can connect, but they are
    /// answered only once the server [runs](Server::run). Must be called from within a tokio runtime.
    ///
    /// Cancel-safe: if the future is dropped before it completes, nothing listens.
    ///
    /// # Errors
    ///
    /// The first [`BindError`] of a transport. Then the other transports do not listen either.
    pub async fn bind(self) -> Result<Server, BindError> {
        let mut transports = Vec::with_capacity(self.transports.len());
        for transport in self.transports {
            let name = transport.name().to_owned();
            transports.push((name, transport.listen(self.limits).await?));
        }
        for (name, listener) in &transports {
            info!("listening on {name} {}", listener.address);
        }
        let fence_file = self.fence_file;
        let fence = fence_file
            .as_ref()
            .map_or_else(Fence::from_clock, FenceFile::fence);
        let dispatcher = Arc::new(Dispatcher::new(dispatcher::Options {
            policy: self.policy,
            fence,
            peer_timeout: self.limits.peer_timeout(),
            events: self.events,
        }));
        let (sender, queue) = mpsc::unbounded_channel();
        let context = Context::new(Arc::clone(&dispatcher), self.limits, self.capacity, sender);
        let lifecycle = Arc::new(Lifecycle::new());
        Ok(Server {
            transports,
            dispatcher,
            fence_file,
            end: EndOnDrop {
                context: Arc::new(context),
                lifecycle: Arc::clone(&lifecycle),
            },
            ended: EndedConnections {
                queue,
                _ended: EndedOnDrop(Arc::clone(&lifecycle)),
            },
            lifecycle,
        })
    }
}

impl Server {
    /// Returns the builder of a server, with no transport yet.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Returns the addresses of the transports, in the order in which they were added. A port that was given as 0 is
    /// the port that was chosen.
    pub fn addresses(&self) -> Vec<Address> {
        let address = |(_, listener): &(String, Listener)| listener.address.clone();
        self.transports.iter().map(address).collect()
    }

    /// Returns a handle, which outlives the call of [`run`](Server::run).
    pub fn handle(&self) -> Handle {
        Handle::new(
            Arc::clone(&self.dispatcher),
            Arc::clone(self.end.context.tasks()),
            Arc::clone(&self.lifecycle),
        )
    }

    /// Runs the server until `shutdown` completes or a [`Handle`] ends the server. Then the server accepts no more
    /// connections, ends those that it has, frees all locks, says goodbye to WebSocket peers, which takes at most two
    /// seconds, and returns why it ended.
    ///
    /// A transport that fails or ends does not end the server, which goes on with its other transports, or without any.
    ///
    /// Dropping the future ends the server, too. Its connections end soon after, in the background.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> StopReason {
        let Server {
            transports,
            dispatcher,
            fence_file,
            lifecycle,
            end,
            ended,
        } = self;
        lifecycle.advance(Phase::Running);
        let mut background = JoinSet::new();
        background.spawn(serve_waiters(Arc::clone(&dispatcher)));
        if let Some(file) = fence_file {
            background.spawn(keep_fence(file, Arc::clone(&dispatcher)));
        }
        let reaper = tokio::spawn(reap(dispatcher, ended));
        let mut accepting = JoinSet::new();
        // A handle may have ended the server before it ran.
        if lifecycle.phase() == Phase::Running {
            for (name, listener) in transports {
                let context = Arc::clone(&end.context);
                accepting.spawn(accept_connections(name, listener.incoming, context));
            }
        }

        let ended_by_handle = async {
            tokio::select! {
                _ = lifecycle.reached(Phase::Closing) => {}
                () = report_failures(&mut accepting) => {}
            }
            accepting.shutdown().await;
            lifecycle.advance(Phase::Draining);
            lifecycle.stopped().await
        };
        let reason = tokio::select! {
            () = shutdown => StopReason::Shutdown,
            reason = ended_by_handle => reason,
        };
        accepting.shutdown().await;
        drop(end);
        if let Err(error) = reaper.await {
            error!(%error, "the reaper failed");
        }
        reason
    }
}

/// Grants locks to waiters where a release had more to grant than it could do at once. Never ends.
async fn serve_waiters(dispatcher: Arc<Dispatcher>) {
    let locks = dispatcher.locks();
    loop {
        poll_fn(|context| locks.poll_due_waiters(context)).await;
        locks.serve_due_waiters();
        yield_now().await;
    }
}

/// Keeps the fencing tokens of this run below those of the next. Never ends.
async fn keep_fence(file: FenceFile, dispatcher: Arc<Dispatcher>) {
    file.keep(&dispatcher.state().fence).await;
}

/// Connections that have ended, as the reaper gets them. They end with the server.
struct EndedConnections {
    queue: mpsc::UnboundedReceiver<EndedConnection>,
    _ended: EndedOnDrop,
}

/// Releases the locks of ended connections, until none are left and the server has ended.
async fn reap(dispatcher: Arc<Dispatcher>, ended: EndedConnections) {
    reaper::reap(dispatcher, ended.queue).await;
}

/// Ends all connections of a server when it stops, for whatever reason.
struct EndOnDrop {
    context: Arc<Context>,
    lifecycle: Arc<Lifecycle>,
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.lifecycle.advance(Phase::Stopping);
        self.context.end_connections();
    }
}

/// Marks the end of a server, once its last connection has ended.
struct EndedOnDrop(Arc<Lifecycle>);

impl Drop for EndedOnDrop {
    fn drop(&mut self) {
        self.0.advance(Phase::Ended);
    }
}

/// Logs transports that fail. Never ends: the server goes on with its other transports, or without.
async fn report_failures(accepting: &mut JoinSet<()>) {
    while let Some(ended) = accepting.join_next().await {
        if let Err(error) = ended {
            error!(%error, "a transport failed: it accepts no more connections");
        }
    }
    pending().await
}
