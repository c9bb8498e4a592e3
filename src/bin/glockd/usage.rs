//! The usage text, in Go's layout. argh's own shows a syntax that start scripts do not use.

use std::fmt::Write;

use argh::{ArgsInfo, FlagInfoKind};

pub(crate) const NAME: &str = env!("CARGO_BIN_NAME");
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Headings, each with the flag that it stands before.
const HEADINGS: [(&str, &str); 6] = [
    ("Listening", "--port"),
    ("Permissions", "--unix-mode"),
    ("Limits", "--max-line"),
    ("Timeouts", "--keepalive"),
    ("Files", "--pidfile"),
    ("Other", "--verbose"),
];

/// Returns the usage text of a table of flags.
pub(crate) fn text<Flags: ArgsInfo>() -> String {
    let info = Flags::get_args_info();
    let mut usage = format!("{}\n\nUsage of {NAME}:\n", info.description);
    for flag in info.flags {
        // A switch is argh's `--help`, which comes last.
        let FlagInfoKind::Option { arg_name } = flag.kind else {
            continue;
        };
        if let Some((heading, _)) = HEADINGS.iter().find(|(_, first)| *first == flag.long) {
            let _ = writeln!(usage, "\n{heading}:");
        }
        let name = flag.long.trim_start_matches('-');
        let argument = match arg_name {
            "bool" => String::new(),
            other => format!(" {other}"),
        };
        let _ = writeln!(usage, "  -{name}{argument}\n    \t{}", flag.description);
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
    use crate::flags::Flags;

    #[test]
    fn usage_has_go_layout_and_groups() {
        let usage = text::<Flags>();
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
    fn usage_has_each_flag_and_each_heading_once() {
        let usage = text::<Flags>();
        for flag in Flags::get_args_info().flags {
            let line = format!("  -{}", flag.long.trim_start_matches('-'));
            let lines = usage.lines().filter(|found| {
                found
                    .strip_prefix(&line)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
            });
            assert_eq!(lines.count(), 1, "{line}");
        }
        for (heading, first) in HEADINGS {
            assert_eq!(
                usage.matches(&format!("\n{heading}:\n")).count(),
                1,
                "{first}"
            );
        }
    }
}
