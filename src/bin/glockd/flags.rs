//! The daemon's flags. [`Flags`] is the one table of them: a new flag is one field here, and its use.
//!
//! argh parses by the table, [`GoFlags`] reads Go's syntax by it, and the [usage](crate::usage) text is made of it. A source
//! of flags, such as the command line, is a series of names and values in argh's spelling: `--max-line`, `4096`.

use std::ffi::OsString;
use std::time::Duration;

use argh::{ArgsInfo, FlagInfo, FromArgs, Optionality};
use glockd::Limits;
use glockd::transports::Origins;

use crate::bind::{self, Bind};
use crate::go_syntax::{FlagError, GoFlags};
use crate::go_values::Typed;
use crate::usage::{self, NAME, VERSION};
use crate::values::{
    BindValue, Maximum, OptionalPath, OptionalSocket, Timeout, UnixSocket, addresses, directory,
    keepalive, line_length, maximum, mode, origins, path, positive_timeout, timeout, unix_socket,
};

/// A network lock daemon: a lock lives as long as the connection that holds it.
//
// The order is that of the usage text. `int`, `duration` and `bool` say how a value is spelled; any other text names what
// the value is. A flag that is a `Vec` adds up if it is repeated; of any other flag the last one counts.
#[derive(FromArgs, ArgsInfo, Clone, Debug, PartialEq, Eq)]
#[argh(
    error_code(
        0,
        "stopped by SIGTERM, SIGINT or SIGQUIT, or help or the version was asked for"
    ),
    error_code(
        1,
        "nothing to listen on, or an address, -state-dir or the environment cannot be used"
    ),
    error_code(2, "mistake in the flags"),
    error_code(3, "the pidfile cannot be opened or written"),
    error_code(4, "the pidfile is locked by another process")
)]
pub(crate) struct Flags {
    /// port for TCP, on all addresses unless -bind names some; 0 turns TCP off (default 9999)
    #[argh(option, arg_name = "int", default = "Typed::from(9999)")]
    pub(crate) port: Typed<i64>,

    /// port for WebSocket, on the same addresses; 0 turns WebSocket off (default 9998)
    #[argh(option, arg_name = "int", default = "Typed::from(9998)")]
    pub(crate) ws: Typed<i64>,

    /// IP addresses that both ports listen on, separated by commas; -bind localhost admits this host alone. An
    /// address with a - in front, as in -bind 127.0.0.1,-::1, is skipped if this host does not have it. localhost
    /// means -127.0.0.1,-::1. May be repeated (default all)
    #[argh(option, arg_name = "address", from_str_fn(addresses))]
    pub(crate) bind: Vec<BindValue>,

    /// path of a Unix socket, where a stale socket file is replaced; or @ and a name, for an abstract socket, which
    /// has no file (default off)
    #[argh(option, arg_name = "path", default = "None", from_str_fn(unix_socket))]
    pub(crate) unix: OptionalSocket,

    /// mode of the socket's file, in octal; users with the permission to write may connect (default 0766)
    #[argh(option, arg_name = "int", default = "0o766", from_str_fn(mode))]
    pub(crate) unix_mode: u32,

    /// web pages that may open a WebSocket, separated by commas: hosts, with or without a port; and "same",
    /// for pages of the host and port that they connect to (if it is an IP address, localhost, or on this
    /// list) and for programs that are not browsers (default all)
    #[argh(
        option,
        arg_name = "hosts",
        default = "Origins::ANY",
        from_str_fn(origins)
    )]
    pub(crate) ws_origin: Origins,

    /// allow d, sd, dump, who, ld, lsd, ldl, lsdl, lwho and own, which show what others hold; to forbid:
    /// -dump=false (default true)
    #[argh(option, arg_name = "bool", default = "true")]
    pub(crate) dump: bool,

    /// allow iam, who and lwho; to forbid: -registry=false (default true)
    #[argh(option, arg_name = "bool", default = "true")]
    pub(crate) registry: bool,

    /// allow the commands that the original does not have; to forbid: -extensions=false (default true)
    #[argh(option, arg_name = "bool", default = "true")]
    pub(crate) extensions: bool,

    /// maximum length of a line or a message, in bytes (default 131072)
    #[argh(
        option,
        arg_name = "int",
        default = "Limits::default().max_line",
        from_str_fn(line_length)
    )]
    pub(crate) max_line: usize,

    /// maximum number of connections; 0 means as many as the limit of descriptors allows (default 0)
    #[argh(option, arg_name = "int", default = "None", from_str_fn(maximum))]
    pub(crate) max_connections: Maximum,

    /// maximum number of connections from one IP address; 0 means unlimited (default 0)
    #[argh(option, arg_name = "int", default = "None", from_str_fn(maximum))]
    pub(crate) max_connections_per_ip: Maximum,

    /// maximum number of locks held; a shared lock counts once for each holder, and a waiter counts as a holder;
    /// a get beyond it fails; 0 means unlimited (default 0)
    #[argh(option, arg_name = "int", default = "None", from_str_fn(maximum))]
    pub(crate) max_locks: Maximum,

    /// maximum number of locks held by one connection; a get beyond it fails; 0 means unlimited (default 0)
    #[argh(option, arg_name = "int", default = "None", from_str_fn(maximum))]
    pub(crate) max_locks_per_connection: Maximum,

    /// maximum number of clients that wait for one lock; 0 means unlimited (default 0)
    #[argh(option, arg_name = "int", default = "None", from_str_fn(maximum))]
    pub(crate) max_waiters: Maximum,

    /// how long a client may be silent before it is probed, by TCP or by a WebSocket ping; a client that has not
    /// answered 15s later is disconnected; 0 means never (default 15s)
    #[argh(
        option,
        arg_name = "duration",
        default = "Limits::default().keepalive",
        from_str_fn(keepalive)
    )]
    pub(crate) keepalive: Timeout,

    /// how long a client may read nothing of its replies before it is disconnected; 0 means for ever (default
    /// 30s)
    #[argh(
        option,
        arg_name = "duration",
        default = "Limits::default().write_timeout",
        from_str_fn(timeout)
    )]
    pub(crate) write_timeout: Timeout,

    /// how long a WebSocket handshake may take (default 10s)
    #[argh(
        option,
        arg_name = "duration",
        default = "Limits::default().handshake_timeout",
        from_str_fn(positive_timeout)
    )]
    pub(crate) handshake_timeout: Duration,

    /// file that the process id is written to, and that is locked while the daemon runs (default off)
    #[argh(option, arg_name = "path", default = "None", from_str_fn(path))]
    pub(crate) pidfile: OptionalPath,

    /// existing directory for the state that keeps fencing tokens growing even if the clock is set back (default
    /// none)
    #[argh(option, arg_name = "path", default = "None", from_str_fn(directory))]
    pub(crate) state_dir: OptionalPath,

    /// log connects and disconnects, grants, releases, orphans and invalid commands (default false)
    #[argh(option, arg_name = "bool", default = "false")]
    pub(crate) verbose: bool,
}

/// The reason why the command line does not start a daemon.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FlagsError {
    /// The command line asks for this text.
    #[error("{text}")]
    Answer { text: String, stream: Stream },
    /// A flag is wrong. The message comes last, where a terminal shows it.
    #[error("{usage}\n{message}")]
    Mistake { message: String, usage: String },
}

/// Where an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Reads the command line, without the program's name. Of a help flag and a mistake the first one counts, as in Go.
pub(crate) fn parse(argv: &[OsString]) -> Result<Flags, FlagsError> {
    let mut given = Given::default();
    let mut stopped = None;
    for pair in GoFlags::new(table(), argv) {
        match pair {
            Ok((name, value)) => given.set(name, value).map_err(mistake)?,
            Err(error) => stopped = Some(error),
        }
    }
    let flags = given.flags().map_err(mistake)?;
    let answer = |text, stream| Err(FlagsError::Answer { text, stream });
    match stopped {
        None => Ok(flags),
        Some(FlagError::Help) => answer(usage::text::<Flags>(), Stream::Stderr),
        Some(FlagError::LongHelp) => answer(usage::text::<Flags>(), Stream::Stdout),
        Some(FlagError::Version) => answer(format!("{NAME} {VERSION}"), Stream::Stdout),
        Some(error) => Err(mistake(error.to_string())),
    }
}

fn mistake(message: String) -> FlagsError {
    FlagsError::Mistake {
        message,
        usage: usage::text::<Flags>(),
    }
}

fn table() -> &'static [FlagInfo<'static>] {
    Flags::get_args_info().flags
}

/// The flags that a source gave, each with a value that was checked.
#[derive(Default)]
struct Given {
    pairs: Vec<(String, String)>,
}

impl Given {
    /// Adds a flag. Its value must be valid, even if the flag is repeated later.
    fn set(&mut self, name: String, value: String) -> Result<(), String> {
        if let Err(exit) = Flags::from_args(&[NAME], &[&name, &value]) {
            let before = format!("Error parsing option '{name}' with value '{value}': ");
            let reason = exit.output.strip_prefix(&before).unwrap_or(&exit.output);
            return Err(invalid(&name, &value, reason.trim_end()));
        }
        let is_same = |flag: &&FlagInfo<'_>| flag.long == name;
        let found = table().iter().find(is_same);
        if found.is_none_or(|flag| !matches!(flag.optionality, Optionality::Repeating)) {
            self.pairs.retain(|(other, _)| *other != name);
        }
        self.pairs.push((name, value));
        Ok(())
    }

    /// Returns all flags: those that were given, and the defaults of the others.
    fn flags(&self) -> Result<Flags, String> {
        let pairs = self.pairs.iter();
        let words: Vec<&str> = pairs
            .flat_map(|(name, value)| [&**name, &**value])
            .collect();
        let flags = Flags::from_args(&[NAME], &words).map_err(|exit| exit.output)?;
        let mode = self.pairs.iter().find(|(name, _)| name == "--unix-mode");
        if let (Some(UnixSocket::Abstract(socket)), Some((name, value))) = (&flags.unix, mode) {
            let reason =
                format!("-unix @{socket} has no file, and so no mode: every user may connect");
            return Err(invalid(name, value, &reason));
        }
        Ok(flags)
    }
}

/// Returns the message about a value, which it shows as the user wrote it.
fn invalid(name: &str, value: &str, reason: &str) -> String {
    let flag = name.trim_start_matches('-');
    format!("invalid value {value:?} for flag -{flag}: {reason}")
}

impl Flags {
    /// Returns the addresses that both ports listen on, each once; none means all.
    pub(crate) fn addresses(&self) -> Vec<Bind> {
        let mut addresses = Vec::new();
        for value in &self.bind {
            match value {
                BindValue::All => addresses.clear(),
                BindValue::Addresses(binds) => {
                    for &bind in binds {
                        bind::add(&mut addresses, bind);
                    }
                }
            }
        }
        addresses
    }
}

#[cfg(test)]
mod tests;
