//! The accept loop of one transport: accepts, admits, shakes hands, and starts connections.

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use glockd_transports::{Established, Incoming, Peer, Pending};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;
use tracing::{debug, warn};

use crate::server::admission::{Admitted, Permit};
use crate::server::connection::Connection;
use crate::server::context::Context;
use crate::server::log_throttle::LogThrottle;

/// Pause after an accept that failed. It failed for lack of descriptors or memory, which come back only when
/// connections end; retrying at once would keep a core busy until then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections of one transport until its stream of connections ends. Cancelling this ends the handshakes that
/// are under way.
pub(super) async fn accept_connections(
    transport: String,
    mut incoming: Incoming,
    context: Arc<Context>,
) {
    let mut handshakes = JoinSet::new();
    let mut failures = LogThrottle::default();
    loop {
        let accepted = tokio::select! {
            accepted = incoming.next() => accepted,
            // Joined at once, because a finished handshake keeps its memory until then.
            Some(_) = handshakes.join_next() => continue,
        };
        match accepted {
            Some(Ok(pending)) => admit(pending, &context, &mut handshakes),
            Some(Err(error)) if concerns_one_peer(&error) => {
                debug!(transport, %error, "cannot accept")
            }
            Some(Err(error)) => {
                if let Some(failed) = failures.record() {
                    warn!(transport, %error, failed, "cannot accept");
                }
                sleep(ACCEPT_PAUSE).await;
            }
            None => break,
        }
    }
    warn!(
        transport,
        "transport ended: no more connections are accepted"
    );
    // Not `join_all`, which would pass on a panic of one handshake and so cut the others short.
    while handshakes.join_next().await.is_some() {}
}

/// Refuses a connection, or runs its handshake and starts it. Most handshakes are ready at once; the others go on in
/// `handshakes`, so that they do not delay the next accept.
fn admit(pending: Pending, context: &Arc<Context>, handshakes: &mut JoinSet<()>) {
    let Some(permit) = context.admit(&pending.peer) else {
        pending.refuse();
        return;
    };
    let Pending { peer, handshake } = pending;
    // A panic in one handshake must end neither the loop nor the other handshakes.
    let mut handshake = AssertUnwindSafe(handshake.establish())
        .catch_unwind()
        .map(|shaken| shaken.unwrap_or_else(|_| Err(io::Error::other("it panicked"))));
    match (&mut handshake).now_or_never() {
        Some(shaken) => start_connection(context, &peer, permit, shaken),
        None => {
            let context = Arc::clone(context);
            handshakes.spawn(async move {
                match timeout(context.limits().handshake_timeout, handshake).await {
                    Ok(shaken) => start_connection(&context, &peer, permit, shaken),
                    Err(_) => debug!(%peer, "handshake timed out"),
                }
            });
        }
    }
}

/// Starts a connection if its handshake made a session.
fn start_connection(
    context: &Arc<Context>,
    peer: &Peer,
    permit: Permit,
    shaken: io::Result<Option<Established>>,
) {
    match shaken {
        Ok(Some(Established { session, .. })) => {
            Connection::spawn(peer, Admitted::new(session, permit), context)
        }
        Ok(None) => debug!(%peer, "handshake ended without a session"),
        Err(error) => debug!(%peer, %error, "handshake failed"),
    }
}

/// Returns whether an accept failed because its peer is already gone. Then the next accept may follow at once.
fn concerns_one_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, NotConnected};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | NotConnected
    )
}

#[cfg(test)]
mod tests {
    use std::iter::repeat_with;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    use glockd_transports::Limits;
    use tokio::sync::mpsc;

    use super::*;
    use crate::core::dispatcher::Dispatcher;
    use crate::server::admission::Capacity;

    /// A listening socket that another process has shut down fails at every accept.
    #[tokio::test(start_paused = true)]
    async fn accept_that_always_fails_is_tried_now_and_then() {
        const SECONDS: u64 = 10;
        let accepts = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&accepts);
        let failing = repeat_with(move || {
            counted.fetch_add(1, SeqCst);
            Err(io::ErrorKind::InvalidInput.into())
        });
        let (sender, _ended) = mpsc::unbounded_channel();
        let context = Arc::new(Context::new(
            Arc::new(Dispatcher::default()),
            Limits::default(),
            Capacity::default(),
            sender,
        ));
        let incoming = Box::pin(tokio_stream::iter(failing));
        let accepting = accept_connections("test".to_owned(), incoming, context);
        let stopped = timeout(Duration::from_secs(SECONDS), accepting).await;
        assert!(stopped.is_err());
        let accepts = accepts.load(SeqCst);
        assert!((SECONDS..=10 * SECONDS + 1).contains(&accepts), "{accepts}");
    }
}
