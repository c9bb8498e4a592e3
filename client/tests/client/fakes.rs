//! The client with fake servers, whose lines are written by the test: for cases that a real server seldom or never
//! causes.

use std::time::Duration;

use glockd_client::{Client, Error, LockGuard, LockRequest};
use glockd_test_support::within;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Instant;

const HELLO: &str = "1 hello: wait limit fence list own ping";

/// A fake server on a Unix socket.
struct Fake {
    listener: UnixListener,
    url: String,
    _dir: TempDir,
}

impl Fake {
    fn new() -> Fake {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        Fake {
            listener: UnixListener::bind(&path).unwrap(),
            url: format!("unix:{}", path.display()),
            _dir: dir,
        }
    }

    /// Waits for the next connection of a client.
    async fn accept(&self) -> Conversation {
        let (stream, _) = within(self.listener.accept()).await.unwrap();
        Conversation::new(stream)
    }

    /// Connects a client, and returns it with the server's side of its first connection.
    async fn connect(&self) -> (Client, Conversation) {
        let (client, conversation) = tokio::join!(within(Client::connect(&self.url)), async {
            let mut conversation = self.accept().await;
            conversation.answer("hello", HELLO).await;
            conversation
        });
        (client.unwrap(), conversation)
    }
}

/// The server's side of a connection.
struct Conversation {
    input: Lines<BufReader<OwnedReadHalf>>,
    output: OwnedWriteHalf,
}

impl Conversation {
    fn new(stream: UnixStream) -> Conversation {
        let (input, output) = stream.into_split();
        let input = BufReader::new(input).lines();
        Conversation { input, output }
    }

    /// Waits for the client's next line; `None` if it has closed.
    async fn next(&mut self) -> Option<String> {
        within(self.input.next_line()).await.unwrap()
    }

    async fn say(&mut self, line: &str) {
        let line = format!("{line}\n");
        self.output.write_all(line.as_bytes()).await.unwrap();
    }

    /// Waits for this line of the client, and replies to it.
    async fn answer(&mut self, expect: &str, line: &str) {
        assert_eq!(self.next().await.as_deref(), Some(expect));
        self.say(line).await;
    }

    /// Grants the lock `name` to a request, which the client must send as `get`.
    async fn grant(&mut self, request: LockRequest, get: &str, name: &str) -> LockGuard {
        let (guard, ()) = tokio::join!(within(request.acquire()), async {
            let shared = get.starts_with('s');
            let kind = if shared { "Shared Lock" } else { "Lock" };
            let fence = if shared { "sf" } else { "f" };
            let granted = format!("1 {kind} Get Success: {name}");
            self.answer(&format!("{get} {name}"), &granted).await;
            let token = format!("7 Lock Fence: {name}");
            self.answer(&format!("{fence} {name}"), &token).await;
        });
        guard.unwrap()
    }
}

#[tokio::test]
async fn release_fails_if_the_server_says_that_the_lock_was_not_held() {
    let fake = Fake::new();
    let (client, mut server) = fake.connect().await;
    let guard = server.grant(client.lock("a b"), "g", "a b").await;
    let (released, ()) = tokio::join!(
        within(guard.release()),
        server.answer("r a b", "0 Lock Release Failure: a b")
    );
    let error = released.unwrap_err();
    assert!(
        matches!(&error, Error::NotHeld { name } if name == b"a b"),
        "{error:?}"
    );
    assert_eq!(
        error.to_string(),
        "the server says that this connection did not hold the lock a b"
    );

    let guard = server.grant(client.shared("c"), "sg", "c").await;
    let (released, ()) = tokio::join!(
        within(guard.release()),
        server.answer("sr c", "0 Shared Lock Release Failure: c")
    );
    let error = released.unwrap_err();
    assert!(
        matches!(&error, Error::NotHeld { name } if name == b"c"),
        "{error:?}"
    );

    // The connection still works.
    let guard = server.grant(client.lock("a b"), "g", "a b").await;
    let (released, ()) = tokio::join!(
        within(guard.release()),
        server.answer("r a b", "1 Lock Release Success: a b")
    );
    released.unwrap();
}

/// The guard of the lost lock is still alive, so there would be two of them.
#[tokio::test]
async fn lock_lost_while_another_connection_opens_is_not_acquired_again() {
    let fake = Fake::new();
    let (client, mut first) = fake.connect().await;
    let lost = first.grant(client.lock("k"), "g", "k").await;
    let one_of_two = first.grant(client.shared("s"), "sg", "s").await;
    // A second connection stays open and in use, so that a wait needs a third one.
    let (two_of_two, mut second) = tokio::join!(within(client.shared("s").acquire()), async {
        let mut second = fake.accept().await;
        second.answer("hello", HELLO).await;
        second.answer("sg s", "2 Shared Lock Get Success: s").await;
        second.answer("sf s", "8 Lock Fence: s").await;
        second
    });
    let two_of_two = two_of_two.unwrap();

    let again = client.lock("k").wait_forever().acquire();
    let (again, ()) = tokio::join!(within(again), async {
        let mut third = fake.accept().await;
        assert_eq!(third.next().await.as_deref(), Some("hello"));
        drop(first);
        within(lost.lost()).await;
        third.say(HELLO).await;
        assert_eq!(third.next().await, None, "the lock was asked for");
    });
    let error = again.unwrap_err();
    assert!(matches!(error, Error::LocksLost(_)), "{error:?}");

    // Once its guard is dropped, the lock can be acquired again.
    drop((lost, one_of_two));
    let guard = second.grant(client.lock("k"), "g", "k").await;
    assert!(!guard.is_lost());
    assert!(!two_of_two.is_lost());
}

/// The owner of the guard must be told of the loss before this client acquires any other lock.
#[tokio::test]
async fn no_lock_is_acquired_if_all_are_lost_while_another_connection_opens() {
    let fake = Fake::new();
    let (client, mut first) = fake.connect().await;
    let lost = first.grant(client.lock("k"), "g", "k").await;
    let other = client.lock("other").wait_forever().acquire();
    let (other, ()) = tokio::join!(within(other), async {
        let mut second = fake.accept().await;
        assert_eq!(second.next().await.as_deref(), Some("hello"));
        drop(first);
        within(lost.lost()).await;
        second.say(HELLO).await;
        assert_eq!(second.next().await, None, "the lock was asked for");
    });
    let error = other.unwrap_err();
    assert!(matches!(error, Error::LocksLost(_)), "{error:?}");
}

/// Another task reconnected sooner, and has lost a lock since.
#[tokio::test]
async fn reconnect_fails_if_a_lock_is_lost_while_it_connects() {
    let fake = Fake::new();
    let (client, first) = fake.connect().await;
    let watched = client.lock("k").wait_forever().acquire();
    let (watched, ()) = tokio::join!(within(watched), async { drop(first) });
    let error = watched.unwrap_err();
    assert!(matches!(error, Error::Lost(_)), "{error:?}");

    let (slow, ()) = tokio::join!(within(client.reconnect()), async {
        let mut second = fake.accept().await;
        assert_eq!(second.next().await.as_deref(), Some("hello"));
        let (quick, mut third) = tokio::join!(within(client.reconnect()), async {
            let mut third = fake.accept().await;
            third.answer("hello", HELLO).await;
            third
        });
        quick.unwrap();
        let lost = third.grant(client.lock("k"), "g", "k").await;
        drop(third);
        within(lost.lost()).await;
        second.say(HELLO).await;
        assert_eq!(second.next().await, None, "the connection is kept");
    });
    let error = slow.unwrap_err();
    assert!(matches!(error, Error::LocksLost(_)), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn wait_outlasts_the_reply_timeout_while_pings_are_answered() {
    let fake = Fake::new();
    let client = Client::builder(&fake.url).reply_timeout(Duration::from_secs(2));
    let (client, mut server) = tokio::join!(client.connect(), async {
        let mut server = fake.accept().await;
        server.answer("hello", HELLO).await;
        server
    });
    let start = Instant::now();
    let waited = client.unwrap().lock("k").wait_forever().acquire();
    let (waited, ()) = tokio::join!(waited, async {
        assert_eq!(server.next().await.as_deref(), Some("gw 4294967295 k"));
        assert_eq!(server.next().await.as_deref(), Some("f k"));
        for _ in 0..50 {
            let line = server.next().await.expect("the client has given up");
            let text = line.strip_prefix("ping ").unwrap();
            server.say(&format!("1 pong: {text}")).await;
        }
        // The lock is granted while a ping is unanswered.
        let line = server.next().await.expect("the client has given up");
        server.say("1 Lock Get Success: k").await;
        server.say("7 Lock Fence: k").await;
        let text = line.strip_prefix("ping ").unwrap();
        server.say(&format!("1 pong: {text}")).await;
    });
    let guard = waited.unwrap();
    assert_eq!(guard.fence(), Some(7));
    assert!(start.elapsed() > Duration::from_secs(30));
    let (released, ()) = tokio::join!(
        guard.release(),
        server.answer("r k", "1 Lock Release Success: k")
    );
    released.unwrap();
}

/// The original loses a line that arrives together with another one, and that may be the probe for the end of its
/// reply.
#[tokio::test(start_paused = true)]
async fn lost_probe_is_soon_sent_again() {
    let fake = Fake::new();
    let start = Instant::now();
    let (client, _server) = tokio::join!(Client::connect(&fake.url), async {
        let mut server = fake.accept().await;
        assert_eq!(server.next().await.as_deref(), Some("hello"));
        let lost = server.next().await.unwrap();
        assert!(lost.starts_with("i "), "{lost}");
        let again = server.next().await.unwrap();
        let name = again.strip_prefix("i ").unwrap();
        server.say(&format!("0 Lock Not Locked: {name}")).await;
        server
    });
    assert!(!client.unwrap().features().wait);
    let elapsed = start.elapsed();
    assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
}

#[tokio::test]
async fn reconnected_client_opens_as_many_connections_as_it_needs() {
    let fake = Fake::new();
    let (client, first) = fake.connect().await;
    let pinged = tokio::join!(within(client.ping()), async { drop(first) }).0;
    assert!(matches!(pinged, Err(Error::Lost(_))), "{pinged:?}");
    let (reconnected, mut second) = tokio::join!(within(client.reconnect()), async {
        let mut second = fake.accept().await;
        second.answer("hello", HELLO).await;
        second
    });
    reconnected.unwrap();
    // Does nothing: a connection is open.
    within(client.reconnect()).await.unwrap();
    let one = second.grant(client.shared("s"), "sg", "s").await;
    let (two, _third) = tokio::join!(within(client.shared("s").acquire()), async {
        let mut third = fake.accept().await;
        third.answer("hello", HELLO).await;
        third.answer("sg s", "2 Shared Lock Get Success: s").await;
        third.answer("sf s", "8 Lock Fence: s").await;
        third
    });
    assert_eq!((one.holders(), two.unwrap().holders()), (1, 2));
}
