//! What glock can be told. As flock(1) is where that has the same, so clap reads it rather than the reader of Go's
//! flags that glockd has: `-w5`, `-sn` and `--wait=5` are what people type here, and a command's arguments may be no
//! text at all.

use std::env;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgAction, Parser, Subcommand, ValueEnum};
use glockd::protocol::fold;

use crate::failure::Failure;
use crate::show::text;

/// Runs commands under network locks, and shows who has which.
#[derive(Parser)]
#[command(
    name = "glock",
    version,
    after_help = "Try `glock run --help` first. Every command has examples.",
    after_long_help = "\
Examples:
  glock run -n backup -- /usr/local/bin/backup
      Unless it runs already, here or on another host
  glock run -w 60 --limit 3 gpu -- train --fast
      At most three at a time; waits for a minute
  glock own backup
      Who holds it, and who waits for it
  glock watch
      All locks, all the time
  GLOCKD_SERVER=tcp://db1:9999 glock ls
      Another server

Exit codes: 1 held by others (or free, of `inspect`), 2 usage, 3 the lock was lost while the command ran, 69 no \
server, 71 a fault of the system, 126 and 127 the command cannot be run, 128 + n signal n. Otherwise that of the \
command."
)]
pub(crate) struct Args {
    // Not read from the environment by clap, whose messages would then show it as if it were to be typed.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        help = "Where the server is: tcp://HOST[:PORT], unix:PATH or ws://HOST[:PORT]/ \
                [default: $GLOCKD_SERVER, or else tcp://localhost:9999]"
    )]
    server: Option<OsString>,
    #[command(subcommand)]
    pub(crate) action: Action,
}

impl Args {
    /// Where the server is.
    pub(crate) fn server(&self) -> Result<String, Failure> {
        let server = self
            .server
            .clone()
            .or_else(|| env::var_os("GLOCKD_SERVER").filter(|server| !server.is_empty()));
        match server.map(OsString::into_string) {
            None => Ok("tcp://localhost:9999".to_owned()),
            Some(Ok(server)) => Ok(server),
            Some(Err(server)) => Err(Failure::usage(format!(
                "what says where the server is is no text: {}",
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

/// Which lock, and how to get it.
#[derive(clap::Args)]
pub(crate) struct Lock {
    /// Share the lock with others that share it; without --limit, any number
    #[arg(short, long)]
    pub(crate) shared: bool,
    /// Share the lock with fewer than N others. All who use it should say the same
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
    /// Do not wait for the lock
    #[arg(short, long, visible_alias = "nb", conflicts_with = "wait")]
    pub(crate) nonblock: bool,
    /// Wait for so long at most; by default, for as long as it takes
    #[arg(short, long, visible_alias = "timeout", value_name = "SECS", value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) wait: Option<Duration>,
    /// Exit by this code if the lock is not to be had
    #[arg(short = 'E', long, value_name = "N", default_value_t = crate::failure::CONFLICT)]
    pub(crate) conflict_exit_code: u8,
    /// What to be shown as, to who asks for the holder; by default, where the connection comes from
    #[arg(long = "name", value_name = "ME")]
    pub(crate) me: Option<OsString>,
    /// Give up, by exit code 69, if the server gives no fencing token
    #[arg(long)]
    pub(crate) require_fence: bool,
    /// Say on stderr what happens to the lock
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

impl Lock {
    /// Whether to wait for the lock.
    pub(crate) fn waits(&self) -> bool {
        !self.nonblock && self.wait != Some(Duration::ZERO)
    }

    /// How long to wait for the lock, if not for as long as it takes.
    pub(crate) fn limited_wait(&self) -> Option<Duration> {
        self.wait.filter(|_| self.waits())
    }
}

/// Run a command while holding a lock
#[derive(clap::Args)]
#[command(after_help = "\
Waits for the lock, runs the command, and exits as it does; the lock is free again when the command and all that \
it has started in its process group have ended, or the moment this process is killed.

Examples:
  glock run -n backup -- rsync -a /srv db2:/srv
      In a crontab: silently does nothing if it runs already
  glock run -w 30 deploy ./deploy.sh
      Waits for half a minute; exits by 1 if that is not enough
  glock run --limit 3 gpu -- train
      One of three
  glock run -n -E 75 nightly -- job || ...
      75 is EX_TEMPFAIL: try later
  glock run leader -- sh -c 'serve --fence $GLOCK_FENCE'
      A leader, and the next one stands by until it is gone

The command finds the lock's fencing token in $GLOCK_FENCE. If the server gives none, the variable is not set, and \
glock says so; with --require-fence, it does not start the command. If the connection to the server is lost, so is the \
lock: then the group gets SIGTERM, after --grace SIGKILL, and glock exits by 3. A signal that ends glock ends the group \
first, in the same way. If glock itself is killed by SIGKILL, the kernel kills the command, but neither what the \
command has started nor a command that is set-user-ID.

When the command has ended, whatever has not left its group within 0.3 seconds is ended, nohup or not. A daemon that \
leaves it by setsid lives on.")]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) lock: Lock,
    /// How long what is told to end may take, before it is killed
    #[arg(long, value_name = "SECS", value_parser = seconds, allow_negative_numbers = true, default_value = "5")]
    pub(crate) grace: Duration,
    /// The lock
    #[arg(value_name = "NAME", value_parser = lock_name())]
    pub(crate) lock_name: OsString,
    /// The command and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<OsString>,
}

impl Run {
    /// The command and its arguments: without the `--` before it, which clap leaves there if another one stood before
    /// the name, as it must where that begins with `-`.
    pub(crate) fn command(&self) -> &[OsString] {
        match self.command.as_slice() {
            [dashes, command @ ..] if dashes == "--" && !command.is_empty() => command,
            command => command,
        }
    }
}

/// Hold a lock until standard input ends
#[derive(clap::Args)]
#[command(after_help = "\
Says when it has the lock, and keeps it until its standard input ends, or a signal ends it. Input from /dev/null is \
refused: it has ended already. A script's background jobs have that, so give them a fifo, or use `glock run`.

Examples:
  glock get backup
      Until Ctrl-D; exits by 3 if the lock is lost
  glock get --json -n backup < fifo
      For programs: {\"name\":\"backup\",\"fence\":\"1834…\",…}
  mkfifo lock; glock get backup < lock & exec 3> lock
      In a script: until it closes that by `exec 3>&-`, or ends")]
pub(crate) struct Get {
    #[command(flatten)]
    pub(crate) lock: Lock,
    #[command(flatten)]
    pub(crate) output: Output,
    /// The lock
    #[arg(value_name = "NAME", value_parser = lock_name())]
    pub(crate) lock_name: OsString,
}

/// Is a lock held? Exits by 0 if it is, by 1 if it is free
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glock inspect backup
      Prints `held` or `free`
  glock inspect -s gpu
      Prints how many hold it
  while glock inspect -q deploy; do sleep 1; done
      Better, but for old servers: glock run deploy -- true")]
pub(crate) struct Inspect {
    /// The shared lock of this name
    #[arg(short, long)]
    pub(crate) shared: bool,
    /// Print nothing
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) output: Output,
    /// The lock
    #[arg(value_parser = lock_name())]
    pub(crate) name: OsString,
}

/// List the locks that are held
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glock ls
      Exclusive locks and their holders
  glock ls -s gpu
      Who shares this one, in the order in which they came
  glock ls --json | jq -r '.[].name'")]
pub(crate) struct Ls {
    /// Shared locks
    #[arg(short, long)]
    pub(crate) shared: bool,
    #[command(flatten)]
    pub(crate) output: Output,
    /// Only this lock
    #[arg(value_parser = lock_name())]
    pub(crate) name: Option<OsString>,
}

/// Who holds a lock, and who waits for it?
#[derive(clap::Args)]
#[command(after_help = "\
Shows the exclusive and the shared lock of this name, for how long each has held it or waited, and the fencing \
tokens.

Examples:
  glock own backup
  glock own backup --json | jq -r '.[] | select(.waits) | .address'")]
pub(crate) struct Own {
    #[command(flatten)]
    pub(crate) output: Output,
    /// The lock
    #[arg(value_parser = lock_name())]
    pub(crate) name: OsString,
}

/// List the connections that have registered a name
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glock who
      All of them
  glock who 'cron on db1'
      Those of this name")]
pub(crate) struct Who {
    #[command(flatten)]
    pub(crate) output: Output,
    /// Only this name
    pub(crate) name: Option<OsString>,
}

/// Show the server's counters
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glock stats
  glock stats --json | jq .locks")]
pub(crate) struct Stats {
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Is the server there, and how soon does it answer?
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glock ping
      Once
  glock ping -c 10 -i 0.2
      Ten times, five a second")]
pub(crate) struct Ping {
    /// How often to ask
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,
    /// How long to pause in between
    #[arg(short, long, value_name = "SECS", value_parser = seconds, allow_negative_numbers = true, default_value = "1")]
    pub(crate) interval: Duration,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Show locks, holders, waiters and rates, again and again
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glock watch
      Until Ctrl-C; as many locks as the terminal has lines
  glock watch -i 0.5 backup
      This lock
  glock watch --json | jq .rates.gets
      A line of JSON each second")]
pub(crate) struct Watch {
    /// How long to pause in between
    #[arg(short, long, value_name = "SECS", value_parser = seconds, allow_negative_numbers = true, default_value = "1")]
    pub(crate) interval: Duration,
    /// How often; by default until it is told to end
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    #[command(flatten)]
    pub(crate) output: Output,
    /// Only this lock
    #[arg(value_parser = lock_name())]
    pub(crate) name: Option<OsString>,
}

/// Make load, and measure
#[derive(clap::Args)]
#[command(after_help = "\
Each connection sends a batch of commands in one write, and the next when all are answered. A latency is that of a \
batch, from its write to the last byte of its replies. Every reply is checked; refusals are counted, anything else \
ends the run. Make sure that nobody minds: the load is as much as the server can take.

Examples:
  glock bench
      50 connections, one command at a time, 1,000,000 commands
  glock bench -c 100 -P 16 -t 10
      100 connections, 16 at a time, for 10 seconds
  glock bench --work inspect --threads 2
      Reads only; two threads, if the server leaves a core
  glock bench -c 8 --keys 1
      All want the same lock, and ask again if they don't get it
  glock bench -c 8 --keys 1 --work wait
      All want the same lock, and stand in line")]
pub(crate) struct Bench {
    /// How many connections
    #[arg(short, long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) connections: u32,
    /// How many commands in a batch
    #[arg(short = 'P', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) pipeline: u32,
    /// How many commands in all
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) operations: u64,
    /// For how long, instead of how many
    #[arg(short, long, value_name = "SECS", value_parser = seconds, allow_negative_numbers = true, conflicts_with = "operations")]
    pub(crate) time: Option<Duration>,
    /// What to ask for
    #[arg(long, value_enum, default_value_t = Work::Getrel)]
    pub(crate) work: Work,
    /// How many locks all connections contend for; 0: each has its own
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) keys: u32,
    /// How many threads make the load
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) threads: u32,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Work {
    /// Get an exclusive lock and release it, by turns
    Getrel,
    /// The same, and wait for the lock, a minute at most
    Wait,
    /// Get a shared lock and release it, by turns
    Shared,
    /// Get a lock that is held already
    Reget,
    /// Ask whether a lock is held
    Inspect,
}

#[derive(clap::Args)]
pub(crate) struct Output {
    /// Print JSON, for programs. What is not UTF-8 is there in hexadecimal, too
    #[arg(long, action = ArgAction::SetTrue)]
    pub(crate) json: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>();
    let seconds = seconds.map_err(|_| "not a number of seconds")?;
    Duration::try_from_secs_f64(seconds).map_err(|_| match seconds < 0.0 {
        true => "less than no time".to_owned(),
        false => "more seconds than can be counted".to_owned(),
    })
}

/// The server takes the empty name for a name; but who says that here means some variable that is not set.
fn lock_name() -> impl TypedValueParser<Value = OsString> {
    OsStringValueParser::new().try_map(|name| match fold(name.as_bytes()).is_empty() {
        true => Err("the name is empty"),
        false => Ok(name),
    })
}

/// An argument as the bytes that it is.
pub(crate) fn bytes(argument: &OsString) -> &[u8] {
    argument.as_os_str().as_bytes()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Args::command().debug_assert();
    }

    #[test]
    fn flags_are_those_of_flock() {
        let run = |line: &str| match Args::try_parse_from(line.split(' ')).map(|args| args.action) {
            Ok(Action::Run(run)) => run,
            Ok(_) => panic!("{line}: something else"),
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
            assert_eq!(run.command, ["b", "-w", "7"], "{line}");
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
    fn what_is_wrong_is_refused() {
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
