//! What ends glock otherwise than well. Its exit codes:
//!
//! | code | meaning |
//! | --- | --- |
//! | 1 | the lock is held by others (`-E` for another code), or free where it was asked whether it is held |
//! | 2 | the command line is wrong, or a name, or the standard input of `glock get` |
//! | 3 | the lock was lost while the command ran |
//! | 69 | there is no server, it went away, or it does not do what was asked for |
//! | 71 | the system does not let glock do its work |
//! | 126, 127 | the command cannot be run, or is not there |
//! | 128 + n | signal n ended the command, or the wait for the lock, or glock itself |

use std::io;

use glockd_client::{Error, Lost};
use nix::errno::Errno;

use crate::show;

/// The lock is held by others.
pub(crate) const CONFLICT: u8 = 1;
const USAGE: u8 = 2;
/// The lock was lost.
pub(crate) const LOST: u8 = 3;
/// `EX_UNAVAILABLE` of sysexits.h.
const UNAVAILABLE: u8 = 69;
/// `EX_OSERR` of sysexits.h.
const SYSTEM: u8 = 71;

pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) message: Option<String>,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Failure {
        Failure {
            code,
            message: Some(message.into()),
        }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure::new(USAGE, message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Failure {
        Failure::new(UNAVAILABLE, message)
    }

    /// For an error of connecting.
    pub(crate) fn of_connect(error: Error) -> Failure {
        match error {
            Error::Lost(lost @ (Lost::Closed | Lost::Io(_))) => Failure::unavailable(format!(
                "the server hung up at once, as it does beyond a limit of connections \
                 (-max-connections, -max-connections-per-ip): {lost}"
            )),
            error => error.into(),
        }
    }

    pub(crate) fn of_system(error: impl Into<io::Error>) -> Failure {
        Failure::new(SYSTEM, error.into().to_string())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let message = error.to_string();
        match error {
            Error::Endpoint(_)
            | Error::BadName(_)
            | Error::TooLong { .. }
            | Error::Lost(Lost::TooLong)
            | Error::ZeroLimit => Failure::usage(message),
            Error::Connect { source, .. } if is_out_of_descriptors(&source) => {
                Failure::new(SYSTEM, source.to_string())
            }
            Error::Connect { endpoint, source } => Failure::unavailable(format!(
                "cannot reach the server at {}: {source} (--server or $GLOCKD_SERVER says where it is)",
                show::text(endpoint.to_string().as_bytes())
            )),
            Error::Refused { .. } => Failure::new(CONFLICT, message),
            _ => Failure::unavailable(message),
        }
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    [Errno::EMFILE, Errno::ENFILE]
        .map(|errno| Some(errno as i32))
        .contains(&number)
}

/// What is printed may be read by nobody any more, as under `| head`: then there is nothing more to do, nor to say.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure {
                code: 0,
                message: None,
            },
            _ => Failure::of_system(error),
        }
    }
}
