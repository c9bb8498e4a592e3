//! Fencing tokens: numbers that grow with every grant, over restarts too.
//!
//! A token is a [`Stamp`] of the lock table, counted on from where this run of the server starts: the Unix time
//! in milliseconds, shifted left by 20. Stamps grow some 250 times more slowly than that, so a later run starts
//! beyond all of an earlier one, unless the clock was set back by nearly as long as that one ran.
//!
//! Who cannot trust the clock keeps a high-water mark in a file. It is written ahead, and no token is shown
//! before the mark on the disk is beyond it: the next run starts at the mark, whatever the clock says. A grant
//! knows nothing of all that, and never waits for a disk; only who asks for a token may be told that there is
//! none to vouch for.

use std::fs::{self, File};
use std::future::pending;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use crate::locks::Stamp;

/// How the Unix time in milliseconds becomes the first token.
const SHIFT: u32 = 20;

/// Tokens are below 2⁶³, so that a signed column of a database holds them.
const END: u64 = 1 << 63;

/// The clock says no more than this, the middle of what is left below [`END`]: the year 2109.
const LAST_START: u64 = END / 2;

/// The file in the directory of a [`Fence::open`].
const FILE: &str = "fence";

/// What is to become that file.
const NEW_FILE: &str = "fence.new";

/// What is locked, and stays empty. Not the directory, which is locked by whoever makes a socket in it.
const LOCK_FILE: &str = "lock";

/// How far ahead the mark is written, in milliseconds of stamps: a quarter of an hour.
const AHEAD: u64 = 1 << 20;

/// When it is written again: when half of that is left.
const RENEWAL: Duration = Duration::from_millis(AHEAD / 2);

/// How soon it is tried again if that fails.
const RETRY: Duration = Duration::from_secs(10);

/// Where the fencing tokens of a server start, and how far they may go.
#[derive(Debug)]
pub struct Fence {
    start: u64,
    kept: Option<Arc<Kept>>,
}

/// A high-water mark on a disk.
#[derive(Debug)]
struct Kept {
    path: PathBuf,
    directory: File,
    /// Keeps other daemons out.
    _lock: File,
    /// Beyond the table's first moment, or not before it.
    opened: Instant,
    start: u64,
    /// What is on the disk: tokens below it may be shown.
    mark: AtomicU64,
}

/// Why there are no tokens that outlive this run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FenceError {
    /// The directory, or the file in it, cannot be read or written.
    #[error("cannot use {}: {source}", path.display())]
    Unusable {
        /// Which of them.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another process keeps its tokens there.
    #[error("cannot use {}: another process does", directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
    },
    /// The file does not say where tokens are to start. It was left alone.
    #[error(
        "{} does not hold a fencing token below 2^63 and the end of its line; put a number there that is larger \
         than all tokens that were given, or remove it if the clock was never set back",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

impl Fence {
    /// Tokens that start at the time of day.
    pub fn from_clock() -> Fence {
        Fence {
            start: clock(),
            kept: None,
        }
    }

    /// Tokens that start at the time of day, but not below a mark that is kept in a directory, which must be
    /// there. Nobody else can use it as long as this lives. Blocks for as long as the disk takes.
    ///
    /// A server [keeps](Fence::keep) the mark ahead of its tokens while it runs.
    ///
    /// # Errors
    ///
    /// If the mark cannot be read or written, or another process uses the directory. A file that holds no mark
    /// is never taken for one that is not there.
    pub fn open(path: &Path) -> Result<Fence, FenceError> {
        let unusable = |path: &Path, source| FenceError::Unusable {
            path: path.to_owned(),
            source,
        };
        let directory = File::open(path).map_err(|error| unusable(path, error))?;
        let lock = lock(path).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => FenceError::InUse {
                directory: path.to_owned(),
            },
            _ => unusable(&path.join(LOCK_FILE), error),
        })?;
        let file = path.join(FILE);
        let mark = match read_file(&file) {
            Ok(bytes) => read(&bytes).ok_or(FenceError::Damaged { path: file })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(unusable(&file, error)),
        };
        let start = mark.max(clock());
        let kept = Kept {
            path: path.to_owned(),
            directory,
            _lock: lock,
            opened: Instant::now(),
            start,
            mark: AtomicU64::new(0),
        };
        kept.renew().map_err(|error| unusable(path, error))?;
        Ok(Fence {
            start,
            kept: Some(Arc::new(kept)),
        })
    }

    /// The token of a grant. `None` if a later run might start below it: then it must not be shown.
    pub fn token(&self, stamp: Stamp) -> Option<u64> {
        let token = self.start.saturating_add(stamp.number());
        let mark = self.kept.as_ref().map(|kept| kept.mark.load(SeqCst));
        (token < mark.unwrap_or(END)).then_some(token)
    }

    /// Keeps the mark ahead of the tokens, if there is one. Never ends.
    pub async fn keep(&self) {
        let Some(kept) = &self.kept else {
            return pending().await;
        };
        let mut due = kept.opened + RENEWAL;
        loop {
            sleep_until(due).await;
            let writer = Arc::clone(kept);
            let renewed = spawn_blocking(move || writer.renew()).await;
            due = match renewed.unwrap_or_else(|panic| Err(panic.into())) {
                Ok(()) => Instant::now() + RENEWAL,
                Err(error) => {
                    let directory = kept.path.display();
                    warn!(%directory, %error, "cannot write the high-water mark of fencing tokens");
                    Instant::now() + RETRY
                }
            };
        }
    }
}

impl Kept {
    /// Writes the mark anew, ahead of all that is granted in the next minutes.
    fn renew(&self) -> io::Result<()> {
        let age = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        let ahead = Stamp::at(age.saturating_add(AHEAD)).number();
        let mark = self.start.saturating_add(ahead).min(END);
        let new = self.path.join(NEW_FILE);
        let mut file = File::create(&new)?;
        writeln!(file, "{mark}")?;
        file.sync_all()?;
        fs::rename(new, self.path.join(FILE))?;
        self.directory.sync_all()?;
        self.mark.store(mark, SeqCst);
        Ok(())
    }
}

/// The first token by the time of day. A clock before 1970 is as wrong as one beyond 2100, and no reason not
/// to serve.
fn clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let ms = u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
    ms.min(LAST_START >> SHIFT) << SHIFT
}

/// Locks a directory against other daemons.
fn lock(directory: &Path) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(directory.join(LOCK_FILE))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

/// What a file holds. Of anything else that is there the end may never come.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    match fs::metadata(path)?.is_file() {
        true => fs::read(path),
        false => Err(io::Error::other("it is no regular file")),
    }
}

/// The mark in a file: a number, and the end of its line, without which it may be a part of one.
fn read(bytes: &[u8]) -> Option<u64> {
    let digits = bytes.strip_suffix(b"\n")?;
    let plain = digits.iter().all(u8::is_ascii_digit);
    let mark = str::from_utf8(digits).ok()?.parse().ok()?;
    (plain && mark < END).then_some(mark)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use tempfile::{TempDir, tempdir};
    use tokio::time::{advance, sleep};

    use super::*;

    fn directory(mark: &str) -> TempDir {
        let directory = tempdir().unwrap();
        fs::write(directory.path().join(FILE), mark).unwrap();
        directory
    }

    fn mark(directory: &TempDir) -> u64 {
        read(&fs::read(directory.path().join(FILE)).unwrap()).unwrap()
    }

    #[test]
    fn tokens_start_at_the_time_of_day() {
        let before = clock();
        let token = Fence::from_clock().token(Stamp::at(0)).unwrap();
        assert!((before..=clock()).contains(&token));
        assert!(token > 1_700_000_000_000 << SHIFT);
        assert!(token < END);
        let directory = tempdir().unwrap();
        let token = Fence::open(directory.path()).unwrap().token(Stamp::at(0));
        assert!((before..=clock()).contains(&token.unwrap()));
    }

    /// Which they do not, by the clock alone, if it was set back.
    #[test]
    fn tokens_go_on_where_they_were() {
        let future = clock() + (1 << 50);
        let directory = directory(&format!("{future}\n"));
        let mut last = future - 1;
        for _ in 0..3 {
            let fence = Fence::open(directory.path()).unwrap();
            for stamp in [Stamp::at(0), Stamp::at(1), Stamp::at(AHEAD - 1)] {
                let token = fence.token(stamp).unwrap();
                assert!(token > last);
                assert!(token < mark(&directory));
                last = token;
            }
        }
    }

    #[test]
    fn a_token_beyond_the_mark_is_not_shown() {
        let directory = tempdir().unwrap();
        let fence = Fence::open(directory.path()).unwrap();
        assert!(fence.token(Stamp::at(AHEAD - 1)).is_some());
        assert_eq!(fence.token(Stamp::at(2 * AHEAD)), None);
        let endless = Fence::from_clock();
        assert!(endless.token(Stamp::at(2 * AHEAD)).is_some());
        assert_eq!(endless.token(Stamp::at(u64::MAX >> 12)), None);
    }

    #[test]
    fn what_is_no_mark_is_damage() {
        for damaged in [
            "",
            "\n",
            "12",
            "-1\n",
            "+1\n",
            "1 \n",
            "x\n",
            "1\n2\n",
            "9223372036854775808\n",
            "99999999999999999999\n",
        ] {
            let directory = directory(damaged);
            let error = Fence::open(directory.path()).unwrap_err();
            assert!(matches!(error, FenceError::Damaged { .. }), "{damaged:?}");
            let left = fs::read_to_string(directory.path().join(FILE)).unwrap();
            assert_eq!(left, damaged);
        }
        let directory = directory("9223372036854775807\n");
        let fence = Fence::open(directory.path()).unwrap();
        assert_eq!(fence.token(Stamp::at(0)), Some(END - 1));
        assert_eq!(fence.token(Stamp::at(1)), None);
        drop(fence);
        // There is nothing beyond it.
        let error = Fence::open(directory.path()).unwrap_err();
        assert!(matches!(error, FenceError::Damaged { .. }));
    }

    #[test]
    fn a_directory_is_one_process_s() {
        let directory = tempdir().unwrap();
        let fence = Fence::open(directory.path()).unwrap();
        let error = Fence::open(directory.path()).unwrap_err();
        assert!(matches!(error, FenceError::InUse { .. }));
        drop(fence);
        assert!(Fence::open(directory.path()).is_ok());
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let directory = tempdir().unwrap();
        let missing = directory.path().join("missing");
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [missing, file] {
            let error = Fence::open(&path).unwrap_err().to_string();
            let start = format!("cannot use {}", path.display());
            assert!(error.starts_with(&start), "{error}");
        }
        // Nobody writes to it.
        let pipe = directory.path().join(FILE);
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
        let error = Fence::open(directory.path()).unwrap_err().to_string();
        assert!(error.ends_with("fence: it is no regular file"), "{error}");
    }

    /// Lets what waits for the time, and then for the disk, go on until that is so.
    async fn until(mut is_so: impl FnMut() -> bool) {
        while !is_so() {
            // Time stands still while a blocking task runs.
            sleep(Duration::from_secs(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_mark_stays_ahead() {
        let directory = tempdir().unwrap();
        let fence = Arc::new(Fence::open(directory.path()).unwrap());
        let keeper = Arc::clone(&fence);
        let keeping = tokio::spawn(async move { keeper.keep().await });
        for _ in 0..10 {
            let before = mark(&directory);
            advance(RENEWAL).await;
            let far = Stamp::at(age(&fence) + AHEAD / 2);
            until(|| mark(&directory) > before && fence.token(far).is_some()).await;
        }
        keeping.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_fails_shows_no_more_tokens() {
        let directory = tempdir().unwrap();
        let fence = Arc::new(Fence::open(directory.path()).unwrap());
        let keeper = Arc::clone(&fence);
        let keeping = tokio::spawn(async move { keeper.keep().await });
        let path = directory.path().join(NEW_FILE);
        fs::create_dir(&path).unwrap();
        until(|| fence.token(Stamp::at(age(&fence))).is_none()).await;
        fs::remove_dir(&path).unwrap();
        until(|| fence.token(Stamp::at(age(&fence))).is_some()).await;
        keeping.abort();
    }

    fn age(fence: &Fence) -> u64 {
        let kept = fence.kept.as_ref().unwrap();
        kept.opened.elapsed().as_millis().try_into().unwrap()
    }
}
