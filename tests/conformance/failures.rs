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

/// A transport whose sessions all have one address and are scripted by a test. It receives the steps of each session.
struct ScriptedTransport(mpsc::UnboundedReceiver<mpsc::UnboundedReceiver<Step>>);

/// What a session does next.
enum Step {
    /// It receives a line, and passes the reply to the test.
    Receive(&'static str, oneshot::Sender<String>),
    /// It receives lines, and fails to send the replies.
    FailToSend(&'static str),
    FailToReceive,
    Panic,
}

struct ScriptedSession {
    steps: mpsc::UnboundedReceiver<Step>,
    /// The test's end for the next reply.
    reply: Option<oneshot::Sender<String>>,
}

#[async_trait::async_trait]
impl Transport for ScriptedTransport {
    fn name(&self) -> &str {
        "scripted"
    }

    async fn listen(self: Box<Self>, _: Limits) -> Result<Listener, BindError> {
        let pending = |steps| {
            Ok(Pending::ready(
                Peer::new("same"),
                ScriptedSession { steps, reply: None },
            ))
        };
        Ok(Listener {
            address: Address::Name("a test".to_owned()),
            incoming: Box::pin(UnboundedReceiverStream::new(self.0).map(pending)),
        })
    }
}

#[async_trait::async_trait]
impl Session for ScriptedSession {
    async fn recv(&mut self, input: &mut Input) -> io::Result<usize> {
        match self.steps.recv().await {
            None => return Ok(0),
            Some(Step::Receive(line, reply)) => {
                self.reply = Some(reply);
                input.push(line.as_bytes());
            }
            Some(Step::FailToSend(lines)) => {
                self.reply = None;
                lines.lines().for_each(|line| input.push(line.as_bytes()));
            }
            Some(Step::FailToReceive) => return Err(ErrorKind::TimedOut.into()),
            Some(Step::Panic) => panic!("a bug in the transport"),
        }
        Ok(input.len())
    }

    async fn send(&mut self, output: &mut Output) -> io::Result<()> {
        let Some(reply) = self.reply.take() else {
            return Err(ErrorKind::BrokenPipe.into());
        };
        let _ = reply.send(String::from_utf8_lossy(output.as_bytes()).into_owned());
        Ok(())
    }
}

/// Sends a line through a session, and returns the reply.
async fn ask(session: &mpsc::UnboundedSender<Step>, line: &'static str) -> String {
    let (reply, received) = oneshot::channel();
    assert!(session.send(Step::Receive(line, reply)).is_ok());
    received.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_are_freed_whatever_ends_a_connection() {
    within(async {
        let (connections, receiver) = mpsc::unbounded_channel();
        let server = Server::builder()
            .transport(ScriptedTransport(receiver))
            .bind()
            .await
            .unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(server.run(async { drop(stopped.await) }));
        let connect = || {
            let (session, steps) = mpsc::unbounded_channel();
            connections.send(steps).unwrap();
            session
        };
        let observer = connect();
        let ends = [
            Some(Step::FailToReceive),
            Some(Step::Panic),
            Some(Step::FailToSend("i x\ni y")),
            None,
        ];
        for (count, end) in ends.into_iter().enumerate() {
            let session = connect();
            assert_eq!(ask(&session, "g foo").await, "1 Lock Get Success: foo\n");
            assert_eq!(
                ask(&session, "sg foo").await,
                "1 Shared Lock Get Success: foo\n"
            );
            // Another connection with the same address.
            assert_eq!(ask(&observer, "g foo").await, "0 Lock Get Failure: foo\n");
            assert_eq!(
                ask(&observer, "r foo").await,
                "0 Lock Release Failure: foo\n"
            );
            if let Some(end) = end {
                assert!(session.send(end).is_ok());
            }
            drop(session);
            while !ask(&observer, "q").await.contains("connections: 1\n") {}
            assert_eq!(ask(&observer, "i foo").await, "0 Lock Not Locked: foo\n");
            assert_eq!(
                ask(&observer, "si foo").await,
                "0 Shared Lock Not Locked: foo\n"
            );
            let orphans = format!(
                "\norphans: {0}\nshared_locks: 0\nshared_orphans: {0}\n",
                count + 1
            );
            assert!(ask(&observer, "q").await.contains(&orphans));
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
            "a file that is not a socket was deleted"
        );
    })
    .await;
}

/// A transport that accepts the connections, or fails with the errors, that a test passes to it.
struct AcceptingTransport(mpsc::UnboundedReceiver<io::Result<Pending>>);

#[async_trait::async_trait]
impl Transport for AcceptingTransport {
    fn name(&self) -> &str {
        "accepting"
    }

    async fn listen(self: Box<Self>, _: Limits) -> Result<Listener, BindError> {
        Ok(Listener {
            address: Address::Name("a channel".to_owned()),
            incoming: Box::pin(UnboundedReceiverStream::new(self.0)),
        })
    }
}

/// Notifies a test when it is dropped.
struct NotifyOnDrop(Option<oneshot::Sender<()>>);

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        let _ = self.0.take().map(|dropped| dropped.send(()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_accepts_and_handshakes_do_not_count_as_connections() {
    within(async {
        let (connections, receiver) = mpsc::unbounded_channel::<io::Result<Pending>>();
        let server = Server::builder()
            .transport(AcceptingTransport(receiver))
            .limits(Limits::default().with_handshake_timeout(Duration::from_millis(1)))
            .bind()
            .await
            .unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(server.run(async { drop(stopped.await) }));
        let connect = |handshake: Pin<Box<dyn Future<Output = _> + Send>>| {
            let pending = Pending::new(Peer::new("same"), handshake);
            assert!(connections.send(Ok(pending)).is_ok());
        };

        // Accepts that fail: because of the peer, and for a reason that calls for a pause.
        for kind in [ErrorKind::ConnectionReset, ErrorKind::OutOfMemory] {
            assert!(connections.send(Err(kind.into())).is_ok());
        }
        // Handshakes that fail, that panic at once or later, that were for something else, and that never end.
        connect(Box::pin(async { Err(Error::other("no")) }));
        connect(Box::pin(async { panic!("a bug in the transport") }));
        connect(Box::pin(async {
            tokio::task::yield_now().await;
            panic!("a bug in the transport")
        }));
        connect(Box::pin(async { Ok(None) }));
        let (dropped, timed_out) = oneshot::channel();
        let notify = NotifyOnDrop(Some(dropped));
        connect(Box::pin(async move {
            let _notify = notify;
            std::future::pending().await
        }));
        timed_out.await.unwrap();

        let (session, steps) = mpsc::unbounded_channel();
        let scripted = ScriptedSession { steps, reply: None };
        let ready = Pending::ready(Peer::new("same"), scripted);
        assert!(connections.send(Ok(ready)).is_ok());
        let statistics = ask(&session, "q").await;
        assert!(statistics.contains("\nconnections: 1\n"), "{statistics}");
        drop(stop);
        running.await.unwrap();
    })
    .await;
}
