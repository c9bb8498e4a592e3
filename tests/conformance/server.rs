//! A server for one test, and clients over any transport.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use glockd::{Connector, Limits, Memory, Policy, Server, Tcp, Unix, WebSocket};
use tempfile::TempDir;
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::client::Client;

/// The transport of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    Tcp,
    Unix,
    WebSocket,
    Memory,
}

impl Via {
    pub(crate) const ALL: [Via; 4] = [Via::Tcp, Via::Unix, Via::WebSocket, Via::Memory];

    /// The transports whose frames are lines.
    pub(crate) const STREAMS: [Via; 3] = [Via::Tcp, Via::Unix, Via::Memory];
}

/// A running server that listens on all transports.
pub(crate) struct TestServer {
    tcp: SocketAddr,
    websocket: SocketAddr,
    unix: PathBuf,
    memory: Connector,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<glockd::StopReason>,
    arrived: HashMap<&'static str, usize>,
    _directory: TempDir,
}

impl TestServer {
    pub(crate) async fn start(policy: Policy, limits: Limits) -> TestServer {
        let directory = tempfile::tempdir().unwrap();
        let unix = directory.path().join("socket");
        let (memory, connector) = Memory::new();
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = Server::builder()
            .transport(Tcp::address(local))
            .transport(WebSocket::address(local))
            .transport(Unix::path(&unix))
            .transport(memory)
            .policy(policy)
            .limits(limits)
            .bind()
            .await
            .unwrap();
        let addresses = server.addresses();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(server.run(async move { drop(stopped.await) }));
        TestServer {
            tcp: addresses[0].ip().unwrap(),
            websocket: addresses[1].ip().unwrap(),
            unix,
            memory: connector,
            stop: Some(stop),
            running,
            arrived: HashMap::new(),
            _directory: directory,
        }
    }

    /// Starts a server with default settings.
    pub(crate) async fn default() -> TestServer {
        TestServer::start(Policy::default(), Limits::default()).await
    }

    /// Starts a server with the default policy and this maximum length of a line.
    pub(crate) async fn with_max_line(max_line: usize) -> TestServer {
        let limits = Limits::default().with_max_line(max_line);
        TestServer::start(Policy::default(), limits).await
    }

    /// Stops the server, and waits for its end.
    pub(crate) async fn stop(mut self) {
        self.stop.take();
        self.running.await.unwrap();
    }

    /// Connects a new client. The addresses of successive clients of one transport are in sorted order.
    pub(crate) async fn connect(&mut self, via: Via) -> Client {
        match via {
            Via::Tcp => {
                let stream = self.connect_tcp(self.tcp).await;
                Client::stream(stream.local_addr().unwrap().to_string(), stream)
            }
            Via::WebSocket => {
                let stream = self.connect_tcp(self.websocket).await;
                Client::websocket(stream).await
            }
            Via::Unix => {
                let stream = UnixStream::connect(&self.unix).await.unwrap();
                Client::stream(format!("unix:{}", self.next("unix")), stream)
            }
            Via::Memory => {
                let stream = self.memory.connect().unwrap();
                Client::stream(format!("memory:{}", self.next("memory")), stream)
            }
        }
    }

    /// Returns a bare TCP connection to the port for lines.
    pub(crate) async fn tcp(&mut self) -> TcpStream {
        self.connect_tcp(self.tcp).await
    }

    async fn connect_tcp(&mut self, to: SocketAddr) -> TcpStream {
        // Each client has its own loopback address: the order must not depend on the ports that they get.
        let number = u8::try_from(self.next("ip")).unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket
            .bind((Ipv4Addr::new(127, 0, 0, number), 0).into())
            .unwrap();
        let stream = socket.connect(to).await.unwrap();
        // Otherwise a second write would wait until the first one is acknowledged.
        stream.set_nodelay(true).unwrap();
        stream
    }

    fn next(&mut self, kind: &'static str) -> usize {
        let arrived = self.arrived.entry(kind).or_insert(0);
        *arrived += 1;
        *arrived
    }
}
