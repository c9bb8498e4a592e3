//! The lines of `own`, and the tokens that they show.

use crate::history::{Lock, Token};

/// A line of `own`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Claim<'a> {
    pub(crate) lock: Lock,
    pub(crate) waits: bool,
    pub(crate) address: &'a str,
    pub(crate) token: &'a str,
    pub(crate) name: &'a str,
}

impl Claim<'_> {
    /// Reads all claims on the locks of a name.
    pub(crate) fn parse(number: usize, lines: &[String]) -> Vec<Claim<'_>> {
        let lines = lines[1..].iter();
        lines.map(|line| Claim::parse_line(number, line)).collect()
    }

    fn parse_line(number: usize, line: &str) -> Claim<'_> {
        let words: Vec<&str> = line.splitn(5, ' ').collect();
        let [kind, address, ms, token, name] = words[..] else {
            panic!("{line}");
        };
        assert!(ms.parse::<u64>().is_ok(), "{line}");
        let shared = kind.starts_with('s');
        Claim {
            lock: Lock { shared, number },
            waits: kind.ends_with('w'),
            address,
            token,
            name,
        }
    }
}

/// Records the token of a grant, which must be the known one.
pub(crate) fn record_token(held: &Token, token: &str) {
    let token: u64 = token.parse().unwrap();
    assert!((1..1 << 63).contains(&token), "{token}");
    assert_eq!(*held.get_or_init(|| token), token);
}
