//! Booleans, integers and durations as Go's `strconv.ParseBool`, `strconv.ParseInt(text, 0, 64)` and
//! `time.ParseDuration` read them.
//!
//! Start scripts use Go's spellings (`-dump=F`, `-port 0x270F`, `-keepalive 1m30s`), which Rust's `FromStr` does not
//! accept. The grammar is small and has not changed since Go 1.13, so it is implemented here.

use std::fmt;
use std::num::IntErrorKind;
use std::str::FromStr;

/// The reason why a text is not a value. The messages are Go's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ValueError {
    /// The syntax is wrong.
    #[error("parse error")]
    Syntax,
    /// The syntax is right, but the value does not fit in 64 bits.
    #[error("value out of range")]
    Range,
}

/// A value with its text as the user wrote it, for messages: a user who wrote `0x1_0000` would not recognise `65536`.
#[derive(Clone, Debug)]
pub(crate) struct Typed<T> {
    pub(crate) value: T,
    text: String,
}

/// A duration, which may be negative, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Nanoseconds(pub(crate) i64);

impl<T> fmt::Display for Typed<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl FromStr for Typed<i64> {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let value = parse_int(text)?;
        let text = text.to_owned();
        Ok(Typed { value, text })
    }
}

impl FromStr for Typed<Nanoseconds> {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let value = Nanoseconds(parse_duration(text)?);
        let text = text.to_owned();
        Ok(Typed { value, text })
    }
}

impl From<i64> for Typed<i64> {
    /// Makes a default value.
    fn from(value: i64) -> Self {
        let text = value.to_string();
        Typed { value, text }
    }
}

impl<T: PartialEq> PartialEq for Typed<T> {
    /// Compares the values, not the texts.
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Typed<T> {}

/// Reads a boolean.
pub(crate) fn parse_bool(text: &str) -> Result<bool, ValueError> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(ValueError::Syntax),
    }
}

/// Reads an integer: an optional sign, and an [`unsigned`] number.
pub(crate) fn parse_int(text: &str) -> Result<i64, ValueError> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = unsigned(digits)?;
    // With the sign, because the lowest integer has no positive counterpart.
    i64::from_str_radix(&format!("{sign}{digits}"), radix).map_err(|error| match error.kind() {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => ValueError::Range,
        _ => ValueError::Syntax,
    })
}

/// Reads a duration and returns nanoseconds: an optional sign, and numbers with a unit each, as in `1m30.5s`; or `0`.
/// Fractions of a nanosecond are dropped.
pub(crate) fn parse_duration(text: &str) -> Result<i64, ValueError> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(ValueError::Syntax);
    }
    let mut total = 0i128;
    while !rest.is_empty() {
        let number = prefix(&mut rest, |c| c.is_ascii_digit() || c == '.');
        let unit = prefix(&mut rest, |c| !c.is_ascii_digit() && c != '.');
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return Err(ValueError::Syntax);
        }
        let nanoseconds: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(ValueError::Syntax),
        };
        // More digits make no difference. The arithmetic is floating, and so rounded, as in Go.
        let fraction = &fraction[..fraction.len().min(19)];
        let scale = 10f64.powi(fraction.len() as i32);
        let rounded = decimal(fraction)? as f64 * (nanoseconds as f64 / scale);
        total += decimal(whole)? * nanoseconds + rounded as i128;
    }
    // Go has no other error for durations.
    i64::try_from(if negative { -total } else { total }).map_err(|_| ValueError::Syntax)
}

/// Removes and returns the longest prefix of characters that belong.
fn prefix<'a>(text: &mut &'a str, belongs: impl Fn(char) -> bool) -> &'a str {
    let end = text.find(|c| !belongs(c)).unwrap_or(text.len());
    let (prefix, rest) = text.split_at(end);
    *text = rest;
    prefix
}

/// Reads digits as a number; no digits are 0.
fn decimal(digits: &str) -> Result<i128, ValueError> {
    match digits.parse::<u64>() {
        Ok(number) => Ok(number.into()),
        Err(_) if digits.is_empty() => Ok(0),
        Err(_) => Err(ValueError::Syntax),
    }
}

/// Returns the radix that the prefix states (`0x`, `0o` or `0`, `0b`, in either case), and the digits without their
/// underscores. An underscore stands between two digits; the prefix counts as a digit.
fn unsigned(text: &str) -> Result<(u32, String), ValueError> {
    let (radix, digits) = match text.as_bytes() {
        [b'0', b'x' | b'X', _, ..] => (16, &text[2..]),
        [b'0', b'o' | b'O', _, ..] => (8, &text[2..]),
        [b'0', b'b' | b'B', _, ..] => (2, &text[2..]),
        // The zero is a digit, too: `0` alone is a number.
        [b'0', ..] => (8, text),
        [b'_', ..] => return Err(ValueError::Syntax),
        _ => (10, text),
    };
    let spelled = digits
        .bytes()
        .all(|byte| byte == b'_' || byte.is_ascii_alphanumeric());
    if !spelled || digits.ends_with('_') || digits.contains("__") {
        return Err(ValueError::Syntax);
    }
    Ok((radix, digits.replace('_', "")))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn integers_are_read_as_go_reads_them() {
        #[track_caller]
        fn check(text: &str, expect: Result<i64, ValueError>) {
            assert_eq!(parse_int(text), expect, "{text}");
            assert_eq!(go_parse_int(text), expect, "the reference: {text}");
        }
        for (text, value) in [
            ("0", 0),
            ("00", 0),
            ("-0", 0),
            ("+7", 7),
            ("-1", -1),
            ("9999", 9999),
            ("0x270F", 9999),
            ("0X270f", 9999),
            ("-0x1", -1),
            ("017", 15),
            ("0o17", 15),
            ("0O17", 15),
            ("0b101", 5),
            ("0B101", 5),
            ("1_000", 1000),
            ("1_0_0", 100),
            ("0_7", 7),
            ("0x_1", 1),
            ("0b_1", 1),
            ("0o_1", 1),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
            ("-0x8000_0000_0000_0000", i64::MIN),
        ] {
            check(text, Ok(value));
        }
        for text in [
            "", "+", "-", "+-1", "--1", "08", "0x", "0b", "0o", "0xg", "0b2", "0o8", "1a", "_1",
            "1_", "1__0", "0_", "0x_", "0x1_", "0__7", "-_1", "1.5", "1e3", " 1", "1 ", "١",
            "0x+1", "é",
        ] {
            check(text, Err(ValueError::Syntax));
        }
        for text in [
            "9223372036854775808",
            "-9223372036854775809",
            "0x8000000000000000",
            "99999999999999999999999",
        ] {
            check(text, Err(ValueError::Range));
        }
    }

    #[test]
    fn booleans_are_read_as_go_reads_them() {
        for text in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(parse_bool(text), Ok(true), "{text}");
        }
        for text in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(parse_bool(text), Ok(false), "{text}");
        }
        for text in ["", "yes", "no", "on", "tRUE", "true ", "2", "-1", "00"] {
            assert_eq!(parse_bool(text), Err(ValueError::Syntax), "{text}");
        }
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        const SECOND: i64 = 1_000_000_000;
        for (text, value) in [
            ("0", 0),
            ("-0", 0),
            ("0s", 0),
            ("15s", 15 * SECOND),
            ("+1m30s", 90 * SECOND),
            ("-1.5h", -5400 * SECOND),
            ("1h15m30.918273645s", 4_530_918_273_645),
            ("100ms", SECOND / 10),
            ("1us", 1000),
            ("1µs", 1000),
            ("1μs", 1000),
            ("39h9m14.425s", 140_954_425_000_000),
            (".5s", SECOND / 2),
            ("1.s", SECOND),
            ("0.3333333333333333333h", 1200 * SECOND),
            ("0.100000000000000000000h", 360 * SECOND),
            ("9223372036854775807ns", i64::MAX),
            ("2562047h47m16.854775807s", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
        ] {
            assert_eq!(parse_duration(text), Ok(value), "{text}");
        }
        for text in [
            "",
            "+",
            "-",
            "15",
            "s",
            ".",
            ".s",
            "-.s",
            "1.2.3s",
            "1x",
            "1s2",
            "1 s",
            "+-1s",
            "1sec",
            "1S",
            "9223372036854775808ns",
            "3000000h",
            "99999999999999999999s",
            "é",
        ] {
            assert_eq!(parse_duration(text), Err(ValueError::Syntax), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_as_go_reads_it(
            text in prop_oneof![
                "[-+]?0?[xXoObB]?[0-9a-fA-F_]{0,6}",
                "[-+]?(0x)?[0-9]{15,25}",
                "[-+_xob01789g]{0,8}",
                any::<String>(),
            ]
        ) {
            // Which error it is may differ where both are true: Go stops at the first overflow.
            prop_assert_eq!(parse_int(&text).ok(), go_parse_int(&text).ok());
        }
    }

    /// `strconv.ParseInt(text, 0, 64)`, statement by statement.
    pub(crate) fn go_parse_int(text: &str) -> Result<i64, ValueError> {
        let mut s = text.as_bytes();
        if s.is_empty() {
            return Err(ValueError::Syntax);
        }
        let mut neg = false;
        if s[0] == b'+' {
            s = &s[1..];
        } else if s[0] == b'-' {
            neg = true;
            s = &s[1..];
        }
        let un = i128::from(go_parse_uint(s)?);
        let cutoff = 1i128 << 63;
        if !neg && un >= cutoff || neg && un > cutoff {
            return Err(ValueError::Range);
        }
        Ok(if neg { -un } else { un } as i64)
    }

    fn go_parse_uint(mut s: &[u8]) -> Result<u64, ValueError> {
        let lower = |c: u8| c | (b'x' - b'X');
        if s.is_empty() {
            return Err(ValueError::Syntax);
        }
        let s0 = s;
        let mut base = 10u64;
        if s[0] == b'0' {
            if s.len() >= 3 && lower(s[1]) == b'b' {
                (base, s) = (2, &s[2..]);
            } else if s.len() >= 3 && lower(s[1]) == b'o' {
                (base, s) = (8, &s[2..]);
            } else if s.len() >= 3 && lower(s[1]) == b'x' {
                (base, s) = (16, &s[2..]);
            } else {
                (base, s) = (8, &s[1..]);
            }
        }
        let mut underscores = false;
        let mut n = 0u64;
        for &c in s {
            let d = if c == b'_' {
                underscores = true;
                continue;
            } else if c.is_ascii_digit() {
                c - b'0'
            } else if lower(c).is_ascii_lowercase() {
                lower(c) - b'a' + 10
            } else {
                return Err(ValueError::Syntax);
            };
            if u64::from(d) >= base {
                return Err(ValueError::Syntax);
            }
            let grown = n.checked_mul(base).and_then(|n| n.checked_add(d.into()));
            n = grown.ok_or(ValueError::Range)?;
        }
        if underscores && !go_underscore_ok(s0) {
            return Err(ValueError::Syntax);
        }
        Ok(n)
    }

    fn go_underscore_ok(s: &[u8]) -> bool {
        let mut saw = b'^';
        let mut i = 0;
        let mut hex = false;
        if s.len() >= 2 && s[0] == b'0' && matches!(s[1] | 0x20, b'b' | b'o' | b'x') {
            i = 2;
            saw = b'0';
            hex = s[1] | 0x20 == b'x';
        }
        while i < s.len() {
            if s[i].is_ascii_digit() || hex && matches!(s[i] | 0x20, b'a'..=b'f') {
                saw = b'0';
            } else if s[i] == b'_' {
                if saw != b'0' {
                    return false;
                }
                saw = b'_';
            } else {
                if saw == b'_' {
                    return false;
                }
                saw = b'!';
            }
            i += 1;
        }
        saw != b'_'
    }
}
