//! The daemon's flags: what there is, what it means, and what argv says.
//!
//! [`Args`] is the only list of them. argh parses by it, [`GoFlags`] reads Go's syntax by it, and the
//! usage text is made of it, since argh's own shows a syntax that scripts do not use.

use std::ffi::OsString;
use std::fmt::{Display, Write};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use argh::{ArgsInfo, FlagInfo, FlagInfoKind, FromArgs};
use glockd::Limits;
use glockd::transports::Origins;

use crate::bind::{self, Bind};
use crate::config::{Config, UnixSocket};
use crate::go_flags::{FlagError, GoFlags};
use crate::go_values::{Nanoseconds, Typed};

const MAX_LINE: RangeInclusive<i64> = 1..=Limits::MAX_LINE_CEILING as i64;

/// A maximum number of something; 0 means unlimited.
const COUNT: RangeInclusive<i64> = 0..=u32::MAX as i64;

/// Permissions.
const MODE: RangeInclusive<i64> = 0..=0o777;

/// What TCP can be told, in seconds.
const KEEPALIVE: RangeInclusive<u64> = 1..=32767;

/// Flags by what they are about, for the usage text. Those that are in no group come last.
const GROUPS: [(&str, &[&str]); 5] = [
    ("Listening", &["port", "ws", "bind", "unix"]),
    (
        "Permissions",
        &["unix-mode", "ws-origin", "dump", "registry", "extensions"],
    ),
    (
        "Limits",
        &[
            "max-line",
            "max-connections",
            "max-connections-per-ip",
            "max-locks",
            "max-locks-per-connection",
            "max-waiters",
        ],
    ),
    (
        "Timeouts",
        &["keepalive", "write-timeout", "handshake-timeout"],
    ),
    ("Files", &["pidfile", "state-dir"]),
];

/// A network lock daemon: a lock lives as long as the connection that holds it.
//
// A flag may be given several times, so each is a `Vec`, of which the last wins. `int`, `duration` and `bool` say
// how a value is spelled; a text that stands for something else has a name of its own.
#[derive(FromArgs, ArgsInfo)]
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
struct Args {
    /// port for TCP, on all addresses unless -bind names some; 0 turns TCP off (default 9999)
    #[argh(option, arg_name = "int")]
    port: Vec<Typed<i64>>,

    /// port for WebSocket, on the same addresses; 0 turns WebSocket off (default 9998)
    #[argh(option, arg_name = "int")]
    ws: Vec<Typed<i64>>,

    /// IP addresses that both ports listen on, separated by commas; -bind localhost admits this host alone. An
    /// address with a - in front, as in -bind 127.0.0.1,-::1, is passed over if this host does not have it, and
    /// so are the two that localhost means; may be repeated (default all)
    #[argh(option, arg_name = "address")]
    bind: Vec<String>,

    /// path of a Unix socket, of which a stale file is replaced; or @ and a name for an abstract socket, which
    /// has no file (default off)
    #[argh(option, arg_name = "path")]
    unix: Vec<String>,

    /// mode of the socket's file, in octal; users with the permission to write may connect (default 0766)
    #[argh(option, arg_name = "int")]
    unix_mode: Vec<Typed<i64>>,

    /// web pages that may open a WebSocket, separated by commas: hosts, with or without a port; and "same",
    /// for pages of the host and port that they connect to (if it is an IP address, localhost, or on this
    /// list) and for programs that are no browser (default all)
    #[argh(option, arg_name = "hosts")]
    ws_origin: Vec<String>,

    /// file that the process id is written to, and that is locked while the daemon runs (default off)
    #[argh(option, arg_name = "path")]
    pidfile: Vec<String>,

    /// maximum length of a line or a message, in bytes (default 131072)
    #[argh(option, arg_name = "int")]
    max_line: Vec<Typed<i64>>,

    /// maximum number of connections; 0 means as many as the limit of descriptors allows (default 0)
    #[argh(option, arg_name = "int")]
    max_connections: Vec<Typed<i64>>,

    /// maximum number of connections from one IP address; 0 means unlimited (default 0)
    #[argh(option, arg_name = "int")]
    max_connections_per_ip: Vec<Typed<i64>>,

    /// maximum number of locks held; a shared lock counts once for each holder, and a waiter counts as a holder;
    /// a get beyond it fails; 0 means unlimited (default 0)
    #[argh(option, arg_name = "int")]
    max_locks: Vec<Typed<i64>>,

    /// maximum number of locks held by one connection; a get beyond it fails; 0 means unlimited (default 0)
    #[argh(option, arg_name = "int")]
    max_locks_per_connection: Vec<Typed<i64>>,

    /// maximum number of clients that wait for a lock; 0 means unlimited (default 0)
    #[argh(option, arg_name = "int")]
    max_waiters: Vec<Typed<i64>>,

    /// existing directory for the state that keeps fencing tokens growing even if the clock is set back (default
    /// none)
    #[argh(option, arg_name = "path")]
    state_dir: Vec<String>,

    /// how long a client may be silent before it is probed, by TCP or by a WebSocket ping; a client that has not
    /// answered 15s later is disconnected; 0 means never (default 15s)
    #[argh(option, arg_name = "duration")]
    keepalive: Vec<Typed<Nanoseconds>>,

    /// how long a client may read nothing of its replies before it is disconnected; 0 means for ever (default
    /// 30s)
    #[argh(option, arg_name = "duration")]
    write_timeout: Vec<Typed<Nanoseconds>>,

    /// how long a WebSocket handshake may take (default 10s)
    #[argh(option, arg_name = "duration")]
    handshake_timeout: Vec<Typed<Nanoseconds>>,

    /// allow d, sd, dump, who, ld, lsd, ldl, lsdl, lwho and own, which show what others hold; to forbid:
    /// -dump=false (default true)
    #[argh(option, arg_name = "bool")]
    dump: Vec<bool>,

    /// allow iam, who and lwho; to forbid: -registry=false (default true)
    #[argh(option, arg_name = "bool")]
    registry: Vec<bool>,

    /// allow the commands that the original does not have; to forbid: -extensions=false (default true)
    #[argh(option, arg_name = "bool")]
    extensions: Vec<bool>,

    /// log connects and disconnects, grants, releases, orphans and invalid commands (default false)
    #[argh(option, arg_name = "bool")]
    verbose: Vec<bool>,
}

/// Why the daemon does not start, by its command line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgsError {
    /// It was asked something, and this is the answer.
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

/// Reads the command line, without the program's name. Of a help flag and a mistake the first counts, as
/// in Go.
pub(crate) fn parse(argv: &[OsString]) -> Result<Config, ArgsError> {
    let flags = Args::get_args_info().flags;
    let mistake = |message: String| ArgsError::Mistake {
        message,
        usage: usage(),
    };
    let answer = |text, stream| Err(ArgsError::Answer { text, stream });
    let mut plain = Vec::new();
    let mut stopped = None;
    for flag in GoFlags::new(flags, argv) {
        match flag {
            Ok((name, value)) => plain.extend([name, value]),
            Err(error) => stopped = Some(error),
        }
    }
    let plain: Vec<&str> = plain.iter().map(String::as_str).collect();
    let args = Args::from_args(&[NAME], &plain).map_err(|exit| mistake(exit.output))?;
    let config = args.config().map_err(mistake)?;
    match stopped {
        None => Ok(config),
        Some(FlagError::Help) => answer(usage(), Stream::Stderr),
        Some(FlagError::LongHelp) => answer(usage(), Stream::Stdout),
        Some(FlagError::Version) => answer(format!("{NAME} {VERSION}"), Stream::Stdout),
        Some(error) => Err(mistake(error.to_string())),
    }
}

const NAME: &str = env!("CARGO_BIN_NAME");
const VERSION: &str = env!("CARGO_PKG_VERSION");

impl Args {
    /// The last of each flag, with a message if any is out of range. Ports are not checked here: one
    /// that cannot be listened on is no mistake in the flags, but a failure to listen.
    fn config(self) -> Result<Config, String> {
        let max_line = integers("max-line", &self.max_line, MAX_LINE)?;
        let max = |flag, values: &[Typed<i64>]| {
            integers(flag, values, COUNT).map(|value| value.filter(|&value| value > 0))
        };
        let max_connections = max("max-connections", &self.max_connections)?;
        let max_connections_per_ip = max("max-connections-per-ip", &self.max_connections_per_ip)?;
        let max_locks = max("max-locks", &self.max_locks)?;
        let max_locks_per_connection =
            max("max-locks-per-connection", &self.max_locks_per_connection)?;
        let max_waiters = max("max-waiters", &self.max_waiters)?;
        let keepalive = durations(
            "keepalive",
            &self.keepalive,
            |value| value.is_zero() || KEEPALIVE.contains(&value.as_secs()),
            "0, or from 1s to 32767s",
        )?;
        let write_timeout = durations(
            "write-timeout",
            &self.write_timeout,
            |_| true,
            "0, or more than that",
        )?;
        let handshake_timeout = durations(
            "handshake-timeout",
            &self.handshake_timeout,
            |value| !value.is_zero(),
            "more than 0",
        )?;
        let unix_mode = modes(&self.unix_mode)?;
        let unix = unix_sockets(&self.unix)?;
        if let (Some(UnixSocket::Abstract(name)), Some(mode)) = (&unix, self.unix_mode.last()) {
            return Err(invalid(
                "unix-mode",
                mode,
                format_args!("-unix @{name} has no file, and so no mode: every user may connect"),
            ));
        }
        let state_dir = state_dirs(&self.state_dir)?;
        let ws_origin = origins(&self.ws_origin)?;
        let bind = addresses(&self.bind)?;
        let unless_zero = |value: Duration| (!value.is_zero()).then_some(value);
        let pidfile = last(&self.pidfile).filter(|path| !path.is_empty());
        let default = Config::default();
        Ok(Config {
            port: last(&self.port).unwrap_or(default.port),
            ws: last(&self.ws).unwrap_or(default.ws),
            bind,
            unix_mode: unix_mode.unwrap_or(default.unix_mode),
            ws_origin,
            unix,
            pidfile: pidfile.map(PathBuf::from),
            max_line: max_line.unwrap_or(default.max_line),
            max_connections,
            max_connections_per_ip,
            max_locks,
            max_locks_per_connection,
            max_waiters,
            state_dir,
            keepalive: keepalive.map_or(default.keepalive, unless_zero),
            write_timeout: write_timeout.map_or(default.write_timeout, unless_zero),
            handshake_timeout: handshake_timeout.unwrap_or(default.handshake_timeout),
            dump: last(&self.dump).unwrap_or(default.dump),
            registry: last(&self.registry).unwrap_or(default.registry),
            extensions: last(&self.extensions).unwrap_or(default.extensions),
            verbose: last(&self.verbose).unwrap_or(default.verbose),
        })
    }
}

fn last<T: Clone>(values: &[T]) -> Option<T> {
    values.last().cloned()
}

/// The message about a value, which it shows as it was typed.
fn invalid(flag: &str, value: impl Display, reason: impl Display) -> String {
    format!("invalid value \"{value}\" for flag -{flag}: {reason}")
}

/// The last of a flag's integers, with a message if any is out of range.
fn integers(
    flag: &str,
    values: &[Typed<i64>],
    allowed: RangeInclusive<i64>,
) -> Result<Option<usize>, String> {
    if let Some(typed) = values.iter().find(|typed| !allowed.contains(&typed.value)) {
        let (least, most) = (allowed.start(), allowed.end());
        let reason = format_args!("not from {least} to {most}");
        return Err(invalid(flag, typed, reason));
    }
    Ok(values.last().and_then(|typed| typed.value.try_into().ok()))
}

/// The last `-unix-mode`, with a message if any is not a mode. A decimal number is not: whoever writes `400` means
/// `0400`, and would let the group connect.
fn modes(values: &[Typed<i64>]) -> Result<Option<u32>, String> {
    let mut last = None;
    for typed in values {
        let text = typed.to_string();
        let digits = text.trim_start_matches('+');
        let is_decimal = digits.starts_with(|c| matches!(c, '1'..='9'));
        let octal = i64::from_str_radix(digits, 8);
        let meant = octal.is_ok_and(|octal| is_decimal && MODE.contains(&octal));
        if meant {
            let reason = format_args!("a mode is octal: write 0{digits}");
            return Err(invalid("unix-mode", typed, reason));
        }
        if is_decimal || !MODE.contains(&typed.value) {
            let reason = format_args!("not from 0 to 0{:o}", MODE.end());
            return Err(invalid("unix-mode", typed, reason));
        }
        last = typed.value.try_into().ok();
    }
    Ok(last)
}

/// The last `-unix`, of which an empty one means none, with a message if any has no name behind its `@`.
fn unix_sockets(values: &[String]) -> Result<Option<UnixSocket>, String> {
    if values.iter().any(|value| value == "@") {
        let reason = "the name of the abstract socket is missing";
        return Err(invalid("unix", "@", reason));
    }
    let last = values.last().filter(|value| !value.is_empty());
    Ok(last.map(|value| match value.strip_prefix('@') {
        Some(name) => UnixSocket::Abstract(name.to_owned()),
        None => UnixSocket::Path(value.into()),
    }))
}

/// The last `-state-dir`. An empty one may be a variable that is not set, and must not turn off the protection that
/// was asked for.
fn state_dirs(values: &[String]) -> Result<Option<PathBuf>, String> {
    if values.iter().any(String::is_empty) {
        let reason = "the directory has no name; to keep no state, leave the flag out";
        return Err(invalid("state-dir", "", reason));
    }
    Ok(values.last().map(PathBuf::from))
}

/// All addresses of all `-bind`, each once. `all` stands for no particular one; to say nothing may be a mistake, and
/// must not open what was to be closed.
fn addresses(values: &[String]) -> Result<Vec<Bind>, String> {
    let mut addresses = Vec::new();
    for value in values {
        if value == "all" {
            addresses.clear();
            continue;
        }
        for part in value.split(',').map(str::trim) {
            let binds = bind::parse(part).ok_or_else(|| {
                let reason = format_args!("{part:?} is neither an IP address nor localhost");
                invalid("bind", value, reason)
            })?;
            for bind in binds {
                bind::add(&mut addresses, bind);
            }
        }
    }
    Ok(addresses)
}

/// The pages of the last `-ws-origin`. A mistake in any is an error: it must not open what was to be closed.
fn origins(values: &[String]) -> Result<Origins, String> {
    let mut last = Origins::ANY;
    for value in values {
        last = Origins::parse(value)
            .map_err(|error| format!("invalid value {value:?} for flag -ws-origin: {error}"))?;
    }
    Ok(last)
}

/// The last of a flag's durations, with a message if any is out of range.
fn durations(
    flag: &str,
    values: &[Typed<Nanoseconds>],
    is_allowed: impl Fn(Duration) -> bool,
    allowed: &str,
) -> Result<Option<Duration>, String> {
    let mut last = None;
    for typed in values {
        let nanoseconds = u64::try_from(typed.value.0).ok();
        let duration = nanoseconds.map(Duration::from_nanos);
        last = duration.filter(|&duration| is_allowed(duration));
        if last.is_none() {
            let reason = format_args!("out of range: {allowed}");
            return Err(invalid(flag, typed, reason));
        }
    }
    Ok(last)
}

/// The usage text, laid out as Go does it, and in groups.
fn usage() -> String {
    let info = Args::get_args_info();
    let mut usage = format!("{}\n\nUsage of {NAME}:\n", info.description);
    let group_of = |flag: &FlagInfo| {
        let name = flag.long.trim_start_matches('-');
        GROUPS.iter().position(|(_, names)| names.contains(&name))
    };
    let headings = GROUPS.iter().map(|(heading, _)| *heading);
    for (group, heading) in headings.chain(["Other"]).enumerate() {
        let _ = writeln!(usage, "\n{heading}:");
        for flag in info.flags {
            // A switch is argh's `--help`, which comes last.
            let FlagInfoKind::Option { arg_name } = flag.kind else {
                continue;
            };
            if group_of(flag).unwrap_or(GROUPS.len()) != group {
                continue;
            }
            let name = flag.long.trim_start_matches('-');
            let argument = match arg_name {
                "bool" => String::new(),
                other => format!(" {other}"),
            };
            let _ = writeln!(usage, "  -{name}{argument}\n    \t{}", flag.description);
        }
    }
    usage.push_str("  -version\n    \tprint the version\n");
    usage.push_str("  -help\n    \tprint this text; --help prints it on stdout\n\nExit status:\n");
    for status in info.error_codes {
        let _ = writeln!(usage, "  {}\t{}", status.code, status.description);
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(argv: &str) -> Result<Config, ArgsError> {
        let argv: Vec<OsString> = argv
            .split_whitespace()
            .map(|word| if word == "''" { "" } else { word }.into())
            .collect();
        parse(&argv)
    }

    #[test]
    fn the_last_of_a_flag_wins() {
        #[track_caller]
        fn check(argv: &str, expect: Config) {
            assert_eq!(read(argv), Ok(expect), "{argv}");
        }
        let default = Config::default;
        let bind = |text: &str| bind::parse(text).unwrap()[0];
        check("", default());
        check(
            "-port 1 -ws 2 --port=0x3 -ws=0",
            Config {
                port: 3.into(),
                ws: 0.into(),
                ..default()
            },
        );
        check(
            "-port -1 -ws 70000",
            Config {
                port: (-1).into(),
                ws: 70000.into(),
                ..default()
            },
        );
        check(
            "-unix /a -pidfile /b -unix=/c -state-dir /d",
            Config {
                unix: Some(UnixSocket::Path("/c".into())),
                state_dir: Some("/d".into()),
                pidfile: Some("/b".into()),
                ..default()
            },
        );
        check("-unix /a -unix '' -pidfile=/b -pidfile=", default());
        check(
            "-unix @a",
            Config {
                unix: Some(UnixSocket::Abstract("a".to_owned())),
                ..default()
            },
        );
        check(
            "-dump=false -registry=F -extensions=0 -verbose",
            Config {
                dump: false,
                registry: false,
                extensions: false,
                verbose: true,
                ..default()
            },
        );
        check("-dump=0 -dump -verbose -verbose=false", default());
        check(
            "-max-line 1",
            Config {
                max_line: 1,
                ..default()
            },
        );
        check(
            "-bind 127.0.0.1 -bind=::1,10.0.0.1,::1",
            Config {
                bind: vec![bind("127.0.0.1"), bind("::1"), bind("10.0.0.1")],
                ..default()
            },
        );
        check(
            "-bind -::1 -bind localhost,::1",
            Config {
                bind: vec![bind("::1"), bind("-127.0.0.1")],
                ..default()
            },
        );
        check("-bind 127.0.0.1 -bind all", default());
        check(
            "-unix-mode 0700 -ws-origin a.example -ws-origin=same,b.example",
            Config {
                unix_mode: 0o700,
                ws_origin: Origins::parse("same,b.example").unwrap(),
                ..default()
            },
        );
        check(
            "-keepalive 1m -write-timeout=1.5s -handshake-timeout 100ms",
            Config {
                keepalive: Some(Duration::from_secs(60)),
                write_timeout: Some(Duration::from_millis(1500)),
                handshake_timeout: Duration::from_millis(100),
                ..default()
            },
        );
        check(
            "-keepalive 0 -write-timeout 0s",
            Config {
                keepalive: None,
                write_timeout: None,
                ..default()
            },
        );
        check(
            "-max-connections 1 -max-connections-per-ip=2 -max-locks 3 -max-locks-per-connection 4 \
             -max-waiters 5",
            Config {
                max_connections: Some(1),
                max_connections_per_ip: Some(2),
                max_locks: Some(3),
                max_locks_per_connection: Some(4),
                max_waiters: Some(5),
                ..default()
            },
        );
        check(
            "-max-connections 1 -max-connections 0 -max-locks=0",
            default(),
        );
        check(
            "-max-line 1_073_741_824",
            Config {
                max_line: 1 << 30,
                ..default()
            },
        );
    }

    #[test]
    fn each_of_a_flag_is_checked() {
        #[track_caller]
        fn check(argv: &str, expect: &str) {
            let error = read(argv).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("{}\n{expect}", usage()),
                "{argv}"
            );
        }
        let range = |value: &str| {
            format!("invalid value \"{value}\" for flag -max-line: not from 1 to 1073741824")
        };
        check("-max-line 0", &range("0"));
        check("-max-line -1 -max-line 5", &range("-1"));
        check("-max-line 1073741825 -help", &range("1073741825"));
        check("-max-line 0 -bogus", &range("0"));
        for (argv, value, flag, allowed) in [
            (
                "-keepalive 100ms",
                "100ms",
                "keepalive",
                "0, or from 1s to 32767s",
            ),
            (
                "-keepalive 9h10m",
                "9h10m",
                "keepalive",
                "0, or from 1s to 32767s",
            ),
            (
                "-keepalive 0 -keepalive=-1s",
                "-1s",
                "keepalive",
                "0, or from 1s to 32767s",
            ),
            (
                "-write-timeout=-1m",
                "-1m",
                "write-timeout",
                "0, or more than that",
            ),
            (
                "-handshake-timeout 0",
                "0",
                "handshake-timeout",
                "more than 0",
            ),
        ] {
            let expect =
                format!("invalid value \"{value}\" for flag -{flag}: out of range: {allowed}");
            check(argv, &expect);
        }
        check("-max-line 1_073_741_825", &range("1_073_741_825"));
        check("-max-line 0x4000_0001 -port 1", &range("0x4000_0001"));
        for flag in [
            "max-connections",
            "max-connections-per-ip",
            "max-locks",
            "max-locks-per-connection",
        ] {
            check(
                &format!("-{flag}=-1 -{flag}=1"),
                &format!("invalid value \"-1\" for flag -{flag}: not from 0 to 4294967295"),
            );
        }
        for (value, reason) in [
            ("777", "a mode is octal: write 0777"),
            ("400", "a mode is octal: write 0400"),
            ("+660", "a mode is octal: write 0660"),
            ("489", "not from 0 to 0777"),
            ("1000", "not from 0 to 0777"),
            ("0x1000", "not from 0 to 0777"),
            ("01000", "not from 0 to 0777"),
            ("-1", "not from 0 to 0777"),
        ] {
            check(
                &format!("-unix-mode {value} -unix-mode 0"),
                &format!("invalid value \"{value}\" for flag -unix-mode: {reason}"),
            );
        }
        check(
            "-unix @x -unix-mode 0700",
            "invalid value \"0700\" for flag -unix-mode: -unix @x has no file, and so no mode: every user may \
             connect",
        );
        check(
            "-unix @ -unix /a",
            "invalid value \"@\" for flag -unix: the name of the abstract socket is missing",
        );
        for argv in [
            "-state-dir ''",
            "-state-dir /a -state-dir=",
            "-state-dir= -state-dir /a",
        ] {
            check(
                argv,
                "invalid value \"\" for flag -state-dir: the directory has no name; to keep no state, leave the \
                 flag out",
            );
        }
        check(
            "-bind ::1,example.org",
            "invalid value \"::1,example.org\" for flag -bind: \"example.org\" is neither an IP address nor \
             localhost",
        );
        check(
            "-bind 127.0.0.1 -bind=",
            "invalid value \"\" for flag -bind: \"\" is neither an IP address nor localhost",
        );
        for (list, part) in [
            ("", ""),
            (",", ""),
            ("same,*", "*"),
            ("http://a.example", "http://a.example"),
            ("a.example:", "a.example:"),
            ("a.example:99999", "a.example:99999"),
        ] {
            let message = format!("{part:?} is not a host, nor a host and a port");
            check(
                &format!("-ws-origin={list} -ws-origin same"),
                &format!("invalid value {list:?} for flag -ws-origin: {message}"),
            );
        }
        check(
            "-ws-origin same,all",
            "invalid value \"same,all\" for flag -ws-origin: \"all\" admits every page, so it must stand alone",
        );
        check(
            "-keepalive 15",
            "invalid value \"15\" for flag -keepalive: parse error",
        );
        check(
            "-bogus -max-line 0",
            "flag provided but not defined: -bogus",
        );
        check(
            "-port x -port 1",
            "invalid value \"x\" for flag -port: parse error",
        );
        check(
            "-dump false",
            "unexpected argument \"false\": to set a boolean flag, write -dump=false",
        );
    }

    #[test]
    fn help_and_the_version_are_no_mistakes() {
        for (argv, stream) in [
            ("-help", Stream::Stderr),
            ("-h -bogus", Stream::Stderr),
            ("-help -max-line 0", Stream::Stderr),
            ("-port 1 -help --help", Stream::Stderr),
            ("-port 1 --help", Stream::Stdout),
        ] {
            let text = usage();
            assert_eq!(
                read(argv),
                Err(ArgsError::Answer { text, stream }),
                "{argv}"
            );
        }
        for argv in ["-version", "--version -bogus", "-port 1 -version -help"] {
            let answer = ArgsError::Answer {
                text: format!("glockd {VERSION}"),
                stream: Stream::Stdout,
            };
            assert_eq!(read(argv), Err(answer), "{argv}");
        }
    }

    #[test]
    fn the_usage_states_the_defaults_that_hold() {
        let mut stated = 0;
        for flag in Args::get_args_info().flags {
            if let Some((_, default)) = flag.description.split_once("(default ") {
                let argv: Vec<OsString> = match default.trim_end_matches(')') {
                    // Not to be had but by leaving it out.
                    "none" => Vec::new(),
                    "off" => vec![format!("{}=", flag.long).into()],
                    value => vec![format!("{}={value}", flag.long).into()],
                };
                assert_eq!(parse(&argv), Ok(Config::default()), "{argv:?}");
                stated += 1;
            }
        }
        assert_eq!(
            stated,
            Args::get_args_info().flags.len() - 1,
            "all but -help"
        );
    }

    #[test]
    fn the_usage_is_laid_out_as_go_does_it_and_grouped() {
        let usage = usage();
        for part in [
            "\n\nUsage of glockd:\n\nListening:\n  -port int\n    \tport for TCP, ",
            "\n\nPermissions:\n  -unix-mode int\n    \t",
            "\n\nLimits:\n  -max-line int\n    \t",
            "\n\nTimeouts:\n  -keepalive duration\n    \t",
            "\n\nFiles:\n  -pidfile path\n    \t",
            "\n\nOther:\n  -verbose\n    \t",
            "\n  -unix path\n    \t",
            "\n  -dump\n    \tallow ",
            "\n  -version\n    \t",
            "\n  -help\n    \t",
            "\n  4\tthe pidfile is locked by another process\n",
        ] {
            assert!(usage.contains(part), "{part}\n{usage}");
        }
    }

    #[test]
    fn the_usage_has_each_flag_once() {
        let usage = usage();
        let flags = Args::get_args_info().flags;
        for flag in flags {
            let line = format!("\n  -{}", flag.long.trim_start_matches('-'));
            let lines = usage.lines().filter(|found| {
                let name = found.split(' ').nth(2).unwrap_or_default();
                found.starts_with("  -") && format!("\n  {name}") == line
            });
            assert_eq!(lines.count(), 1, "{line}");
        }
        for name in GROUPS.iter().flat_map(|(_, names)| *names) {
            let is_flag = |flag: &FlagInfo| flag.long.strip_prefix("--") == Some(name);
            assert!(flags.iter().any(is_flag), "{name} is no flag");
        }
    }
}
