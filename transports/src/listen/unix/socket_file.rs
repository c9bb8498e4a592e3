//! Binding a socket to a file, and removing the file afterwards.
//!
//! The file outlives the process that made it. A file on which nobody answers is stale and is replaced. A file on
//! which somebody answers, or which is not a socket, is left alone. Between the look and the replacement, another
//! daemon that starts at the same moment could do the same and delete the file of the first. Therefore everything
//! from the look to the `listen` happens under a lock on the directory. (A lock file beside the socket would do as
//! well, but would have to be left behind.)
//!
//! Nobody can connect before `listen`, so the mode is set between `bind` and `listen`: at no moment can anyone
//! connect whom the mode shuts out. The umask could do it too, but it belongs to the whole process, and the threads
//! of a program that embeds a server create files of their own. The mode is set through a descriptor: by then,
//! somebody who can write to the directory may have put a link to another file in the socket's place.

use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, fchmod, flock};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;
use tokio::time::{Instant, sleep};

/// Maximum length of a path in bytes: the kernel's 108, less the NUL that ends it. An abstract name has the same
/// limit, because a NUL starts it.
pub(super) const MAX_NAME: usize = 107;

/// Maximum number of connections waiting to be accepted, as for TCP.
const BACKLOG: i32 = 4096;

/// Maximum time to wait for the lock on the directory. A daemon that starts holds it for a moment; a process that
/// holds it for longer is not a daemon and must not delay the start forever.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Time between two attempts to lock the directory.
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// The reason why there is no listening socket: a [`BindError`](crate::BindError) without its address.
pub(super) enum Refusal {
    InUse,
    NotASocket,
    TooLong { length: usize },
    Io(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal::Io(error)
    }
}

/// Returns the address of a path, or of a name that starts with a NUL. `length` is that of the name as the user
/// knows it.
pub(super) fn address(path: &Path, length: usize) -> Result<SockAddr, Refusal> {
    match length {
        0..=MAX_NAME => Ok(SockAddr::unix(path)?),
        length => Err(Refusal::TooLong { length }),
    }
}

/// Returns a socket that is not bound yet.
pub(super) fn new_socket() -> io::Result<Socket> {
    Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)
}

/// Makes a bound socket listen.
pub(super) fn listen_on(socket: Socket) -> io::Result<UnixListener> {
    socket.listen(BACKLOG)?;
    UnixListener::from_std(socket.into())
}

/// Returns a listening socket at `path`, and the file to remove after it.
pub(super) async fn bind(path: PathBuf, mode: u32) -> Result<(SocketFile, UnixListener), Refusal> {
    let address = address(&path, path.as_os_str().len())?;
    let socket = new_socket()?;
    let _lock = lock_directory(&path).await?;
    remove_stale(&path, &address)?;
    // `bind` creates the file with this mode, less the umask: at no moment is its mode wider than asked for.
    fchmod(&socket, mode.into()).map_err(io::Error::from)?;
    socket.bind(&address)?;
    // From here on, an error drops this and thereby removes the file.
    let (file, opened) = SocketFile::open(path)?;
    set_mode(&opened, mode)?;
    Ok((file, listen_on(socket)?))
}

/// Sets the mode of a file opened with `O_PATH`. Before Linux 6.6 only its name in `/proc` can do that.
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

/// Locks the directory of `path` against other daemons that start at the same time. Dropping the file unlocks it.
async fn lock_directory(path: &Path) -> io::Result<File> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let directory = File::open(parent.unwrap_or(Path::new(".")))?;
    let deadline = Instant::now() + LOCK_TIMEOUT;
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

/// Removes a stale socket file, and refuses any other file that is in the way.
fn remove_stale(path: &Path, address: &SockAddr) -> Result<(), Refusal> {
    // A symbolic link is not a socket, wherever it leads: for `bind` it is a file in the way.
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
        Ok(found) if !found.file_type().is_socket() => return Err(Refusal::NotASocket),
        Ok(_) => {}
    }
    // Non-blocking: a daemon whose backlog is full is alive and answers `EAGAIN`.
    let probe = new_socket()?;
    let Err(error) = probe.connect(address) else {
        return Err(Refusal::InUse);
    };
    match Errno::from_io_error(&error) {
        Some(Errno::CONNREFUSED) => Ok(fs::remove_file(path)?),
        Some(Errno::NOENT) => Ok(()),
        // `PROTOTYPE` is the answer of a live socket of another type.
        Some(Errno::AGAIN | Errno::PROTOTYPE) => Err(Refusal::InUse),
        _ => Err(error.into()),
    }
}

/// The socket file that this process has made. Dropping it removes the file, if it is still there.
pub(super) struct SocketFile {
    path: PathBuf,
    id: FileId,
}

impl SocketFile {
    /// Opens the file that `bind` has just made. The returned file is for setting its mode. Fails if another file
    /// has taken its place.
    fn open(path: PathBuf) -> io::Result<(SocketFile, File)> {
        let opened = File::options()
            .read(true)
            .custom_flags((OFlags::PATH | OFlags::NOFOLLOW).bits().cast_signed())
            .open(&path)?;
        let metadata = opened.metadata()?;
        if !metadata.file_type().is_socket() {
            let message = "another file has taken its place";
            return Err(io::Error::other(message));
        }
        let id = FileId::of(&metadata);
        Ok((SocketFile { path, id }, opened))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = |found: &Metadata| FileId::of(found) == self.id;
        if fs::symlink_metadata(&self.path).as_ref().is_ok_and(is_ours) {
            // If this fails, nobody is left to report it to; the next start finds the file stale.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Tells a file from another one with the same name.
#[derive(Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(file: &Metadata) -> FileId {
        FileId {
            device: file.dev(),
            inode: file.ino(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener as StdListener;

    use tempfile::TempDir;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    /// Somebody who can write to the directory may be fast enough.
    #[test]
    fn file_put_in_the_place_of_the_socket_keeps_its_mode() {
        let directory = TempDir::new().unwrap();
        let (path, target) = (
            directory.path().join("sock"),
            directory.path().join("target"),
        );
        fs::write(&target, "").unwrap();
        let before = mode(&target);
        symlink(&target, &path).unwrap();
        let error = SocketFile::open(path.clone()).err().unwrap();
        assert_eq!(error.to_string(), "another file has taken its place");
        assert_eq!(mode(&target), before);
        // Later it does not matter: the descriptor is the socket's.
        fs::remove_file(&path).unwrap();
        let _listener = StdListener::bind(&path).unwrap();
        let (_file, opened) = SocketFile::open(path.clone()).unwrap();
        fs::rename(&path, directory.path().join("moved")).unwrap();
        symlink(&target, &path).unwrap();
        set_mode(&opened, 0o707).unwrap();
        assert_eq!(mode(&target), before);
        assert_eq!(mode(&directory.path().join("moved")), 0o707);
    }
}
