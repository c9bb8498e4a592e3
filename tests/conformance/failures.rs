//! Failures of transports, sessions and handshakes, made by transports of the test.

use std::io::{self, Error, ErrorKind};
use std::pin::Pin;
use std::time::Duration;

use glockd::transports::{
    Address, Input, Limits, Listener, Output, Peer, Pending, Session, Transport,
};
use glockd::{BindError, Memory, Server};
use glockd_test_support::within;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;

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
    async fn recv(&mut self, frames: &mut Input) -> io::Result<usize> {
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
            Some(Act::Fail) => return Err(ErrorKind::TimedOut.into()),
            Some(Act::Panic) => panic!("as a bug in a transport would"),
        }
        Ok(frames.len())
    }

    async fn send(&mut self, frames: &mut Output) -> io::Result<()> {
        let Some(heard) = self.heard.take() else {
            return Err(ErrorKind::BrokenPipe.into());
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
struct Arrivals(mpsc::UnboundedReceiver<io::Result<Pending>>);

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
    within(async {
        let (arrivals, receiver) = mpsc::unbounded_channel::<io::Result<Pending>>();
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
