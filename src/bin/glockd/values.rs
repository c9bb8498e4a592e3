//! The values of flags: what a text means, and which texts are refused.
//!
//! Each function reads one value. The message of an error says what is wrong with the value; the caller adds the
//! name of the flag and the value itself.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use glockd::Limits;
use glockd::transports::Origins;

use crate::bind::{self, Bind};
use crate::go_values::{ValueError, parse_duration, parse_int};

/// A maximum number of something; `None` means unlimited.
//
// These aliases hide the `Option` from argh, which would otherwise read the value within.
pub(crate) type Maximum = Option<usize>;

/// A time limit; `None` means no limit.
pub(crate) type Timeout = Option<Duration>;

/// A path, or none.
pub(crate) type OptionalPath = Option<PathBuf>;

/// A Unix socket, or none.
pub(crate) type OptionalSocket = Option<UnixSocket>;

/// Where to listen for local clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UnixSocket {
    /// The path of a socket file.
    Path(PathBuf),
    /// An abstract name, which Go and most other programs write with an `@` in front.
    Abstract(String),
}

/// One value of `-bind`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BindValue {
    /// All addresses. Earlier addresses on the command line do not count.
    All,
    /// These addresses.
    Addresses(Vec<Bind>),
}

/// Maximum numbers that a flag can set; 0 means unlimited.
const COUNT: RangeInclusive<i64> = 0..=u32::MAX as i64;

const MAX_LINE: RangeInclusive<i64> = 1..=Limits::MAX_LINE_CEILING as i64;

/// Permission bits.
const MODE: RangeInclusive<i64> = 0..=0o777;

/// The idle times that TCP accepts, in seconds.
const KEEPALIVE: RangeInclusive<u64> = 1..=32767;

/// Reads a maximum number; 0 means unlimited.
pub(crate) fn maximum(text: &str) -> Result<Maximum, String> {
    let value = integer(text, COUNT)?;
    Ok((value > 0).then_some(value))
}

/// Reads the maximum length of a line, in bytes.
pub(crate) fn line_length(text: &str) -> Result<usize, String> {
    integer(text, MAX_LINE)
}

/// Reads a duration after which a silent client is probed; 0 means never.
pub(crate) fn keepalive(text: &str) -> Result<Timeout, String> {
    let is_allowed = |value: Duration| value.is_zero() || KEEPALIVE.contains(&value.as_secs());
    let value = duration(text, is_allowed, "0, or from 1s to 32767s")?;
    Ok((!value.is_zero()).then_some(value))
}

/// Reads a time limit; 0 means no limit.
pub(crate) fn timeout(text: &str) -> Result<Timeout, String> {
    let value = duration(text, |_| true, "0, or more than that")?;
    Ok((!value.is_zero()).then_some(value))
}

/// Reads a time limit that cannot be turned off.
pub(crate) fn positive_timeout(text: &str) -> Result<Duration, String> {
    duration(text, |value| !value.is_zero(), "more than 0")
}

/// Reads the mode of a file. A decimal number is refused: a user who writes `400` means `0400`, and the decimal number
/// would let the group connect.
pub(crate) fn mode(text: &str) -> Result<u32, String> {
    let value = parse_int(text).map_err(|error| error.to_string())?;
    let digits = text.trim_start_matches('+');
    let is_decimal = digits.starts_with(|c| matches!(c, '1'..='9'));
    let octal = i64::from_str_radix(digits, 8);
    if is_decimal && octal.is_ok_and(|octal| MODE.contains(&octal)) {
        return Err(format!("a mode is octal: write 0{digits}"));
    }
    match u32::try_from(value) {
        Ok(mode) if !is_decimal && MODE.contains(&value) => Ok(mode),
        _ => Err(format!("not from 0 to 0{:o}", MODE.end())),
    }
}

/// Reads the name of a Unix socket. An empty one means none.
pub(crate) fn unix_socket(text: &str) -> Result<OptionalSocket, String> {
    match text.strip_prefix('@') {
        Some("") => Err("the name of the abstract socket is missing".to_owned()),
        Some(name) => Ok(Some(UnixSocket::Abstract(name.to_owned()))),
        None => Ok(path(text)?.map(UnixSocket::Path)),
    }
}

/// Reads the path of a file. An empty one means none.
pub(crate) fn path(text: &str) -> Result<OptionalPath, String> {
    Ok((!text.is_empty()).then(|| text.into()))
}

/// Reads the path of a directory. An empty one may be a variable that is not set. It must not turn off the protection that
/// the directory is for.
pub(crate) fn directory(text: &str) -> Result<OptionalPath, String> {
    match text {
        "" => Err("the directory has no name; to keep no state, leave the flag out".to_owned()),
        text => Ok(Some(text.into())),
    }
}

/// Reads the origins of web pages. A mistake is an error: it must not admit pages that the flag is to shut out.
pub(crate) fn origins(text: &str) -> Result<Origins, String> {
    Origins::parse(text).map_err(|error| error.to_string())
}

/// Reads the addresses of one `-bind`. An empty value is an error: it may be a mistake, and must not open more addresses.
pub(crate) fn addresses(text: &str) -> Result<BindValue, String> {
    if text == "all" {
        return Ok(BindValue::All);
    }
    let mut addresses = Vec::new();
    for part in text.split(',').map(str::trim) {
        let binds = bind::parse(part)
            .ok_or_else(|| format!("{part:?} is neither an IP address nor localhost"))?;
        addresses.extend(binds);
    }
    Ok(BindValue::Addresses(addresses))
}

fn integer(text: &str, allowed: RangeInclusive<i64>) -> Result<usize, String> {
    let value = parse_int(text).map_err(|error| error.to_string())?;
    match usize::try_from(value) {
        Ok(number) if allowed.contains(&value) => Ok(number),
        _ => Err(format!("not from {} to {}", allowed.start(), allowed.end())),
    }
}

fn duration(
    text: &str,
    is_allowed: impl Fn(Duration) -> bool,
    allowed: &str,
) -> Result<Duration, String> {
    let nanoseconds = parse_duration(text).map_err(|error: ValueError| error.to_string())?;
    let duration = u64::try_from(nanoseconds).ok().map(Duration::from_nanos);
    duration
        .filter(|&duration| is_allowed(duration))
        .ok_or_else(|| format!("out of range: {allowed}"))
}
