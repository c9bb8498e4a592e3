//! Go's flag syntax, as a source of flags for argh.
//!
//! The start scripts of the original say `-port 9999` and `-dump=false`, which argh refuses: it wants
//! `--port 9999`, and its booleans cannot be false. [`GoFlags`] reads the command line as Go's `flag` package does, and
//! yields a name and a value for each flag in argh's spelling. Booleans become `true` or `false`. Other values keep their
//! text, but their syntax is checked here, so that the first mistake is the one that is reported. The flags come from
//! argh's [`FlagInfo`], whose `arg_name` is `bool`, `int`, `duration` or something else; there is no second list.
//!
//! One thing differs from Go: an operand is an error. In `-dump false -port 1`, Go stops at `false`, leaves `dump` true
//! and the rest unread, and says nothing.

use std::ffi::OsString;
use std::slice;

use argh::{FlagInfo, FlagInfoKind};

use crate::go_values::{ValueError, parse_bool, parse_duration, parse_int};

/// Iterator over the flags of a command line. An error is its last item.
pub(crate) struct GoFlags<'a> {
    flags: &'a [FlagInfo<'a>],
    rest: slice::Iter<'a, OsString>,
    /// The boolean flag that was just read without a value. An operand after it was probably meant as its value.
    bare: Option<&'a str>,
}

/// The reason why reading a command line stopped. As in Go, the messages name the flag with one dash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FlagError {
    /// `-h` or `-help`, which is not a mistake. Go prints the usage on stderr.
    #[error("help requested")]
    Help,
    /// `--help`: the usage goes to stdout, for a pager.
    #[error("help requested")]
    LongHelp,
    /// `-version` or `--version`, which is not a mistake either.
    #[error("version requested")]
    Version,
    #[error("bad flag syntax: {0}")]
    Syntax(String),
    #[error("flag provided but not defined: -{0}")]
    Unknown(String),
    #[error("flag needs an argument: -{0}")]
    NoValue(String),
    #[error("invalid value {value:?} for flag -{flag}: {reason}")]
    Value {
        flag: String,
        value: String,
        reason: ValueError,
    },
    #[error("invalid argument {0:?}: not UTF-8")]
    NotUtf8(OsString),
    #[error("unexpected argument {operand:?}: to set a boolean flag, write {example}")]
    Operand { operand: String, example: String },
}

impl<'a> GoFlags<'a> {
    /// Reads `argv`, which is without the program's name, by this table of flags.
    pub(crate) fn new(flags: &'a [FlagInfo<'a>], argv: &'a [OsString]) -> GoFlags<'a> {
        GoFlags {
            flags,
            rest: argv.iter(),
            bare: None,
        }
    }

    fn read(&mut self) -> Result<Option<(String, String)>, FlagError> {
        let Some(argument) = self.argument()? else {
            return Ok(None);
        };
        match argument.strip_prefix('-') {
            // `--` ends the flags.
            Some("-") => match self.argument()? {
                None => Ok(None),
                Some(operand) => Err(self.unexpected(operand)),
            },
            None | Some("") => Err(self.unexpected(argument)),
            Some(flag) => match flag.strip_prefix('-').unwrap_or(flag) {
                bad if bad.starts_with(['-', '=']) => Err(FlagError::Syntax(argument.to_owned())),
                "help" if flag.starts_with('-') => Err(FlagError::LongHelp),
                flag => self.flag(flag).map(Some),
            },
        }
    }

    /// Reads a flag and its value. `flag` is the text after the dashes.
    fn flag(&mut self, flag: &str) -> Result<(String, String), FlagError> {
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (flag, None),
        };
        let (long, arg_name) = self.find_flag(name)?;
        let is_bool = arg_name == "bool";
        self.bare = (is_bool && value.is_none()).then_some(long);
        let value = match value {
            Some(value) => value,
            None if is_bool => "true",
            None => self
                .argument()?
                .ok_or_else(|| FlagError::NoValue(name.to_owned()))?,
        };
        let plain = match arg_name {
            "bool" => parse_bool(value).map(|value| value.to_string()),
            "int" => parse_int(value).map(|_| value.to_owned()),
            "duration" => parse_duration(value).map(|_| value.to_owned()),
            _ => Ok(value.to_owned()),
        };
        match plain {
            Ok(plain) => Ok((long.to_owned(), plain)),
            Err(reason) => Err(FlagError::Value {
                flag: name.to_owned(),
                value: value.to_owned(),
                reason,
            }),
        }
    }

    fn argument(&mut self) -> Result<Option<&'a str>, FlagError> {
        match self.rest.next() {
            None => Ok(None),
            Some(argument) => match argument.to_str() {
                Some(argument) => Ok(Some(argument)),
                // argh takes `str` alone.
                None => Err(FlagError::NotUtf8(argument.clone())),
            },
        }
    }

    /// Returns the flag of this name in argh's spelling, and the name of its argument.
    fn find_flag(&self, name: &str) -> Result<(&'a str, &'a str), FlagError> {
        let found = self.flags.iter().find_map(|flag| match flag.kind {
            FlagInfoKind::Option { arg_name } if flag.long.strip_prefix("--") == Some(name) => {
                Some((flag.long, arg_name))
            }
            // A switch is argh's own `--help`, which takes no value.
            _ => None,
        });
        found.ok_or_else(|| match name {
            "h" | "help" => FlagError::Help,
            "version" => FlagError::Version,
            _ => FlagError::Unknown(name.to_owned()),
        })
    }

    fn unexpected(&self, operand: &str) -> FlagError {
        let example = match self.bare {
            Some(long) if parse_bool(operand).is_ok() => format!("{}={operand}", &long[1..]),
            _ => "-dump=false".to_owned(),
        };
        FlagError::Operand {
            operand: operand.to_owned(),
            example,
        }
    }
}

impl Iterator for GoFlags<'_> {
    type Item = Result<(String, String), FlagError>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.read().transpose();
        if !matches!(read, Some(Ok(_))) {
            self.rest = [].iter();
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use argh::Optionality;
    use proptest::prelude::*;

    use super::*;
    use crate::go_values::tests::go_parse_int;

    const FLAGS: [FlagInfo<'static>; 5] = [
        flag("--help", FlagInfoKind::Switch),
        flag("--port", FlagInfoKind::Option { arg_name: "int" }),
        flag("--dump", FlagInfoKind::Option { arg_name: "bool" }),
        flag("--verbose", FlagInfoKind::Option { arg_name: "bool" }),
        flag("--unix", FlagInfoKind::Option { arg_name: "path" }),
    ];

    const fn flag(long: &'static str, kind: FlagInfoKind<'static>) -> FlagInfo<'static> {
        FlagInfo {
            kind,
            optionality: Optionality::Repeating,
            long,
            short: None,
            description: "",
            hidden: false,
        }
    }

    fn read<S: Into<OsString>>(
        argv: impl IntoIterator<Item = S>,
    ) -> (Vec<(String, String)>, Option<FlagError>) {
        let argv: Vec<OsString> = argv.into_iter().map(Into::into).collect();
        let mut pairs = Vec::new();
        for read in GoFlags::new(&FLAGS, &argv) {
            match read {
                Ok(pair) => pairs.push(pair),
                Err(error) => return (pairs, Some(error)),
            }
        }
        (pairs, None)
    }

    /// Checks what is read from `argv`: the pairs, and the error at the end. `argv` is split at spaces, and `''` is the empty
    /// argument.
    #[track_caller]
    fn check(argv: &str, expect: &str) {
        let argv = argv
            .split_whitespace()
            .map(|word| if word == "''" { "" } else { word });
        let (pairs, error) = read(argv);
        let pairs = pairs.iter().map(|(name, value)| format!("{name} {value}"));
        let error = error.iter().map(|error| format!("! {error}"));
        let shown: Vec<String> = pairs.chain(error).collect();
        assert_eq!(shown.join(", "), expect);
    }

    #[test]
    fn value_follows_its_flag() {
        check("", "");
        check("-port 9999", "--port 9999");
        check("--port 9999", "--port 9999");
        check("-port=9999", "--port 9999");
        check("--port=9999", "--port 9999");
        check(
            "-port 0x270F --port=017 -port 1_000",
            "--port 0x270F, --port 017, --port 1_000",
        );
        check("-unix /a=b -unix=/c=d", "--unix /a=b, --unix /c=d");
        check("-port 1 -port 2", "--port 1, --port 2");
    }

    #[test]
    fn value_may_look_like_a_flag() {
        check("-port -1", "--port -1");
        check("-unix -port", "--unix -port");
        check("-unix --", "--unix --");
        check("-unix -help", "--unix -help");
        check("-unix -- -port 1", "--unix --, --port 1");
    }

    #[test]
    fn path_may_be_empty() {
        check("-unix ''", "--unix ");
        check("-unix=", "--unix ");
        check("-unix '' -port 1", "--unix , --port 1");
    }

    #[test]
    fn boolean_takes_its_value_after_an_equals_sign() {
        check("-verbose", "--verbose true");
        check("--verbose", "--verbose true");
        check("-dump=false -verbose=true", "--dump false, --verbose true");
        check("--dump=F", "--dump false");
        check(
            "-dump=0 -dump=1 -dump",
            "--dump false, --dump true, --dump true",
        );
        check(
            "-dump=yes",
            r#"! invalid value "yes" for flag -dump: parse error"#,
        );
        check(
            "-dump=",
            r#"! invalid value "" for flag -dump: parse error"#,
        );
    }

    #[test]
    fn operand_is_an_error_that_suggests_a_fix() {
        let hint = |operand: &str, write: &str| {
            format!("! unexpected argument {operand:?}: to set a boolean flag, write {write}")
        };
        let operand =
            |before: &str, operand: &str| format!("{before}, {}", hint(operand, "-dump=false"));
        check("-dump false", &operand("--dump true", "false"));
        check("-dump=true false", &operand("--dump true", "false"));
        check(
            "-verbose F -port 1",
            &format!("--verbose true, {}", hint("F", "-verbose=F")),
        );
        check("-verbose x", &operand("--verbose true", "x"));
        check("-port 1 2", &operand("--port 1", "2"));
        check("-port 1 -", &operand("--port 1", "-"));
        check("-port 1 ''", &operand("--port 1", ""));
        check("-port 1 -- -port", &operand("--port 1", "-port"));
        check("-- --", &hint("--", "-dump=false"));
        check("stop -help", &hint("stop", "-dump=false"));
    }

    #[test]
    fn two_dashes_end_the_flags() {
        check("--", "");
        check("-port 1 --", "--port 1");
    }

    #[test]
    fn mistake_names_the_flag() {
        check("-port", "! flag needs an argument: -port");
        check("-unix", "! flag needs an argument: -unix");
        check(
            "-port=",
            r#"! invalid value "" for flag -port: parse error"#,
        );
        check(
            "-port ''",
            r#"! invalid value "" for flag -port: parse error"#,
        );
        check(
            "-port x",
            r#"! invalid value "x" for flag -port: parse error"#,
        );
        check(
            "-port 99999999999999999999",
            r#"! invalid value "99999999999999999999" for flag -port: value out of range"#,
        );
        check("-bogus", "! flag provided but not defined: -bogus");
        check("-bogus=1", "! flag provided but not defined: -bogus");
        check("-Port 1", "! flag provided but not defined: -Port");
        check("-p 1", "! flag provided but not defined: -p");
        check("---port", "! bad flag syntax: ---port");
        check("---", "! bad flag syntax: ---");
        check("-=x", "! bad flag syntax: -=x");
        check("--=x", "! bad flag syntax: --=x");
    }

    #[test]
    fn first_of_help_and_mistake_counts() {
        for help in ["-h", "--h", "-help", "--help", "-help=x"] {
            check(help, "! help requested");
        }
        for version in ["-version", "--version"] {
            check(version, "! version requested");
        }
        check("-port 1 -help -bogus", "--port 1, ! help requested");
        check("-bogus -help", "! flag provided but not defined: -bogus");
    }

    #[test]
    fn argument_that_is_not_utf8_is_named() {
        let path = OsString::from_vec(b"/a\xFF".to_vec());
        let (pairs, error) = read(["-port".into(), "1".into(), "-unix".into(), path.clone()]);
        assert_eq!(pairs, [("--port".to_owned(), "1".to_owned())]);
        assert_eq!(error, Some(FlagError::NotUtf8(path.clone())));
        assert_eq!(
            error.unwrap().to_string(),
            r#"invalid argument "/a\xFF": not UTF-8"#
        );
        assert_eq!(read([path.clone()]).1, Some(FlagError::NotUtf8(path)));
    }

    proptest! {
        #[test]
        fn any_command_line_is_read_as_go_reads_it(argv in prop::collection::vec(argument(), 0..6)) {
            let (pairs, error) = read(&argv);
            let end = match error {
                None => End::Done,
                Some(FlagError::Help | FlagError::LongHelp) => End::Help,
                Some(FlagError::Operand { operand, .. }) => End::Operand(operand),
                Some(_) => End::Mistake,
            };
            prop_assert_eq!((pairs, end), go_parse(&argv));
        }
    }

    fn argument() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => "(-|--)(port|dump|verbose|unix)",
            3 => "(-|--)(port|dump|verbose|unix|help|x)=(|-|=|0|1|t|F|TRUE|no|0x_f|1_0|07|-5|a=b)",
            2 => "0|1|-1|0x10|false|true|/a/b|x|",
            1 => "-{0,4}(h|help|port|x)?=?",
            1 => any::<String>(),
        ]
    }

    #[derive(Debug, PartialEq)]
    enum End {
        Done,
        Help,
        Mistake,
        Operand(String),
    }

    /// `flag.FlagSet.Parse` with its `parseOne`, statement by statement.
    fn go_parse(args: &[String]) -> (Vec<(String, String)>, End) {
        let mut args = args;
        let mut set = Vec::new();
        loop {
            let Some(s) = args.first() else {
                return (set, End::Done);
            };
            if s.len() < 2 || s.as_bytes()[0] != b'-' {
                return (set, End::Operand(s.clone()));
            }
            let mut num_minuses = 1;
            if s.as_bytes()[1] == b'-' {
                num_minuses += 1;
                if s.len() == 2 {
                    return match args.get(1) {
                        None => (set, End::Done),
                        Some(operand) => (set, End::Operand(operand.clone())),
                    };
                }
            }
            let mut name = &s[num_minuses..];
            if name.is_empty() || name.as_bytes()[0] == b'-' || name.as_bytes()[0] == b'=' {
                return (set, End::Mistake);
            }
            args = &args[1..];
            let mut has_value = false;
            let mut value = "";
            for i in 1..name.len() {
                if name.as_bytes()[i] == b'=' {
                    value = &name[i + 1..];
                    has_value = true;
                    name = &name[..i];
                    break;
                }
            }
            if !["port", "dump", "verbose", "unix"].contains(&name) {
                let help = name == "help" || name == "h";
                return (set, if help { End::Help } else { End::Mistake });
            }
            if name == "dump" || name == "verbose" {
                let value = if has_value { value } else { "true" };
                let value = match value {
                    "1" | "t" | "T" | "true" | "TRUE" | "True" => "true",
                    "0" | "f" | "F" | "false" | "FALSE" | "False" => "false",
                    _ => return (set, End::Mistake),
                };
                set.push((format!("--{name}"), value.to_owned()));
                continue;
            }
            if !has_value && !args.is_empty() {
                has_value = true;
                value = &args[0];
                args = &args[1..];
            }
            if !has_value {
                return (set, End::Mistake);
            }
            let value = match name {
                "port" if go_parse_int(value).is_err() => return (set, End::Mistake),
                _ => value.to_owned(),
            };
            set.push((format!("--{name}"), value));
        }
    }
}
