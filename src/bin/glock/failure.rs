//! Failures: a message, and the exit code.

use std::io;

use glockd_client::{Error, Lost};
use nix::errno::Errno;

use crate::exit_code::{CONFLICT, SYSTEM, UNAVAILABLE, USAGE};
use crate::show::text;

/// The reason why glock ends without success.
pub(crate) struct Failure {
    pub(crate) code: u8,
    /// Message for stderr. None if the exit code is enough.
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

    /// Converts an error of connecting.
    pub(crate) fn of_connect(error: Error) -> Failure {
        match error {
            Error::Lost(lost @ (Lost::Closed | Lost::Io(_))) => Failure::unavailable(format!(
                "the server closed the connection at once, as it does at its maximum number of connections \
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
                "cannot reach the server at {}: {source} (--server or $GLOCKD_SERVER sets the address)",
                text(endpoint.to_string().as_bytes())
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

/// Converts an error of printing. If the reader has gone, as under `| head`, there is nothing more to do or to report.
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
