//! The pool with a server in this process.

use glockd::{Server, Unix};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::*;
use crate::lease::MAX_IDLE;

fn options() -> Options {
    Options {
        name: None,
        reconnects: false,
        connect_timeout: Duration::from_secs(30),
        reply_timeout: Duration::from_secs(30),
    }
}

fn endpoint(dir: &TempDir) -> Endpoint {
    let path = dir.path().join("sock");
    format!("unix:{}", path.display()).parse().unwrap()
}

/// Returns a pool with its first connection to a server that runs as long as the test.
async fn serve(dir: &TempDir) -> Pool {
    let server = Server::builder().transport(Unix::path(dir.path().join("sock")));
    let server = server.bind().await.unwrap();
    tokio::spawn(server.run(std::future::pending()));
    Pool::connect(endpoint(dir), options()).await.unwrap()
}

/// An abandoned connection is about to close, so that a new lease of it would be lost at once.
#[tokio::test]
async fn abandoned_connection_is_not_leased() {
    let dir = tempfile::tempdir().unwrap();
    let pool = serve(&dir).await;
    let abandoned = pool.lease(None, Use::Shared).await.unwrap();
    let shared = pool.lease(None, Use::Shared).await.unwrap();
    assert!(Arc::ptr_eq(abandoned.connection(), shared.connection()));
    abandoned.connection().abandon();
    // Its task has not run yet: this runtime has one thread.
    assert!(abandoned.connection().lost().is_none());
    let other = pool.lease(None, Use::Shared).await.unwrap();
    assert!(!Arc::ptr_eq(abandoned.connection(), other.connection()));
    // Other leases are not reported as lost because of it.
    let lost = abandoned.connection().when_lost().await;
    assert!(matches!(lost, Lost::Abandoned), "{lost}");
    drop((abandoned, shared));
    let again = pool.lease(None, Use::Shared).await.unwrap();
    assert!(Arc::ptr_eq(again.connection(), other.connection()));
}

/// Even if more idle connections than are kept come before it.
#[tokio::test]
async fn connection_in_use_is_kept_when_idle_ones_are_closed() {
    let dir = tempfile::tempdir().unwrap();
    let pool = serve(&dir).await;
    let mut leases = Vec::new();
    for _ in 0..MAX_IDLE + 2 {
        leases.push(pool.lease(None, Use::Exclusive).await.unwrap());
    }
    let used = leases.pop().unwrap();
    assert_eq!(pool.connections().iter().count(), MAX_IDLE + 2);
    drop(leases);
    let connections = pool.connections();
    assert_eq!(connections.iter().count(), MAX_IDLE + 1);
    let is_used = |connection: &Arc<PooledConnection>| Arc::ptr_eq(connection, used.connection());
    assert!(connections.iter().any(is_used));
}

/// Otherwise a client that reconnects again and again would keep them all.
#[tokio::test]
async fn lost_connections_are_forgotten() {
    async fn hello(listener: &UnixListener) -> UnixStream {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(stream.read(&mut [0; 64]).await.unwrap() > 0);
        stream.write_all(b"1 hello: list ping\n").await.unwrap();
        stream
    }
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("sock")).unwrap();
    let connected = Pool::connect(endpoint(&dir), options());
    let (pool, mut server) = tokio::join!(connected, hello(&listener));
    let pool = pool.unwrap();
    for _ in 0..3 {
        let lost = pool.connections().iter().next().unwrap().when_lost();
        drop(server);
        lost.await;
        let (reconnected, again) = tokio::join!(pool.reconnect(), hello(&listener));
        reconnected.unwrap();
        server = again;
        assert_eq!(pool.connections().iter().count(), 1);
    }
}
