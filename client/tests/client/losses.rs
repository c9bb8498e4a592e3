//! Lost connections, and the reports of the locks that are lost with them.

use std::time::Duration;

use glockd_client::{Client, Error, LockKind, Lost};
use glockd_test_support::within;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::servers::{await_claims, connect, serve, served_by};

#[tokio::test]
async fn guard_reports_the_loss_of_its_lock() {
    for way in 0..3 {
        let mut served = serve().await;
        let client = connect(&served.modern()[way]).await;
        let guard = client.lock("held").acquire().await.unwrap();
        let (one, two) = (guard.lost(), tokio::spawn(guard.lost()));
        let waiter = tokio::spawn(client.lock("held").wait_forever().acquire());
        await_claims(&client, "held", |claims| claims.len() == 2).await;
        served.stop().await;
        assert!(matches!(within(one).await, Lost::Closed | Lost::Io(_)));
        assert!(matches!(
            within(two).await.unwrap(),
            Lost::Closed | Lost::Io(_)
        ));
        let waited = within(waiter).await.unwrap().unwrap_err();
        // Either one: the server may end the wait before it closes the connection.
        assert!(
            matches!(waited, Error::Lost(_) | Error::Refused { .. }),
            "{waited}"
        );
        assert!(guard.is_lost());
        let error = guard.release().await.unwrap_err();
        assert!(matches!(error, Error::Lost(_)), "{error}");
    }
}

#[tokio::test]
async fn released_lock_is_never_reported_lost() {
    let mut served = serve().await;
    let client = connect(&served.unix()).await;
    let guard = client.lock("held").acquire().await.unwrap();
    let lost = guard.lost();
    guard.release().await.unwrap();
    let other = client.lock("other").acquire().await.unwrap();
    served.stop().await;
    within(other.lost()).await;
    let soon = tokio::time::timeout(Duration::from_millis(20), lost).await;
    assert!(soon.is_err(), "{soon:?}");
}

/// Over a WebSocket, a message is a complete reply; but a late one may arrive after the probe for its end was sent.
#[tokio::test]
async fn slow_network_does_not_confuse_the_client() {
    let served = serve().await;
    for (way, url) in served.modern().into_iter().enumerate() {
        // Longer than the pause after `hello` before the client sends a probe.
        let slow = slowed(&url, Duration::from_millis(1200)).await;
        let client = connect(&slow).await;
        assert!(client.features().wait, "{url}");
        let guard = client.lock(format!("{way}")).acquire().await.unwrap();
        guard.release().await.unwrap();
    }
}

/// Returns the address of a relay to the same server, which delays its replies by this time.
async fn slowed(url: &str, by: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (scheme, place) = url.split_once(':').unwrap();
    let (scheme, place) = (scheme.to_owned(), place.trim_matches('/').to_owned());
    let slow = match &*scheme {
        "ws" => format!("ws://127.0.0.1:{port}/"),
        _ => format!("tcp://127.0.0.1:{port}"),
    };
    let unix = format!("/{place}");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (scheme, place, unix) = (scheme.clone(), place.clone(), unix.clone());
            tokio::spawn(async move {
                match &*scheme {
                    "unix" => relay(client, UnixStream::connect(unix).await.unwrap(), by).await,
                    _ => relay(client, TcpStream::connect(place).await.unwrap(), by).await,
                }
            });
        }
    });
    slow
}

async fn relay(client: TcpStream, server: impl AsyncRead + AsyncWrite, by: Duration) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let later = async {
        let (sender, mut late) = tokio::sync::mpsc::unbounded_channel();
        let read = async move {
            let mut read = [0; 4096];
            while let Ok(length @ 1..) = from_server.read(&mut read).await {
                let _ = sender.send((tokio::time::Instant::now() + by, read[..length].to_vec()));
            }
        };
        let write = async move {
            while let Some((when, bytes)) = late.recv().await {
                tokio::time::sleep_until(when).await;
                if to_client.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        };
        tokio::join!(read, write);
    };
    tokio::select! {
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
        () = later => {}
    }
}

#[tokio::test]
async fn client_does_not_reconnect_by_default() {
    let mut served = serve().await;
    let client = connect(&served.unix()).await;
    let lost = client.lock("held").acquire().await.unwrap();
    served.stop().await;
    served.start_again().await;
    within(lost.lost()).await;

    let error = client.lock("other").acquire().await.unwrap_err();
    assert!(matches!(error, Error::LocksLost(_)), "{error}");
    let error = client.reconnect().await.unwrap_err();
    assert!(matches!(error, Error::LocksLost(_)), "{error}");
    drop(lost);
    let error = client.lock("other").acquire().await.unwrap_err();
    assert!(matches!(error, Error::Lost(_)), "{error}");
    let error = client.ping().await.unwrap_err();
    assert!(matches!(error, Error::Lost(_)), "{error}");
    client.reconnect().await.unwrap();
    client.reconnect().await.unwrap();
    assert!(client.lock("held").acquire().await.is_ok());
}

#[tokio::test]
async fn client_does_not_reconnect_before_guards_of_lost_locks_are_dropped() {
    let mut served = serve().await;
    let client = Client::builder(&served.unix()).reconnect(true).connect();
    let client = client.await.unwrap();
    let held = client.lock("held").acquire().await.unwrap();
    served.stop().await;
    within(held.lost()).await;
    let error = client.lock("held").acquire().await.unwrap_err();
    assert!(matches!(error, Error::LocksLost(_)), "{error}");
    drop(held);
    let error = client.lock("held").acquire().await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
    served.start_again().await;
    assert!(client.lock("held").acquire().await.is_ok());
}

#[tokio::test]
async fn unreachable_server_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = format!("unix:{}", dir.path().join("none").display());
    let error = Client::connect(&nowhere).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with(&format!("cannot connect to {nowhere}: ")),
        "{error}"
    );
    let error = Client::connect("nowhere").await.unwrap_err();
    assert!(matches!(error, Error::Endpoint(_)), "{error}");

    // This one accepts connections, and never answers the WebSocket handshake.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", silent.local_addr().unwrap());
    let soon = Client::builder(&url).connect_timeout(Duration::from_millis(50));
    let error = within(soon.connect()).await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
}

/// It has no guard of a lost lock.
#[tokio::test]
async fn request_that_tries_again_and_again_does_not_keep_the_client_from_reconnecting() {
    let served = serve().await;
    let holder = connect(&served.plain()).await;
    let held = holder.lock("held").acquire().await.unwrap();
    let client = Client::builder(&served.original()).reconnect(true);
    let client = within(client.connect()).await.unwrap();
    let poller = tokio::spawn(client.lock("held").wait_forever().acquire());
    let has_asked = |(key, count): &(String, u64)| key == "command_g" && *count > 1;
    while !holder.statistics().await.unwrap().iter().any(has_asked) {}
    served.cut();
    within(async {
        // Fails until the client has noticed the loss.
        while let Err(error) = client.is_locked("other").await {
            assert!(matches!(error, Error::Lost(_)), "{error}");
        }
    })
    .await;
    let error = within(poller).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Lost(_)), "{error}");
    drop(held);
}

#[tokio::test]
async fn server_that_is_not_glockd_is_an_error() {
    let (_dir, url) = served_by(async |mut stream| {
        stream
            .write_all(b"220 mail.example ESMTP\r\n")
            .await
            .unwrap();
        let _ = stream.read(&mut [0; 64]).await;
    })
    .await;
    let error = within(Client::connect(&url)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the server sent a line that is not a glockd reply: 220 mail.example ESMTP"
    );

    let (_dir, url) = served_by(async |stream| drop(stream)).await;
    let error = within(Client::connect(&url)).await.unwrap_err();
    assert!(
        matches!(error, Error::Lost(Lost::Closed | Lost::Io(_))),
        "{error}"
    );

    // This one sends an endless line.
    let (_dir, url) =
        served_by(async |mut stream| while stream.write_all(&[b'0'; 4096]).await.is_ok() {}).await;
    let error = within(Client::connect(&url)).await.unwrap_err();
    assert!(matches!(error, Error::Lost(Lost::Unexpected(_))), "{error}");
}

/// Starts a server that replies to each line with the result of `answer`. Returns its directory and its address.
pub(crate) async fn answering(
    answer: impl Fn(&str) -> String + Clone + Send + 'static,
) -> (tempfile::TempDir, String) {
    served_by(move |stream| {
        let answer = answer.clone();
        async move {
            let (input, mut output) = stream.into_split();
            let mut lines = BufReader::new(input).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                output.write_all(answer(&line).as_bytes()).await.unwrap();
            }
        }
    })
    .await
}

#[tokio::test]
async fn reply_about_another_lock_is_unexpected() {
    let (_dir, url) = answering(|line| match line {
        "hello" => "1 hello: wait limit fence list own ping\n".to_owned(),
        "f right" => "7 Lock Fence: right\n".to_owned(),
        "g right" => "1 Lock Get Success: right\n".to_owned(),
        "r right" => "1 Lock Release Success: wrong\n".to_owned(),
        "i got" => "0 Lock Not Locked: gone\n".to_owned(),
        other => format!("1 Lock Get Success: not {other}\n"),
    })
    .await;
    let unexpected = |error| assert!(matches!(error, Error::Lost(Lost::Unexpected(_))), "{error}");
    let client = connect(&url).await;
    unexpected(client.lock("got").acquire().await.unwrap_err());
    let client = connect(&url).await;
    unexpected(client.is_locked("got").await.unwrap_err());
    let client = connect(&url).await;
    let guard = client.lock("right").acquire().await.unwrap();
    assert_eq!(guard.fence(), Some(7));
    unexpected(guard.release().await.unwrap_err());
}

/// Whatever else it can do: commands behind a listing would hide its end.
#[tokio::test]
async fn server_without_counted_listings_gets_one_command_at_a_time() {
    let (_dir, url) = answering(|line| match line.split_once(' ') {
        None if line == "hello" => "1 hello: ping\n".to_owned(),
        Some(("i", name)) => format!("0 Lock Not Locked: {name}\n"),
        _ => "one: 1.2.3.4:5\ntwo: 1.2.3.4:6\n".to_owned(),
    })
    .await;
    let client = connect(&url).await;
    let (locks, is_locked) = tokio::join!(
        client.locks(LockKind::Exclusive, None),
        client.is_locked("x")
    );
    assert_eq!(locks.unwrap().len(), 2);
    assert!(!is_locked.unwrap());
}

#[tokio::test]
async fn wait_for_a_held_lock_ends_as_a_refusal() {
    let served = serve().await;
    for url in served.modern().into_iter().chain([served.plain()]) {
        let client = connect(&url).await;
        let _held = client.lock(&url).acquire().await.unwrap();
        let waited = client.lock(&url).wait(Duration::from_millis(50)).acquire();
        let error = within(waited).await.unwrap_err();
        assert!(error.is_refusal(), "{url}: {error}");
    }
}

#[tokio::test]
async fn errors_have_the_same_text_as_debug() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = format!("unix:{}", dir.path().join("none").display());
    for place in [&*nowhere, "nowhere"] {
        let error = Client::connect(place).await.unwrap_err();
        assert_eq!(format!("{error:?}"), error.to_string());
    }
    let lost = Lost::Silent(Duration::from_secs(1));
    assert_eq!(format!("{lost:?}"), lost.to_string());
}
