//! The beginning and end of connections and servers, and their independence of each other.

use glockd::transports::{
    Address, Input, Limits, Listener, Output, Peer, Pending, Session, Transport,
};
use glockd::{BindError, Memory, Policy, Server};
use glockd_test_support::within;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::script;
use crate::server::{TestServer, Via};

#[tokio::test(flavor = "multi_thread")]
async fn half_closed_client_is_answered_and_then_closed() {
    for via in Via::STREAMS {
        within(async {
            let mut server = TestServer::default().await;
            let client = server.connect(via).await;
            let answers = client.finish(&[b"g foo\ng bar\n"]).await;
            assert_eq!(
                answers,
                b"1 Lock Get Success: foo\n1 Lock Get Success: bar\n"
            );
            let mut other = server.connect(via).await;
            assert_eq!(other.ask(b"g foo").await.0, b"1 Lock Get Success: foo\n");
            server.stop().await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn end_of_the_server_closes_every_connection() {
    within(async {
        let mut server = TestServer::default().await;
        let mut clients = Vec::new();
        for via in Via::ALL {
            let mut client = server.connect(via).await;
            assert_eq!(
                client.ask(b"sg foo").await.0,
                format!("{} Shared Lock Get Success: foo\n", clients.len() + 1).as_bytes()
            );
            clients.push(client);
        }
        let ending = tokio::spawn(server.stop());
        for mut client in clients {
            assert_eq!(client.expect_end().await, b"");
        }
        ending.await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_server_closes_every_connection() {
    within(async {
        let (memory, connector) = Memory::new();
        let server = Server::builder().transport(memory).bind().await.unwrap();
        let running = tokio::spawn(server.run(std::future::pending()));
        let mut client = connector.connect().unwrap();
        client.write_all(b"g foo\n").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'1');
        running.abort();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b" Lock Get Success: foo\n");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_do_not_share_locks() {
    within(async {
        let (mut one, mut two) = (TestServer::default().await, TestServer::default().await);
        for server in [&mut one, &mut two] {
            let mut client = server.connect(Via::Memory).await;
            assert_eq!(client.ask(b"g foo").await.0, b"1 Lock Get Success: foo\n");
            let statistics = String::from_utf8(client.ask(b"q").await.0).unwrap();
            assert!(statistics.contains("command_g: 1\n"), "{statistics}");
            assert!(statistics.contains("connections: 1\n"), "{statistics}");
        }
        one.stop().await;
        two.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_over_all_transports_contend_for_one_lock() {
    within(async {
        let mut server = TestServer::default().await;
        let mut clients = Vec::new();
        for via in Via::ALL {
            clients.push(server.connect(via).await);
        }
        let mut clients = clients.into_iter();
        let mut holder = clients.next().unwrap();
        assert_eq!(holder.ask(b"g foo").await.0, b"1 Lock Get Success: foo\n");
        for mut client in clients {
            assert_eq!(client.ask(b"g foo").await.0, b"0 Lock Get Failure: foo\n");
            assert_eq!(
                client.ask(b"r foo").await.0,
                b"0 Lock Release Failure: foo\n"
            );
        }
        server.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_address_do_not_share_locks() {
    script::check(
        "lifetime__names_may_be_shared",
        Policy::default(),
        "
        A: iam twin
        B: iam twin
        A: g foo
        B: r foo
        B: g foo
        B: who twin
        - A
        B: g foo
        B: d
        ",
    )
    .await;
}

/// A transport whose sessions all have one address, and do what a test tells them.
struct Puppets(mpsc::UnboundedReceiver<mpsc::UnboundedReceiver<Act>>);

enum Act {
    Say(&'static str, oneshot::Sender<String>),
    FailToSend(&'static str),
    Fail,
    Panic,
}

struct Puppet {
    acts: mpsc::UnboundedReceiver<Act>,
    heard: Option<oneshot::Sender<String>>,
}

#[async_trait::async_trait]
impl Transport for Puppets {
    fn name(&self) -> &str {
        "puppets"
    }

    async fn listen(self: Box<Self>, _: Limits) -> Result<Listener, BindError> {
        let pending = |acts| {
            Ok(Pending::ready(
                Peer::new("same"),
                Puppet { acts, heard: None },
            ))
        };
        Ok(Listener {
            address: Address::Name("strings".to_owned()),
            incoming: Box::pin(UnboundedReceiverStream::new(self.0).map(pending)),
        })
    }
}

#[async_trait::async_trait]
impl Session for Puppet {
    async fn recv(&mut self, frames: &mut Input) -> std::io::Result<usize> {
        match self.acts.recv().await {
            None => return Ok(0),
            Some(Act::Say(line, heard)) => {
                self.heard = Some(heard);
                frames.push(line.as_bytes());
            }
            Some(Act::FailToSend(lines)) => {
                self.heard = None;
                lines.lines().for_each(|line| frames.push(line.as_bytes()));
            }
            Some(Act::Fail) => return Err(std::io::ErrorKind::TimedOut.into()),
            Some(Act::Panic) => panic!("as a bug in a transport would"),
        }
        Ok(frames.len())
    }

    async fn send(&mut self, frames: &mut Output) -> std::io::Result<()> {
        let Some(heard) = self.heard.take() else {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        };
        let _ = heard.send(String::from_utf8_lossy(frames.as_bytes()).into_owned());
        Ok(())
    }
}

/// Sends a line through a puppet, and returns the reply.
async fn say(puppet: &mpsc::UnboundedSender<Act>, line: &'static str) -> String {
    let (heard, answer) = oneshot::channel();
    assert!(puppet.send(Act::Say(line, heard)).is_ok());
    answer.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_are_freed_whatever_ends_a_connection() {
    within(async {
        let (arrivals, receiver) = mpsc::unbounded_channel();
        let server = Server::builder()
            .transport(Puppets(receiver))
            .bind()
            .await
            .unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(server.run(async { drop(stopped.await) }));
        let arrive = || {
            let (puppet, acts) = mpsc::unbounded_channel();
            arrivals.send(acts).unwrap();
            puppet
        };
        let observer = arrive();
        let ends = [
            Some(Act::Fail),
            Some(Act::Panic),
            Some(Act::FailToSend("i x\ni y")),
            None,
        ];
        for (count, end) in ends.into_iter().enumerate() {
            let puppet = arrive();
            assert_eq!(say(&puppet, "g foo").await, "1 Lock Get Success: foo\n");
            assert_eq!(
                say(&puppet, "sg foo").await,
                "1 Shared Lock Get Success: foo\n"
            );
            // Another connection with the same address.
            assert_eq!(say(&observer, "g foo").await, "0 Lock Get Failure: foo\n");
            assert_eq!(
                say(&observer, "r foo").await,
                "0 Lock Release Failure: foo\n"
            );
            if let Some(end) = end {
                assert!(puppet.send(end).is_ok());
            }
            drop(puppet);
            while !say(&observer, "q").await.contains("connections: 1\n") {}
            assert_eq!(say(&observer, "i foo").await, "0 Lock Not Locked: foo\n");
            assert_eq!(
                say(&observer, "si foo").await,
                "0 Shared Lock Not Locked: foo\n"
            );
            let orphans = format!(
                "\norphans: {0}\nshared_locks: 0\nshared_orphans: {0}\n",
                count + 1
            );
            assert!(say(&observer, "q").await.contains(&orphans));
        }
        drop(stop);
        running.await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_bind_closes_the_other_listeners() {
    within(async {
        let (memory, connector) = Memory::new();
        let taken = tempfile::NamedTempFile::new().unwrap();
        let bound = Server::builder()
            .transport(memory)
            .transport(glockd::Unix::path(taken.path()))
            .bind()
            .await;
        let error = bound.err().unwrap().to_string();
        assert!(
            error.contains(&taken.path().display().to_string()),
            "{error}"
        );
        assert!(connector.connect().is_err());
        assert!(
            taken.path().exists(),
            "a file that is no socket was deleted"
        );
    })
    .await;
}

/// A transport that accepts connections, or fails, as a test tells it.
struct Arrivals(mpsc::UnboundedReceiver<std::io::Result<Pending>>);

#[async_trait::async_trait]
impl Transport for Arrivals {
    fn name(&self) -> &str {
        "arrivals"
    }

    async fn listen(self: Box<Self>, _: Limits) -> Result<Listener, BindError> {
        Ok(Listener {
            address: Address::Name("a channel".to_owned()),
            incoming: Box::pin(UnboundedReceiverStream::new(self.0)),
        })
    }
}

/// Sends a message when it is dropped.
struct Drops(Option<oneshot::Sender<()>>);

impl Drop for Drops {
    fn drop(&mut self) {
        let _ = self.0.take().map(|dropped| dropped.send(()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_accepts_and_handshakes_do_not_count_as_connections() {
    use std::io::{Error, ErrorKind, Result};
    use std::pin::Pin;
    use std::time::Duration;

    within(async {
        let (arrivals, receiver) = mpsc::unbounded_channel::<Result<Pending>>();
        let server = Server::builder()
            .transport(Arrivals(receiver))
            .limits(Limits::default().with_handshake_timeout(Duration::from_millis(1)))
            .bind()
            .await
            .unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(server.run(async { drop(stopped.await) }));
        let shake = |handshake: Pin<Box<dyn Future<Output = _> + Send>>| {
            let pending = Pending::new(Peer::new("same"), handshake);
            assert!(arrivals.send(Ok(pending)).is_ok());
        };

        // Accepts that fail: because of the peer, and for a reason that calls for a pause.
        for kind in [ErrorKind::ConnectionReset, ErrorKind::OutOfMemory] {
            assert!(arrivals.send(Err(kind.into())).is_ok());
        }
        // Handshakes that fail, that panic at once or later, that were for something else, and that never end.
        shake(Box::pin(async { Err(Error::other("no")) }));
        shake(Box::pin(async { panic!("as a bug in a transport would") }));
        shake(Box::pin(async {
            tokio::task::yield_now().await;
            panic!("as a bug in a transport would")
        }));
        shake(Box::pin(async { Ok(None) }));
        let (dropped, timed_out) = oneshot::channel();
        let drops = Drops(Some(dropped));
        shake(Box::pin(async move {
            let _drops = drops;
            std::future::pending().await
        }));
        timed_out.await.unwrap();

        let (puppet, acts) = mpsc::unbounded_channel();
        let puppet_session = Puppet { acts, heard: None };
        let ready = Pending::ready(Peer::new("same"), puppet_session);
        assert!(arrivals.send(Ok(ready)).is_ok());
        let statistics = say(&puppet, "q").await;
        assert!(statistics.contains("\nconnections: 1\n"), "{statistics}");
        drop(stop);
        running.await.unwrap();
    })
    .await;
}

/// Connections end one after the other, and there are many between the holder and its waiter. (A test in
/// `src/server/context.rs` checks that the end of a server closes the table first.)
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn end_of_the_server_grants_no_lock_to_waiters() {
    const PAIRS: usize = 100;
    const IDLE: usize = 4000;
    within(async {
        let (memory, connector) = Memory::new();
        let server = Server::builder().transport(memory).bind().await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(server.run(async { drop(stopped.await) }));
        let ask = async |line: String, expect: String| {
            let mut client = connector.connect().unwrap();
            client.write_all(line.as_bytes()).await.unwrap();
            let mut answer = vec![0; expect.len()];
            client.read_exact(&mut answer).await.unwrap();
            assert_eq!(String::from_utf8(answer).unwrap(), expect);
            client
        };
        let (mut others, mut waiters) = (Vec::new(), Vec::new());
        for pair in 0..PAIRS {
            let granted = format!("1 Lock Get Success: {pair}\n");
            others.push(ask(format!("g {pair}\n"), granted).await);
        }
        for _ in 0..IDLE {
            others.push(ask("ping\n".to_owned(), "1 pong: \n".to_owned()).await);
        }
        for pair in 0..PAIRS {
            let wait = format!("gw 3600000 {pair}\nping\n");
            waiters.push(ask(wait, "1 pong: \n".to_owned()).await);
        }
        drop(stop);
        for mut waiter in waiters {
            let mut rest = String::new();
            waiter.read_to_string(&mut rest).await.unwrap();
            assert_eq!(rest, "");
        }
        running.await.unwrap();
    })
    .await;
}
