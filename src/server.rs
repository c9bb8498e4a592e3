//! A server: its transports, its state, and its life from the first accept to the last goodbye.

mod admission;
mod connection;
mod context;
mod ended_connection;
mod log_text;
mod log_throttle;
mod reaper;
mod tasks;

use std::future::poll_fn;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use glockd_transports::{
    Address, BindError, Incoming, Limits, Listening, Peer, Pending, Session, Transport,
};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;
use tracing::{debug, error, info, warn};

use crate::core::dispatcher::{self, Dispatcher};
use crate::core::fence::Fence;
use crate::core::policy::Policy;
use crate::server::admission::{Admitted, Capacity, Permit};
use crate::server::connection::Connection;
use crate::server::context::Context;
use crate::server::log_throttle::LogThrottle;

/// How long a transport rests after it could not accept: what it lacks (descriptors, memory) comes back
/// only when others end, and asking all the time would burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A server that listens, and [runs](Server::run) when told to.
///
/// It owns all of its state: two servers in one process do not see each other's locks.
#[must_use = "a server does nothing unless it is run"]
pub struct Server {
    policy: Policy,
    fence: Option<Fence>,
    limits: Limits,
    capacity: Capacity,
    transports: Vec<(String, Listening)>,
}

/// What a [`Server`] is to be. Made by [`Server::builder`].
#[derive(Default)]
#[must_use = "a builder does nothing unless it is bound"]
pub struct Builder {
    policy: Policy,
    fence: Option<Fence>,
    limits: Limits,
    capacity: Capacity,
    transports: Vec<Box<dyn Transport>>,
}

impl Builder {
    /// Adds a way in. A server may have any number, of any kinds.
    pub fn transport(self, transport: impl Transport + 'static) -> Builder {
        self.boxed_transport(Box::new(transport))
    }

    /// Adds a way in whose kind is not known before the program runs.
    pub fn boxed_transport(mut self, transport: Box<dyn Transport>) -> Builder {
        self.transports.push(transport);
        self
    }

    /// Sets which commands are answered, and how many locks may be held; by default all, and any number.
    pub fn policy(self, policy: Policy) -> Builder {
        Builder { policy, ..self }
    }

    /// Sets where fencing tokens start; by default, by the time of day.
    pub fn fence(mut self, fence: Fence) -> Builder {
        self.fence = Some(fence);
        self
    }

    /// Sets how long lines may be, and how long peers may take.
    pub fn limits(self, limits: Limits) -> Builder {
        Builder { limits, ..self }
    }

    /// Sets how many connections there may be at a time; `None`, as by default, for any number. One that is
    /// too many is [refused](Pending::refuse) at once, and counted.
    ///
    /// Each takes a descriptor. Keep this some below what the process may have, or nobody can even be turned
    /// away: what waits to be accepted then waits until a connection ends.
    pub fn max_connections(mut self, max: Option<usize>) -> Builder {
        self.capacity.in_all = max;
        self
    }

    /// Sets how many connections there may be at a time from one [IP address](Peer::ip).
    pub fn max_connections_per_ip(mut self, max: Option<usize>) -> Builder {
        self.capacity.per_ip = max;
        self
    }

    /// Starts to listen on all transports. From now on clients can connect; they are answered once the
    /// server [runs](Server::run). To be called from within a tokio runtime.
    ///
    /// Cancel-safe: what is dropped before it is done listens nowhere.
    ///
    /// # Errors
    ///
    /// The first [`BindError`] of a transport; then the others listen no more.
    pub async fn bind(self) -> Result<Server, BindError> {
        let mut transports = Vec::with_capacity(self.transports.len());
        for transport in self.transports {
            let name = transport.name().to_owned();
            transports.push((name, transport.listen(self.limits).await?));
        }
        for (name, listening) in &transports {
            info!("listening on {name} {}", listening.address);
        }
        Ok(Server {
            policy: self.policy,
            fence: self.fence,
            limits: self.limits,
            capacity: self.capacity,
            transports,
        })
    }
}

impl Server {
    /// A server to be, with no transport yet.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Where the transports listen, in the order in which they were added: with the ports that were
    /// chosen for port 0.
    pub fn addresses(&self) -> Vec<Address> {
        let address = |(_, listening): &(String, Listening)| listening.address.clone();
        self.transports.iter().map(address).collect()
    }

    /// Serves until `shutdown` is done; then accepts no more, ends all connections, frees all locks, says
    /// goodbye to peers that can be told (which takes two seconds at the most), and returns.
    ///
    /// Dropping the future ends the server too: connections end soon, but nobody waits for them.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let fence = self.fence.unwrap_or_else(Fence::from_clock);
        let dispatcher = Arc::new(Dispatcher::new(dispatcher::Options {
            policy: self.policy,
            fence,
            peer_timeout: self.limits.peer_timeout(),
        }));
        let (sender, ended) = mpsc::unbounded_channel();
        let context = Arc::new(Context::new(
            Arc::clone(&dispatcher),
            self.limits,
            self.capacity,
            sender,
        ));
        let mut background = JoinSet::new();
        background.spawn(serve_waiters(Arc::clone(&dispatcher)));
        background.spawn(keep_fence(Arc::clone(&dispatcher)));
        let reaper = tokio::spawn(reaper::reap(dispatcher, ended));
        let end = EndOnDrop(Arc::clone(&context));
        let mut accepting = JoinSet::new();
        for (name, listening) in self.transports {
            accepting.spawn(accept(name, listening.incoming, Arc::clone(&context)));
        }
        drop(context);

        tokio::select! {
            () = shutdown => {}
            () = watch(&mut accepting) => {}
        }
        accepting.shutdown().await;
        drop(end);
        if let Err(error) = reaper.await {
            error!(%error, "the reaper failed");
        }
    }
}

/// Serves waiters when there are more than could be served by whoever released their lock. Never ends.
async fn serve_waiters(dispatcher: Arc<Dispatcher>) {
    let locks = dispatcher.locks();
    loop {
        poll_fn(|context| locks.poll_due(context)).await;
        locks.serve();
        yield_now().await;
    }
}

/// Keeps the fencing tokens safe from the next run. Never ends.
async fn keep_fence(dispatcher: Arc<Dispatcher>) {
    dispatcher.state().fence.keep().await;
}

/// Ends all connections of a server when it ends, in whatever way.
struct EndOnDrop(Arc<Context>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end_connections();
    }
}

/// Says so if a transport fails. Never ends: the server goes on with its other transports, or without.
async fn watch(accepting: &mut JoinSet<()>) {
    while let Some(ended) = accepting.join_next().await {
        if let Err(error) = ended {
            error!(%error, "a transport failed; it accepts no more");
        }
    }
    std::future::pending().await
}

/// Accepts what comes in, until nothing can come any more.
async fn accept(name: String, mut incoming: Incoming, context: Arc<Context>) {
    let mut handshakes = JoinSet::new();
    let mut failures = LogThrottle::default();
    loop {
        let accepted = tokio::select! {
            accepted = incoming.next() => accepted,
            // Joined at once: until then a handshake that is over takes memory.
            Some(_) = handshakes.join_next() => continue,
        };
        let Some(accepted) = accepted else {
            break;
        };
        match accepted {
            Ok(pending) => {
                let Some(permit) = context.admit(&pending.peer) else {
                    pending.refuse();
                    continue;
                };
                let Pending { peer, handshake } = pending;
                // Its panic must end neither the loop nor the other handshakes.
                let mut handshake = AssertUnwindSafe(handshake)
                    .catch_unwind()
                    .map(|shaken| shaken.unwrap_or_else(|_| Err(io::Error::other("it panicked"))));
                // Most are ready at once; the others must not delay the next accept.
                match (&mut handshake).now_or_never() {
                    Some(shaken) => serve(&context, &peer, permit, shaken),
                    None => {
                        let context = Arc::clone(&context);
                        handshakes.spawn(async move {
                            match timeout(context.limits().handshake_timeout, handshake).await {
                                Ok(shaken) => serve(&context, &peer, permit, shaken),
                                Err(_) => debug!(%peer, "handshake timed out"),
                            }
                        });
                    }
                }
            }
            Err(error) if concerns_one_peer(&error) => {
                debug!(transport = name, %error, "cannot accept")
            }
            Err(error) => {
                if let Some(failed) = failures.record() {
                    warn!(transport = name, %error, failed, "cannot accept");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    warn!(transport = name, "accepts no more");
    // Not `join_all`, which passes a panic on: one handshake's must not cut the others short.
    while handshakes.join_next().await.is_some() {}
}

/// Serves a connection whose handshake is done.
fn serve(
    context: &Arc<Context>,
    peer: &Peer,
    permit: Permit,
    shaken: io::Result<Option<Box<dyn Session>>>,
) {
    match shaken {
        Ok(Some(session)) => Connection::spawn(peer, Admitted::new(session, permit), context),
        Ok(None) => debug!(%peer, "wanted something else"),
        Err(error) => debug!(%peer, %error, "handshake failed"),
    }
}

/// Whether an accept failed because its peer is gone already: then the next need not wait.
fn concerns_one_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, InvalidInput, NotConnected};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | InvalidInput | NotConnected
    )
}
