//! The rules of the parser in plain code, without nom and without byte patterns. White space is that of Rust's `char`,
//! which is Unicode's, as is Go's. In a file of its own because fuzzing compares with it, too.
//!
//! It does not use the table of commands, so that a wrong row makes a test fail.

use glockd_protocol::{Command, LockKind, ParseError, Verb};

/// A character of valid UTF-8, or a byte that is not part of one.
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

/// Returns the words of the argument with one space between them.
fn folded(units: &[Unit<'_>]) -> Vec<u8> {
    let words = units
        .split(|unit| unit.white)
        .filter(|word| !word.is_empty());
    let words: Vec<Vec<u8>> = words
        .map(|word| word.iter().flat_map(|unit| unit.bytes).copied().collect())
        .collect();
    words.join(&b' ')
}

/// Returns what [`glockd_protocol::parse`] must return for a frame.
pub(crate) fn parse(frame: &[u8]) -> Result<Command<'static>, ParseError> {
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
    let verb = String::from_utf8(verb);
    let numbers = match verb.as_deref() {
        Ok("gw" | "sgl" | "iw") => 1,
        Ok("sgw" | "siw") => 2,
        _ => 0,
    };
    let words: Vec<&[u8]> = name.splitn(numbers + 1, |&byte| byte == b' ').collect();
    let number = |index: usize| -> Result<u32, ParseError> {
        let verb = Verb::from_bytes(verb.as_deref().unwrap_or_default().as_bytes());
        let error = ParseError::BadArgument(verb.unwrap_or(Verb::Q));
        let word = words.get(index).copied().unwrap_or_default();
        // `parse` accepts a sign, too.
        let digits = word.iter().all(u8::is_ascii_digit);
        let number = str::from_utf8(word).ok().and_then(|word| word.parse().ok());
        number.filter(|_| digits).ok_or(error)
    };
    let behind = |numbers: usize| {
        words
            .get(numbers)
            .copied()
            .unwrap_or_default()
            .to_vec()
            .into()
    };
    Ok(match verb.as_deref() {
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
        Ok("hello") => Command::Hello,
        Ok("ping") => Command::Ping(name.into()),
        Ok("gw") => Command::GetWait {
            ms: number(0)?,
            name: behind(1),
        },
        Ok("sgl") => Command::SharedGetLimited {
            limit: number(0)?,
            name: behind(1),
        },
        Ok("sgw") => Command::SharedGetWait {
            ms: number(0)?,
            limit: number(1)?,
            name: behind(2),
        },
        Ok("cancel") => Command::Cancel(name.into()),
        Ok("iw") => Command::InspectWait {
            ms: number(0)?,
            name: behind(1),
        },
        Ok("siw") => Command::SharedInspectWait {
            ms: number(0)?,
            below: number(1)?,
            name: behind(2),
        },
        Ok("f") => Command::Fence(name.into()),
        Ok("sf") => Command::SharedFence(name.into()),
        Ok("own") => Command::Claims(name.into()),
        Ok("ld") => Command::CountedList(filter),
        Ok("lsd") => Command::CountedSharedList(filter),
        Ok("ldl") => Command::ListWithLengths(filter),
        Ok("lsdl") => Command::SharedListWithLengths(filter),
        Ok("lwho") => Command::CountedWho(filter),
        Ok("lq") => Command::CountedStatistics,
        _ => return Err(ParseError::UnknownCommand),
    })
}
