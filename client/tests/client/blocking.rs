//! The blocking face.

use std::time::Duration;

use glockd_client::blocking::Client;
use glockd_client::{Error, LockKind};
use tokio::runtime::Runtime;

use crate::servers::serve;

#[test]
fn it_blocks() {
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
    assert_eq!(client.owners("held").unwrap()[0].name, b"thread");
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

/// Where a runtime lets tasks block, and only there, should they; but nothing breaks anywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_works_beside_another_runtime() {
    let served = serve().await;
    let url = served.unix();
    let client = tokio::task::spawn_blocking(move || Client::connect(&url));
    let client = client.await.unwrap().unwrap();
    client.ping().unwrap();
    // It may be dropped here.
    drop(client);
}
