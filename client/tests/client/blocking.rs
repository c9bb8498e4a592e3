//! The blocking client.

use std::time::Duration;

use glockd_client::blocking::Client;
use glockd_client::{Error, LockKind};
use tokio::runtime::Runtime;

use crate::servers::{connect, serve};

#[test]
fn blocking_client_locks_waits_and_reports_a_loss() {
    let runtime = Runtime::new().unwrap();
    let mut served = runtime.block_on(serve());
    let builder = glockd_client::Client::builder(&served.unix()).name("thread");
    let client = Client::build(builder).unwrap();
    let guard = client.lock("held").acquire().unwrap();
    assert_eq!((guard.name(), guard.holders()), (&b"held"[..], 1));
    assert!(guard.fence().is_some());
    assert!(client.is_locked("held").unwrap());
    assert_eq!(client.holders("held").unwrap(), 0);
    assert_eq!(client.locks(LockKind::Exclusive, None).unwrap().len(), 1);
    assert_eq!(client.claims("held").unwrap()[0].name, b"thread");
    let named = client.clients(None).unwrap();
    assert!(!named.is_empty() && named.iter().all(|client| client.name == b"thread"));
    assert!(!client.statistics().unwrap().is_empty());
    client.ping().unwrap();
    let error = client
        .lock("held")
        .wait(Duration::from_millis(10))
        .acquire();
    assert!(error.unwrap_err().is_refusal());

    let waits = std::thread::spawn({
        let client = client.clone();
        move || client.lock("held").wait_forever().acquire()
    });
    guard.release().unwrap();
    let guard = waits.join().unwrap().unwrap();
    assert!(guard.wait_lost(Duration::from_millis(1)).is_none());
    runtime.block_on(served.stop());
    assert!(guard.wait_lost(Duration::from_secs(30)).is_some());
    assert!(guard.is_lost());
    assert!(matches!(guard.release(), Err(Error::Lost(_))));
    assert!(matches!(client.ping(), Err(Error::Lost(_))));
    assert!(client.reconnect().is_err());
}

/// A call belongs where the runtime allows blocking. But a client may be dropped anywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_client_works_within_another_runtime() {
    let served = serve().await;
    let url = served.unix();
    let client = tokio::task::spawn_blocking(move || Client::connect(&url));
    let client = client.await.unwrap().unwrap();
    client.ping().unwrap();
    // Dropped in an asynchronous task.
    drop(client);
}

#[test]
fn blocking_client_returns_what_the_asynchronous_client_does() {
    let runtime = Runtime::new().unwrap();
    let served = runtime.block_on(serve());
    let builder = glockd_client::Client::builder(&served.unix()).name("thread");
    let client = Client::build(builder).unwrap();
    let other = runtime.block_on(connect(&served.unix()));
    let held = client.lock("held").acquire().unwrap();
    let first = client.shared("shared").acquire().unwrap();
    let second = client.shared("shared").limit(2).acquire().unwrap();
    assert!(client.shared("shared").limit(2).acquire().is_err());
    assert_eq!((first.holders(), second.holders()), (1, 2));
    assert!(held.wait_lost(Duration::ZERO).is_none());
    let claims = client.claims("held").unwrap();
    assert_eq!(held.fence(), claims[0].fence);

    assert_eq!(client.holders("shared").unwrap(), 2);
    assert!(client.is_locked("held").unwrap());
    assert!(!client.is_locked("free").unwrap());
    for name in [None, Some(&b"held"[..]), Some(b"shared"), Some(b"free")] {
        for kind in [LockKind::Exclusive, LockKind::Shared] {
            let expect = runtime.block_on(other.locks(kind, name)).unwrap();
            assert_eq!(client.locks(kind, name).unwrap(), expect);
        }
    }
    let expect = runtime.block_on(other.clients(None)).unwrap();
    assert_eq!(client.clients(None).unwrap(), expect);
    assert_eq!(client.clients(Some(b"thread")).unwrap(), expect);
    assert_eq!(client.clients(Some(b"nobody")).unwrap(), []);
    let statistics = client.statistics().unwrap();
    assert!(statistics.contains(&("locks".to_owned(), 1)));
    assert!(statistics.contains(&("shared_locks".to_owned(), 1)));
    assert!(client.ping().unwrap() > Duration::ZERO);
}
