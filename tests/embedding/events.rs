//! The events that an observer gets.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::thread;

use glockd::protocol::LockKind;
use glockd::{Event, GrantDelay, Handle, LockLimit, LockLimits, Observer, Policy, Server};
use tokio::io::AsyncWriteExt;

use super::{Client, Running};

/// Sends each event as a line. Connections are numbered as they come.
struct Recorder {
    lines: Sender<String>,
    connections: std::sync::Mutex<Vec<u64>>,
}

impl Observer for Recorder {
    fn event(&self, event: &Event<'_>) {
        let mut connections = self.connections.lock().unwrap();
        if let Event::Connected { connection, .. } = event {
            connections.push(connection.number());
        }
        let number = |id: &glockd::ConnectionId| {
            let found = connections.iter().position(|&other| other == id.number());
            found.expect("it has connected") + 1
        };
        let lock = |kind: &LockKind, name: &[u8]| {
            let kind = match kind {
                LockKind::Exclusive => "lock",
                LockKind::Shared => "shared lock",
            };
            format!("{kind} {}", name.escape_ascii())
        };
        let line = match event {
            Event::Connected {
                connection,
                address,
                ..
            } => format!(
                "{} connected: {}",
                number(connection),
                address.escape_ascii()
            ),
            Event::Disconnected { connection, .. } => {
                format!("{} disconnected", number(connection))
            }
            Event::ConnectionRefused { address, .. } => {
                format!("refused: {}", address.escape_ascii())
            }
            Event::Granted {
                connection,
                kind,
                name,
                delay,
                ..
            } => {
                let delay = match delay {
                    GrantDelay::Immediate => "at once",
                    GrantDelay::Waited => "after a wait",
                };
                format!(
                    "{} granted {delay}: {}",
                    number(connection),
                    lock(kind, name)
                )
            }
            Event::WaitBegun {
                connection,
                kind,
                name,
                ..
            } => format!("{} waits: {}", number(connection), lock(kind, name)),
            Event::WaitEnded {
                connection,
                kind,
                name,
                ..
            } => format!(
                "{} waited in vain: {}",
                number(connection),
                lock(kind, name)
            ),
            Event::Released {
                connection,
                kind,
                name,
                ..
            } => format!("{} released: {}", number(connection), lock(kind, name)),
            Event::Orphaned {
                connection,
                kind,
                name,
                ..
            } => format!("{} orphaned: {}", number(connection), lock(kind, name)),
            Event::LockRefused {
                connection,
                kind,
                name,
                limit,
                ..
            } => {
                let limit = match limit {
                    LockLimit::Locks => "locks",
                    LockLimit::Waiters => "waiters",
                    _ => "?",
                };
                let lock = lock(kind, name);
                format!(
                    "{} refused by the limit of {limit}: {lock}",
                    number(connection)
                )
            }
            Event::CommandRefused {
                connection, verb, ..
            } => format!("{} refused: {}", number(connection), verb.as_str()),
            other => format!("{other:?}"),
        };
        self.lines.send(line).unwrap();
    }
}

/// A server whose events are recorded.
struct Observed {
    running: Running,
    lines: Receiver<String>,
}

impl Observed {
    async fn start(builder: glockd::Builder) -> Observed {
        let (sender, lines) = mpsc::channel();
        let recorder = Recorder {
            lines: sender,
            connections: Default::default(),
        };
        Observed {
            running: Running::start_as(builder.observer(recorder)).await,
            lines,
        }
    }

    async fn connect(&self) -> Client {
        let mut client = self.running.connect();
        client.ask("me").await;
        client
    }

    /// Asserts that exactly these events have come since the last call.
    fn expect(&self, lines: &[&str]) {
        let found: Vec<String> = self.lines.try_iter().collect();
        assert_eq!(found, lines);
    }

    async fn end(self) {
        self.running.handle.shutdown();
        self.running.ended().await;
    }
}

#[tokio::test]
async fn events_come_before_the_replies_they_belong_to() {
    let observed = Observed::start(Server::builder()).await;
    let mut client = observed.connect().await;
    observed.expect(&["1 connected: memory:1"]);
    client.ask("g foo").await;
    observed.expect(&["1 granted at once: lock foo"]);
    client.ask("r foo").await;
    observed.expect(&["1 released: lock foo"]);
    client.ask("sg foo").await;
    observed.expect(&["1 granted at once: shared lock foo"]);
    client.ask("sr foo").await;
    observed.expect(&["1 released: shared lock foo"]);
    client.ask("gw 0 a b").await;
    client.ask("sgl 1 c").await;
    client.ask("sgw 0 1 d").await;
    observed.expect(&[
        "1 granted at once: lock a b",
        "1 granted at once: shared lock c",
        "1 granted at once: shared lock d",
    ]);
    observed.end().await;
}

#[tokio::test]
async fn commands_that_change_nothing_are_no_events() {
    let observed = Observed::start(Server::builder()).await;
    let mut holder = observed.connect().await;
    let mut other = observed.connect().await;
    holder.ask("g foo").await;
    holder.ask("sg foo").await;
    observed.lines.try_iter().for_each(drop);
    for command in ["g foo", "sg foo", "i foo", "gw 9 foo", "iw 0 foo"] {
        holder.ask(command).await;
    }
    for command in [
        "g foo",
        "gw 0 foo",
        "r foo",
        "sr foo",
        "sgl 1 foo",
        "r bar",
        "iw 1 foo",
    ] {
        other.ask(command).await;
    }
    observed.expect(&[]);
    observed.end().await;
}

#[tokio::test]
async fn released_lock_is_granted_to_the_waiter_after_its_release() {
    let observed = Observed::start(Server::builder()).await;
    let mut holder = observed.connect().await;
    let mut waiter = observed.connect().await;
    holder.ask("g foo").await;
    waiter.send("gw 60000 foo\nping").await;
    waiter.receive().await;
    observed.lines.try_iter().take(3).for_each(drop);
    observed.expect(&["2 waits: lock foo"]);
    holder.ask("r foo").await;
    waiter.receive().await;
    observed.expect(&["1 released: lock foo", "2 granted after a wait: lock foo"]);
    observed.end().await;
}

#[tokio::test]
async fn released_shared_lock_is_granted_to_the_waiter_after_its_release() {
    let observed = Observed::start(Server::builder()).await;
    let mut holder = observed.connect().await;
    let mut waiter = observed.connect().await;
    holder.ask("sg foo").await;
    waiter.send("sgw 60000 1 foo\nping").await;
    waiter.receive().await;
    observed.lines.try_iter().take(3).for_each(drop);
    observed.expect(&["2 waits: shared lock foo"]);
    holder.ask("sr foo").await;
    waiter.receive().await;
    observed.expect(&[
        "1 released: shared lock foo",
        "2 granted after a wait: shared lock foo",
    ]);
    observed.end().await;
}

#[tokio::test]
async fn wait_that_times_out_or_is_cancelled_ends_in_vain() {
    let observed = Observed::start(Server::builder()).await;
    let mut holder = observed.connect().await;
    let mut waiter = observed.connect().await;
    holder.ask("g foo").await;
    observed.lines.try_iter().for_each(drop);
    waiter.ask("gw 1 foo").await;
    observed.expect(&["2 waits: lock foo", "2 waited in vain: lock foo"]);
    waiter.ask("gw 60000 foo\ncancel foo").await;
    waiter.receive().await;
    observed.expect(&["2 waits: lock foo", "2 waited in vain: lock foo"]);
    observed.end().await;
}

#[tokio::test]
async fn closed_connection_ends_its_wait_and_orphans_its_locks() {
    let observed = Observed::start(Server::builder()).await;
    let mut holder = observed.connect().await;
    let mut leaver = observed.connect().await;
    holder.ask("g foo").await;
    leaver.ask("g bar").await;
    leaver.ask("sg bar").await;
    holder.send("gw 60000 bar\nping").await;
    holder.receive().await;
    leaver.send("gw 60000 foo\nping").await;
    leaver.receive().await;
    observed.lines.try_iter().for_each(drop);
    leaver.0.shutdown().await.unwrap();
    leaver.receive().await;
    leaver.expect_close().await;
    holder.receive().await;
    observed.expect(&[
        "2 waited in vain: lock foo",
        "2 orphaned: lock bar",
        "1 granted after a wait: lock bar",
        "2 orphaned: shared lock bar",
        "2 disconnected",
    ]);
    observed.end().await;
}

#[tokio::test]
async fn end_of_the_server_is_the_end_of_its_connections() {
    let observed = Observed::start(Server::builder()).await;
    let mut client = observed.connect().await;
    client.ask("g foo").await;
    observed.lines.try_iter().for_each(drop);
    observed.running.handle.shutdown();
    client.expect_close().await;
    let Observed { running, lines } = observed;
    running.ended().await;
    let found: Vec<String> = lines.try_iter().collect();
    assert_eq!(found, ["1 orphaned: lock foo", "1 disconnected"]);
}

#[tokio::test]
async fn limits_refuse_locks_and_waits() {
    let policy = Policy {
        limits: LockLimits {
            max_locks_per_connection: Some(1),
            max_waiters: Some(1),
            ..LockLimits::default()
        },
        ..Policy::default()
    };
    let observed = Observed::start(Server::builder().policy(policy)).await;
    let mut clients = [
        observed.connect().await,
        observed.connect().await,
        observed.connect().await,
    ];
    clients[0].ask("g foo").await;
    observed.lines.try_iter().for_each(drop);
    clients[0].ask("g bar").await;
    clients[0].ask("sg bar").await;
    observed.expect(&[
        "1 refused by the limit of locks: lock bar",
        "1 refused by the limit of locks: shared lock bar",
    ]);
    clients[1].send("gw 60000 foo\nping").await;
    clients[1].receive().await;
    clients[2].ask("gw 60000 foo").await;
    observed.expect(&[
        "2 waits: lock foo",
        "3 refused by the limit of waiters: lock foo",
    ]);
    observed.end().await;
}

#[tokio::test]
async fn surplus_connection_is_refused() {
    let observed = Observed::start(Server::builder().max_connections(Some(1))).await;
    let _client = observed.connect().await;
    let surplus = observed.running.connect();
    surplus.expect_close().await;
    observed.expect(&["1 connected: memory:1", "refused: memory:2"]);
    observed.end().await;
}

#[tokio::test]
async fn disabled_command_is_refused_and_unknown_one_is_no_event() {
    let policy = Policy {
        dump: false,
        ..Policy::default()
    };
    let observed = Observed::start(Server::builder().policy(policy)).await;
    let mut client = observed.connect().await;
    observed.lines.try_iter().for_each(drop);
    client.send("nonsense").await;
    client.ask("d").await;
    observed.expect(&["1 refused: d"]);
    observed.end().await;
}

/// Disconnects each client as soon as it is seen.
#[derive(Clone, Default)]
struct Expels(Arc<OnceLock<Handle>>);

impl Observer for Expels {
    fn event(&self, event: &Event<'_>) {
        if let Event::Connected { connection, .. } = event {
            let (handle, id) = (self.0.get().expect("the server runs").clone(), *connection);
            // Another thread, because an observer must not call the handle.
            let found = thread::spawn(move || handle.disconnect(id)).join();
            assert!(found.expect("it does not panic"));
        }
    }
}

#[tokio::test]
async fn connection_can_be_disconnected_as_soon_as_it_is_seen() {
    let expels = Expels::default();
    let running = Running::start_as(Server::builder().observer(expels.clone())).await;
    expels.0.set(running.handle.clone()).unwrap();
    running.connect().expect_close().await;
    running.handle.shutdown();
    running.ended().await;
}

/// Panics at each event of a lock.
struct Panics;

impl Observer for Panics {
    fn event(&self, event: &Event<'_>) {
        assert!(!matches!(event, Event::Granted { .. }), "as a bug would");
    }
}

#[tokio::test]
async fn panic_of_an_observer_has_no_effect() {
    let running = Running::start_as(Server::builder().observer(Panics)).await;
    let mut client = running.connect();
    assert_eq!(client.ask("g foo").await, "1 Lock Get Success: foo");
    assert_eq!(client.ask("r foo").await, "1 Lock Release Success: foo");
    running.handle.shutdown();
    running.ended().await;
}
