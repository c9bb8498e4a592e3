//! Unix sockets: lines on a socket file, which is made, guarded and removed here.
//!
//! A daemon that was killed leaves its socket file behind, and the next one must replace it; but it must
//! never take the file of one that lives, nor delete what is no socket. Whether a socket is live is told
//! by connecting to it. Between that and the bind another daemon may do the same: so both happen under a
//! lock on the directory, which all of ours take.

use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt};

use crate::{Address, BindError, Limits, LineSession, Listening, Peer, Pending, Transport};

/// As the original has it: anyone on the host may connect.
const MODE: u32 = 0o766;

/// Connections that may wait to be accepted. The kernel lowers it to its own limit.
const BACKLOG: i32 = 4096;

/// How long the lock on the directory is tried for: two seconds in all.
const LOCK_TRIES: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Listens on a Unix socket. Peers are `unix:1`, `unix:2`, … in the order of arrival.
#[derive(Clone, Debug)]
pub struct Unix {
    path: PathBuf,
}

impl Unix {
    /// On this path. A stale socket file there is replaced; the file is removed in the end.
    pub fn path(path: impl Into<PathBuf>) -> Unix {
        Unix { path: path.into() }
    }
}

#[async_trait]
impl Transport for Unix {
    fn name(&self) -> &str {
        "unix"
    }

    async fn listen(self: Box<Self>, limits: Limits) -> Result<Listening, BindError> {
        let (listener, file) = bind(&self.path)?;
        let mut arrived = 0u64;
        let incoming = UnixListenerStream::new(listener).map(move |accepted| {
            let stream = accepted?;
            arrived += 1;
            let peer = Peer::new(&format!("unix:{arrived}"));
            Ok(Pending::ready(peer, LineSession::new(stream, limits)))
        });
        Ok(Listening {
            address: Address::Path(self.path),
            incoming: Box::pin(Guarded {
                incoming,
                _file: file,
            }),
        })
    }
}

/// Arrivals, and the socket file that is to go when nobody waits for them any more.
struct Guarded<S> {
    // In this order: who finds the file gone must not be able to connect.
    incoming: S,
    _file: SocketFile,
}

impl<S: Stream + Unpin> Stream for Guarded<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        Pin::new(&mut self.incoming).poll_next(context)
    }
}

/// The file of our socket. Dropping it removes the file, if it is still ours.
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _directory = lock_directory(&self.path);
        if fs::symlink_metadata(&self.path).is_ok_and(|file| identity(&file) == self.identity) {
            // It may have been removed by hand meanwhile, which is as well.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

fn bind(path: &Path) -> Result<(UnixListener, SocketFile), BindError> {
    let address = || Address::Path(path.to_owned());
    let refused = |source| BindError::Refused {
        address: address(),
        source,
    };
    // Says why a path cannot be a socket's (it is too long) before anything is touched.
    let place = SockAddr::unix(path).map_err(refused)?;
    let directory = lock_directory(path).map_err(refused)?;
    match fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => {
            return Err(BindError::NoSocket { address: address() });
        }
        Ok(_) if is_live(&place).map_err(refused)? => {
            return Err(BindError::InUse { address: address() });
        }
        Ok(_) => fs::remove_file(path).map_err(refused)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(refused(error)),
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).map_err(refused)?;
    socket.bind(&place).map_err(refused)?;
    let made = fs::symlink_metadata(path).map_err(refused)?;
    let file = SocketFile {
        path: path.to_owned(),
        identity: identity(&made),
    };
    // Whatever the umask made of it: nobody can connect before `listen`.
    let listener = fs::set_permissions(path, Permissions::from_mode(MODE))
        .and_then(|()| socket.listen(BACKLOG))
        .and_then(|()| UnixListener::from_std(socket.into()));
    // Before the file is dropped, which takes it again.
    drop(directory);
    match listener {
        Ok(listener) => Ok((listener, file)),
        Err(error) => Err(refused(error)),
    }
}

/// Whether somebody listens on a socket.
fn is_live(place: &SockAddr) -> io::Result<bool> {
    // Non-blocking: a live one whose backlog is full would keep us waiting.
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    match probe.connect(place) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        // A socket of another type is somebody's too.
        Ok(()) | Err(_) => Ok(true),
    }
}

/// Keeps other daemons from making or removing socket files in the same directory, for as long as the
/// result lives: some microseconds.
///
/// Anyone who may read the directory may lock it, so this does not wait for ever.
fn lock_directory(path: &Path) -> io::Result<File> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let directory = File::open(directory)?;
    for _ in 0..LOCK_TRIES {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => thread::sleep(LOCK_PAUSE),
            locked => return Ok(locked.map(|()| directory)?),
        }
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        "its directory is locked by another process",
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net;

    use super::*;

    fn refusal(path: &Path) -> BindError {
        bind(path).map(|_| ()).unwrap_err()
    }

    #[tokio::test]
    async fn the_file_lives_as_long_as_the_transport() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listening = Box::new(Unix::path(&path))
            .listen(Limits::default())
            .await
            .unwrap();
        assert_eq!(listening.address, Address::Path(path.clone()));
        let mode = fs::metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o766);
        drop(listening);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_stale_file_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        drop(net::UnixListener::bind(&path).unwrap());
        let (_listener, _file) = bind(&path).unwrap();
        assert!(matches!(refusal(&path), BindError::InUse { .. }));
        net::UnixStream::connect(&path).expect("the live one was harmed");
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("file"), "precious").unwrap();
        fs::create_dir(path("directory")).unwrap();
        std::os::unix::fs::symlink(path("nowhere"), path("dangling")).unwrap();
        for name in ["file", "directory", "dangling"] {
            assert!(
                matches!(refusal(&path(name)), BindError::NoSocket { .. }),
                "{name}"
            );
            assert!(
                fs::symlink_metadata(path(name)).is_ok(),
                "{name} was deleted"
            );
        }
        assert_eq!(fs::read(path("file")).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn a_path_that_cannot_be_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing/socket");
        let long = directory.path().join("x".repeat(120));
        for path in [missing, long] {
            let error = refusal(&path);
            assert!(matches!(error, BindError::Refused { .. }), "{error}");
            assert!(
                error.to_string().contains(&path.display().to_string()),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn a_file_that_is_not_ours_any_more_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let (_listener, file) = bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = net::UnixListener::bind(&path).unwrap();
        drop(file);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn of_many_that_start_at_once_one_gets_a_stale_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        drop(net::UnixListener::bind(&path).unwrap());
        let starts: Vec<_> = (0..8)
            .map(|_| {
                let path = path.clone();
                tokio::task::spawn_blocking(move || bind(&path))
            })
            .collect();
        let mut bound = Vec::new();
        for start in starts {
            bound.extend(start.await.unwrap().ok());
        }
        assert_eq!(bound.len(), 1);
        net::UnixStream::connect(&path).unwrap();
    }
}
