//! Unix sockets: at a file, or by an abstract name.

mod socket_file;

use std::io;
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use socket2::{Domain, SockRef};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::Stream;

use crate::address::{Address, Peer};
use crate::limits::Limits;
use crate::listen::unix::socket_file::{MAX_NAME, Refusal, SocketFile};
use crate::listen::{Accepted, Listen, std_socket};
use crate::transport::{BindError, Listener};

/// Default mode of a socket file: everyone may connect, which takes the right to write. The other rights mean nothing
/// for a socket.
const DEFAULT_MODE: u32 = 0o766;

/// Listens on a Unix socket. Peers are named `unix:1`, `unix:2`, … in the order of arrival.
#[derive(Debug)]
pub struct Unix {
    endpoint: Endpoint,
    mode: u32,
}

/// Where a Unix socket listens.
#[derive(Debug)]
enum Endpoint {
    /// A file at this path.
    Path(PathBuf),
    /// This abstract name, without the NUL that starts it.
    Abstract(String),
    /// Wherever this socket already listens.
    Std(net::UnixListener),
}

impl Unix {
    /// Listens on a socket file at this path, which is created with mode 0766. It is removed when the server stops
    /// listening, unless another file has taken its place.
    pub fn path(path: impl Into<PathBuf>) -> Unix {
        Unix::new(Endpoint::Path(path.into()))
    }

    /// Listens on an abstract socket of this name, which has no file: every process in the same network namespace may
    /// connect. It is shown as `@name`. Only Linux has abstract sockets.
    pub fn abstract_name(name: impl Into<String>) -> Unix {
        Unix::new(Endpoint::Abstract(name.into()))
    }

    /// Accepts from a socket that already listens, such as one passed by a service manager. `listen` checks that it
    /// is one. Its file, if it has one, is left as it is, then and at the end.
    pub fn from_std(listener: net::UnixListener) -> Unix {
        Unix::new(Endpoint::Std(listener))
    }

    /// Sets the permissions of the file that [`path`](Unix::path) creates; other bits of the mode are ignored. Users
    /// with the right to write may connect.
    pub fn mode(self, mode: u32) -> Unix {
        Unix {
            mode: mode & 0o777,
            ..self
        }
    }

    fn new(endpoint: Endpoint) -> Unix {
        Unix {
            endpoint,
            mode: DEFAULT_MODE,
        }
    }
}

impl Listen for Unix {
    const NAME: &'static str = "unix";

    type Stream = UnixStream;

    async fn listen(self, _: Limits) -> Result<Listener<Accepted<UnixStream>>, BindError> {
        let (address, opened) = match self.endpoint {
            Endpoint::Path(path) => {
                let opened = socket_file::bind(path.clone(), self.mode).await;
                let opened = opened.map(|(file, listener)| (Some(file), listener));
                (Address::Path(path), opened)
            }
            Endpoint::Abstract(name) => {
                let opened = bind_abstract(&name).map(|listener| (None, listener));
                (Address::Name(format!("@{name}")), opened)
            }
            Endpoint::Std(listener) => {
                let socket = SockRef::from(&listener);
                std_socket::prepare(&socket, &[Domain::UNIX], "Unix stream")?;
                let address = address_of(&listener);
                let listener = UnixListener::from_std(listener).map_err(Refusal::from);
                (address, listener.map(|listener| (None, listener)))
            }
        };
        match opened {
            Ok((file, listener)) => Ok(Listener {
                address,
                incoming: Box::pin(Arrivals {
                    _file: file,
                    listener,
                    arrived: 0,
                }),
            }),
            Err(Refusal::InUse) => Err(BindError::InUse { address }),
            Err(Refusal::NotASocket) => Err(BindError::NotASocket { address }),
            Err(Refusal::TooLong { length }) => Err(BindError::TooLong {
                address,
                length,
                limit: MAX_NAME,
            }),
            Err(Refusal::Io(source)) => Err(BindError::Refused { address, source }),
        }
    }
}

/// Connections of a listening socket.
struct Arrivals {
    /// Dropped before the listener (fields are dropped in their order). While the socket is open, its inode number
    /// cannot be given to another file, and no other daemon takes the file for stale.
    _file: Option<SocketFile>,
    listener: UnixListener,
    arrived: u64,
}

impl Stream for Arrivals {
    type Item = io::Result<Accepted<UnixStream>>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Accepted<UnixStream>>>> {
        let (stream, _) = ready!(self.listener.poll_accept(context))?;
        self.arrived += 1;
        let peer = Peer::new(&format!("unix:{}", self.arrived));
        Poll::Ready(Some(Ok(Accepted { peer, stream })))
    }
}

/// Returns a listening socket of an abstract name. Nothing can be stale: the name ends with the socket.
fn bind_abstract(name: &str) -> Result<UnixListener, Refusal> {
    let address = socket_file::address(Path::new(&format!("\0{name}")), name.len())?;
    let socket = socket_file::new_socket()?;
    socket
        .bind(&address)
        .map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::ADDRINUSE) => Refusal::InUse,
            _ => error.into(),
        })?;
    Ok(socket_file::listen_on(socket)?)
}

/// Returns the address of a socket that this crate has not bound.
fn address_of(listener: &net::UnixListener) -> Address {
    use std::os::linux::net::SocketAddrExt;
    let unnamed = || Address::Name("an unnamed socket".to_owned());
    let Ok(address) = listener.local_addr() else {
        return unnamed();
    };
    match (address.as_pathname(), address.as_abstract_name()) {
        (Some(path), _) => Address::Path(path.to_owned()),
        (None, Some(name)) => Address::Name(format!("@{}", name.escape_ascii())),
        (None, None) => unnamed(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::OwnedFd;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener as StdListener;
    use std::sync::{Arc, Barrier};
    use std::time::Duration;

    use rustix::fs::{FlockOperation, flock};
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio_stream::StreamExt;

    use super::*;
    use crate::{Input, InputFrame, Output, Transport};

    async fn bounded<T>(test: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(30), test)
            .await
            .expect("the test takes too long")
    }

    async fn listen(path: impl Into<PathBuf>) -> Result<Listener, BindError> {
        bounded(Box::new(Unix::path(path)).listen(Limits::default())).await
    }

    /// Makes a socket file on which nobody listens.
    fn stale(path: &Path) {
        drop(StdListener::bind(path).unwrap());
        assert!(path.exists());
    }

    fn inode(path: &Path) -> u64 {
        fs::symlink_metadata(path).unwrap().ino()
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[tokio::test]
    async fn lines_are_received_and_sent() {
        bounded(async {
            let directory = TempDir::new().unwrap();
            let path = directory.path().join("socket");
            let mut listener = listen(&path).await.unwrap();
            assert_eq!(listener.address, Address::Path(path.clone()));
            for name in ["unix:1", "unix:2"] {
                let mut client = UnixStream::connect(&path).await.unwrap();
                let pending = listener.incoming.next().await.unwrap().unwrap();
                assert_eq!(pending.peer.as_str(), name);
                let mut session = pending
                    .handshake
                    .establish()
                    .await
                    .unwrap()
                    .unwrap()
                    .session;
                client.write_all(b"one\ntwo\r\n").await.unwrap();
                let mut frames = Input::new();
                assert_eq!(session.recv(&mut frames).await.unwrap(), 2);
                let expect = [InputFrame::Complete(b"one"), InputFrame::Complete(b"two")];
                assert_eq!(frames.iter().collect::<Vec<_>>(), expect);
                let mut replies = Output::new();
                replies.push(b"1 ok\n");
                session.send(&mut replies).await.unwrap();
                drop(session);
                let mut reply = Vec::new();
                client.read_to_end(&mut reply).await.unwrap();
                assert_eq!(reply, b"1 ok\n");
            }
        })
        .await;
    }

    #[tokio::test]
    async fn socket_file_lets_everyone_connect_by_default() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("socket");
        let _listener = listen(&path).await.unwrap();
        assert_eq!(mode(&path), 0o766);
    }

    #[tokio::test]
    async fn socket_file_has_the_mode_asked_for() {
        for asked in [0o700, 0o770, 0o777, 0] {
            let directory = TempDir::new().unwrap();
            let path = directory.path().join("socket");
            let transport = Box::new(Unix::path(&path).mode(asked));
            let _listener = bounded(transport.listen(Limits::default())).await.unwrap();
            assert_eq!(mode(&path), asked);
        }
    }

    #[tokio::test]
    async fn stale_socket_is_replaced() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("socket");
        stale(&path);
        let _listener = listen(&path).await.unwrap();
        UnixStream::connect(&path).await.unwrap();
    }

    #[tokio::test]
    async fn live_socket_is_left_alone() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("socket");
        let _first = listen(&path).await.unwrap();
        let error = listen(&path).await.err().unwrap();
        assert!(matches!(error, BindError::InUse { .. }), "{error}");
        UnixStream::connect(&path).await.unwrap();
    }

    #[tokio::test]
    async fn live_socket_of_another_type_is_left_alone() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("socket");
        let _other = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        let error = listen(&path).await.err().unwrap();
        assert!(matches!(error, BindError::InUse { .. }), "{error}");
        assert!(path.exists());
    }

    #[tokio::test]
    async fn file_that_is_not_a_socket_is_left_alone() {
        let check = async |make: fn(&Path)| {
            let directory = TempDir::new().unwrap();
            let path = directory.path().join("file");
            make(&path);
            let before = inode(&path);
            let error = listen(&path).await.err().unwrap();
            assert!(matches!(error, BindError::NotASocket { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains(path.to_str().unwrap()), "{text}");
            assert_eq!(inode(&path), before);
        };
        check(|path| fs::write(path, "precious").unwrap()).await;
        check(|path| fs::create_dir(path).unwrap()).await;
        check(|path| symlink("nowhere", path).unwrap()).await;
        check(|path| {
            let target = path.with_file_name("target");
            stale(&target);
            symlink(target, path).unwrap();
        })
        .await;
    }

    #[tokio::test]
    async fn error_names_the_path_that_the_system_refuses() {
        let directory = TempDir::new().unwrap();
        let check = async |path: PathBuf, expect: &str| {
            let error = listen(&path).await.err().unwrap();
            assert!(matches!(error, BindError::Refused { .. }), "{error}");
            let text = error.to_string();
            let start = format!("cannot listen on {}: ", path.display());
            assert!(text.starts_with(&start) && text.contains(expect), "{text}");
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        };
        let missing = directory.path().join("missing/socket");
        check(missing, "No such file or directory").await;
        let nul = directory.path().join("a\0b");
        check(nul, "NUL byte").await;
        check(PathBuf::new(), "").await;
    }

    #[tokio::test]
    async fn error_gives_the_length_of_a_path_that_is_too_long() {
        let directory = TempDir::new().unwrap();
        let room = 108 - directory.path().as_os_str().len() - 1;
        let path = directory.path().join("x".repeat(room));
        let error = listen(&path).await.err().unwrap().to_string();
        let expect = format!(
            "cannot listen on {}: it has 108 bytes, and a Unix socket takes at most 107",
            path.display()
        );
        assert_eq!(error, expect);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    /// Returns a name of this length that no other test or process uses.
    fn abstract_name(length: usize) -> String {
        let unique = format!("{}/{length}/", std::process::id());
        format!("{unique}{}", "x".repeat(length - unique.len()))
    }

    #[tokio::test]
    async fn abstract_socket_has_no_file() {
        bounded(async {
            // The longest that there is.
            let name = abstract_name(107);
            let listen = || Box::new(Unix::abstract_name(&name)).listen(Limits::default());
            let mut listener = listen().await.unwrap();
            assert_eq!(listener.address.to_string(), format!("@{name}"));
            let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
            let mut client = std::os::unix::net::UnixStream::connect_addr(&address).unwrap();
            let pending = listener.incoming.next().await.unwrap().unwrap();
            assert_eq!(pending.peer.as_str(), "unix:1");
            let mut session = pending
                .handshake
                .establish()
                .await
                .unwrap()
                .unwrap()
                .session;
            std::io::Write::write_all(&mut client, b"one\n").unwrap();
            let mut frames = Input::new();
            assert_eq!(session.recv(&mut frames).await.unwrap(), 1);

            let error = listen().await.err().unwrap();
            assert!(matches!(error, BindError::InUse { .. }), "{error}");
            // The name is free as soon as the socket is gone.
            drop(listener);
            listen().await.unwrap();
        })
        .await;
    }

    #[tokio::test]
    async fn error_gives_the_length_of_an_abstract_name_that_is_too_long() {
        let name = abstract_name(108);
        let transport = Box::new(Unix::abstract_name(&name));
        let error = bounded(transport.listen(Limits::default())).await.err();
        let expect = format!(
            "cannot listen on @{name}: it has 108 bytes, and a Unix socket takes at most 107"
        );
        assert_eq!(error.unwrap().to_string(), expect);
    }

    #[tokio::test]
    async fn longest_path_works() {
        let directory = TempDir::new().unwrap();
        let room = 107 - directory.path().as_os_str().len() - 1;
        let path = directory.path().join("x".repeat(room));
        let _listener = listen(&path).await.unwrap();
        UnixStream::connect(&path).await.unwrap();
    }

    #[tokio::test]
    async fn socket_file_is_removed_with_its_listener() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("socket");
        drop(listen(&path).await.unwrap());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn file_that_has_replaced_the_socket_is_kept() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("socket");
        let listener = listen(&path).await.unwrap();
        fs::remove_file(&path).unwrap();
        let other = StdListener::bind(&path).unwrap();
        drop(listener);
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        drop(other);
    }

    #[tokio::test]
    async fn listener_whose_file_is_gone_is_dropped_without_error() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("socket");
        let listener = listen(&path).await.unwrap();
        fs::remove_file(&path).unwrap();
        drop(listener);
    }

    #[tokio::test]
    async fn start_waits_for_the_lock_on_the_directory() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("socket");
        let lock = File::open(directory.path()).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        let release = async {
            tokio::task::yield_now().await;
            assert!(!path.exists());
            drop(lock);
        };
        let (listener, ()) = tokio::join!(listen(&path), release);
        listener.unwrap();
    }

    #[test]
    fn of_many_daemons_started_at_once_one_listens() {
        const DAEMONS: usize = 8;
        let directory = TempDir::new().unwrap();
        for _ in 0..20 {
            let path = directory.path().join("socket");
            stale(&path);
            let start = Arc::new(Barrier::new(DAEMONS));
            let daemons: Vec<_> = (0..DAEMONS)
                .map(|_| {
                    let (path, start) = (path.clone(), Arc::clone(&start));
                    std::thread::spawn(move || {
                        let runtime = tokio::runtime::Builder::new_current_thread()
                            .enable_all()
                            .build()
                            .unwrap();
                        let listened = runtime.block_on(async {
                            start.wait();
                            listen(path).await
                        });
                        (listened, runtime)
                    })
                })
                .collect();
            let ended: Vec<_> = daemons
                .into_iter()
                .map(|daemon| daemon.join().unwrap())
                .collect();
            let winners = ended
                .iter()
                .filter(|(listened, _)| listened.is_ok())
                .count();
            assert_eq!(winners, 1);
            for (listened, _) in &ended {
                if let Err(error) = listened {
                    assert!(matches!(error, BindError::InUse { .. }), "{error}");
                }
            }
            std::os::unix::net::UnixStream::connect(&path).unwrap();
        }
    }

    #[tokio::test]
    async fn std_listener_is_accepted_from_and_keeps_its_file() {
        bounded(async {
            let directory = TempDir::new().unwrap();
            let path = directory.path().join("socket");
            let std_listener = StdListener::bind(&path).unwrap();
            let transport = Box::new(Unix::from_std(std_listener));
            let mut listener = transport.listen(Limits::default()).await.unwrap();
            assert_eq!(listener.address, Address::Path(path.clone()));
            let _client = UnixStream::connect(&path).await.unwrap();
            let pending = listener.incoming.next().await.unwrap().unwrap();
            assert_eq!(pending.peer.as_str(), "unix:1");
            drop(listener);
            assert!(path.exists());
        })
        .await;
    }

    #[tokio::test]
    async fn std_socket_of_another_kind_is_an_error() {
        let check = async |socket: OwnedFd, problem: &str| {
            let transport = Box::new(Unix::from_std(socket.into()));
            let error = transport.listen(Limits::default()).await.err().unwrap();
            let error = error.to_string();
            assert!(
                error.starts_with("cannot listen on file descriptor "),
                "{error}"
            );
            assert!(error.ends_with(problem), "{error}");
        };
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        check(tcp.into(), ": it is not a Unix stream socket").await;
        let datagram = std::os::unix::net::UnixDatagram::unbound().unwrap();
        check(datagram.into(), ": it is not a Unix stream socket").await;
        let (stream, _) = std::os::unix::net::UnixStream::pair().unwrap();
        check(stream.into(), ": the socket does not listen").await;
    }
}
