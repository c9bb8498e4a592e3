//! The file that keeps the high-water mark of the fencing tokens, for servers that cannot trust their clock.
//!
//! The mark is written ahead of the tokens, and read at the next start. See [`fence`](crate::core::fence) for its
//! meaning.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use crate::core::fence::{END, Fence, start_by_clock};
use crate::core::locks::Stamp;

/// Name of the file in the directory of a [`FenceFile`].
const FILE: &str = "fence";

/// Name of the file that is about to replace it.
const NEW_FILE: &str = "fence.new";

/// Name of the empty file that is locked. The directory itself is not locked, because a process that binds a socket in
/// it locks it.
const LOCK_FILE: &str = "lock";

/// Time by which the mark is written ahead, in milliseconds of stamps: about 17 minutes.
const AHEAD: u64 = 1 << 20;

/// Time for which a mark lasts after it was written.
const LIFE: Duration = Duration::from_millis(AHEAD);

/// Time after which the mark is written again: half of its life.
const RENEWAL: Duration = Duration::from_millis(AHEAD / 2);

/// Time after which a failed write is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Number of failures between two warnings: 10 minutes, if each attempt fails at once.
const FAILURES_PER_WARNING: u64 = 60;

/// Bytes to read of the file: more than any mark has.
const LONGEST_MARK: u64 = 64;

/// A high-water mark of fencing tokens in a directory. No other process can use the directory meanwhile.
#[derive(Debug)]
pub struct FenceFile {
    directory: Arc<Directory>,
    /// Mark that the file had after it was opened.
    mark: u64,
}

/// The open directory of the file.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    file: File,
    /// Excludes other processes for as long as it is open.
    _lock: File,
    /// A moment before the lock table was made. So the age of a lock is never more than the time since then.
    opened: Instant,
    /// First token of this run.
    start: u64,
}

/// The reason why a [`FenceFile`] cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FenceError {
    /// The directory, or the file in it, cannot be read or written.
    #[error("cannot use {}: {source}", path.display())]
    Unusable {
        /// The directory or file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A file in the directory is a symbolic link. Following it could read or lock a file elsewhere.
    #[error(
        "{} is a symbolic link, and links are not followed there; {}",
        path.display(),
        link_remedy(path)
    )]
    Link {
        /// The link.
        path: PathBuf,
    },
    /// Another process uses the directory.
    #[error("cannot use {}: another process uses it", directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
    },
    /// The file does not hold a mark. It was not changed.
    #[error(
        "{} is damaged: it must hold a number below 2^63 and a line end; write a number to it that is larger than all \
         fencing tokens that were issued, or remove it if the clock was never set back",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

impl FenceFile {
    /// Opens the mark in a directory, which must exist. Tokens will start at the time of day, but not below the mark.
    /// Blocks for as long as the disk takes.
    ///
    /// The server keeps the mark ahead of its tokens while it runs.
    ///
    /// # Errors
    ///
    /// If the mark cannot be read or written, or another process uses the directory. A file without a valid mark is an
    /// error, and so is a symbolic link in the place of the file. The directory itself may be a symbolic link.
    pub fn open(path: &Path) -> Result<FenceFile, FenceError> {
        let file = File::open(path).map_err(|error| unusable(path, error))?;
        let lock = open_in(&file, LOCK_FILE, OFlags::RDWR | OFlags::CREATE)
            .map_err(|errno| in_directory(path, LOCK_FILE, errno.into()))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => FenceError::InUse {
                directory: path.to_owned(),
            },
            TryLockError::Error(error) => in_directory(path, LOCK_FILE, error),
        })?;
        let mark = match read_file(&file) {
            Ok(bytes) => parse_mark(&bytes).ok_or_else(|| FenceError::Damaged {
                path: path.join(FILE),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(in_directory(path, FILE, error)),
        };
        let directory = Directory {
            path: path.to_owned(),
            file,
            _lock: lock,
            opened: Instant::now(),
            start: mark.max(start_by_clock()),
        };
        let mark = directory
            .write_mark()
            .map_err(|error| unusable(path, error))?;
        Ok(FenceFile {
            directory: Arc::new(directory),
            mark,
        })
    }

    /// Returns the tokens that this file allows. [`keep`](FenceFile::keep) allows more of them later.
    pub(crate) fn fence(&self) -> Fence {
        Fence::new(self.directory.start, self.mark)
    }

    /// Keeps the mark ahead of the tokens of this fence. Never ends.
    ///
    /// Logs once when tokens stop because the mark is used up, even if the write has not failed but hangs, and once when
    /// they are back. In between, the log of failed writes is rate-limited.
    pub(crate) async fn keep(&self, fence: &Fence) {
        Keeper::new(&self.directory, fence).run().await;
    }
}

/// Renews a mark again and again, and logs failures.
struct Keeper<'a> {
    directory: Arc<Directory>,
    fence: &'a Fence,
    /// Time of the next write.
    due: Instant,
    /// Time when the mark on the disk is used up.
    expiry: Instant,
    /// Attempts that have failed since the last success.
    failures: u64,
    /// True if the mark is used up and this has been logged.
    stopped: bool,
}

impl Keeper<'_> {
    fn new<'a>(directory: &Arc<Directory>, fence: &'a Fence) -> Keeper<'a> {
        Keeper {
            due: directory.opened + RENEWAL,
            expiry: directory.opened + LIFE,
            failures: 0,
            stopped: false,
            directory: Arc::clone(directory),
            fence,
        }
    }

    /// Never ends.
    async fn run(mut self) {
        loop {
            let mut renewal = pin!(Arc::clone(&self.directory).renew_at(self.due));
            // A disk may not answer before the mark is used up, or ever.
            let renewed = tokio::select! {
                biased;
                renewed = &mut renewal => renewed,
                () = sleep_until(self.expiry), if !self.stopped => {
                    self.log_stop();
                    renewal.await
                }
            };
            match renewed {
                Ok(renewal) => self.succeed(renewal),
                Err(error) => self.fail(&error),
            }
        }
    }

    fn log_stop(&mut self) {
        self.stopped = true;
        let directory = self.directory.path.display();
        error!(
            %directory,
            "fencing tokens have stopped: f and sf fail for new locks until the high-water mark can be written"
        );
    }

    fn succeed(&mut self, Renewal { started, mark }: Renewal) {
        self.fence.set_mark(mark);
        let directory = self.directory.path.display();
        if self.stopped {
            info!(%directory, "fencing tokens are back: their high-water mark is written again");
        } else if self.failures > 0 {
            info!(%directory, "the high-water mark of fencing tokens is written again");
        }
        self.failures = 0;
        self.stopped = false;
        self.due = started + RENEWAL;
        self.expiry = started + LIFE;
    }

    fn fail(&mut self, error: &io::Error) {
        let now = Instant::now();
        if self.failures.is_multiple_of(FAILURES_PER_WARNING) {
            let directory = self.directory.path.display();
            let tokens_last_s = self.expiry.saturating_duration_since(now).as_secs();
            warn!(%directory, %error, tokens_last_s, "cannot write the high-water mark of fencing tokens");
        }
        self.failures += 1;
        self.due = now + RETRY;
    }
}

/// A mark that was written.
struct Renewal {
    /// Time when the write began.
    started: Instant,
    mark: u64,
}

impl Directory {
    /// Waits until the mark is due, and renews it.
    async fn renew_at(self: Arc<Directory>, due: Instant) -> io::Result<Renewal> {
        sleep_until(due).await;
        let started = Instant::now();
        let mark = spawn_blocking(move || self.write_mark()).await??;
        Ok(Renewal { started, mark })
    }

    /// Writes and returns a mark that is ahead of all grants of the next minutes.
    fn write_mark(&self) -> io::Result<u64> {
        let age = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        let ahead = Stamp::at(age.saturating_add(AHEAD)).number();
        let mark = self.start.saturating_add(ahead).min(END);
        if !is_same_directory(&self.path, &self.file)? {
            let moved = "it is no longer the directory that it was at the start";
            return Err(io::Error::other(moved));
        }
        replace_file(&self.file, mark, File::sync_all)?;
        Ok(mark)
    }
}

/// Replaces the file in the directory with one that holds this mark. Whatever happens, even a power failure, the file
/// holds either the old mark or the new one. Once this has returned, it holds the new one.
///
/// Takes the function that syncs a file to the disk, so that tests can observe its calls.
fn replace_file(
    directory: &File,
    mark: u64,
    mut sync: impl FnMut(&File) -> io::Result<()>,
) -> io::Result<()> {
    // Removed first: the name may be a link, and its target must not be written.
    remove_new_file(directory)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let mut file = open_in(directory, NEW_FILE, flags)?;
    // Without the sync, an empty file could replace the old one.
    if let Err(error) = writeln!(file, "{mark}").and_then(|()| sync(&file)) {
        let _ = remove_new_file(directory);
        return Err(error);
    }
    renameat(directory, NEW_FILE, directory, FILE)?;
    sync(directory)
}

fn remove_new_file(directory: &File) -> io::Result<()> {
    match unlinkat(directory, NEW_FILE, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Opens a file in a directory without blocking. A symbolic link is an error.
fn open_in(directory: &File, name: &str, flags: OFlags) -> Result<File, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    Ok(openat(directory, name, flags, mode)?.into())
}

/// Returns true if this path leads to that directory.
fn is_same_directory(path: &Path, directory: &File) -> io::Result<bool> {
    let (named, open) = (fs::metadata(path)?, directory.metadata()?);
    Ok((named.dev(), named.ino()) == (open.dev(), open.ino()))
}

fn unusable(path: &Path, source: io::Error) -> FenceError {
    FenceError::Unusable {
        path: path.to_owned(),
        source,
    }
}

/// Returns the error for a file in the directory that cannot be opened.
fn in_directory(directory: &Path, name: &str, error: io::Error) -> FenceError {
    let path = directory.join(name);
    match Errno::from_io_error(&error) {
        Some(Errno::LOOP) => FenceError::Link { path },
        _ => unusable(&path, error),
    }
}

/// Returns advice about a link. The lock file has no content, but the link may lead to the mark.
fn link_remedy(path: &Path) -> &'static str {
    match path.ends_with(LOCK_FILE) {
        true => "remove it",
        false => {
            "replace it with the file that it leads to, or remove it if no token was ever issued from this directory or \
             the clock was never set back"
        }
    }
}

/// Reads the file, at most [`LONGEST_MARK`] bytes of it. Fails if it is not a regular file: reading a pipe may never
/// end.
fn read_file(directory: &File) -> io::Result<Vec<u8>> {
    let file = open_in(directory, FILE, OFlags::RDONLY)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST_MARK).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Returns the mark in a file: a number and a line end. Without the line end, the number may be incomplete.
fn parse_mark(bytes: &[u8]) -> Option<u64> {
    let digits = bytes.strip_suffix(b"\n")?;
    let plain = digits.iter().all(u8::is_ascii_digit);
    let mark = str::from_utf8(digits).ok()?.parse().ok()?;
    (plain && mark < END).then_some(mark)
}

#[cfg(test)]
mod tests;
