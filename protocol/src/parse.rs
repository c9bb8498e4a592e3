//! The grammar of a command, a nom parser for each rule.
//!
//! ```text
//! line    = *white [ command ] *white
//! command = verb [ SP argument ]
//! ```
//!
//! The verb decides what the argument is: the name of a lock or of a connection, numbers with a name behind them, or
//! nothing, so that the argument is ignored. The original's documentation gives its commands by example ("Exclusive
//! Locks API", "Shared Locks API", "Registry API", "Stats API"). The [table](crate::table) has all of them.
//!
//! The parser never asks for more input, because a transport has found the end of the frame before. It copies a name
//! only if white space inside the name must be folded.
//!
//! Turned down: a nom rule for each command. `alt` over thirty rules would try them one after the other, where a
//! `match` on the verb decides at once.

use std::borrow::Cow;
use std::hint::cold_path;

use nom::branch::alt;
use nom::bytes::complete::{tag, take_till};
use nom::character::complete::u32;
use nom::combinator::{eof, map, opt, rest};
use nom::sequence::{preceded, terminated};
use nom::{IResult, Parser};

use crate::command::{Argument, Command, Verb};
use crate::table::with_commands;
use crate::white::{self, fold};

/// Reason why a frame is not a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The line is empty, or its first word is not a verb.
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
/// [`ParseError::UnknownCommand`] if the frame does not start with a verb. [`ParseError::BadArgument`] if the verb
/// needs numbers and they are missing or wrong. Every name is accepted.
#[inline(always)]
pub fn parse(frame: &[u8]) -> Result<Command<'_>, ParseError> {
    let Ok((_, (verb, octets))) = command(white::trim(frame)) else {
        return Err(ParseError::UnknownCommand);
    };
    // The numbers need no folding, only the name behind them does.
    if verb == b"gw" {
        let ([ms], name) = numbers(octets).ok_or(ParseError::BadArgument(Verb::Gw))?;
        return Ok(Command::GetWait { ms, name });
    }
    let name = fold(octets);
    Ok(match verb {
        // The most frequent commands, apart from the table. They are few enough that the compiler treats none of them as
        // rare.
        b"g" => Command::Get(name),
        b"r" => Command::Release(name),
        b"i" => Command::Inspect(name),
        b"sg" => Command::SharedGet(name),
        b"sr" => Command::SharedRelease(name),
        b"si" => Command::SharedInspect(name),
        _ => {
            cold_path();
            return other(verb, name, octets);
        }
    })
}

type Parsed<'a, T> = IResult<&'a [u8], T, ()>;

/// `command = verb [ SP *OCTET ]`
//
// One rule after the other: the compiler would not inline a tuple of parsers.
#[inline(always)]
fn command(input: &[u8]) -> Parsed<'_, (&[u8], &[u8])> {
    let (input, verb) = verb(input)?;
    let (input, octets) = octets(input)?;
    Ok((input, (verb, octets)))
}

/// `verb`: everything up to the first SP (0x20) or the end. A tab does not end it.
#[inline(always)]
fn verb(input: &[u8]) -> Parsed<'_, &[u8]> {
    take_till(|byte| byte == b' ').parse_complete(input)
}

/// `[ SP *OCTET ]`: the bytes of the argument.
#[inline(always)]
fn octets(input: &[u8]) -> Parsed<'_, &[u8]> {
    map(opt(preceded(tag(" "), rest)), Option::unwrap_or_default).parse_complete(input)
}

/// Defines `other`, which parses every command of the table, the frequent ones included.
macro_rules! define_parser {
    ($(
        $(#[doc = $doc:literal])+
        $spelling:literal $verb:ident
        $command:ident $(($argument:ident))? $({ $($number:ident),+; name })?
        $class:ident [$($property:ident)*]
    )*) => {
        /// Parses a command with any verb. `octets` is the argument, `name` the same bytes folded.
        #[inline(always)]
        fn other<'a>(
            verb: &[u8],
            name: Cow<'a, [u8]>,
            octets: &'a [u8],
        ) -> Result<Command<'a>, ParseError> {
            let verb = Verb::from_bytes(verb).ok_or(ParseError::UnknownCommand)?;
            Ok(match verb {
                $(Verb::$verb => {
                    $(let $argument = Argument::read(name);)?
                    $(
                        let numbers = numbers(octets);
                        let ([$($number),+], name) = numbers.ok_or(ParseError::BadArgument(verb))?;
                    )?
                    Command::$command $(($argument))? $({ $($number,)+ name })?
                })*
            })
        }
    };
}

with_commands!(define_parser);

/// `numbers = N*N number`, and a name behind them.
#[inline(always)]
fn numbers<const N: usize>(octets: &[u8]) -> Option<([u32; N], Cow<'_, [u8]>)> {
    // Usually there are single spaces between the numbers, which need no folding.
    if let Ok((behind, numbers)) = number_each(octets) {
        return Some((numbers, fold(behind)));
    }
    cold_path();
    let folded = fold(octets);
    let (name, numbers) = number_each(&folded).ok()?;
    Some((numbers, Cow::Owned(name.to_vec())))
}

/// `N*N number`
#[inline(always)]
fn number_each<const N: usize>(mut input: &[u8]) -> Parsed<'_, [u32; N]> {
    let mut numbers = [0; N];
    for place in &mut numbers {
        (input, *place) = number(input)?;
    }
    Ok((input, numbers))
}

/// `number = 1*DIGIT ( SP / end )`, below 2³²
#[inline(always)]
fn number(input: &[u8]) -> Parsed<'_, u32> {
    terminated(u32, alt((tag(" "), eof))).parse_complete(input)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;

    use super::*;
    use crate::LockKind;
    use crate::testing::name;

    #[track_caller]
    fn check(frame: &[u8], expect: Result<Command<'_>, ParseError>) {
        assert_eq!(parse(frame), expect, "{}", frame.escape_ascii());
    }

    fn owned(name: &[u8]) -> Cow<'_, [u8]> {
        Cow::Borrowed(name)
    }

    #[test]
    fn names_are_parsed() {
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
    fn optional_names_and_kinds_are_parsed() {
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
    fn numbers_are_parsed_before_names() {
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
    fn wrong_numbers_are_bad_arguments() {
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
    fn other_lines_are_unknown_commands() {
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
    fn every_verb_is_parsed() {
        for verb in Verb::ALL {
            let line = format!("{} 1 2 x", verb.as_str());
            assert_eq!(
                parse(line.as_bytes()).map(|command| command.verb()),
                Ok(verb)
            );
        }
    }

    #[test]
    fn command_that_waits_names_its_lock() {
        for verb in Verb::ALL {
            let line = format!("{} 1 2 x", verb.as_str());
            let command = parse(line.as_bytes()).unwrap();
            assert_eq!(command.waits_for().is_some(), verb.waits(), "{verb:?}");
        }
    }

    proptest! {
        #[test]
        fn encoded_command_is_parsed(name in name(), a: u32, b: u32) {
            let (a, b) = (format!("{a} "), format!("{b} "));
            for verb in Verb::ALL {
                for operands in [[" ", "", ""], [" ", &a, ""], [" ", &a, &b]] {
                    let operands = operands.concat();
                    let frame = [verb.as_str().as_bytes(), operands.as_bytes(), &name].concat();
                    let Ok(command) = parse(&frame) else { continue };
                    let mut line = Vec::new();
                    command.encode(&mut line);
                    assert_eq!(line.pop(), Some(b'\n'));
                    assert_eq!(parse(&line), Ok(command));
                }
            }
        }
    }
}
