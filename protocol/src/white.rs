//! White space as Go's `strings.Fields` and `strings.TrimSpace` define it: `unicode.IsSpace` on valid UTF-8. All other
//! bytes are left alone, valid UTF-8 or not.
//!
//! Byte patterns find it, without decoding. That is exact: every pattern starts with an ASCII byte or a lead byte,
//! which never occur inside another valid sequence, and Go steps over invalid bytes one at a time.
//!
//! Turned down: decoding with `char::is_whitespace`, which finds the same. It would decode
//! every command, to find nothing in most of them.

use std::borrow::Cow;

/// Returns true if white space can start with this byte.
fn may_start(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ' | 0xC2 | 0xE1..=0xE3)
}

/// Returns true if white space can end with this byte.
fn may_end(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ' | 0x80..=0xAF)
}

/// Returns true if all bytes are in `0x21..=0x7F`, so that none is white space. Checks eight bytes at a time.
#[inline(always)]
fn is_plain(bytes: &[u8]) -> bool {
    const FIRST: u64 = u64::from_ne_bytes([0x21; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    // The subtraction carries from a byte to the next only if that byte is not plain itself.
    let odd = |word: &[u8; 8]| {
        let word = u64::from_ne_bytes(*word);
        (word.wrapping_sub(FIRST) | word) & HIGH
    };
    match bytes.last_chunk() {
        // The last word overlaps with the one before it if the length is not a multiple of eight.
        Some(last) => {
            let (words, _) = bytes.as_chunks();
            words.iter().fold(odd(last), |sum, word| sum | odd(word)) == 0
        }
        None => bytes.iter().all(|byte| matches!(byte, 0x21..=0x7F)),
    }
}

/// Returns the length in bytes of the white space character at the start of `bytes`; 0 if there is none.
fn at_start(bytes: &[u8]) -> usize {
    match bytes {
        [b' ' | b'\t' | b'\n' | 0x0B | 0x0C | b'\r', ..] => 1,
        // U+0085, U+00A0
        [0xC2, 0x85 | 0xA0, ..] => 2,
        // U+1680
        [0xE1, 0x9A, 0x80, ..]
        // U+2000..=U+200A, U+2028, U+2029, U+202F
        | [0xE2, 0x80, 0x80..=0x8A | 0xA8 | 0xA9 | 0xAF, ..]
        // U+205F
        | [0xE2, 0x81, 0x9F, ..]
        // U+3000
        | [0xE3, 0x80, 0x80, ..] => 3,
        _ => 0,
    }
}

/// Returns the length in bytes of the white space character at the end of `bytes`; 0 if there is none.
fn at_end(bytes: &[u8]) -> usize {
    (1..=3.min(bytes.len()))
        .find(|&length| at_start(&bytes[bytes.len() - length..]) == length)
        .unwrap_or(0)
}

/// Returns `bytes` without the white space at both ends.
#[inline]
pub(crate) fn trim(bytes: &[u8]) -> &[u8] {
    match bytes {
        // Most lines.
        [0x21..=0x7F] | [0x21..=0x7F, .., 0x21..=0x7F] => bytes,
        _ => trim_ends(bytes),
    }
}

fn trim_ends(mut bytes: &[u8]) -> &[u8] {
    while bytes.first().is_some_and(|&first| may_start(first)) {
        match at_start(bytes) {
            0 => break,
            length => bytes = &bytes[length..],
        }
    }
    while bytes.last().is_some_and(|&last| may_end(last)) {
        match at_end(bytes) {
            0 => break,
            length => bytes = &bytes[..bytes.len() - length],
        }
    }
    bytes
}

/// Returns `bytes` with a single space for each run of white space, and none at the ends.
///
/// Borrows unless a run has to be replaced.
#[inline(always)] // Keeps the pointer and the length of a borrowed name in registers.
pub fn fold(bytes: &[u8]) -> Cow<'_, [u8]> {
    // Most names.
    if is_plain(bytes) {
        return Cow::Borrowed(bytes);
    }
    match fold_words(bytes) {
        (words, None) => Cow::Borrowed(words),
        (_, Some(folded)) => Cow::Owned(folded),
    }
}

/// Returns the bytes without white space at the ends; and a folded copy, if a run has to be replaced.
#[inline(never)]
fn fold_words(bytes: &[u8]) -> (&[u8], Option<Vec<u8>>) {
    let bytes = trim(bytes);
    let folded = first_to_fold(bytes).map(|position| fold_from(bytes, position));
    (bytes, folded)
}

/// Returns true if all bytes are in `0x20..=0x7F`, and no two spaces are adjacent.
fn is_plain_words(bytes: &[u8]) -> bool {
    // Does not return early, so that the compiler can check many bytes at a time.
    let plain = |plain, byte: &u8| plain & matches!(byte, 0x20..=0x7F);
    let double = |double, pair: &[u8]| double | (pair == b"  ");
    bytes.iter().fold(true, plain) && !bytes.windows(2).fold(false, double)
}

/// Returns the position of the first white space that is not a single space between words.
fn first_to_fold(bytes: &[u8]) -> Option<usize> {
    // Most names of several words.
    if is_plain_words(bytes) {
        return None;
    }
    let mut position = 0;
    while let Some(found) = bytes[position..].iter().position(|&byte| may_start(byte)) {
        position += found;
        let length = at_start(&bytes[position..]);
        let single =
            length == 1 && bytes[position] == b' ' && at_start(&bytes[position + 1..]) == 0;
        if length > 0 && !single {
            return Some(position);
        }
        position += 1;
    }
    None
}

fn fold_from(bytes: &[u8], position: usize) -> Vec<u8> {
    let (done, mut rest) = bytes.split_at(position);
    let mut folded = Vec::with_capacity(bytes.len());
    folded.extend_from_slice(done);
    let mut between = false;
    while let Some(&byte) = rest.first() {
        match at_start(rest) {
            0 => {
                if between {
                    folded.push(b' ');
                    between = false;
                }
                folded.push(byte);
                rest = &rest[1..];
            }
            length => {
                between = true;
                rest = &rest[length..];
            }
        }
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(input: &[u8], expect: &[u8]) {
        assert_eq!(
            fold(input).escape_ascii().to_string(),
            expect.escape_ascii().to_string()
        );
    }

    #[test]
    fn every_white_space_of_go_folds() {
        let white = [
            "\t", "\n", "\u{B}", "\u{C}", "\r", " ", "\u{85}", "\u{A0}", "\u{1680}", "\u{2000}",
            "\u{2001}", "\u{2002}", "\u{2003}", "\u{2004}", "\u{2005}", "\u{2006}", "\u{2007}",
            "\u{2008}", "\u{2009}", "\u{200A}", "\u{2028}", "\u{2029}", "\u{202F}", "\u{205F}",
            "\u{3000}",
        ];
        for white in white {
            check(
                format!("{white}a{white}b{white}{white} c{white}").as_bytes(),
                b"a b c",
            );
        }
    }

    #[test]
    fn other_characters_are_kept() {
        for other in [
            "\u{200B}", "\u{FEFF}", "\u{180E}", "\0", "\u{1F}", "\u{7F}", "\u{84}", "\u{A1}", "é",
        ] {
            let name = format!("{other}a{other}{other}");
            check(name.as_bytes(), name.as_bytes());
        }
        for other in [
            &b"\x85a\xA0"[..],
            b"\xC2",
            b"\xE2\x80",
            b"a\xE2",
            b"\xA0\x85",
            b"\xE3\x80",
        ] {
            check(other, other);
        }
    }

    #[test]
    fn one_odd_byte_in_any_place_is_seen() {
        for length in 0..40 {
            let name = vec![b'!'; length];
            assert!(is_plain(&name));
            for place in 0..length {
                for (byte, plain) in [(0x20, false), (0x21, true), (0x7F, true), (0x80, false)] {
                    let mut name = name.clone();
                    name[place] = byte;
                    assert_eq!(is_plain(&name), plain, "{byte:#x} at {place} of {length}");
                }
            }
        }
    }

    #[test]
    fn one_odd_byte_between_words_is_seen() {
        let words = b"several words of one name, and of another one";
        assert!(is_plain_words(words));
        for place in 1..words.len() - 1 {
            for byte in [b'\t', 0x1F, 0x7F, 0x80, b' '] {
                let mut words = words.to_vec();
                words[place] = byte;
                let double = words.windows(2).any(|pair| pair == b"  ");
                let plain = byte == 0x7F || byte == b' ' && !double;
                assert_eq!(is_plain_words(&words), plain, "{byte:#x} at {place}");
            }
        }
    }

    #[test]
    fn invalid_bytes_do_not_hide_white_space() {
        check(b"\xF0\xC2\xA0b", b"\xF0 b");
        check(b"a\xE2\xE2\x80\x80", b"a\xE2");
        check(b"\xC2\xC2\x85", b"\xC2");
    }

    #[test]
    fn name_without_runs_is_borrowed() {
        for name in [
            &b""[..],
            b"foo",
            b"a b c",
            b"  a b  ",
            "é\u{200B}".as_bytes(),
        ] {
            assert!(matches!(fold(name), Cow::Borrowed(_)));
        }
        assert!(matches!(fold(b"a  b"), Cow::Owned(_)));
    }
}
