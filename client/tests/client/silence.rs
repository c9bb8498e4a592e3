//! A server that is silent: when the client declares the connection lost, and when it does not.

use std::io::{BufRead as _, Write as _};
use std::time::Duration;

use glockd_client::{Client, Error, LockKind, Lost};
use glockd_test_support::within;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use crate::servers::{connect, serve, served_by};

/// A reply that arrived during the stop is read before the server is declared silent.
#[test]
fn stopped_client_does_not_take_the_server_for_silent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let (answered, is_answered) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        for line in std::io::BufReader::new(&stream).lines() {
            let answer = match &*line.unwrap() {
                "hello" => "1 hello: list ping\n",
                _ => "1 pong: glockd-client\n",
            };
            answered.send(()).unwrap();
            (&stream).write_all(answer.as_bytes()).unwrap();
        }
    });
    let limit = Duration::from_millis(50);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let client = Client::builder(&format!("unix:{}", path.display()));
        let client = client.reply_timeout(limit).connect().await.unwrap();
        is_answered.recv().unwrap();
        for _ in 0..5 {
            let client = client.clone();
            let ping = tokio::spawn(async move { client.ping().await });
            while is_answered.try_recv().is_err() {
                tokio::task::yield_now().await;
            }
            std::thread::sleep(2 * limit);
            ping.await.unwrap().unwrap();
        }
    });
}

#[tokio::test(start_paused = true)]
async fn server_that_stops_answering_is_declared_lost() {
    // Replies to `hello`, and then to nothing.
    let (_dir, url) = served_by(async |mut stream| {
        assert!(stream.read(&mut [0; 64]).await.unwrap() > 0);
        let hello = b"1 hello: wait limit fence list own ping\n";
        stream.write_all(hello).await.unwrap();
        std::future::pending().await
    })
    .await;
    let builder = || Client::builder(&url).reply_timeout(Duration::from_secs(5));
    let error = builder().connect().await.unwrap().ping().await.unwrap_err();
    assert!(matches!(error, Error::Lost(Lost::Silent(_))), "{error}");
    assert_eq!(error.to_string(), "the server has not answered for 5s");
    // The same during a wait.
    let client = builder().connect().await.unwrap();
    let error = client
        .lock("wanted")
        .wait_forever()
        .acquire()
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Lost(Lost::Silent(_))), "{error}");
    // And if the server never replied at all.
    let (_dir, url) = served_by(async |_stream| std::future::pending().await).await;
    let mute = Client::builder(&url).reply_timeout(Duration::from_secs(5));
    let error = mute.connect().await.unwrap_err();
    assert!(matches!(error, Error::Lost(Lost::Silent(_))), "{error}");
}

#[tokio::test]
async fn wait_may_be_longer_than_the_reply_timeout() {
    let served = serve().await;
    for url in served.modern() {
        let client = Client::builder(&url)
            .reply_timeout(Duration::from_millis(40))
            .connect();
        let client = within(client).await.unwrap();
        let held = client.lock("held").acquire().await.unwrap();
        let waited = client
            .lock("held")
            .wait(Duration::from_millis(400))
            .acquire();
        let error = within(waited).await.unwrap_err();
        assert!(error.is_refusal(), "{error}");
        assert!(!held.is_lost());
        let waiter = tokio::spawn(client.lock("held").wait_forever().acquire());
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(held);
        drop(within(waiter).await.unwrap().unwrap());
    }
}

/// A server that replies to some commands only.
struct Half {
    url: String,
    /// Receives a value when the client has closed a connection.
    closed: tokio::sync::mpsc::UnboundedReceiver<()>,
}

/// Starts a server over TCP that replies with `hello` to `hello`, and to other lines with the result of `answer`, if
/// there is one.
async fn half(
    hello: &'static str,
    answer: impl Fn(&str) -> Option<String> + Clone + Send + 'static,
) -> Half {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    let (sender, closed) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (answer, sender) = (answer.clone(), sender.clone());
            // With paused time, Nagle's algorithm would stall the test.
            stream.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                let (input, mut output) = stream.into_split();
                let mut lines = BufReader::new(input).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    let answer = match &*line {
                        "hello" => Some(format!("{hello}\n")),
                        line => answer(line),
                    };
                    if let Some(answer) = answer {
                        output.write_all(answer.as_bytes()).await.unwrap();
                    }
                }
                let _ = sender.send(());
            });
        }
    });
    Half { url, closed }
}

/// Grants each lock, and replies to nothing else.
fn grants(line: &str) -> Option<String> {
    let name = line.strip_prefix("g ")?;
    Some(format!("1 Lock Get Success: {name}\n"))
}

#[tokio::test(start_paused = true)]
async fn lock_is_lost_after_half_a_peer_timeout_of_silence() {
    for (hello, seconds) in [
        ("1 hello: wait limit list own ping timeout=30000", 15),
        ("1 hello: wait limit list own ping timeout=16000", 8),
        ("1 hello: wait limit list own ping timeout=0", 15),
        (
            "1 hello: wait limit list own ping timeout=18446744073709551615",
            30,
        ),
        ("1 hello: wait limit list own ping", 15),
    ] {
        let mut server = half(hello, grants).await;
        let client = connect(&server.url).await;
        let started = tokio::time::Instant::now();
        let guard = client.lock("held").acquire().await.unwrap();
        let lost = guard.lost().await;
        let after = started.elapsed();
        assert!(matches!(lost, Lost::Silent(_)), "{hello}: {lost}");
        let limit = Duration::from_secs(seconds);
        assert!(
            limit <= after && after < limit + Duration::from_secs(1),
            "{hello}: {after:?}"
        );
        // The connection stays open: closing it would free the lock while a task still works under it.
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(server.closed.try_recv().is_err(), "{hello}");
        drop(guard);
        server.closed.recv().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn server_that_answers_pings_is_not_declared_lost() {
    let server = half(
        "1 hello: wait limit list own ping timeout=30000",
        |line| match line.split_once(' ') {
            Some(("ping", text)) => Some(format!("1 pong: {text}\n")),
            // The wait never ends.
            Some(("gw", _)) => None,
            _ => grants(line),
        },
    )
    .await;
    let client = connect(&server.url).await;
    let guard = client.lock("held").acquire().await.unwrap();
    let waiter = tokio::spawn(client.lock("wanted").wait_forever().acquire());
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(!guard.is_lost());
    assert!(!waiter.is_finished());
    waiter.abort();
}

/// Each line that arrives is a sign of life.
#[tokio::test(start_paused = true)]
async fn slow_listing_is_not_silence() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        // With paused time, Nagle's algorithm would stall the test.
        stream.set_nodelay(true).unwrap();
        let (input, mut output) = stream.into_split();
        let mut lines = BufReader::new(input).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let answer = match &*line {
                "hello" => "1 hello: wait limit fence list own ping timeout=30000\n".to_owned(),
                "ld" => {
                    output.write_all(b"5 Lock List: \n").await.unwrap();
                    for number in 0..5 {
                        tokio::time::sleep(Duration::from_secs(20)).await;
                        let row = format!("lock{number}: 192.0.2.1:{number}\n");
                        output.write_all(row.as_bytes()).await.unwrap();
                    }
                    "0 Lock List: \n".to_owned()
                }
                line => format!("1 pong: {}\n", line.strip_prefix("ping ").unwrap()),
            };
            output.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let client = connect(&url).await;
    let locks = client.locks(LockKind::Exclusive, None).await.unwrap();
    assert_eq!(locks.len(), 5);
    assert!(client.ping().await.is_ok());
}

/// Even if the server never replies.
#[tokio::test(start_paused = true)]
async fn wait_ends_within_a_second_of_its_limit() {
    let limit = Duration::from_secs(2);
    for hello in [
        "1 hello: wait limit fence list own ping timeout=30000",
        // This server has no queue, so the client tries again and again.
        "1 hello: list",
    ] {
        for over_tcp in [true, false] {
            let (_dir, url) = match over_tcp {
                true => (None, half(hello, |_| None).await.url),
                false => {
                    let (dir, url) = served_by(move |mut stream| async move {
                        assert!(stream.read(&mut [0; 64]).await.unwrap() > 0);
                        stream
                            .write_all(format!("{hello}\n").as_bytes())
                            .await
                            .unwrap();
                        std::future::pending().await
                    })
                    .await;
                    (Some(dir), url)
                }
            };
            let client = connect(&url).await;
            let started = tokio::time::Instant::now();
            let waited = client.lock("wanted").wait(limit).acquire().await;
            let elapsed = started.elapsed();
            let error = waited.unwrap_err();
            // Not a refusal: the server has not said that the lock is held.
            assert!(matches!(error, Error::Overdue(_)), "{error}");
            assert!(elapsed >= limit, "{elapsed:?}");
            assert!(elapsed <= limit + Duration::from_secs(1), "{elapsed:?}");
        }
    }
}

/// No pings are sent during a listing, so it must not share a connection with a lock.
#[tokio::test(start_paused = true)]
async fn loss_is_reported_during_a_listing() {
    for hello in [
        "1 hello: wait limit list own ping lengths timeout=30000",
        "1 hello: wait limit list own ping timeout=30000",
    ] {
        let server = half(hello, grants).await;
        let client = connect(&server.url).await;
        let guard = client.lock("held").acquire().await.unwrap();
        let started = tokio::time::Instant::now();
        let listings = (
            tokio::spawn({
                let client = client.clone();
                async move { client.locks(LockKind::Exclusive, None).await }
            }),
            tokio::spawn({
                let client = client.clone();
                async move { client.claims("held").await }
            }),
            tokio::spawn(async move { client.statistics().await }),
        );
        guard.lost().await;
        let after = started.elapsed();
        assert!(after < Duration::from_secs(16), "{hello}: {after:?}");
        drop(listings);
    }
}
