//! The daemon's flags: what there is, what it means, and what argv says.
//!
//! [`Args`] is the only list of them. argh parses by it, [`GoFlags`] reads Go's syntax by it, and the
//! usage text is made of it, since argh's own shows a syntax that scripts do not use.

use std::ffi::OsString;
use std::fmt::Write;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use argh::{ArgsInfo, FlagInfoKind, FromArgs};
use glockd::Limits;
use glockd::transports::Origins;

use crate::config::Config;
use crate::go_flags::{FlagError, GoFlags};

const MAX_LINE: RangeInclusive<i64> = 1..=Limits::MAX_LINE_CEILING as i64;

/// How many there may be; 0 stands for no limit of ours.
const COUNT: RangeInclusive<i64> = 0..=u32::MAX as i64;

/// Permissions.
const MODE: RangeInclusive<i64> = 0..=0o777;

/// What TCP can be told, in seconds.
const KEEPALIVE: RangeInclusive<u64> = 1..=32767;

/// A network lock daemon: a lock lives as long as the connection that holds it.
//
// A flag may be given several times, so each is a `Vec`, of which the last wins. `int` and `bool` say
// how a value is spelled; a text that stands for something else has a name of its own.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    error_code(0, "stopped by SIGTERM or SIGINT, or help was asked for"),
    error_code(1, "nothing to listen on, or an address or -state-dir cannot be used"),
    error_code(2, "mistake in the flags"),
    error_code(3, "the pidfile cannot be opened or written"),
    error_code(4, "the pidfile is locked by another process")
)]
struct Args {
    /// port of TCP, on all addresses; 0 turns it off (default 9999)
    #[argh(option, arg_name = "int")]
    port: Vec<i64>,

    /// port of WebSocket, on all addresses; 0 turns it off (default 9998)
    #[argh(option, arg_name = "int")]
    ws: Vec<i64>,

    /// the IP addresses to listen on with TCP and WebSocket, separated by commas; may be repeated (default
    /// all)
    #[argh(option, arg_name = "address")]
    bind: Vec<String>,

    /// a Unix socket, which anyone may connect to; a stale one is replaced (default off)
    #[argh(option, arg_name = "path")]
    unix: Vec<String>,

    /// who may connect to the Unix socket, as the mode of its file (default 0766)
    #[argh(option, arg_name = "int")]
    unix_mode: Vec<i64>,

    /// the web pages that may open a WebSocket, separated by commas: hosts, with or without a port, and
    /// "same", for this host and for programs that are no browser (default all)
    #[argh(option, arg_name = "hosts")]
    ws_origin: Vec<String>,

    /// a file for the process id, kept locked while the daemon runs (default off)
    #[argh(option, arg_name = "path")]
    pidfile: Vec<String>,

    /// the bytes that a line or a message may have (default 131072)
    #[argh(option, arg_name = "int")]
    max_line: Vec<i64>,

    /// the connections that there may be at a time; 0 is as many as the limit of descriptors allows (default
    /// 0)
    #[argh(option, arg_name = "int")]
    max_connections: Vec<i64>,

    /// the connections that there may be at a time from one IP address; 0 is any number (default 0)
    #[argh(option, arg_name = "int")]
    max_connections_per_ip: Vec<i64>,

    /// the locks that may be held at a time, a shared one counted once for each holder, and any for each who
    /// waits for it; a get beyond that fails; 0 is any number (default 0)
    #[argh(option, arg_name = "int")]
    max_locks: Vec<i64>,

    /// the locks that a connection may hold at a time; a get beyond that fails; 0 is any number (default 0)
    #[argh(option, arg_name = "int")]
    max_locks_per_connection: Vec<i64>,

    /// the clients that may wait for a lock; 0 is any number (default 0)
    #[argh(option, arg_name = "int")]
    max_waiters: Vec<i64>,

    /// a directory where fencing tokens are kept from going back, even if the clock does (default off)
    #[argh(option, arg_name = "path")]
    state_dir: Vec<String>,

    /// how long a client may be silent before TCP, or a ping on its WebSocket, asks whether it is there; one
    /// that has not answered 15s later is gone; 0 never asks (default 15s)
    #[argh(option, arg_name = "duration")]
    keepalive: Vec<i64>,

    /// how long a client may read nothing of its replies before it is disconnected; 0 waits for ever
    /// (default 30s)
    #[argh(option, arg_name = "duration")]
    write_timeout: Vec<i64>,

    /// how long the handshake of a WebSocket may take (default 10s)
    #[argh(option, arg_name = "duration")]
    handshake_timeout: Vec<i64>,

    /// allow d, sd, dump, who, ld, lsd, lwho and own, which show what others hold; to forbid: -dump=false
    /// (default true)
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

/// Why the daemon does not start, by its command line. Shown on stderr.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgsError {
    /// It was asked how it is used, and this is the answer.
    #[error("{usage}")]
    Help { usage: String },
    /// A flag is wrong.
    #[error("{message}\n{usage}")]
    Mistake { message: String, usage: String },
}

/// Reads the command line, without the program's name. Of a help flag and a mistake the first counts, as
/// in Go.
pub(crate) fn parse(argv: &[OsString]) -> Result<Config, ArgsError> {
    let flags = Args::get_args_info().flags;
    let mistake = |message: String| ArgsError::Mistake {
        message,
        usage: usage(),
    };
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
        Some(FlagError::Help) => Err(ArgsError::Help { usage: usage() }),
        Some(error) => Err(mistake(error.to_string())),
    }
}

const NAME: &str = env!("CARGO_BIN_NAME");

impl Args {
    /// The last of each flag, with a message if any is out of range. Ports are not checked here: one
    /// that cannot be listened on is no mistake in the flags, but a failure to listen.
    fn config(self) -> Result<Config, String> {
        let max_line = integers("max-line", &self.max_line, MAX_LINE)?;
        let max = |flag, values: &[i64]| {
            integers(flag, values, COUNT).map(|value| value.filter(|&value| value > 0))
        };
        let max_connections = max("max-connections", &self.max_connections)?;
        let max_connections_per_ip = max("max-connections-per-ip", &self.max_connections_per_ip)?;
        let max_locks = max("max-locks", &self.max_locks)?;
        let max_locks_per_connection =
            max("max-locks-per-connection", &self.max_locks_per_connection)?;
        let max_waiters = max("max-waiters", &self.max_waiters)?;
        let keepalive = durations("keepalive", &self.keepalive, |value| {
            value.is_zero() || KEEPALIVE.contains(&value.as_secs())
        })?;
        let write_timeout = durations("write-timeout", &self.write_timeout, |_| true)?;
        let handshake_timeout = durations("handshake-timeout", &self.handshake_timeout, |value| {
            !value.is_zero()
        })?;
        if let Some(value) = self.unix_mode.iter().find(|value| !MODE.contains(value)) {
            return Err(format!(
                "invalid value \"{value:#o}\" for flag -unix-mode: not from 0 to {:#o}",
                MODE.end()
            ));
        }
        let ws_origin = origins(&self.ws_origin)?;
        let bind = addresses(&self.bind)?;
        let unless_zero = |value: Duration| (!value.is_zero()).then_some(value);
        let path = |flag: Vec<String>| flag.into_iter().last().filter(|path| !path.is_empty());
        let default = Config::default();
        Ok(Config {
            port: last(&self.port).unwrap_or(default.port),
            ws: last(&self.ws).unwrap_or(default.ws),
            bind,
            unix_mode: last(&self.unix_mode)
                .and_then(|mode| mode.try_into().ok())
                .unwrap_or(default.unix_mode),
            ws_origin,
            unix: path(self.unix).map(PathBuf::from),
            pidfile: path(self.pidfile).map(PathBuf::from),
            max_line: max_line.unwrap_or(default.max_line),
            max_connections,
            max_connections_per_ip,
            max_locks,
            max_locks_per_connection,
            max_waiters,
            state_dir: path(self.state_dir).map(PathBuf::from),
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

fn last<T: Copy>(values: &[T]) -> Option<T> {
    values.last().copied()
}

/// The last of a flag's integers, with a message if any is out of range.
fn integers(
    flag: &str,
    values: &[i64],
    allowed: RangeInclusive<i64>,
) -> Result<Option<usize>, String> {
    if let Some(value) = values.iter().find(|value| !allowed.contains(value)) {
        return Err(format!(
            "invalid value \"{value}\" for flag -{flag}: not from {} to {}",
            allowed.start(),
            allowed.end()
        ));
    }
    Ok(last(values).and_then(|value| value.try_into().ok()))
}

/// All addresses of all `-bind`, each once. `all` stands for no particular one; to say nothing may be a mistake, and
/// must not open what was to be closed.
fn addresses(values: &[String]) -> Result<Vec<IpAddr>, String> {
    let mut addresses = Vec::new();
    for value in values {
        if value == "all" {
            addresses.clear();
            continue;
        }
        for part in value.split(',') {
            let address = part.trim().parse().map_err(|_| {
                format!("invalid value {value:?} for flag -bind: {part:?} is no IP address")
            })?;
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    Ok(addresses)
}

/// The pages of the last `-ws-origin`. None that is given may be a mistake, least of all one that shuts out
/// nobody.
fn origins(values: &[String]) -> Result<Origins, String> {
    let mut last = Origins::ANY;
    for value in values {
        last = match value.as_str() {
            "all" => Origins::ANY,
            list => Origins::parse(list)
                .map_err(|error| format!("invalid value {value:?} for flag -ws-origin: {error}"))?,
        };
    }
    Ok(last)
}

/// The last of a flag's durations, given in nanoseconds, with a message if any is out of range.
fn durations(
    flag: &str,
    values: &[i64],
    allowed: impl Fn(Duration) -> bool,
) -> Result<Option<Duration>, String> {
    let mut last = None;
    for &value in values {
        let duration = Duration::from_nanos(value.unsigned_abs());
        if value < 0 || !allowed(duration) {
            let sign = if value < 0 { "-" } else { "" };
            return Err(format!(
                "invalid value \"{sign}{duration:?}\" for flag -{flag}: out of range"
            ));
        }
        last = Some(duration);
    }
    Ok(last)
}

/// The usage text, laid out as Go does it.
fn usage() -> String {
    let info = Args::get_args_info();
    let mut usage = format!("{}\n\nUsage of {NAME}:\n", info.description);
    for flag in info.flags {
        // A switch is argh's `--help`, which comes last.
        let FlagInfoKind::Option { arg_name } = flag.kind else {
            continue;
        };
        let name = flag.long.trim_start_matches('-');
        let argument = match arg_name {
            "bool" => String::new(),
            other => format!(" {other}"),
        };
        let _ = writeln!(usage, "  -{name}{argument}\n    \t{}", flag.description);
    }
    usage.push_str("  -help\n    \tshow this text\n\nExit status:\n");
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
        check("", default());
        check(
            "-port 1 -ws 2 --port=0x3 -ws=0",
            Config {
                port: 3,
                ws: 0,
                ..default()
            },
        );
        check(
            "-port -1 -ws 70000",
            Config {
                port: -1,
                ws: 70000,
                ..default()
            },
        );
        check(
            "-unix /a -pidfile /b -unix=/c -state-dir /d",
            Config {
                unix: Some("/c".into()),
                state_dir: Some("/d".into()),
                pidfile: Some("/b".into()),
                ..default()
            },
        );
        check("-unix /a -unix '' -pidfile=/b -pidfile=", default());
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
                bind: ["127.0.0.1", "::1", "10.0.0.1"]
                    .map(|ip| ip.parse().unwrap())
                    .into(),
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
                format!("{expect}\n{}", usage()),
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
        for (argv, value, flag) in [
            ("-keepalive 100ms", "100ms", "keepalive"),
            ("-keepalive 32768s", "32768s", "keepalive"),
            ("-keepalive 0 -keepalive=-1s", "-1s", "keepalive"),
            ("-write-timeout=-1m", "-60s", "write-timeout"),
            ("-handshake-timeout 0", "0ns", "handshake-timeout"),
        ] {
            let expect = format!("invalid value \"{value}\" for flag -{flag}: out of range");
            check(argv, &expect);
        }
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
        check(
            "-unix-mode 0x1000",
            "invalid value \"0o10000\" for flag -unix-mode: not from 0 to 0o777",
        );
        check(
            "-bind ::1,localhost",
            "invalid value \"::1,localhost\" for flag -bind: \"localhost\" is no IP address",
        );
        check(
            "-bind 127.0.0.1 -bind=",
            "invalid value \"\" for flag -bind: \"\" is no IP address",
        );
        for (list, part) in [
            ("", ""),
            (",", ""),
            ("same,*", "*"),
            ("http://a.example", "http://a.example"),
            ("a.example:", "a.example:"),
            ("a.example:99999", "a.example:99999"),
        ] {
            let message = format!("{part:?} is no host, nor a host and a port");
            check(
                &format!("-ws-origin={list} -ws-origin same"),
                &format!("invalid value {list:?} for flag -ws-origin: {message}"),
            );
        }
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
    fn help_is_no_mistake() {
        for argv in ["-help", "-port 1 --help", "-h -bogus", "-help -max-line 0"] {
            assert_eq!(
                read(argv),
                Err(ArgsError::Help { usage: usage() }),
                "{argv}"
            );
        }
    }

    #[test]
    fn the_usage_states_the_defaults_that_hold() {
        let mut stated = 0;
        for flag in Args::get_args_info().flags {
            if let Some((_, default)) = flag.description.split_once("(default ") {
                let value = match default.trim_end_matches(')') {
                    "off" => "",
                    value => value,
                };
                let argv = [format!("{}={value}", flag.long).into()];
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
    fn the_usage_is_laid_out_as_go_does_it() {
        let usage = usage();
        for part in [
            "\n\nUsage of glockd:\n",
            "\n  -port int\n    \tport of TCP, on all addresses; 0 turns it off (default 9999)\n",
            "\n  -max-line int\n    \t",
            "\n  -unix path\n    \t",
            "\n  -dump\n    \tallow ",
            "\n  4\tthe pidfile is locked by another process\n",
        ] {
            assert!(usage.contains(part), "{part}\n{usage}");
        }
    }
}
