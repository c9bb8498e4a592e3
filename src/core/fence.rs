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
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, openat, renameat, unlinkat};
use rustix::io::Errno;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use crate::core::locks::Stamp;

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

/// How long a mark lasts, from when it was written.
const LIFE: Duration = Duration::from_millis(AHEAD);

/// When it is written again: when half of that is left.
const RENEWAL: Duration = Duration::from_millis(AHEAD / 2);

/// How soon it is tried again if that fails.
const RETRY: Duration = Duration::from_secs(10);

/// Failures between two warnings of them: 10 minutes, if each fails at once.
const FAILURES_A_WARNING: u64 = 60;

/// Longer than any mark is.
const LONGEST_MARK: u64 = 64;

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
    /// A file in the directory is a symbolic link. Following it could read, or lock, the file of somebody else.
    #[error(
        "{} is a symbolic link, and links are not followed there; {}",
        path.display(),
        link_remedy(path)
    )]
    Link {
        /// The link.
        path: PathBuf,
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
    /// is never taken for one that is not there, and neither is a symbolic link. The directory itself may be one.
    pub fn open(path: &Path) -> Result<Fence, FenceError> {
        let directory = File::open(path).map_err(|error| unusable(path, error))?;
        let lock = lock(&directory).map_err(|errno| match errno {
            Errno::WOULDBLOCK => FenceError::InUse {
                directory: path.to_owned(),
            },
            errno => in_directory(path, LOCK_FILE, errno.into()),
        })?;
        let mark = match read_file(&directory) {
            Ok(bytes) => read(&bytes).ok_or_else(|| FenceError::Damaged {
                path: path.join(FILE),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(in_directory(path, FILE, error)),
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
    ///
    /// Logs when tokens can no longer be vouched for, even if that is because a write does not end, and when they
    /// can be again. In between, failed writes are logged at a limited rate.
    pub async fn keep(&self) {
        match &self.kept {
            Some(kept) => Keeper::new(kept).run().await,
            None => pending().await,
        }
    }
}

/// Writes a mark again and again, and says how that goes.
struct Keeper {
    kept: Arc<Kept>,
    /// When the mark is to be written next.
    due: Instant,
    /// When the mark on the disk is used up.
    expiry: Instant,
    /// Attempts that failed since one succeeded.
    failures: u64,
    /// The mark is used up, and the log says so.
    stopped: bool,
}

impl Keeper {
    fn new(kept: &Arc<Kept>) -> Keeper {
        Keeper {
            due: kept.opened + RENEWAL,
            expiry: kept.opened + LIFE,
            failures: 0,
            stopped: false,
            kept: Arc::clone(kept),
        }
    }

    /// Never ends.
    async fn run(mut self) {
        loop {
            let mut renewal = pin!(Arc::clone(&self.kept).renew_at(self.due));
            // A write to a disk that does not answer need not end before the mark is used up.
            let renewed = tokio::select! {
                biased;
                renewed = &mut renewal => renewed,
                () = sleep_until(self.expiry), if !self.stopped => {
                    self.tokens_stop();
                    renewal.await
                }
            };
            match renewed {
                Ok(started) => self.succeeded(started),
                Err(error) => self.failed(&error),
            }
        }
    }

    fn tokens_stop(&mut self) {
        self.stopped = true;
        let directory = self.kept.path.display();
        error!(
            %directory,
            "fencing tokens have stopped: f and sf fail for what is granted until their high-water mark can be written"
        );
    }

    fn succeeded(&mut self, started: Instant) {
        let directory = self.kept.path.display();
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

    fn failed(&mut self, error: &io::Error) {
        let now = Instant::now();
        if self.failures.is_multiple_of(FAILURES_A_WARNING) {
            let directory = self.kept.path.display();
            let tokens_last_s = self.expiry.saturating_duration_since(now).as_secs();
            warn!(%directory, %error, tokens_last_s, "cannot write the high-water mark of fencing tokens");
        }
        self.failures += 1;
        self.due = now + RETRY;
    }
}

impl Kept {
    /// Waits until the mark is due, and renews it. Returns when it started to.
    async fn renew_at(self: Arc<Kept>, due: Instant) -> io::Result<Instant> {
        sleep_until(due).await;
        let started = Instant::now();
        spawn_blocking(move || self.renew()).await??;
        Ok(started)
    }

    /// Writes the mark anew, ahead of all that is granted in the next minutes.
    fn renew(&self) -> io::Result<()> {
        let age = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        let ahead = Stamp::at(age.saturating_add(AHEAD)).number();
        let mark = self.start.saturating_add(ahead).min(END);
        if !is_named(&self.path, &self.directory)? {
            let moved = "it is no longer the directory that it was at the start";
            return Err(io::Error::other(moved));
        }
        replace_file(&self.directory, mark, File::sync_all)?;
        self.mark.store(mark, SeqCst);
        Ok(())
    }
}

/// Replaces the file in the directory by one that holds this mark. Whatever happens, and if it is a power
/// failure, the file holds the old mark or the new one; and the new one once this returns.
///
/// Takes the function that syncs a file to the disk, so that tests can see when it is called.
fn replace_file(
    directory: &File,
    mark: u64,
    mut sync: impl FnMut(&File) -> io::Result<()>,
) -> io::Result<()> {
    // Leftovers are removed first: the name may be a link, whose target must not be written.
    remove_new_file(directory)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let mut file = open_in(directory, NEW_FILE, flags)?;
    // Without the sync, a file that is empty could take the old one's place.
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

/// Opens a file in a directory, unless it is a symbolic link, without waiting for anybody.
fn open_in(directory: &File, name: &str, flags: OFlags) -> Result<File, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    Ok(openat(directory, name, flags, mode)?.into())
}

/// Whether this path leads to that directory.
fn is_named(path: &Path, directory: &File) -> io::Result<bool> {
    let (named, open) = (fs::metadata(path)?, directory.metadata()?);
    Ok((named.dev(), named.ino()) == (open.dev(), open.ino()))
}

fn unusable(path: &Path, source: io::Error) -> FenceError {
    FenceError::Unusable {
        path: path.to_owned(),
        source,
    }
}

/// The error of opening a file in the directory.
fn in_directory(directory: &Path, name: &str, error: io::Error) -> FenceError {
    let path = directory.join(name);
    match Errno::from_io_error(&error) {
        Some(Errno::LOOP) => FenceError::Link { path },
        _ => unusable(&path, error),
    }
}

/// What to do about a link. The lock holds nothing; the mark may be where the link leads.
fn link_remedy(path: &Path) -> &'static str {
    match path.ends_with(LOCK_FILE) {
        true => "remove it",
        false => {
            "put the file that it leads to in its place, or remove it if no token was ever given from this directory, \
             or the clock was never set back"
        }
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
fn lock(directory: &File) -> Result<File, Errno> {
    let file = open_in(directory, LOCK_FILE, OFlags::RDWR | OFlags::CREATE)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

/// Reads the file, or as much of it as shows that it holds no mark. Fails if it is no regular file, whose end
/// may never come.
fn read_file(directory: &File) -> io::Result<Vec<u8>> {
    let file = open_in(directory, FILE, OFlags::RDONLY)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST_MARK).read_to_end(&mut bytes)?;
    Ok(bytes)
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
    use std::os::unix::fs::symlink;

    use parking_lot::Mutex;
    use rustix::fs::{CWD, FileType, mknodat};
    use tempfile::{TempDir, tempdir};
    use tokio::task::JoinHandle;
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
        assert!(
            error.ends_with("fence: it is not a regular file"),
            "{error}"
        );
    }

    /// A daemon must not take a link for the mark, nor a dangling one for a first run.
    #[test]
    fn symbolic_links_are_not_followed() {
        for name in [FILE, LOCK_FILE] {
            for target in ["target", "missing"] {
                let directory = tempdir().unwrap();
                fs::write(directory.path().join("target"), "17\n").unwrap();
                let link = directory.path().join(name);
                symlink(target, &link).unwrap();
                let error = Fence::open(directory.path()).unwrap_err();
                assert!(matches!(error, FenceError::Link { .. }), "{error}");
                let error = error.to_string();
                let start = format!("{} is a symbolic link, ", link.display());
                assert!(error.starts_with(&start), "{error}");
                assert!(error.contains("remove it"), "{error}");
                assert!(link.is_symlink());
                let left = fs::read_to_string(directory.path().join("target")).unwrap();
                assert_eq!(left, "17\n");
                assert!(!directory.path().join("missing").exists());
            }
        }
    }

    #[test]
    fn what_a_link_in_the_place_of_the_new_file_leads_to_is_left_alone() {
        type Link = fn(&Path, &Path) -> io::Result<()>;
        let links: [Link; 2] = [
            |target, link| symlink(target, link),
            |target, link| fs::hard_link(target, link),
        ];
        for link in links {
            let directory = tempdir().unwrap();
            let target = directory.path().join("target");
            fs::write(&target, "precious").unwrap();
            link(&target, &directory.path().join(NEW_FILE)).unwrap();
            let _fence = Fence::open(directory.path()).unwrap();
            assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
            let file = fs::symlink_metadata(directory.path().join(FILE)).unwrap();
            assert!(file.is_file() && file.nlink() == 1);
            assert!(mark(&directory) > 0);
        }
    }

    #[test]
    fn the_directory_may_be_a_link() {
        let parent = tempdir().unwrap();
        let (directory, link) = (parent.path().join("state"), parent.path().join("link"));
        fs::create_dir(&directory).unwrap();
        symlink("state", &link).unwrap();
        let fence = Fence::open(&link).unwrap();
        fence.kept.as_ref().unwrap().renew().unwrap();
        assert!(directory.join(FILE).exists());
    }

    /// A power failure may lose what was written, but not a rename, and so leave an empty file.
    #[test]
    fn the_mark_is_on_the_disk_before_it_takes_the_place_of_the_old_one() {
        let directory = directory("1\n");
        let read = |name| fs::read_to_string(directory.path().join(name)).ok();
        let mut seen = Vec::new();
        let open = File::open(directory.path()).unwrap();
        replace_file(&open, 2, |synced| {
            let is_directory = synced.metadata()?.is_dir();
            seen.push((is_directory, read(NEW_FILE), read(FILE)));
            synced.sync_all()
        })
        .unwrap();
        let text = |text: &str| Some(text.to_owned());
        let expect = [(false, text("2\n"), text("1\n")), (true, None, text("2\n"))];
        assert_eq!(seen, expect);
    }

    #[test]
    fn a_mark_that_cannot_be_synced_is_not_used() {
        let directory = directory("1\n");
        let open = File::open(directory.path()).unwrap();
        let failure = replace_file(&open, 2, |_| Err(io::Error::other("no disk")));
        assert_eq!(failure.unwrap_err().to_string(), "no disk");
        assert!(!directory.path().join(NEW_FILE).exists());
        assert_eq!(mark(&directory), 1);
        replace_file(&open, 3, File::sync_all).unwrap();
        assert_eq!(mark(&directory), 3);
    }

    #[test]
    fn a_directory_that_was_replaced_is_not_written_to() {
        let parent = tempdir().unwrap();
        let (path, old) = (parent.path().join("state"), parent.path().join("old"));
        fs::create_dir(&path).unwrap();
        let fence = Fence::open(&path).unwrap();
        let renew = || fence.kept.as_ref().unwrap().renew();
        fs::rename(&path, &old).unwrap();
        assert_eq!(renew().unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::create_dir(&path).unwrap();
        let error = renew().unwrap_err().to_string();
        assert!(
            error.starts_with("it is no longer the directory"),
            "{error}"
        );
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        fs::remove_dir(&path).unwrap();
        fs::rename(&old, &path).unwrap();
        renew().unwrap();
    }

    /// Lets what waits for the time, and then for the disk, go on until that is so.
    async fn until(mut is_so: impl FnMut() -> bool) {
        while !is_so() {
            // Time stands still while a blocking task runs.
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// A fence in a directory of its own, which is kept in the background.
    struct KeptFence {
        directory: TempDir,
        fence: Arc<Fence>,
        keeping: JoinHandle<()>,
    }

    impl KeptFence {
        fn new() -> KeptFence {
            let directory = tempdir().unwrap();
            let fence = Arc::new(Fence::open(directory.path()).unwrap());
            let keeper = Arc::clone(&fence);
            let keeping = tokio::spawn(async move { keeper.keep().await });
            KeptFence {
                directory,
                fence,
                keeping,
            }
        }

        fn mark(&self) -> u64 {
            mark(&self.directory)
        }

        /// Makes all writes fail, until [`mend_disk`](KeptFence::mend_disk).
        fn break_disk(&self) {
            fs::create_dir(self.directory.path().join(NEW_FILE)).unwrap();
        }

        fn mend_disk(&self) {
            fs::remove_dir(self.directory.path().join(NEW_FILE)).unwrap();
        }

        /// Whether there is a token for what is granted in so many milliseconds.
        fn has_token_in(&self, ms: u64) -> bool {
            self.fence.token(Stamp::at(age(&self.fence) + ms)).is_some()
        }
    }

    impl Drop for KeptFence {
        fn drop(&mut self) {
            self.keeping.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_mark_stays_ahead() {
        let kept = KeptFence::new();
        for _ in 0..10 {
            let before = kept.mark();
            advance(RENEWAL).await;
            until(|| kept.mark() > before && kept.has_token_in(AHEAD / 2)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_fails_shows_no_more_tokens() {
        let kept = KeptFence::new();
        kept.break_disk();
        until(|| !kept.has_token_in(0)).await;
        kept.mend_disk();
        until(|| kept.has_token_in(0)).await;
    }

    /// Half of the mark's time is left at the first failure, and may be all that a full disk needs to be mended.
    #[tokio::test(start_paused = true)]
    async fn a_failed_write_is_tried_again_soon() {
        const SOON: Duration = Duration::from_secs(2);
        let kept = KeptFence::new();
        let first = kept.mark();
        kept.break_disk();
        sleep(RENEWAL + SOON).await;
        let mended = Instant::now();
        kept.mend_disk();
        until(|| kept.mark() > first).await;
        assert!(mended.elapsed() <= RETRY + SOON, "{:?}", mended.elapsed());
        // And from then on as seldom as before.
        let second = kept.mark();
        sleep(RENEWAL - RETRY).await;
        assert_eq!(kept.mark(), second);
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_that_stop_and_come_back_are_logged_once() {
        let log = Log::default();
        let _logging = log.capture();
        let kept = KeptFence::new();
        kept.break_disk();
        until(|| !kept.has_token_in(0)).await;
        // Far longer than the tokens lasted.
        sleep(3 * LIFE).await;
        assert_eq!(log.count("fencing tokens have stopped"), 1, "{log:?}");
        let warnings = log.count("cannot write the high-water mark");
        // One each 10 minutes.
        let most = (4 * LIFE).as_secs() / 600 + 1;
        assert!((2..=most as usize).contains(&warnings), "{log:?}");
        assert_eq!(log.count("fencing tokens are back"), 0, "{log:?}");

        kept.mend_disk();
        until(|| kept.has_token_in(0)).await;
        sleep(LIFE).await;
        assert_eq!(log.count("fencing tokens are back"), 1, "{log:?}");
        assert_eq!(log.count("fencing tokens have stopped"), 1, "{log:?}");
        assert_eq!(
            log.count("cannot write the high-water mark"),
            warnings,
            "{log:?}"
        );

        // The next time it is said anew.
        kept.break_disk();
        until(|| !kept.has_token_in(0)).await;
        sleep(Duration::from_secs(1)).await;
        assert_eq!(log.count("fencing tokens have stopped"), 2, "{log:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_that_did_not_stop_are_not_said_to_be_back() {
        let log = Log::default();
        let _logging = log.capture();
        let kept = KeptFence::new();
        let first = kept.mark();
        kept.break_disk();
        sleep(RENEWAL + RETRY).await;
        kept.mend_disk();
        until(|| kept.mark() > first).await;
        sleep(LIFE).await;
        assert_eq!(log.count("fencing tokens"), 2, "{log:?}");
        assert_eq!(log.count("cannot write the high-water mark"), 1, "{log:?}");
        assert_eq!(log.count("is written again"), 1, "{log:?}");
    }

    /// What was logged on this thread.
    #[derive(Clone, Debug, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Log {
        fn capture(&self) -> tracing::subscriber::DefaultGuard {
            let log = self.clone();
            let subscriber = tracing_subscriber::fmt()
                .with_ansi(false)
                .with_writer(move || log.clone())
                .finish();
            tracing::subscriber::set_default(subscriber)
        }

        /// The number of lines that have this in them.
        fn count(&self, part: &str) -> usize {
            let text = self.0.lock();
            let text = str::from_utf8(&text).unwrap();
            text.lines().filter(|line| line.contains(part)).count()
        }
    }

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn age(fence: &Fence) -> u64 {
        let kept = fence.kept.as_ref().unwrap();
        kept.opened.elapsed().as_millis().try_into().unwrap()
    }
}
