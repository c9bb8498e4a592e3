//! A pool against a server of this process.

use glockd::{Server, Unix};

use super::*;

/// A connection that somebody has abandoned is about to close, and whoever got it would lose it at once.
#[tokio::test]
async fn an_abandoned_connection_is_leased_to_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sock");
    let server = Server::builder().transport(Unix::path(&path));
    let server = server.bind().await.unwrap();
    tokio::spawn(server.run(std::future::pending()));
    let options = Options {
        name: None,
        reconnects: false,
        connect_timeout: Duration::from_secs(30),
        reply_timeout: Duration::from_secs(30),
    };
    let endpoint = format!("unix:{}", path.display()).parse().unwrap();
    let pool = Pool::connect(endpoint, options).await.unwrap();

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
