//! The pidfile: it states the daemon's process id, and ensures that there is only one daemon.
//!
//! The lock on the file tells whether its owner lives; its text is for people and scripts. A daemon changes the file only
//! after it has locked it, so a second daemon never harms it. The file stays open, and so locked, until [`Pidfile`] is
//! dropped, which removes it. The descriptor is closed on exec, and a kernel's lock ends with the process: a file that a
//! killed daemon left behind is free.
//!
//! A lock belongs to the file, not to its name. Between opening and locking, the last owner may have removed the name. So
//! the name is checked again once the file is locked, and is removed only while it still refers to this file.
//!
//! The file is emptied and written, so its name must not be a symbolic link: a user who can create a link in that directory
//! could make the daemon, which may be root, overwrite any file. The original follows links. Turned down: following links
//! of root and of the daemon's own user. That takes a page to explain, and nobody needs it. Links in the path of the
//! directory, such as `/var/run` to `/run`, are followed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{self, Path, PathBuf};
use std::process;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Number of attempts when the file vanishes between opening and locking. Each time, another daemon came and went.
const ATTEMPTS: u32 = 100;

/// Number of bytes read from a locked file to find the process id in it.
const LONGEST_PID: u64 = 20;

/// A pidfile that this process has locked. Dropping it removes the file.
#[derive(Debug)]
pub(crate) struct Pidfile {
    /// Absolute, so that the file is removed even if the working directory has changed.
    path: PathBuf,
    file: File,
}

/// The reason why the pidfile cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PidfileError {
    /// The file cannot be opened, locked or written.
    #[error("cannot use pidfile {}: {source}", path.display())]
    Unusable { path: PathBuf, source: io::Error },
    /// Another process has locked the file, which was left unchanged.
    #[error("pidfile {} is locked by another process{}", path.display(), owner(*.pid))]
    Locked { path: PathBuf, pid: Option<u32> },
}

fn owner(pid: Option<u32>) -> String {
    pid.map(|pid| format!(", {pid}")).unwrap_or_default()
}

impl Pidfile {
    /// Creates the file, or takes over an unlocked one, and writes this process's id into it, without a line end.
    pub(crate) fn lock(path: &Path) -> Result<Pidfile, PidfileError> {
        let unusable = |source| PidfileError::Unusable {
            path: path.to_owned(),
            source,
        };
        for _ in 0..ATTEMPTS {
            let mut file = open(path).map_err(unusable)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(PidfileError::Locked {
                        path: path.to_owned(),
                        pid: read(&mut file),
                    });
                }
                Err(TryLockError::Error(error)) => return Err(unusable(error)),
            }
            if is_name_of(path, &file) {
                let path = path::absolute(path).map_err(unusable)?;
                let mut pidfile = Pidfile { path, file };
                pidfile.write().map_err(unusable)?;
                return Ok(pidfile);
            }
        }
        Err(unusable(io::Error::other("it keeps vanishing")))
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.write_all(process::id().to_string().as_bytes())
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        // The file is still locked, so no other daemon can have taken the name.
        if is_name_of(&self.path, &self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Opens the file without changing it, or creates it.
fn open(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path);
    let file = match opened {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::LOOP) => {
            let message =
                "it is a symbolic link, which is not followed; name the file that it leads to";
            return Err(io::Error::other(message));
        }
        opened => opened?,
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    // The number is 0 if the file was removed meanwhile.
    if metadata.nlink() > 1 {
        return Err(io::Error::other(
            "the file has other names, and is not overwritten",
        ));
    }
    Ok(file)
}

/// Returns whether `path` is a name of `file`.
fn is_name_of(path: &Path, file: &File) -> bool {
    match (fs::symlink_metadata(path), file.metadata()) {
        (Ok(named), Ok(open)) => (named.dev(), named.ino()) == (open.dev(), open.ino()),
        _ => false,
    }
}

/// Returns the process id that another daemon wrote.
fn read(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(LONGEST_PID).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::*;

    fn own_pid() -> String {
        process::id().to_string()
    }

    #[track_caller]
    fn check_locked(path: &Path, expect: Option<u32>) {
        match Pidfile::lock(path).unwrap_err() {
            PidfileError::Locked { pid, .. } => assert_eq!(pid, expect),
            other => panic!("{other}"),
        }
    }

    #[track_caller]
    fn check_unusable(path: &Path) {
        let error = Pidfile::lock(path).unwrap_err();
        assert!(matches!(error, PidfileError::Unusable { .. }), "{error}");
        let message = error.to_string();
        let start = format!("cannot use pidfile {}: ", path.display());
        assert!(message.starts_with(&start), "{message}");
    }

    #[test]
    fn pidfile_is_written_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let pidfile = Pidfile::lock(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), own_pid());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777 & !0o644, 0);
        drop(pidfile);
        assert!(!path.exists());
    }

    #[test]
    fn locked_pidfile_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let pidfile = Pidfile::lock(&path).unwrap();
        check_locked(&path, Some(process::id()));
        assert_eq!(fs::read_to_string(&path).unwrap(), own_pid());
        fs::write(&path, "\x1B[1mno number").unwrap();
        check_locked(&path, None);
        drop(pidfile);
        drop(Pidfile::lock(&path).unwrap());
    }

    #[test]
    fn unlocked_pidfile_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        fs::write(&path, "12345678901234567890 of a daemon that was killed").unwrap();
        let _pidfile = Pidfile::lock(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), own_pid());
    }

    #[test]
    fn replaced_pidfile_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let pidfile = Pidfile::lock(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(pidfile);
        assert_eq!(fs::read_to_string(&path).unwrap(), "another's");
    }

    #[test]
    fn links_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (link, target) = (dir.path().join("link"), dir.path().join("target"));
        symlink("target", &link).unwrap();
        check_unusable(&link);
        assert!(!target.exists());
        fs::write(&target, "precious").unwrap();
        check_unusable(&link);
        assert!(link.is_symlink());
        fs::remove_file(&link).unwrap();
        fs::hard_link(&target, &link).unwrap();
        check_unusable(&link);
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
        assert!(link.exists());
    }

    #[test]
    fn links_to_the_directory_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (run, link) = (dir.path().join("run"), dir.path().join("link"));
        fs::create_dir(&run).unwrap();
        symlink("run", &link).unwrap();
        let pidfile = Pidfile::lock(&link.join("pid")).unwrap();
        check_locked(&run.join("pid"), Some(process::id()));
        drop(pidfile);
        assert!(!run.join("pid").exists());
    }

    #[test]
    fn other_kinds_of_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        check_unusable(dir.path());
        check_unusable(&dir.path().join("no/such/folder"));
        check_unusable(Path::new("/dev/null"));
        check_unusable(Path::new("/"));
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        check_unusable(&file.join("pid"));
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        check_unusable(&socket);
        assert!(socket.exists());
    }

    /// Threads lock and release the file all the time. There are never two owners at once, and never an owner of a file
    /// without a name, which the next thread would not see.
    #[test]
    fn one_of_many_processes_locks_the_pidfile() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let (owners, taken) = (AtomicU32::new(0), AtomicU32::new(0));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        match Pidfile::lock(&path) {
                            Ok(pidfile) => {
                                assert_eq!(owners.fetch_add(1, Ordering::SeqCst), 0);
                                taken.fetch_add(1, Ordering::SeqCst);
                                assert!(is_name_of(&path, &pidfile.file));
                                assert_eq!(owners.fetch_sub(1, Ordering::SeqCst), 1);
                            }
                            Err(PidfileError::Locked { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
        });
        assert!(taken.into_inner() > 0);
        assert!(!path.exists());
    }
}
