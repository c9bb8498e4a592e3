//! Tasks that share a client never hold an exclusive lock together, nor a shared lock beyond its limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use glockd::{LockLimits, Policy};
use glockd_client::{Client, LockGuard};
use glockd_test_support::within;
use tokio::task::{JoinSet, yield_now};

use crate::servers::{Served, await_claims, connect, serve, serve_with};

const TASKS: usize = 8;

/// Lets tasks acquire `rounds` locks each. Returns the maximum number that were held at the same time.
async fn most_at_a_time<F>(client: &Client, rounds: usize, acquire: impl Fn(Client) -> F) -> usize
where
    F: Future<Output = LockGuard> + Send + 'static,
{
    let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let guards: Vec<_> = (0..rounds).map(|_| acquire(client.clone())).collect();
        let (inside, most) = (Arc::clone(&inside), Arc::clone(&most));
        tasks.spawn(async move {
            for (round, guard) in guards.into_iter().enumerate() {
                let guard = guard.await;
                most.fetch_max(inside.fetch_add(1, SeqCst) + 1, SeqCst);
                for _ in 0..task {
                    yield_now().await;
                }
                assert!(!guard.is_lost());
                inside.fetch_sub(1, SeqCst);
                match round % 2 {
                    0 => guard.release().await.unwrap(),
                    _ => drop(guard),
                }
            }
        });
    }
    within(tasks.join_all()).await;
    most.load(SeqCst)
}

/// Returns the servers, each with a number of rounds. The original gets few: without a queue, waiting takes longer.
fn rounds(served: &Served) -> impl Iterator<Item = (String, usize)> {
    let modern = served.modern().into_iter().map(|url| (url, 40));
    modern.chain([(served.original(), 2)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn waiting_tasks_exclude_each_other() {
    let served = serve().await;
    for (url, rounds) in rounds(&served) {
        let client = connect(&url).await;
        let most = most_at_a_time(&client, rounds, |client| async move {
            let wanted = client.lock("wanted").wait(Duration::from_secs(25));
            wanted.acquire().await.unwrap()
        });
        assert_eq!(most.await, 1, "{url}");
    }
    assert_eq!(served.surplus(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn trying_tasks_exclude_each_other() {
    let served = serve().await;
    for url in served.modern() {
        let client = connect(&url).await;
        let most = most_at_a_time(&client, 10, |client| async move {
            loop {
                match client.lock("wanted").acquire().await {
                    Ok(guard) => return guard,
                    Err(error) => assert!(error.is_refusal(), "{error}"),
                }
            }
        });
        assert_eq!(most.await, 1, "{url}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn waiting_tasks_never_exceed_the_limit() {
    let served = serve().await;
    for (url, rounds) in rounds(&served) {
        let client = connect(&url).await;
        let most = most_at_a_time(&client, rounds, |client| async move {
            let wanted = client.shared("gpu").limit(3).wait(Duration::from_secs(25));
            wanted.acquire().await.unwrap()
        });
        assert!((1..=3).contains(&most.await), "{url}");
    }
    assert_eq!(served.surplus(), 0);
}

/// At whichever point the future is dropped.
#[tokio::test]
async fn dropped_acquire_leaves_no_holder_and_no_waiter() {
    let served = serve().await;
    for url in served.modern() {
        let client = connect(&url).await;
        let watcher = connect(&served.unix()).await;
        for polls in 0..40 {
            let tried = client.lock("tried").acquire();
            let waited = client.shared("waited").limit(1).wait_forever().acquire();
            let mut both = Box::pin(async { (tried.await.is_ok(), waited.await.is_ok()) });
            for _ in 0..polls {
                if poll_once(&mut both).await {
                    break;
                }
            }
            drop(both);
            for name in ["tried", "waited"] {
                await_claims(&watcher, name, <[_]>::is_empty).await;
            }
            // The client still works, even if the drop closed a connection.
            let guard = client.lock("tried").acquire().await.unwrap();
            guard.release().await.unwrap();
        }
    }
}

/// A wait that is dropped closes its connection, which must not be in use by another request.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn dropped_wait_does_not_disturb_other_requests() {
    let served = serve().await;
    for url in served.modern() {
        let client = connect(&url).await;
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let client = client.clone();
            tasks.spawn(async move {
                for round in 0..100u64 {
                    let impatience = Duration::from_micros(round * 20);
                    let wanted = client.lock("wanted").wait_forever().acquire();
                    match tokio::time::timeout(impatience, wanted).await {
                        Ok(guard) => guard.unwrap().release().await.unwrap(),
                        Err(_) => assert!(!client.is_locked("another").await.unwrap()),
                    }
                    let own = client.lock(format!("{task}")).acquire().await.unwrap();
                    own.release().await.unwrap();
                }
            });
        }
        within(tasks.join_all()).await;
    }
}

/// Polls a future once, after other tasks have run. Returns true if it is ready.
async fn poll_once<T>(future: &mut (impl Future<Output = T> + Unpin)) -> bool {
    yield_now().await;
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(context).is_ready())
    })
    .await
}

#[tokio::test]
async fn shared_lock_has_as_many_holders_as_its_limit_allows() {
    let served = serve().await;
    let all = served.modern().into_iter();
    for url in all.chain([served.plain(), served.original()]) {
        let client = connect(&url).await;
        let mut guards = Vec::new();
        for holders in 1..=3 {
            let tried = client.shared("gpu").limit(3).acquire();
            let guard = within(tried).await.unwrap();
            assert_eq!(guard.holders(), holders, "{url}");
            guards.push(guard);
        }
        let error = within(client.shared("gpu").limit(3).acquire()).await;
        assert!(error.unwrap_err().is_refusal(), "{url}");
        assert_eq!(client.holders("gpu").await.unwrap(), 3, "{url}");
        for guard in guards {
            guard.release().await.unwrap();
        }
    }
}

#[tokio::test]
async fn lock_beyond_the_limit_of_the_server_is_refused() {
    let served = serve_with(Policy {
        limits: LockLimits {
            max_locks: Some(1),
            ..LockLimits::default()
        },
        ..Policy::default()
    })
    .await;
    for url in served.modern() {
        let client = connect(&url).await;
        let held = client.lock("held").acquire().await.unwrap();
        for request in [
            client.lock("other"),
            client.shared("other"),
            client.shared("other").limit(3),
            client.lock("other").wait(Duration::from_secs(20)),
            client.shared("other").wait(Duration::from_secs(20)),
        ] {
            let error = within(request.acquire()).await.unwrap_err();
            assert!(error.is_refusal(), "{error}");
        }
        held.release().await.unwrap();
    }
}
