//! The grammar of a command, a nom parser for each rule.
//!
//! ```text
//! line    = *white [ command ] *white
//! command = verb [ SP argument ]
//! ```
//!
//! A verb decides what its argument is: the name of a lock or of a connection, or nothing to look at. The
//! seed gives the commands by example ("Exclusive Locks API", "Shared Locks API", "Registry API", "Stats
//! API"). Input is complete when it gets here, so nothing in this file ever waits.

use std::borrow::Cow;

use nom::bytes::complete::{tag, take_till};
use nom::combinator::{all_consuming, map, map_opt, opt, rest};
use nom::sequence::preceded;
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
}

/// Parses one frame: a line, or a WebSocket message. A line end is white space like any other.
///
/// # Errors
///
/// [`ParseError::UnknownCommand`] if the frame starts with no verb. There is no other way to be
/// wrong: every argument is acceptable to every verb.
pub fn parse(frame: &[u8]) -> Result<Command<'_>, ParseError> {
    match all_consuming(command).parse_complete(white::trim(frame)) {
        Ok((_, command)) => Ok(command),
        Err(_) => Err(ParseError::UnknownCommand),
    }
}

type Parsed<'a, T> = IResult<&'a [u8], T, ()>;

/// `command = verb argument`
fn command(input: &[u8]) -> Parsed<'_, Command<'_>> {
    map((verb, argument), |(verb, argument)| match verb {
        Verb::G => Command::Get(argument),
        Verb::R => Command::Release(argument),
        Verb::I => Command::Inspect(argument),
        Verb::Sg => Command::SharedGet(argument),
        Verb::Sr => Command::SharedRelease(argument),
        Verb::Si => Command::SharedInspect(argument),
        Verb::D => Command::List(filter(argument)),
        Verb::Sd => Command::SharedList(filter(argument)),
        Verb::Dump => Command::Dump(kind(&argument)),
        Verb::Me => Command::Me,
        Verb::Iam => Command::Iam(filter(argument)),
        Verb::Who => Command::Who(filter(argument)),
        Verb::Q => Command::Statistics,
    })
    .parse_complete(input)
}

/// `verb = "g" / "r" / "i" / "sg" / "sr" / "si" / "d" / "sd" / "dump" / "me" / "iam" / "who" / "q"`,
/// and it reaches up to the first SP (0x20) or the end: a tab does not end it.
fn verb(input: &[u8]) -> Parsed<'_, Verb> {
    map_opt(take_till(|byte| byte == b' '), Verb::from_bytes).parse_complete(input)
}

/// `argument = [ SP *OCTET ]`, with its runs of white space folded and its ends stripped.
fn argument(input: &[u8]) -> Parsed<'_, Cow<'_, [u8]>> {
    map(opt(preceded(tag(" "), rest)), |octets| {
        white::fold(octets.unwrap_or_default())
    })
    .parse_complete(input)
}

/// An argument that may be left out: an empty one is none.
fn filter(argument: Cow<'_, [u8]>) -> Option<Cow<'_, [u8]>> {
    Some(argument).filter(|name| !name.is_empty())
}

/// The argument of `dump`: anything but `shared` is ignored.
fn kind(argument: &[u8]) -> LockKind {
    match argument {
        b"shared" => LockKind::Shared,
        _ => LockKind::Exclusive,
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
            assert_eq!(
                parse(verb.as_str().as_bytes()).map(|command| command.verb()),
                Ok(verb)
            );
        }
    }
}
