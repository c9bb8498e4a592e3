//! A lock that is held for as long as somebody wants.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use rustix::fs::{OFlags, fcntl_getfl, makedev};
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use crate::args::{Get, bytes};
use crate::failure::{Failure, LOST};
use crate::lock::{acquire, release};
use crate::show::{kind, put, tell, text, token};
use crate::signals::Signals;
use crate::start::end_as_asked;

/// How often who is in the background looks whether it still is.
const LOOK: Duration = Duration::from_millis(200);

/// What to do about a standard input that cannot say how long to hold the lock.
const HINT: &str = "glock get holds the lock until its input ends: give it a fifo or a terminal, or use `glock run`";

pub(crate) async fn hold(server: &str, args: Get) -> Result<u8, Failure> {
    check_input()?;
    let mut signals = Signals::new()?;
    let guard = tokio::select! {
        guard = acquire(server, &args.lock, bytes(&args.lock_name), None) => guard?,
        signal = signals.next() => return Ok(end_as_asked(signal)),
    };
    if args.output.json {
        let mut object = Map::new();
        put(&mut object, "name", guard.name());
        object.insert("kind".to_owned(), json!(kind(guard.kind())));
        object.insert("holders".to_owned(), json!(guard.holders()));
        object.insert("fence".to_owned(), token(guard.fence()));
        tell(&Value::Object(object).to_string())?;
    } else {
        let fence = guard
            .fence()
            .map_or(String::new(), |token| format!(", fence {token}"));
        tell(&format!("held: {}{fence}", text(guard.name())))?;
    }
    let lost = guard.lost();
    tokio::select! {
        () = end_of_input() => {}
        signal = signals.next() => {
            release(&args.lock, guard).await?;
            return Ok(end_as_asked(signal));
        }
        lost = lost => {
            let message = format!("the lock {} is lost: {lost}", text(guard.name()));
            return Err(Failure::new(LOST, message));
        }
    }
    release(&args.lock, guard).await?;
    Ok(0)
}

/// Refuses a standard input that ends at once, since that would release the lock at once, as if all were well.
///
/// A shell without job control starts a job in the background with `/dev/null`. So does systemd; and where standard input
/// is closed, the standard library has opened `/dev/null` in its place.
fn check_input() -> Result<(), Failure> {
    let input = io::stdin().as_fd().try_clone_to_owned();
    let input = input.map_err(Failure::of_system)?;
    let is_readable = fcntl_getfl(&input).is_ok_and(|flags| !flags.contains(OFlags::WRONLY));
    let metadata = File::from(input).metadata().map_err(Failure::of_system)?;
    let file_type = metadata.file_type();
    let what = if file_type.is_char_device() && metadata.rdev() == makedev(1, 3) {
        "is /dev/null"
    } else if file_type.is_dir() || !is_readable {
        "cannot be read"
    } else {
        return Ok(());
    };
    Err(Failure::usage(format!("standard input {what}; {HINT}")))
}

/// Reads standard input to its end, on a thread that ends with the process: one that waits for a terminal would
/// otherwise have to be waited for.
async fn end_of_input() {
    let (sender, ended) = oneshot::channel::<()>();
    thread::spawn(move || {
        // Who reads a terminal in the background is stopped, and stopped again as soon as it is to go on and end. So it
        // is told instead that it cannot read.
        let mut stops = SigSet::empty();
        stops.add(Signal::SIGTTIN);
        let _ = stops.thread_block();
        let mut input = [0; 1024];
        loop {
            match io::stdin().read(&mut input) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => {
                    thread::sleep(LOOK);
                }
                // Who has no input has nothing to end it by.
                Ok(0) | Err(_) => break,
            }
        }
        drop(sender);
    });
    let _ = ended.await;
}
