//! The interface for programs that embed a server: its handle, and how it ends.

// Always true here. It tells clippy that helper functions may unwrap, too.
#![cfg(test)]

mod events;

use std::future::{pending, ready};

use glockd::protocol::Verb;
use glockd::{Builder, ConnectionId, Connector, Handle, Memory, Server, StopReason};
use glockd_test_support::{PATIENCE, within};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio::task::JoinHandle;

/// A server that runs in a task of its own.
struct Running {
    connector: Connector,
    handle: Handle,
    run: JoinHandle<StopReason>,
}

impl Running {
    async fn start() -> Running {
        Running::start_as(Server::builder()).await
    }

    async fn start_as(builder: Builder) -> Running {
        let (memory, connector) = Memory::new();
        let server = builder.transport(memory).bind().await.unwrap();
        Running {
            connector,
            handle: server.handle(),
            run: tokio::spawn(server.run(pending())),
        }
    }

    fn connect(&self) -> Client {
        Client(BufReader::new(self.connector.connect().unwrap()))
    }

    async fn ended(self) -> StopReason {
        within(self.run).await.unwrap()
    }
}

async fn bind() -> (Server, Connector) {
    let (memory, connector) = Memory::new();
    let server = Server::builder().transport(memory).bind().await.unwrap();
    (server, connector)
}

struct Client(BufReader<DuplexStream>);

impl Client {
    async fn send(&mut self, line: &str) {
        let line = format!("{line}\n");
        self.0.write_all(line.as_bytes()).await.unwrap();
    }

    async fn receive(&mut self) -> String {
        let mut line = String::new();
        let read = within(self.0.read_line(&mut line)).await;
        assert!(read.unwrap() > 0, "the connection has ended");
        line.trim_end().to_owned()
    }

    async fn ask(&mut self, line: &str) -> String {
        self.send(line).await;
        self.receive().await
    }

    /// Waits until the server closes the connection, and asserts that it sent nothing more.
    async fn expect_close(mut self) {
        let mut rest = Vec::new();
        let read = within(self.0.read_to_end(&mut rest)).await;
        read.unwrap();
        assert_eq!(rest.escape_ascii().to_string(), "");
    }
}

#[test]
fn handle_is_clone_send_and_sync() {
    fn check<T: Clone + Send + Sync + 'static>() {}
    check::<Handle>();
}

#[tokio::test]
async fn completed_future_is_the_reason() {
    let (server, _connector) = bind().await;
    let run = server.run(ready(()));
    assert_eq!(within(run).await, StopReason::Shutdown);
}

#[tokio::test]
async fn handle_shuts_a_running_server_down() {
    let running = Running::start().await;
    let mut client = running.connect();
    assert_eq!(client.ask("g foo").await, "1 Lock Get Success: foo");
    running.handle.clone().shutdown();
    client.expect_close().await;
    assert_eq!(running.ended().await, StopReason::Handle);
}

#[tokio::test]
async fn shutdown_before_run_ends_the_run_at_once() {
    let (server, connector) = bind().await;
    server.handle().shutdown();
    let client = Client(BufReader::new(connector.connect().unwrap()));
    let run = server.run(pending());
    assert_eq!(within(run).await, StopReason::Handle);
    client.expect_close().await;
}

#[tokio::test]
async fn shutdown_after_the_end_does_nothing() {
    let running = Running::start().await;
    let handle = running.handle.clone();
    handle.shutdown();
    running.ended().await;
    handle.shutdown();
}

#[tokio::test]
async fn statistics_count_what_clients_do() {
    let running = Running::start().await;
    let mut client = running.connect();
    client.ask("g foo").await;
    client.ask("sg foo").await;
    client.ask("g foo").await;
    client.send("nonsense").await;
    client.ask("i foo").await;
    let statistics = running.handle.statistics();
    assert_eq!(statistics.connections, 1);
    assert_eq!((statistics.locks, statistics.shared_locks), (1, 1));
    assert_eq!(statistics.commands(Verb::G), 2);
    assert_eq!(statistics.commands(Verb::R), 0);
    assert_eq!(statistics.invalid_commands, 1);
    assert_eq!((statistics.orphans, statistics.shared_orphans), (0, 0));
}

#[tokio::test]
async fn handle_answers_before_and_after_the_run() {
    let (server, connector) = bind().await;
    let handle = server.handle();
    assert_eq!(handle.statistics().connections, 0);
    assert_eq!(handle.connections(), []);
    let running = Running {
        connector,
        handle: handle.clone(),
        run: tokio::spawn(server.run(pending())),
    };
    let mut client = running.connect();
    client.ask("g foo").await;
    let id = handle.connections()[0].id;
    handle.shutdown();
    running.ended().await;
    assert_eq!(handle.connections(), []);
    assert!(!handle.disconnect(id));
    within(handle.drain()).await;
    let statistics = handle.statistics();
    assert_eq!((statistics.connections, statistics.locks), (0, 0));
    assert_eq!(statistics.orphans, 1);
    assert_eq!(statistics.commands(Verb::G), 1);
}

#[tokio::test]
async fn connections_are_listed_with_address_and_name() {
    let running = Running::start().await;
    let mut clients = [running.connect(), running.connect()];
    for client in &mut clients {
        client.ask("me").await;
    }
    clients[1].ask("iam second").await;
    let mut found = running.handle.connections();
    found.sort_by_key(|connection| connection.id);
    let shown: Vec<_> = found
        .iter()
        .map(|connection| (connection.address.clone(), connection.name.clone()))
        .collect();
    let [first, second] = ["memory:1", "memory:2"].map(str::to_owned);
    assert_eq!(shown, [(first, None), (second, Some(b"second".to_vec()))]);
    assert!(found.iter().all(|connection| connection.age < PATIENCE));
}

#[tokio::test]
async fn disconnected_client_loses_its_locks_and_others_do_not() {
    let running = Running::start().await;
    let mut victim = running.connect();
    assert_eq!(victim.ask("g foo").await, "1 Lock Get Success: foo");
    let id = running.handle.connections()[0].id;
    let mut other = running.connect();
    assert_eq!(other.ask("g bar").await, "1 Lock Get Success: bar");
    other.send("gw 60000 foo").await;
    assert!(running.handle.disconnect(id));
    victim.expect_close().await;
    assert_eq!(other.receive().await, "1 Lock Get Success: foo");
    assert_eq!(other.ask("i bar").await, "1 Lock Is Locked: bar");
    assert!(!running.handle.disconnect(id));
    let statistics = running.handle.statistics();
    assert_eq!((statistics.connections, statistics.orphans), (1, 1));
    let found = running.handle.connections();
    assert_eq!(found.len(), 1);
    assert!(found[0].id > id);
}

#[tokio::test]
async fn unknown_connection_is_not_disconnected() {
    let running = Running::start().await;
    let mut client = running.connect();
    client.ask("g foo").await;
    let id = running.handle.connections()[0].id.number();
    for unknown in [id + 1, id - 1, u64::MAX] {
        if let Some(unknown) = ConnectionId::from_number(unknown) {
            assert!(!running.handle.disconnect(unknown));
        }
    }
    assert_eq!(client.ask("i foo").await, "1 Lock Is Locked: foo");
}

#[tokio::test]
async fn drain_of_an_idle_server_ends_the_run() {
    let running = Running::start().await;
    let mut client = running.connect();
    client.ask("g foo").await;
    client.ask("r foo").await;
    within(running.handle.drain()).await;
    client.expect_close().await;
    assert_eq!(running.ended().await, StopReason::Drained);
}

#[tokio::test]
async fn drain_before_run_ends_the_run_at_once() {
    let (server, _connector) = bind().await;
    within(server.handle().drain()).await;
    let run = server.run(pending());
    assert_eq!(within(run).await, StopReason::Drained);
}

#[tokio::test]
async fn drain_serves_holders_until_they_hold_nothing() {
    let running = Running::start().await;
    let mut holder = running.connect();
    let mut idle = running.connect();
    assert_eq!(holder.ask("g foo").await, "1 Lock Get Success: foo");
    idle.ask("i foo").await;
    let mut drain = Box::pin(running.handle.drain());
    // Polled until the idle client has been disconnected.
    tokio::select! {
        () = &mut drain => panic!("a client holds a lock"),
        () = idle.expect_close() => {}
    }
    assert!(running.connector.connect().is_err(), "it accepts no more");
    let work = async {
        // From one lock to the next without a moment in between.
        for number in 0..1000 {
            assert_eq!(
                holder.ask(&format!("sg {number}")).await,
                format!("1 Shared Lock Get Success: {number}")
            );
            let last = match number {
                0 => "r foo".to_owned(),
                _ => format!("sr {}", number - 1),
            };
            assert!(holder.ask(&last).await.starts_with('1'));
            tokio::task::yield_now().await;
        }
        holder.send("sr 999").await;
        assert_eq!(holder.receive().await, "1 Shared Lock Release Success: 999");
        holder.expect_close().await;
    };
    let (_, ()) = within(async { tokio::join!(drain, work) }).await;
    assert_eq!(running.ended().await, StopReason::Drained);
}

#[tokio::test]
async fn drain_lets_waits_end() {
    let running = Running::start().await;
    let mut holder = running.connect();
    let mut waiter = running.connect();
    let mut idle = running.connect();
    holder.ask("g foo").await;
    idle.ask("me").await;
    waiter.send("gw 60000 foo\nping").await;
    assert_eq!(waiter.receive().await, "1 pong:");
    let drain = tokio::spawn(running.handle.drain());
    idle.expect_close().await;
    holder.send("r foo").await;
    assert_eq!(holder.receive().await, "1 Lock Release Success: foo");
    holder.expect_close().await;
    assert_eq!(waiter.receive().await, "1 Lock Get Success: foo");
    assert_eq!(waiter.ask("i foo").await, "1 Lock Is Locked: foo");
    assert!(!drain.is_finished());
    waiter.send("r foo").await;
    assert_eq!(waiter.receive().await, "1 Lock Release Success: foo");
    waiter.expect_close().await;
    within(drain).await.unwrap();
    assert_eq!(running.ended().await, StopReason::Drained);
}

#[tokio::test]
async fn shutdown_ends_a_drain() {
    let running = Running::start().await;
    let mut holder = running.connect();
    holder.ask("g foo").await;
    let drain = tokio::spawn(running.handle.drain());
    running.handle.shutdown();
    within(drain).await.unwrap();
    holder.expect_close().await;
    assert_eq!(running.handle.statistics().connections, 0);
    assert_eq!(running.ended().await, StopReason::Handle);
}

/// On a clock that jumps whenever all tasks wait.
#[tokio::test(start_paused = true)]
async fn dropped_drain_ends_no_more_connections() {
    let running = Running::start().await;
    let mut holder = running.connect();
    let mut idle = running.connect();
    holder.ask("g foo").await;
    idle.ask("me").await;
    {
        let mut drain = Box::pin(running.handle.drain());
        tokio::select! {
            () = &mut drain => panic!("a client holds a lock"),
            () = idle.expect_close() => {}
        }
    }
    holder.ask("r foo").await;
    // A drain that went on would find the connection idle.
    tokio::time::sleep(PATIENCE).await;
    assert_eq!(holder.ask("g foo").await, "1 Lock Get Success: foo");
    holder.ask("r foo").await;
    within(running.handle.drain()).await;
    assert_eq!(running.ended().await, StopReason::Drained);
}
