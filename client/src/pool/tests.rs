//! A pool against a server of this process.

use glockd::{Server, Unix};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::*;

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

/// A pool with its first connection to a server, which runs as long as the test.
async fn served(dir: &TempDir) -> Arc<Pool> {
    let server = Server::builder().transport(Unix::path(dir.path().join("sock")));
    let server = server.bind().await.unwrap();
    tokio::spawn(server.run(std::future::pending()));
    Pool::connect(endpoint(dir), options()).await.unwrap()
}

/// A connection that somebody has abandoned is about to close, and whoever got it would lose it at once.
#[tokio::test]
async fn an_abandoned_connection_is_leased_to_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let pool = served(&dir).await;
    let abandoned = pool.lease(None, Use::Shared).await.unwrap();
    let shared = pool.lease(None, Use::Shared).await.unwrap();
    assert!(Arc::ptr_eq(&abandoned.connection, &shared.connection));
    abandoned.connection.abandon();
    // On this one thread, nobody has closed it yet.
    assert!(abandoned.connection.lost().is_none());
    let other = pool.lease(None, Use::Shared).await.unwrap();
    assert!(!Arc::ptr_eq(&abandoned.connection, &other.connection));
    // And it is no reason to say that anything was lost.
    let lost = abandoned.connection.when_lost().await;
    assert!(matches!(lost, Lost::Abandoned), "{lost}");
    drop((abandoned, shared));
    let again = pool.lease(None, Use::Shared).await.unwrap();
    assert!(Arc::ptr_eq(&again.connection, &other.connection));
}

/// However many are idle before them.
#[tokio::test]
async fn connections_in_use_are_not_forgotten_with_idle_ones() {
    let dir = tempfile::tempdir().unwrap();
    let pool = served(&dir).await;
    let mut leases = Vec::new();
    for _ in 0..IDLE + 2 {
        leases.push(pool.lease(None, Use::Alone).await.unwrap());
    }
    let used = leases.pop().unwrap();
    assert_eq!(pool.state().connections.len(), IDLE + 2);
    drop(leases);
    let state = pool.state();
    assert_eq!(state.connections.len(), IDLE + 1);
    let is_used = |connection: &Arc<Connection>| Arc::ptr_eq(connection, &used.connection);
    assert!(state.connections.iter().any(is_used));
}

/// Or a client that reconnects again and again would keep them all.
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
        let lost = pool.state().connections[0].when_lost();
        drop(server);
        lost.await;
        let (reconnected, again) = tokio::join!(pool.reconnect(), hello(&listener));
        reconnected.unwrap();
        server = again;
        assert_eq!(pool.state().connections.len(), 1);
    }
}
