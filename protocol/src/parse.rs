//! The grammar of a command, a nom parser for each rule.
//!
//! ```text
//! line    = *white [ command ] *white
//! command = verb [ SP argument ]
//! ```
//!
//! A verb decides what its argument is: the name of a lock or of a connection, with numbers before it where
//! there are any, or nothing to look at. The seed gives its commands by example ("Exclusive Locks API",
//! "Shared Locks API", "Registry API", "Stats API"), the README ours ("Beyond the original"). Input is
//! complete when it gets here, so nothing in this file ever waits.

use std::borrow::Cow;

use nom::bytes::complete::{tag, take_till};
use nom::character::complete::u32;
use nom::combinator::{map, map_opt, opt, rest, value};
use nom::sequence::{delimited, preceded};
use nom::{IResult, Parser};

use crate::white;
use crate::{Command, LockKind, Verb};

/// Why a frame is no command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The line is empty, or what stands before its first space is no verb.
    #[error("unknown command")]
    UnknownCommand,
    /// A number that this verb needs is missing, is not decimal, or does not fit 32 bits.
    #[error("bad argument of {}", .0.as_str())]
    BadArgument(Verb),
}

/// Parses one frame: a line, or a WebSocket message. A line end is white space like any other.
///
/// # Errors
///
/// [`ParseError::UnknownCommand`] if the frame starts with no verb, [`ParseError::BadArgument`] if it starts
/// with one that needs numbers, and they are not there. Every name is acceptable.
pub fn parse(frame: &[u8]) -> Result<Command<'_>, ParseError> {
    let (argument, verb) = verb(white::trim(frame)).map_err(|_| ParseError::UnknownCommand)?;
    match command(verb, argument) {
        Ok((_, command)) => Ok(command),
        Err(_) => Err(ParseError::BadArgument(verb)),
    }
}

type Parsed<'a, T> = IResult<&'a [u8], T, ()>;

/// `verb`, one of [`Verb::ALL`], which reaches up to the first SP (0x20) or the end: a tab does not end it.
fn verb(input: &[u8]) -> Parsed<'_, Verb> {
    map_opt(take_till(|byte| byte == b' '), Verb::from_bytes).parse_complete(input)
}

/// `argument`, of which each verb has its own.
fn command(verb: Verb, input: &[u8]) -> Parsed<'_, Command<'_>> {
    match verb {
        Verb::G => map(name, Command::Get).parse_complete(input),
        Verb::R => map(name, Command::Release).parse_complete(input),
        Verb::I => map(name, Command::Inspect).parse_complete(input),
        Verb::Sg => map(name, Command::SharedGet).parse_complete(input),
        Verb::Sr => map(name, Command::SharedRelease).parse_complete(input),
        Verb::Si => map(name, Command::SharedInspect).parse_complete(input),
        Verb::D => map(filter, Command::List).parse_complete(input),
        Verb::Sd => map(filter, Command::SharedList).parse_complete(input),
        Verb::Dump => map(kind, Command::Dump).parse_complete(input),
        Verb::Me => value(Command::Me, rest).parse_complete(input),
        Verb::Iam => map(filter, Command::Iam).parse_complete(input),
        Verb::Who => map(filter, Command::Who).parse_complete(input),
        Verb::Q => value(Command::Statistics, rest).parse_complete(input),
        Verb::Hello => value(Command::Hello, rest).parse_complete(input),
        Verb::Ping => map(name, Command::Ping).parse_complete(input),
        Verb::Gw => {
            map((number, name), |(ms, name)| Command::GetWait { ms, name }).parse_complete(input)
        }
        Verb::Sgl => map((number, name), |(limit, name)| Command::SharedGetLimited {
            limit,
            name,
        })
        .parse_complete(input),
        Verb::Sgw => map((number, number, name), |(ms, limit, name)| {
            Command::SharedGetWait { ms, limit, name }
        })
        .parse_complete(input),
        Verb::Cancel => map(name, Command::Cancel).parse_complete(input),
        Verb::Iw => map((number, name), |(ms, name)| Command::InspectWait {
            ms,
            name,
        })
        .parse_complete(input),
        Verb::Siw => map((number, number, name), |(ms, below, name)| {
            Command::SharedInspectWait { ms, below, name }
        })
        .parse_complete(input),
        Verb::F => map(name, Command::Fence).parse_complete(input),
        Verb::Sf => map(name, Command::SharedFence).parse_complete(input),
        Verb::Own => map(name, Command::Owners).parse_complete(input),
        Verb::Ld => map(filter, Command::CountedList).parse_complete(input),
        Verb::Lsd => map(filter, Command::CountedSharedList).parse_complete(input),
        Verb::Lwho => map(filter, Command::CountedWho).parse_complete(input),
        Verb::Lq => value(Command::CountedStatistics, rest).parse_complete(input),
    }
}

/// `name = [ SP *OCTET ]`, with its runs of white space folded and its ends stripped.
fn name(input: &[u8]) -> Parsed<'_, Cow<'_, [u8]>> {
    map(preceded(opt(tag(" ")), rest), white::fold).parse_complete(input)
}

/// `filter = name`, which may be left out: an empty one is none.
fn filter(input: &[u8]) -> Parsed<'_, Option<Cow<'_, [u8]>>> {
    map(name, |name| Some(name).filter(|name| !name.is_empty())).parse_complete(input)
}

/// `kind = name`, of which anything but `shared` is ignored.
fn kind(input: &[u8]) -> Parsed<'_, LockKind> {
    map(name, |name| match &*name {
        b"shared" => LockKind::Shared,
        _ => LockKind::Exclusive,
    })
    .parse_complete(input)
}

/// `number = *white 1*DIGIT`, below 2³², and there its word ends.
fn number(input: &[u8]) -> Parsed<'_, u32> {
    delimited(white, u32, word_end).parse_complete(input)
}

/// `*white`
fn white(input: &[u8]) -> Parsed<'_, ()> {
    Ok((white::trim_start(input), ()))
}

/// White space or the end, which is left for what comes next.
fn word_end(input: &[u8]) -> Parsed<'_, ()> {
    match white(input) {
        Ok((after, ())) if after.len() == input.len() && !input.is_empty() => {
            Err(nom::Err::Error(()))
        }
        _ => Ok((input, ())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(frame: &[u8], expect: Result<Command<'_>, ParseError>) {
        assert_eq!(parse(frame), expect, "{}", frame.escape_ascii());
    }

    fn owned(name: &[u8]) -> Cow<'_, [u8]> {
        Cow::Borrowed(name)
    }

    #[test]
    fn names() {
        check(b"g foo", Ok(Command::Get(owned(b"foo"))));
        check(b" g foo\r\n", Ok(Command::Get(owned(b"foo"))));
        check(b"g  a   b ", Ok(Command::Get(owned(b"a b"))));
        check(b"g", Ok(Command::Get(owned(b""))));
        check(b"g ", Ok(Command::Get(owned(b""))));
        check(b"g \0\xFF", Ok(Command::Get(owned(b"\0\xFF"))));
        check(b"sg a\nb", Ok(Command::SharedGet(owned(b"a b"))));
        check(
            b"\xC2\xA0r x\xE3\x80\x80",
            Ok(Command::Release(owned(b"x"))),
        );
        check(b"i g foo", Ok(Command::Inspect(owned(b"g foo"))));
    }

    #[test]
    fn filters_and_kinds() {
        check(b"d", Ok(Command::List(None)));
        check(b"d  ", Ok(Command::List(None)));
        check(b"sd x", Ok(Command::SharedList(Some(owned(b"x")))));
        check(b"iam", Ok(Command::Iam(None)));
        check(b"who a  b", Ok(Command::Who(Some(owned(b"a b")))));
        check(b"dump", Ok(Command::Dump(LockKind::Exclusive)));
        check(b"dump  shared ", Ok(Command::Dump(LockKind::Shared)));
        check(b"dump shared x", Ok(Command::Dump(LockKind::Exclusive)));
        check(b"me and all", Ok(Command::Me));
        check(b"q 1", Ok(Command::Statistics));
    }

    #[test]
    fn numbers_stand_before_names() {
        let name = owned;
        check(
            b"gw 0 x",
            Ok(Command::GetWait {
                ms: 0,
                name: name(b"x"),
            }),
        );
        check(
            b"gw  007\t a  b",
            Ok(Command::GetWait {
                ms: 7,
                name: name(b"a b"),
            }),
        );
        check(
            b"gw 5",
            Ok(Command::GetWait {
                ms: 5,
                name: name(b""),
            }),
        );
        check(
            b"sgl 4294967295 5 6",
            Ok(Command::SharedGetLimited {
                limit: u32::MAX,
                name: name(b"5 6"),
            }),
        );
        check(
            b"sgw 1\xC2\xA02\xC2\xA0x",
            Ok(Command::SharedGetWait {
                ms: 1,
                limit: 2,
                name: name(b"x"),
            }),
        );
        check(
            b"siw 1 2",
            Ok(Command::SharedInspectWait {
                ms: 1,
                below: 2,
                name: name(b""),
            }),
        );
    }

    #[test]
    fn bad_arguments() {
        for (frame, verb) in [
            (&b"gw"[..], Verb::Gw),
            (b"gw x", Verb::Gw),
            (b"gw x 5", Verb::Gw),
            (b"gw 5x", Verb::Gw),
            (b"gw -5 x", Verb::Gw),
            (b"gw +5 x", Verb::Gw),
            (b"gw 0x5 x", Verb::Gw),
            (b"gw 5.0 x", Verb::Gw),
            (b"gw 4294967296 x", Verb::Gw),
            (b"gw 5\xC2 x", Verb::Gw),
            (b"gw \xD9\xA5 x", Verb::Gw),
            (b"sgl x", Verb::Sgl),
            (b"sgw 5 x", Verb::Sgw),
            (b"sgw 5", Verb::Sgw),
            (b"iw x", Verb::Iw),
            (b"siw 99999999999999999999 1 x", Verb::Siw),
        ] {
            check(frame, Err(ParseError::BadArgument(verb)));
        }
    }

    #[test]
    fn unknown_commands() {
        for frame in [
            &b""[..],
            b"   ",
            b"\r\n",
            b"G foo",
            b"g\tfoo",
            b"q\nq",
            b"stats",
            b"gg",
            b"sgx y",
            b"g\xC2\xA0foo",
            b"\0g foo",
        ] {
            check(frame, Err(ParseError::UnknownCommand));
        }
    }

    #[test]
    fn the_grammar_knows_every_verb() {
        for verb in Verb::ALL {
            let line = format!("{} 1 2 x", verb.as_str());
            assert_eq!(
                parse(line.as_bytes()).map(|command| command.verb()),
                Ok(verb)
            );
        }
    }
}
