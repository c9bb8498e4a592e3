//! The parser against a plain reading of its rules, written without nom and without byte patterns: the
//! white space here is that of Rust's `char`, which is Unicode's, as is Go's.

use glockd_protocol::{Command, LockKind, ParseError, parse};
use proptest::prelude::*;

/// A character of valid UTF-8, or a byte that belongs to none.
#[derive(Clone, Copy)]
struct Unit<'a> {
    bytes: &'a [u8],
    white: bool,
}

fn units(bytes: &[u8]) -> Vec<Unit<'_>> {
    let mut units = Vec::new();
    let mut rest = bytes;
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            let (bytes, after) = rest.split_at(char.len_utf8());
            units.push(Unit {
                bytes,
                white: char.is_whitespace(),
            });
            rest = after;
        }
        let (invalid, after) = rest.split_at(chunk.invalid().len());
        units.extend(invalid.chunks(1).map(|bytes| Unit {
            bytes,
            white: false,
        }));
        rest = after;
    }
    units
}

fn trimmed<'a, 'b>(mut units: &'b [Unit<'a>]) -> &'b [Unit<'a>] {
    while let [first, rest @ ..] = units
        && first.white
    {
        units = rest;
    }
    while let [rest @ .., last] = units
        && last.white
    {
        units = rest;
    }
    units
}

/// The argument's words with one space between them.
fn folded(units: &[Unit<'_>]) -> Vec<u8> {
    let words = units
        .split(|unit| unit.white)
        .filter(|word| !word.is_empty());
    let words: Vec<Vec<u8>> = words
        .map(|word| word.iter().flat_map(|unit| unit.bytes).copied().collect())
        .collect();
    words.join(&b' ')
}

fn reference(frame: &[u8]) -> Result<Command<'static>, ParseError> {
    let units = units(frame);
    let line = trimmed(&units);
    let space = line
        .iter()
        .position(|unit| unit.bytes == b" ")
        .unwrap_or(line.len());
    let verb: Vec<u8> = line[..space]
        .iter()
        .flat_map(|unit| unit.bytes)
        .copied()
        .collect();
    let name = folded(&line[space..]);
    let filter = (!name.is_empty()).then(|| name.clone().into());
    Ok(match String::from_utf8(verb).as_deref() {
        Ok("g") => Command::Get(name.into()),
        Ok("r") => Command::Release(name.into()),
        Ok("i") => Command::Inspect(name.into()),
        Ok("sg") => Command::SharedGet(name.into()),
        Ok("sr") => Command::SharedRelease(name.into()),
        Ok("si") => Command::SharedInspect(name.into()),
        Ok("d") => Command::List(filter),
        Ok("sd") => Command::SharedList(filter),
        Ok("dump") if name == b"shared" => Command::Dump(LockKind::Shared),
        Ok("dump") => Command::Dump(LockKind::Exclusive),
        Ok("me") => Command::Me,
        Ok("iam") => Command::Iam(filter),
        Ok("who") => Command::Who(filter),
        Ok("q") => Command::Statistics,
        _ => return Err(ParseError::UnknownCommand),
    })
}

/// Pieces that frames are made of: what the grammar knows, white space whole and in halves, and noise.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let known: Vec<&[u8]> = vec![
        b"g",
        b"r",
        b"i",
        b"sg",
        b"sr",
        b"si",
        b"d",
        b"sd",
        b"dump",
        b"shared",
        b"me",
        b"iam",
        b"who",
        b"q",
        b"foo",
        b" ",
        b" ",
        b" ",
        b"  ",
        b"\t",
        b"\n",
        b"\x0B",
        b"\x0C",
        b"\r",
        b"\0",
        b"\xC2\x85",
        b"\xC2\xA0",
        b"\xE1\x9A\x80",
        b"\xE2\x80\x80",
        b"\xE2\x80\x8A",
        b"\xE2\x80\x8B",
        b"\xE2\x80\xA8",
        b"\xE2\x80\xA9",
        b"\xE2\x80\xAF",
        b"\xE2\x81\x9F",
        b"\xE3\x80\x80",
        b"\xEF\xBB\xBF",
        b"\xC2",
        b"\xE1",
        b"\xE2",
        b"\xE2\x80",
        b"\xE3\x80",
        b"\x80",
        b"\x85",
        b"\xA0",
        b"\xF0\x90",
        b"\xC3\xA9",
    ];
    prop_oneof![
        8 => prop::sample::select(known).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn likely_frames(pieces in prop::collection::vec(piece(), 0..10)) {
        let frame = pieces.concat();
        prop_assert_eq!(parse(&frame), reference(&frame), "{}", frame.escape_ascii());
    }

    #[test]
    fn arbitrary_bytes(frame in prop::collection::vec(any::<u8>(), 0..64)) {
        prop_assert_eq!(parse(&frame), reference(&frame), "{}", frame.escape_ascii());
    }
}
