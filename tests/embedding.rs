//! The interface for programs that embed a server: its handle, and how it ends.

// Always so here; it tells clippy that not only the functions marked as tests may unwrap.
#![cfg(test)]

use std::future::{pending, ready};
use std::time::Duration;

use glockd::{Connector, Handle, Memory, Server, StopReason};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than anything takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that runs in a task of its own.
struct Running {
    connector: Connector,
    handle: Handle,
    run: JoinHandle<StopReason>,
}

impl Running {
    async fn start() -> Running {
        let (server, connector) = bind().await;
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
        timeout(PATIENCE, self.run).await.unwrap().unwrap()
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
        let read = timeout(PATIENCE, self.0.read_line(&mut line))
            .await
            .unwrap();
        assert!(read.unwrap() > 0, "the connection has ended");
        line.trim_end().to_owned()
    }

    async fn ask(&mut self, line: &str) -> String {
        self.send(line).await;
        self.receive().await
    }

    /// Waits until the server closes the connection, and asserts that it sent nothing more.
    async fn is_closed(mut self) {
        let mut rest = Vec::new();
        let read = timeout(PATIENCE, self.0.read_to_end(&mut rest))
            .await
            .unwrap();
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
    assert_eq!(timeout(PATIENCE, run).await.unwrap(), StopReason::Shutdown);
}

#[tokio::test]
async fn handle_shuts_a_running_server_down() {
    let running = Running::start().await;
    let mut client = running.connect();
    assert_eq!(client.ask("g foo").await, "1 Lock Get Success: foo");
    running.handle.clone().shutdown();
    client.is_closed().await;
    assert_eq!(running.ended().await, StopReason::Handle);
}

#[tokio::test]
async fn shutdown_before_run_ends_the_run_at_once() {
    let (server, connector) = bind().await;
    server.handle().shutdown();
    let client = Client(BufReader::new(connector.connect().unwrap()));
    let run = server.run(pending());
    assert_eq!(timeout(PATIENCE, run).await.unwrap(), StopReason::Handle);
    client.is_closed().await;
}

#[tokio::test]
async fn shutdown_after_the_end_does_nothing() {
    let running = Running::start().await;
    let handle = running.handle.clone();
    handle.shutdown();
    running.ended().await;
    handle.shutdown();
}
