//! Flags that several verbs have, and how values of flags are read.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use glockd::protocol::fold;

use crate::exit_code::CONFLICT;

/// Flags that say which lock to get, and how.
#[derive(clap::Args)]
pub(crate) struct LockFlags {
    /// Get the shared lock of this name; without --limit, the number of holders is unlimited
    #[arg(short, long)]
    pub(crate) shared: bool,
    /// Maximum number of holders of the shared lock, this one included; implies --shared; all users of the lock should
    /// give the same number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
    /// Fail if the lock is not free, instead of waiting for it
    #[arg(short, long, visible_alias = "nb", conflicts_with = "wait")]
    pub(crate) nonblock: bool,
    /// Maximum time to wait for the lock, in seconds; 0 is --nonblock [default: unlimited]
    #[arg(short, long, visible_alias = "timeout", value_name = "SECS", value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) wait: Option<Duration>,
    /// Exit code if the lock is refused: others hold it, or a limit of the server is reached
    #[arg(short = 'E', long, value_name = "N", default_value_t = CONFLICT)]
    pub(crate) conflict_exit_code: u8,
    /// Name that others see for the holder of the lock [default: address of the connection]
    #[arg(long = "name", value_name = "ME")]
    pub(crate) me: Option<OsString>,
    /// Fail with exit code 69 if the server gives no fencing token
    #[arg(long)]
    pub(crate) require_fence: bool,
    /// Report on stderr when the lock is acquired, refused and released
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

impl LockFlags {
    /// Returns whether to wait for the lock.
    pub(crate) fn waits(&self) -> bool {
        !self.nonblock && self.wait != Some(Duration::ZERO)
    }

    /// Returns the maximum time to wait for the lock, if there is one.
    pub(crate) fn limited_wait(&self) -> Option<Duration> {
        self.wait.filter(|_| self.waits())
    }
}

/// Flags that say in which form to print.
#[derive(clap::Args)]
pub(crate) struct OutputFlags {
    /// Print JSON; a name that is not UTF-8 is printed in hexadecimal as well
    #[arg(long)]
    pub(crate) json: bool,
}

/// Reads a number of seconds.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>();
    let seconds = seconds.map_err(|_| "not a number of seconds")?;
    Duration::try_from_secs_f64(seconds).map_err(|_| match seconds < 0.0 {
        true => "a time cannot be negative".to_owned(),
        false => "too many seconds".to_owned(),
    })
}

/// Reads the name of a lock. The server takes the empty name for a name, but on a command line it means that some
/// variable is not set.
pub(crate) fn lock_name() -> impl TypedValueParser<Value = OsString> {
    OsStringValueParser::new().try_map(|name| match fold(name.as_bytes()).is_empty() {
        true => Err("the name is empty"),
        false => Ok(name),
    })
}

/// Returns an argument as bytes.
pub(crate) fn bytes(argument: &OsString) -> &[u8] {
    argument.as_os_str().as_bytes()
}
