//! Unix sockets: lines on a socket file.
//!
//! The file is the awkward part, since it outlives the process that made it. A file on which nobody
//! answers is stale and is replaced; one on which somebody does, or one that is no socket, is left alone.
//! Between looking and replacing, another daemon that starts at the same moment could do the same, and
//! would delete the file of the first. So all of it, from the look to the `listen`, happens under a lock
//! on the directory. (A lock file beside the socket would do as well, but would have to be left behind.)
//!
//! Nobody can connect before `listen`, so the mode is set between `bind` and `listen`, and there is no
//! moment in which anyone gets in whom it shuts out. The umask could do it too, but it belongs to the
//! whole process, and the threads of a program that embeds us create files of their own. The mode is set
//! through a descriptor: by then, somebody who can write to the directory may have put a link to another file
//! in the socket's place.
//!
//! Linux has sockets without a file, too: their names are abstract, end with the socket, and have no mode.

use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use rustix::fs::{FlockOperation, OFlags, fchmod, flock};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;
use tokio::time::{Instant, sleep};
use tokio_stream::Stream;

use crate::{Address, BindError, Limits, LineSession, Listener, Peer, Pending, Transport};

/// Unless told otherwise, everyone may connect, which takes the right to write; nothing else means anything
/// for a socket.
const MODE: u32 = 0o766;

/// Bytes of a path that the kernel takes: the 108 of its address, less the NUL that ends it. Of an abstract
/// name it is the NUL that starts it.
const LONGEST_PATH: usize = 107;

/// Connections that may wait to be accepted, as for TCP.
const BACKLOG: i32 = 4096;

/// How long to try for the directory's lock. Another daemon holds it for a moment while it starts;
/// whoever holds it for longer is none, and must not hold us up for ever.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// Listens on a Unix socket. Peers are `unix:1`, `unix:2`, … in the order of arrival.
#[derive(Clone, Debug)]
pub struct Unix {
    place: Place,
    mode: u32,
}

/// Where a Unix socket listens.
#[derive(Clone, Debug)]
enum Place {
    /// At a file of this path.
    File(PathBuf),
    /// At this abstract name, without the NUL that starts it.
    Abstract(String),
}

impl Unix {
    /// On a socket file of this path, which is made with mode 0766. It is removed when the transport's
    /// connections are no longer asked for, unless another file has taken its place.
    pub fn path(path: impl Into<PathBuf>) -> Unix {
        Unix {
            place: Place::File(path.into()),
            mode: MODE,
        }
    }

    /// On an abstract socket of this name, of which there is no file: every process in the same network
    /// namespace may connect. It is shown as `@name`. Linux alone has these.
    pub fn abstract_name(name: impl Into<String>) -> Unix {
        Unix {
            place: Place::Abstract(name.into()),
            mode: MODE,
        }
    }

    /// With this mode of the file instead, of which only the permissions count: who has the right to write may
    /// connect. An abstract socket has none.
    pub fn mode(self, mode: u32) -> Unix {
        Unix {
            mode: mode & 0o777,
            ..self
        }
    }
}

#[async_trait]
impl Transport for Unix {
    fn name(&self) -> &str {
        "unix"
    }

    async fn listen(self: Box<Self>, limits: Limits) -> Result<Listener, BindError> {
        let (address, bound) = match self.place {
            Place::File(path) => {
                let address = Address::Path(path.clone());
                let bound = bind_file(path, self.mode).await;
                (
                    address,
                    bound.map(|(file, listener)| (Some(file), listener)),
                )
            }
            Place::Abstract(name) => {
                let address = Address::Name(format!("@{name}"));
                (
                    address,
                    bind_abstract(&name).map(|listener| (None, listener)),
                )
            }
        };
        match bound {
            Ok((file, listener)) => Ok(Listener {
                address,
                incoming: Box::pin(Arrivals {
                    _file: file,
                    listener,
                    arrived: 0,
                    limits,
                }),
            }),
            Err(Refusal::InUse) => Err(BindError::InUse { address }),
            Err(Refusal::NoSocket) => Err(BindError::NoSocket { address }),
            Err(Refusal::TooLong { length }) => Err(BindError::TooLong {
                address,
                length,
                limit: LONGEST_PATH,
            }),
            Err(Refusal::Io(source)) => Err(BindError::Refused { address, source }),
        }
    }
}

/// The connections of a listening socket.
struct Arrivals {
    /// Dropped before the listener (fields drop in their order): while the socket is open its inode
    /// number cannot be given to another file, and no other daemon takes the file for stale.
    _file: Option<SocketFile>,
    listener: UnixListener,
    arrived: u64,
    limits: Limits,
}

impl Stream for Arrivals {
    type Item = io::Result<Pending>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Pending>>> {
        let (stream, _) = ready!(self.listener.poll_accept(context))?;
        self.arrived += 1;
        let peer = Peer::new(&format!("unix:{}", self.arrived));
        let session = LineSession::new(stream, self.limits);
        Poll::Ready(Some(Ok(Pending::ready(peer, session))))
    }
}

/// Why there is no listening socket; a [`BindError`] that has yet to be told its address.
enum Refusal {
    InUse,
    NoSocket,
    TooLong { length: usize },
    Io(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal::Io(error)
    }
}

/// Makes the address of a path, or of a name that starts with a NUL; `length` is that of what the user knows.
fn address(path: &Path, length: usize) -> Result<SockAddr, Refusal> {
    match length {
        0..=LONGEST_PATH => Ok(SockAddr::unix(path)?),
        length => Err(Refusal::TooLong { length }),
    }
}

/// A socket that does not listen yet.
fn socket() -> io::Result<Socket> {
    Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)
}

fn listen_on(socket: Socket) -> io::Result<UnixListener> {
    socket.listen(BACKLOG)?;
    UnixListener::from_std(socket.into())
}

/// Returns a listening socket of an abstract name. There is nothing that could be stale: the name ends with the
/// socket.
fn bind_abstract(name: &str) -> Result<UnixListener, Refusal> {
    let address = address(Path::new(&format!("\0{name}")), name.len())?;
    let socket = socket()?;
    socket
        .bind(&address)
        .map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::ADDRINUSE) => Refusal::InUse,
            _ => error.into(),
        })?;
    Ok(listen_on(socket)?)
}

/// Returns a listening socket at `path`, and the file to remove after it.
async fn bind_file(path: PathBuf, mode: u32) -> Result<(SocketFile, UnixListener), Refusal> {
    let address = address(&path, path.as_os_str().len())?;
    let socket = socket()?;
    let _lock = lock_directory(&path).await?;
    clear(&path, &address)?;
    // What `bind` makes the file with, less the umask: at no moment is its mode wider than asked.
    fchmod(&socket, mode.into()).map_err(io::Error::from)?;
    socket.bind(&address)?;
    // From here on, an error drops this, and thereby removes the file.
    let (file, opened) = SocketFile::made(path)?;
    set_mode(&opened, mode)?;
    Ok((file, listen_on(socket)?))
}

/// Sets the mode of a file that was opened by `O_PATH`, which only its name in `/proc` can do before Linux 6.6.
fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    if file.metadata()?.mode() & 0o777 == mode {
        return Ok(());
    }
    let name = format!("/proc/self/fd/{}", file.as_raw_fd());
    fs::set_permissions(&name, Permissions::from_mode(mode)).map_err(|error| {
        let message = format!("cannot set the mode of the socket through {name}: {error}");
        io::Error::new(error.kind(), message)
    })
}

/// Locks the directory of `path` against other daemons that are starting. Unlocked when dropped.
async fn lock_directory(path: &Path) -> io::Result<File> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let directory = File::open(parent.unwrap_or(Path::new(".")))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(directory),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => sleep(LOCK_RETRY).await,
            Err(Errno::WOULDBLOCK) => {
                let message = "its directory is locked by another process";
                return Err(io::Error::new(io::ErrorKind::WouldBlock, message));
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Makes room for a socket file: removes a stale one, and refuses anything else that is there.
fn clear(path: &Path, address: &SockAddr) -> Result<(), Refusal> {
    // A symbolic link is no socket, wherever it leads: to `bind` it is a file in the way.
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
        Ok(found) if !found.file_type().is_socket() => return Err(Refusal::NoSocket),
        Ok(_) => {}
    }
    // Non-blocking: a daemon whose backlog is full is alive, and says so by `EAGAIN`.
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    let Err(error) = probe.connect(address) else {
        return Err(Refusal::InUse);
    };
    match Errno::from_io_error(&error) {
        Some(Errno::CONNREFUSED) => Ok(fs::remove_file(path)?),
        Some(Errno::NOENT) => Ok(()),
        // The second is what a socket of another type answers with, a live one.
        Some(Errno::AGAIN | Errno::PROTOTYPE) => Err(Refusal::InUse),
        _ => Err(error.into()),
    }
}

/// The socket file that we made; removed when dropped, if it is still there.
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    /// The file that `bind` has just made, and what its mode is set through. Fails if something else has taken
    /// its place.
    fn made(path: PathBuf) -> io::Result<(SocketFile, File)> {
        let opened = File::options()
            .read(true)
            .custom_flags((OFlags::PATH | OFlags::NOFOLLOW).bits().cast_signed())
            .open(&path)?;
        let metadata = opened.metadata()?;
        if !metadata.file_type().is_socket() {
            let message = "another file has taken its place";
            return Err(io::Error::other(message));
        }
        let identity = identity(&metadata);
        Ok((SocketFile { path, identity }, opened))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = |found: &Metadata| identity(found) == self.identity;
        if fs::symlink_metadata(&self.path).as_ref().is_ok_and(ours) {
            // There is nobody left to tell if this fails; the next start finds the file stale.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What tells a file from another that has its name.
fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener as StdListener;
    use std::sync::{Arc, Barrier};

    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio_stream::StreamExt;

    use super::*;
    use crate::{Input, InputFrame, Output};

    async fn bounded<T>(test: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(30), test)
            .await
            .expect("the test takes too long")
    }

    async fn listen(path: impl Into<PathBuf>) -> Result<Listener, BindError> {
        bounded(Box::new(Unix::path(path)).listen(Limits::default())).await
    }

    /// A socket file that nobody listens on any more.
    fn stale(path: &Path) {
        drop(StdListener::bind(path).unwrap());
        assert!(path.exists());
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[tokio::test]
    async fn lines_come_and_go() {
        bounded(async {
            let directory = TempDir::new().unwrap();
            let path = directory.path().join("socket");
            let mut listening = listen(&path).await.unwrap();
            assert_eq!(listening.address, Address::Path(path.clone()));
            for name in ["unix:1", "unix:2"] {
                let mut client = UnixStream::connect(&path).await.unwrap();
                let pending = listening.incoming.next().await.unwrap().unwrap();
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
                session.send(&replies).await.unwrap();
                drop(session);
                let mut reply = Vec::new();
                client.read_to_end(&mut reply).await.unwrap();
                assert_eq!(reply, b"1 ok\n");
            }
        })
        .await;
    }

    #[tokio::test]
    async fn everyone_may_connect() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("socket");
        let _listening = listen(&path).await.unwrap();
        assert_eq!(mode(&path), 0o766);
    }

    #[tokio::test]
    async fn or_only_some() {
        for asked in [0o700, 0o770, 0o777, 0] {
            let directory = TempDir::new().unwrap();
            let path = directory.path().join("socket");
            let transport = Box::new(Unix::path(&path).mode(asked));
            let _listening = bounded(transport.listen(Limits::default())).await.unwrap();
            assert_eq!(mode(&path), asked);
        }
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("socket");
        stale(&path);
        let _listening = listen(&path).await.unwrap();
        UnixStream::connect(&path).await.unwrap();
    }

    #[tokio::test]
    async fn a_live_socket_is_left_alone() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("socket");
        let _first = listen(&path).await.unwrap();
        let error = listen(&path).await.err().unwrap();
        assert!(matches!(error, BindError::InUse { .. }), "{error}");
        UnixStream::connect(&path).await.unwrap();
    }

    #[tokio::test]
    async fn a_live_socket_of_another_type_is_left_alone() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("socket");
        let _other = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        let error = listen(&path).await.err().unwrap();
        assert!(matches!(error, BindError::InUse { .. }), "{error}");
        assert!(path.exists());
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let check = async |make: fn(&Path)| {
            let directory = TempDir::new().unwrap();
            let path = directory.path().join("file");
            make(&path);
            let before = identity(&fs::symlink_metadata(&path).unwrap());
            let error = listen(&path).await.err().unwrap();
            assert!(matches!(error, BindError::NoSocket { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains(path.to_str().unwrap()), "{text}");
            assert_eq!(identity(&fs::symlink_metadata(&path).unwrap()), before);
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
    async fn what_the_system_refuses_is_named() {
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
    async fn a_path_that_is_too_long_is_refused_by_its_length() {
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

    /// A name that no other test, or process, has.
    fn abstract_name(length: usize) -> String {
        let unique = format!("{}/{length}/", std::process::id());
        format!("{unique}{}", "x".repeat(length - unique.len()))
    }

    #[tokio::test]
    async fn an_abstract_socket_has_no_file() {
        bounded(async {
            // The longest that there is.
            let name = abstract_name(107);
            let listen = || Box::new(Unix::abstract_name(&name)).listen(Limits::default());
            let mut listening = listen().await.unwrap();
            assert_eq!(listening.address.to_string(), format!("@{name}"));
            let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
            let mut client = std::os::unix::net::UnixStream::connect_addr(&address).unwrap();
            let pending = listening.incoming.next().await.unwrap().unwrap();
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
            drop(listening);
            listen().await.unwrap();
        })
        .await;
    }

    #[tokio::test]
    async fn an_abstract_name_that_is_too_long_is_refused_by_its_length() {
        let name = abstract_name(108);
        let transport = Box::new(Unix::abstract_name(&name));
        let error = bounded(transport.listen(Limits::default())).await.err();
        let expect = format!(
            "cannot listen on @{name}: it has 108 bytes, and a Unix socket takes at most 107"
        );
        assert_eq!(error.unwrap().to_string(), expect);
    }

    /// Somebody who can write to the directory may be fast enough.
    #[test]
    fn what_has_taken_the_place_of_the_socket_keeps_its_mode() {
        let directory = TempDir::new().unwrap();
        let (path, target) = (
            directory.path().join("sock"),
            directory.path().join("target"),
        );
        fs::write(&target, "").unwrap();
        let before = mode(&target);
        symlink(&target, &path).unwrap();
        let error = SocketFile::made(path.clone()).err().unwrap();
        assert_eq!(error.to_string(), "another file has taken its place");
        assert_eq!(mode(&target), before);
        // Later it does not matter any more: the descriptor is the socket's.
        fs::remove_file(&path).unwrap();
        let _listener = StdListener::bind(&path).unwrap();
        let (_file, opened) = SocketFile::made(path.clone()).unwrap();
        fs::rename(&path, directory.path().join("moved")).unwrap();
        symlink(&target, &path).unwrap();
        set_mode(&opened, 0o707).unwrap();
        assert_eq!(mode(&target), before);
        assert_eq!(mode(&directory.path().join("moved")), 0o707);
    }

    #[tokio::test]
    async fn the_longest_path_works() {
        let directory = TempDir::new().unwrap();
        let room = 107 - directory.path().as_os_str().len() - 1;
        let path = directory.path().join("x".repeat(room));
        let _listening = listen(&path).await.unwrap();
        UnixStream::connect(&path).await.unwrap();
    }

    #[tokio::test]
    async fn the_file_goes_with_the_listener() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("socket");
        drop(listen(&path).await.unwrap());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_file_that_has_taken_our_place_stays() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("socket");
        let listening = listen(&path).await.unwrap();
        fs::remove_file(&path).unwrap();
        let other = StdListener::bind(&path).unwrap();
        drop(listening);
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        drop(other);
    }

    #[tokio::test]
    async fn a_listener_whose_file_is_gone_ends_in_peace() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("socket");
        let listening = listen(&path).await.unwrap();
        fs::remove_file(&path).unwrap();
        drop(listening);
    }

    #[tokio::test]
    async fn a_lock_on_the_directory_is_waited_for() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("socket");
        let lock = File::open(directory.path()).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        let release = async {
            tokio::task::yield_now().await;
            assert!(!path.exists());
            drop(lock);
        };
        let (listening, ()) = tokio::join!(listen(&path), release);
        listening.unwrap();
    }

    #[test]
    fn of_many_that_start_at_once_one_listens() {
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
}
