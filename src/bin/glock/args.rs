//! The command line: the verbs, and where the server is.
//!
//! It is that of flock(1) where flock has the same. Therefore clap reads it, and not the reader of Go's flags that glockd
//! has: `-w5`, `-sn` and `--wait=5` are what people type here, and the arguments of a command may not be text.

use std::env;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::{Parser, Subcommand};

use crate::bench::Bench;
use crate::failure::Failure;
use crate::get::Get;
use crate::inspect::Inspect;
use crate::ls::Ls;
use crate::own::Own;
use crate::ping::Ping;
use crate::run::Run;
use crate::show::text;
use crate::stats::Stats;
use crate::watch::Watch;
use crate::who::Who;

/// Runs commands under network locks, and shows who holds which lock.
#[derive(Parser)]
#[command(
    name = "glock",
    version,
    after_help = "Try `glock run --help` first. The help of each command has examples.",
    after_long_help = "\
Examples:
  glock run -n backup -- /usr/local/bin/backup
      Runs the backup, unless one runs already, on any host
  glock run -w 60 --limit 3 gpu -- train --fast
      At most three at a time; waits for at most a minute
  glock own backup
      Who holds the lock, and who waits for it
  glock watch
      All locks, refreshed every second
  GLOCKD_SERVER=tcp://db1:9999 glock ls
      The locks of another server

Exit codes:
  1         others hold the lock; for `inspect`: the lock is free
  2         the command line is wrong
  3         the lock was lost while it was held
  69        the server is unreachable, or does not support the request
  71        an error of the operating system
  126, 127  the command cannot be executed, or does not exist
  128 + n   signal n
Otherwise `run` exits with the exit code of the command."
)]
pub(crate) struct Args {
    // clap could read the variable, but its messages would then show the value as if it had been typed.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        help = "Address of the server: tcp://HOST[:PORT], unix:PATH or ws://HOST[:PORT]/ \
                [default: $GLOCKD_SERVER, or else tcp://localhost:9999]"
    )]
    server: Option<OsString>,
    #[command(subcommand)]
    pub(crate) action: Action,
}

impl Args {
    /// Returns the address of the server.
    pub(crate) fn server(&self) -> Result<String, Failure> {
        let server = self
            .server
            .clone()
            .or_else(|| env::var_os("GLOCKD_SERVER").filter(|server| !server.is_empty()));
        match server.map(OsString::into_string) {
            None => Ok("tcp://localhost:9999".to_owned()),
            Some(Ok(server)) => Ok(server),
            Some(Err(server)) => Err(Failure::usage(format!(
                "the address of the server is not UTF-8: {}",
                text(server.as_bytes())
            ))),
        }
    }
}

#[derive(Subcommand)]
pub(crate) enum Action {
    Run(Run),
    Get(Get),
    Inspect(Inspect),
    Ls(Ls),
    Own(Own),
    Who(Who),
    Stats(Stats),
    Ping(Ping),
    Watch(Watch),
    Bench(Bench),
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn flags_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn flags_are_read_as_by_flock() {
        let run = |line: &str| match Args::try_parse_from(line.split(' ')).map(|args| args.action) {
            Ok(Action::Run(run)) => run,
            Ok(_) => panic!("{line}: another verb"),
            Err(error) => panic!("{line}: {error}"),
        };
        for line in [
            "glock run -sw5 a b -w 7",
            "glock run --shared --wait=5 a -- b -w 7",
            "glock run -s --timeout 5.0 a -- b -w 7",
        ] {
            let run = run(line);
            assert!(run.lock.shared && !run.lock.nonblock, "{line}");
            assert_eq!(run.lock.wait, Some(Duration::from_secs(5)), "{line}");
            assert_eq!(run.lock_name, "a");
            assert_eq!(run.command(), ["b", "-w", "7"], "{line}");
        }
        let odd = run("glock run -snE77 --grace 0.5 --limit 3 --name me -- a b -- c");
        assert!(odd.lock.shared && odd.lock.nonblock);
        assert_eq!(odd.lock.conflict_exit_code, 77);
        assert_eq!(
            (odd.grace, odd.lock.limit),
            (Duration::from_millis(500), Some(3))
        );
        assert_eq!(odd.command(), ["b", "--", "c"]);
        let dashed = run("glock run -n -- -a -- b -n");
        assert_eq!(
            (dashed.lock_name.as_os_str(), dashed.command()),
            ("-a".as_ref(), &["b".into(), "-n".into()][..])
        );
    }

    #[test]
    fn wrong_command_lines_are_rejected() {
        for line in [
            "glock",
            "glock run",
            "glock run a",
            "glock run a --",
            "glock run  b",
            "glock run \t b",
            "glock run -w 1e99 a b",
            "glock bench -c 1000001",
            "glock run -n -w 1 a b",
            "glock run -w -1 a b",
            "glock run -w nan a b",
            "glock run -w soon a b",
            "glock run -E 256 a b",
            "glock run --limit 0 a b",
            "glock inspect",
            "glock bench -t 1 -n 1",
            "glock bench -P 0",
        ] {
            assert!(Args::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
