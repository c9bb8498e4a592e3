//! Fence files that are damaged, locked, linked or on a failing disk.

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
    parse_mark(&fs::read(directory.path().join(FILE)).unwrap()).unwrap()
}

/// Opens the fence file of a directory, and returns its fence. The directory is free again.
fn open_fence(directory: &TempDir) -> Fence {
    FenceFile::open(directory.path()).unwrap().fence()
}

#[test]
fn tokens_of_an_empty_directory_start_at_the_time_of_day() {
    let before = start_by_clock();
    let directory = tempdir().unwrap();
    let token = open_fence(&directory).token(Stamp::at(0)).unwrap();
    assert!((before..=start_by_clock()).contains(&token));
}

/// The clock alone does not ensure this: it may be set back.
#[test]
fn tokens_continue_beyond_those_of_the_last_run() {
    let future = start_by_clock() + (1 << 50);
    let directory = directory(&format!("{future}\n"));
    let mut last = future - 1;
    for _ in 0..3 {
        let fence = open_fence(&directory);
        for stamp in [Stamp::at(0), Stamp::at(1), Stamp::at(AHEAD - 1)] {
            let token = fence.token(stamp).unwrap();
            assert!(token > last);
            assert!(token < mark(&directory));
            last = token;
        }
    }
}

#[test]
fn token_beyond_the_mark_is_not_shown() {
    let directory = tempdir().unwrap();
    let fence = open_fence(&directory);
    assert!(fence.token(Stamp::at(AHEAD - 1)).is_some());
    assert_eq!(fence.token(Stamp::at(2 * AHEAD)), None);
}

#[test]
fn invalid_mark_is_damage() {
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
        let error = FenceFile::open(directory.path()).unwrap_err();
        assert!(matches!(error, FenceError::Damaged { .. }), "{damaged:?}");
        let left = fs::read_to_string(directory.path().join(FILE)).unwrap();
        assert_eq!(left, damaged);
    }
    let directory = directory("9223372036854775807\n");
    let fence = open_fence(&directory);
    assert_eq!(fence.token(Stamp::at(0)), Some(END - 1));
    assert_eq!(fence.token(Stamp::at(1)), None);
    // No token is left for another run.
    let error = FenceFile::open(directory.path()).unwrap_err();
    assert!(matches!(error, FenceError::Damaged { .. }));
}

#[test]
fn directory_in_use_is_refused() {
    let directory = tempdir().unwrap();
    let file = FenceFile::open(directory.path()).unwrap();
    let error = FenceFile::open(directory.path()).unwrap_err();
    assert!(matches!(error, FenceError::InUse { .. }));
    drop(file);
    assert!(FenceFile::open(directory.path()).is_ok());
}

#[test]
fn error_names_the_unusable_path() {
    let directory = tempdir().unwrap();
    let missing = directory.path().join("missing");
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [missing, file] {
        let error = FenceFile::open(&path).unwrap_err().to_string();
        let start = format!("cannot use {}", path.display());
        assert!(error.starts_with(&start), "{error}");
    }
    // A pipe without a writer.
    let pipe = directory.path().join(FILE);
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
    let error = FenceFile::open(directory.path()).unwrap_err().to_string();
    assert!(
        error.ends_with("fence: it is not a regular file"),
        "{error}"
    );
}

/// The daemon must not take a link for the mark, or a dangling link for a first run.
#[test]
fn symbolic_links_are_not_followed() {
    for name in [FILE, LOCK_FILE] {
        for target in ["target", "missing"] {
            let directory = tempdir().unwrap();
            fs::write(directory.path().join("target"), "17\n").unwrap();
            let link = directory.path().join(name);
            symlink(target, &link).unwrap();
            let error = FenceFile::open(directory.path()).unwrap_err();
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
fn target_of_a_link_in_place_of_the_new_file_is_not_changed() {
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
        let _fence = FenceFile::open(directory.path()).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
        let file = fs::symlink_metadata(directory.path().join(FILE)).unwrap();
        assert!(file.is_file() && file.nlink() == 1);
        assert!(mark(&directory) > 0);
    }
}

#[test]
fn directory_may_be_a_link() {
    let parent = tempdir().unwrap();
    let (directory, link) = (parent.path().join("state"), parent.path().join("link"));
    fs::create_dir(&directory).unwrap();
    symlink("state", &link).unwrap();
    let file = FenceFile::open(&link).unwrap();
    file.directory.write_mark().unwrap();
    assert!(directory.join(FILE).exists());
}

/// After a power failure, a rename may be on the disk and the bytes of the renamed file may not. Then the file would be
/// empty.
#[test]
fn mark_is_synced_before_it_replaces_the_old_one() {
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
fn mark_that_cannot_be_synced_is_not_used() {
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
fn replaced_directory_is_not_written_to() {
    let parent = tempdir().unwrap();
    let (path, old) = (parent.path().join("state"), parent.path().join("old"));
    fs::create_dir(&path).unwrap();
    let file = FenceFile::open(&path).unwrap();
    let renew = || file.directory.write_mark();
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

/// Advances time and lets blocking tasks finish until the condition is true.
async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        // The paused time stands still while a blocking task runs.
        sleep(Duration::from_secs(1)).await;
    }
}

/// A fence and its file, which is kept in the background.
struct KeptFence {
    directory: TempDir,
    opened: Instant,
    fence: Arc<Fence>,
    keeping: JoinHandle<()>,
}

impl KeptFence {
    fn new() -> KeptFence {
        let directory = tempdir().unwrap();
        let file = FenceFile::open(directory.path()).unwrap();
        let opened = file.directory.opened;
        let fence = Arc::new(file.fence());
        let kept = Arc::clone(&fence);
        let keeping = tokio::spawn(async move { file.keep(&kept).await });
        KeptFence {
            directory,
            opened,
            fence,
            keeping,
        }
    }

    fn mark(&self) -> u64 {
        mark(&self.directory)
    }

    /// Makes all writes fail until [`mend_disk`](KeptFence::mend_disk).
    fn break_disk(&self) {
        fs::create_dir(self.directory.path().join(NEW_FILE)).unwrap();
    }

    fn mend_disk(&self) {
        fs::remove_dir(self.directory.path().join(NEW_FILE)).unwrap();
    }

    /// Returns true if a lock that is granted this many milliseconds from now will have a token.
    fn has_token_in(&self, ms: u64) -> bool {
        let age = u64::try_from(self.opened.elapsed().as_millis()).unwrap();
        self.fence.token(Stamp::at(age + ms)).is_some()
    }
}

impl Drop for KeptFence {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn mark_stays_ahead() {
    let kept = KeptFence::new();
    for _ in 0..10 {
        let before = kept.mark();
        advance(RENEWAL).await;
        until(|| kept.mark() > before && kept.has_token_in(AHEAD / 2)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_stop_while_the_disk_fails() {
    let kept = KeptFence::new();
    kept.break_disk();
    until(|| !kept.has_token_in(0)).await;
    kept.mend_disk();
    until(|| kept.has_token_in(0)).await;
}

/// At the first failure, half of the mark's life is left. That may be enough time to make room on a full disk.
#[tokio::test(start_paused = true)]
async fn failed_write_is_retried_soon() {
    const SOON: Duration = Duration::from_secs(2);
    let kept = KeptFence::new();
    let first = kept.mark();
    kept.break_disk();
    sleep(RENEWAL + SOON).await;
    let mended = Instant::now();
    kept.mend_disk();
    until(|| kept.mark() > first).await;
    assert!(mended.elapsed() <= RETRY + SOON, "{:?}", mended.elapsed());
    // After that, it is written as rarely as before.
    let second = kept.mark();
    sleep(RENEWAL - RETRY).await;
    assert_eq!(kept.mark(), second);
}

#[tokio::test(start_paused = true)]
async fn stop_and_return_of_tokens_are_logged_once() {
    let log = Log::default();
    let _logging = log.capture();
    let kept = KeptFence::new();
    kept.break_disk();
    until(|| !kept.has_token_in(0)).await;
    // Much longer than the life of a mark.
    sleep(3 * LIFE).await;
    assert_eq!(log.count("fencing tokens have stopped"), 1, "{log:?}");
    let warnings = log.count("cannot write the high-water mark");
    // One every 10 minutes.
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

    // The next stop is logged again.
    kept.break_disk();
    until(|| !kept.has_token_in(0)).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(log.count("fencing tokens have stopped"), 2, "{log:?}");
}

#[tokio::test(start_paused = true)]
async fn return_is_not_logged_if_tokens_did_not_stop() {
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

/// The log of this thread.
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

    /// Returns the number of lines that contain this text.
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
