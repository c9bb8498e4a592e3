//! Servers that the tests connect to.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use glockd::transports::Address;
use glockd::{Policy, Server, StopReason, Tcp, Unix, WebSocket};
use glockd_client::{Claim, Client};
use glockd_test_support::within;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

/// A glockd, another one without extensions, and in front of that an imitation of the original. They run as long as the
/// test's runtime.
pub(crate) struct Served {
    dir: TempDir,
    tcp: String,
    ws: String,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<StopReason>,
    surplus: Arc<AtomicUsize>,
    relays: Relays,
}

/// The tasks that connect clients to the imitation of the original.
type Relays = Arc<Mutex<JoinSet<()>>>;

pub(crate) async fn serve() -> Served {
    serve_with(Policy::default()).await
}

pub(crate) async fn serve_with(policy: Policy) -> Served {
    let dir = tempfile::tempdir().unwrap();
    let surplus = Arc::new(AtomicUsize::new(0));
    let relays = Relays::default();
    let local = "127.0.0.1:0".parse().unwrap();
    let server = Server::builder()
        .transport(Tcp::address(local))
        .transport(WebSocket::address(local))
        .transport(Unix::path(dir.path().join("sock")))
        .policy(policy);
    let plain = Server::builder()
        .transport(Unix::path(dir.path().join("plain")))
        .policy(Policy {
            extensions: false,
            ..policy
        });
    let (server, plain) = (server.bind().await.unwrap(), plain.bind().await.unwrap());
    let port = |address: &Address| address.ip().unwrap().port();
    let (tcp, ws) = (port(&server.addresses()[0]), port(&server.addresses()[1]));
    let (stop, stopped) = oneshot::channel();
    tokio::spawn(plain.run(std::future::pending()));
    let listener = UnixListener::bind(dir.path().join("original")).unwrap();
    tokio::spawn(original(
        listener,
        dir.path().join("plain"),
        Arc::clone(&surplus),
        Arc::clone(&relays),
    ));
    let running = tokio::spawn(server.run(async { drop(stopped.await) }));
    Served {
        dir,
        tcp: format!("tcp://127.0.0.1:{tcp}"),
        ws: format!("ws://127.0.0.1:{ws}/"),
        stop: Some(stop),
        running,
        surplus,
        relays,
    }
}

impl Served {
    /// Returns the addresses of the glockd: TCP, WebSocket and Unix socket.
    pub(crate) fn modern(&self) -> [String; 3] {
        [self.tcp.clone(), self.ws.clone(), self.unix()]
    }

    pub(crate) fn unix(&self) -> String {
        format!("unix:{}", self.path("sock").display())
    }

    /// Returns the address of the glockd without extensions.
    pub(crate) fn plain(&self) -> String {
        format!("unix:{}", self.path("plain").display())
    }

    /// Returns the address of the imitation of the original, which loses pipelined lines.
    pub(crate) fn original(&self) -> String {
        format!("unix:{}", self.path("original").display())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns the number of lines that the imitation of the original has lost.
    pub(crate) fn surplus(&self) -> usize {
        self.surplus.load(Relaxed)
    }

    /// Cuts all connections to the imitation of the original.
    pub(crate) fn cut(&self) {
        self.relays.lock().unwrap().abort_all();
    }

    /// Stops the glockd and ends all its connections.
    pub(crate) async fn stop(&mut self) {
        drop(self.stop.take());
        within(&mut self.running).await.unwrap();
    }

    /// Starts another glockd on the Unix socket.
    pub(crate) async fn start_again(&mut self) {
        let again = Server::builder().transport(Unix::path(self.path("sock")));
        let again = again.bind().await.unwrap();
        self.running = tokio::spawn(again.run(std::future::pending()));
    }
}

/// Imitates the original in front of a glockd: passes the first line of each read on, loses the rest, and ends lines by
/// `\r\n`.
async fn original(
    listener: UnixListener,
    plain: PathBuf,
    surplus: Arc<AtomicUsize>,
    relays: Relays,
) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let server = UnixStream::connect(&plain).await.unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let surplus = Arc::clone(&surplus);
        let mut relays = relays.lock().unwrap();
        relays.spawn(async move {
            let mut read = [0; 4096];
            while let Ok(length @ 1..) = from_client.read(&mut read).await {
                let mut lines = read[..length].split_inclusive(|&byte| byte == b'\n');
                to_server.write_all(lines.next().unwrap()).await.unwrap();
                surplus.fetch_add(lines.count(), Relaxed);
            }
        });
        relays.spawn(async move {
            let mut read = [0; 4096];
            while let Ok(length @ 1..) = from_server.read(&mut read).await {
                for line in read[..length].split_inclusive(|&byte| byte == b'\n') {
                    let mut line = line.to_vec();
                    if line.pop_if(|byte| *byte == b'\n').is_some() {
                        line.extend(b"\r\n");
                    }
                    if to_client.write_all(&line).await.is_err() {
                        return;
                    }
                }
            }
        });
    }
}

pub(crate) async fn connect(url: &str) -> Client {
    within(Client::connect(url)).await.unwrap()
}

/// Waits until `found` returns true for the claims on this lock. Returns them.
pub(crate) async fn await_claims(
    client: &Client,
    name: &str,
    found: impl Fn(&[Claim]) -> bool,
) -> Vec<Claim> {
    within(async {
        loop {
            let claims = client.claims(name).await.unwrap();
            if found(&claims) {
                return claims;
            }
        }
    })
    .await
}

/// Starts a server that calls `serve` for each connection. Returns its directory and its address.
pub(crate) async fn served_by<F>(
    serve: impl Fn(UnixStream) -> F + Send + 'static,
) -> (tempfile::TempDir, String)
where
    F: Future<Output = ()> + Send + 'static,
{
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    (dir, format!("unix:{}", path.display()))
}
