//! `glock get`: holds a lock until its standard input ends.

use std::ffi::OsString;
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

use crate::exit_code::LOST;
use crate::failure::Failure;
use crate::flags::{LockFlags, OutputFlags, bytes, lock_name};
use crate::lock::{acquire, release};
use crate::show::{insert_name, kind, print_answer, text, token};
use crate::signals::{Inherited, Signals};
use crate::start::end_as_asked;

/// Hold a lock until standard input ends
#[derive(clap::Args)]
#[command(after_help = "\
Prints a line when it has the lock, and holds the lock until its standard input ends or a signal ends it. Input from \
/dev/null is refused, since it has ended already. A shell gives /dev/null to a script's background jobs: give them a \
fifo, or use `glock run`.

Examples:
  glock get backup
      Until Ctrl-D; exits with 3 if the lock is lost
  glock get --json -n backup < fifo
      For programs: {\"name\":\"backup\",\"fence\":\"1834…\",…}
  mkfifo lock; glock get backup < lock & exec 3> lock
      In a script: until the script closes the fifo by `exec 3>&-`, or ends")]
pub(crate) struct Get {
    #[command(flatten)]
    lock: LockFlags,
    #[command(flatten)]
    output: OutputFlags,
    /// Name of the lock
    #[arg(value_name = "NAME", value_parser = lock_name())]
    lock_name: OsString,
}

/// Time after which a process in the background tries again to read the terminal.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// Advice about a standard input that cannot say how long to hold the lock.
const HINT: &str = "glock get holds the lock until its input ends: give it a fifo or a terminal, or use `glock run`";

pub(crate) async fn get(server: &str, args: Get, inherited: &Inherited) -> Result<u8, Failure> {
    check_input()?;
    let mut signals = Signals::catch_forwarded(inherited)?;
    let guard = tokio::select! {
        guard = acquire(server, &args.lock, bytes(&args.lock_name), |_| {}) => guard?,
        signal = signals.next() => return Ok(end_as_asked(signal)),
    };
    if args.output.json {
        let mut object = Map::new();
        insert_name(&mut object, "name", guard.name());
        object.insert("kind".to_owned(), json!(kind(guard.kind())));
        object.insert("holders".to_owned(), json!(guard.holders()));
        object.insert("fence".to_owned(), token(guard.fence()));
        print_answer(&Value::Object(object).to_string())?;
    } else {
        let fence = guard
            .fence()
            .map_or(String::new(), |token| format!(", fence {token}"));
        print_answer(&format!("held: {}{fence}", text(guard.name())))?;
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

/// Refuses a standard input that ends at once. It would release the lock at once, as if all were well.
///
/// A shell without job control starts background jobs with `/dev/null`. So does systemd; and where standard input is
/// closed, the standard library has opened `/dev/null` in its place.
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

/// Reads standard input to its end.
///
/// On a thread that ends with the process: glock could not end before a thread of the runtime that reads a terminal.
async fn end_of_input() {
    let (sender, ended) = oneshot::channel::<()>();
    thread::spawn(move || {
        // The kernel stops a background process that reads the terminal, and stops it again when it is continued in
        // order to end. While the signal is blocked, the read fails instead.
        let mut stops = SigSet::empty();
        stops.add(Signal::SIGTTIN);
        let _ = stops.thread_block();
        let mut input = [0; 1024];
        loop {
            match io::stdin().read(&mut input) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => {
                    thread::sleep(RETRY_INTERVAL);
                }
                // An input that fails cannot end later.
                Ok(0) | Err(_) => break,
            }
        }
        drop(sender);
    });
    let _ = ended.await;
}
