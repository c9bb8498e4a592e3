//! The rows of listings: `d`, `sd`, `who` and `dump`, the counted `ld`, `lsd`, `ldl`, `lsdl`, `lwho` and `lq`, and
//! `own`.
//!
//! A listing may be larger than memory, so it is never one [`Reply`](crate::Reply): a server appends it row by row. The
//! decoders for clients are beside the encoders.
//!
//! Turned down: one type for a row of any listing. The server would build a value for each row and match on it again,
//! for a million rows.

use crate::LockKind;
use crate::line::{append_number, number, split_number};
use crate::texts;

/// Appends one line of `d`, `sd` (lock and holder) or `who` (address and registered name).
pub fn line(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    out.extend_from_slice(key);
    out.extend_from_slice(texts::COLON.as_bytes());
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Appends one line of `ldl` or `lsdl`: the length of the lock's name in bytes, the name and its holder. Either may
/// contain a `: `, so in [`line()`] a reader cannot tell where the name ends.
pub fn line_with_length(out: &mut Vec<u8>, name: &[u8], holder: &[u8]) {
    append_number(out, name.len() as u64);
    out.push(b' ');
    line(out, name, holder);
}

/// Reads a line of `ldl` or `lsdl`. Returns the lock's name and its holder; `None` if it is not such a line.
pub fn name_and_holder(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = split_number(line)?;
    let rest = rest.strip_prefix(b" ")?;
    let (name, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    Some((name, rest.strip_prefix(texts::COLON.as_bytes())?))
}

/// Contents of a counted listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// `ld`, `ldl`: exclusive locks.
    Locks,
    /// `lsd`, `lsdl`: shared locks.
    SharedLocks,
    /// `lwho`: registered names.
    Clients,
    /// `lq`: counters.
    Statistics,
}

impl Listing {
    /// Reads a header of this listing. Returns the number of lines that follow it; `None` if it is not such a header.
    pub fn decode(self, line: &[u8]) -> Option<usize> {
        decode_header(line, self.text())
    }

    fn text(self) -> &'static str {
        match self {
            Listing::Locks => texts::LOCK_LIST,
            Listing::SharedLocks => texts::SHARED_LOCK_LIST,
            Listing::Clients => texts::CLIENT_LIST,
            Listing::Statistics => texts::STATS_LIST,
        }
    }
}

/// Appends the header of a block of a counted listing: the number of lines in the block, and the argument of the
/// command. A header of 0 lines ends the listing.
pub fn header(out: &mut Vec<u8>, lines: usize, listing: Listing, argument: &[u8]) {
    append_header(out, lines, listing.text(), argument);
}

/// Appends the header of `own`: the number of lines that follow, and the name of the lock.
pub fn claims_header(out: &mut Vec<u8>, lines: usize, name: &[u8]) {
    append_header(out, lines, texts::LOCK_OWNERS, name);
}

fn append_header(out: &mut Vec<u8>, lines: usize, text: &str, argument: &[u8]) {
    append_number(out, lines as u64);
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(argument);
    out.push(b'\n');
}

fn decode_header(line: &[u8], text: &str) -> Option<usize> {
    let (lines, rest) = split_number(line)?;
    rest.strip_prefix(text.as_bytes())?;
    usize::try_from(lines).ok()
}

/// Appends the line of `own` for a claim that ended after the claims were counted.
pub fn claim_gone(out: &mut Vec<u8>) {
    out.extend_from_slice(texts::CLAIM_GONE.as_bytes());
    out.push(b'\n');
}

/// True if this line of `own` is for a claim that ended after the claims were counted.
pub fn is_claim_gone(line: &[u8]) -> bool {
    line == texts::CLAIM_GONE.as_bytes()
}

/// A line of `own`: a holder of a lock, or a waiter for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim<'a> {
    /// Kind of the lock.
    pub kind: LockKind,
    /// True if the connection waits for the lock, false if it holds it.
    pub waits: bool,
    /// Address of the connection.
    pub address: &'a [u8],
    /// Time for which the connection has held the lock or waited for it, in milliseconds.
    pub ms: u64,
    /// Fencing token of the lock; 0 if there is none to show.
    pub token: u64,
    /// Name that the connection registered; its address if it registered none.
    pub name: &'a [u8],
}

impl<'a> Claim<'a> {
    /// Reads the header of `own`. Returns the number of lines that follow it; `None` if it is not such a header.
    pub fn decode_count(line: &[u8]) -> Option<usize> {
        decode_header(line, texts::LOCK_OWNERS)
    }

    /// Reads a line of `own`. Returns `None` if it is not such a line.
    pub fn decode(line: &'a [u8]) -> Option<Claim<'a>> {
        let mut words = line.splitn(5, |&byte| byte == b' ');
        let (kind, waits) = match str::from_utf8(words.next()?).ok()? {
            texts::EXCLUSIVE_HOLDER => (LockKind::Exclusive, false),
            texts::EXCLUSIVE_WAITER => (LockKind::Exclusive, true),
            texts::SHARED_HOLDER => (LockKind::Shared, false),
            texts::SHARED_WAITER => (LockKind::Shared, true),
            _ => return None,
        };
        Some(Claim {
            kind,
            waits,
            address: words.next()?,
            ms: number(words.next()?)?,
            token: number(words.next()?)?,
            name: words.next()?,
        })
    }

    /// Appends the line.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let role = match (self.kind, self.waits) {
            (LockKind::Exclusive, false) => texts::EXCLUSIVE_HOLDER,
            (LockKind::Exclusive, true) => texts::EXCLUSIVE_WAITER,
            (LockKind::Shared, false) => texts::SHARED_HOLDER,
            (LockKind::Shared, true) => texts::SHARED_WAITER,
        };
        out.extend_from_slice(role.as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.address);
        out.push(b' ');
        append_number(out, self.ms);
        out.push(b' ');
        append_number(out, self.token);
        out.push(b' ');
        out.extend_from_slice(self.name);
        out.push(b'\n');
    }
}

/// The one line of `dump` and `dump shared`: `map[N:ADDR N2:ADDR2]` and `map[N:[ADDR ADDR2]]`, as Go prints a map of
/// strings and a map of lists.
///
/// The caller appends the pieces in the order `open (entry | (list_open item+ list_close))* close`.
#[derive(Debug, Default)]
pub struct Map {
    entries: bool,
    items: bool,
}

impl Map {
    /// Appends the text before the first entry.
    pub fn open(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"map[");
    }

    /// Appends an entry with one value.
    pub fn entry(&mut self, out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
        self.key(out, key);
        out.extend_from_slice(value);
    }

    /// Appends the key of an entry with a list of values.
    pub fn list_open(&mut self, out: &mut Vec<u8>, key: &[u8]) {
        self.key(out, key);
        out.push(b'[');
        self.items = false;
    }

    /// Appends one value of the open list.
    pub fn item(&mut self, out: &mut Vec<u8>, value: &[u8]) {
        if self.items {
            out.push(b' ');
        }
        self.items = true;
        out.extend_from_slice(value);
    }

    /// Appends the end of the open list.
    pub fn list_close(&mut self, out: &mut Vec<u8>) {
        out.push(b']');
    }

    /// Appends the text after the last entry.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"]\n");
    }

    fn key(&mut self, out: &mut Vec<u8>, key: &[u8]) {
        if self.entries {
            out.push(b' ');
        }
        self.entries = true;
        out.extend_from_slice(key);
        out.push(b':');
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{any, proptest};

    use super::*;
    use crate::testing::name;

    #[test]
    fn lines() {
        let mut out = Vec::new();
        line(&mut out, b"a b", b"unix:1");
        line(&mut out, b"", b"me");
        assert_eq!(out, b"a b: unix:1\n: me\n");
    }

    #[test]
    fn lines_with_lengths() {
        let mut out = Vec::new();
        line_with_length(&mut out, b"prod", b"deploy: alice");
        line_with_length(&mut out, b"prod: deploy", b"alice");
        line_with_length(&mut out, b"", b"me");
        line_with_length(&mut out, "gr\u{fc}n".as_bytes(), b"me");
        let expect = "4 prod: deploy: alice\n12 prod: deploy: alice\n0 : me\n5 gr\u{fc}n: me\n";
        assert_eq!(str::from_utf8(&out), Ok(expect));
    }

    #[test]
    fn counted_listings() {
        let check = |listing, argument: &[u8], expect: &str| {
            let mut out = Vec::new();
            header(&mut out, 12, listing, argument);
            header(&mut out, 0, listing, argument);
            assert_eq!(str::from_utf8(&out), Ok(expect));
        };
        check(
            Listing::Locks,
            b"a b",
            "12 Lock List: a b\n0 Lock List: a b\n",
        );
        check(
            Listing::SharedLocks,
            b"",
            "12 Shared Lock List: \n0 Shared Lock List: \n",
        );
        check(
            Listing::Clients,
            b"x",
            "12 Client List: x\n0 Client List: x\n",
        );
        check(
            Listing::Statistics,
            b"",
            "12 Stats List: \n0 Stats List: \n",
        );
    }

    #[test]
    fn claims_on_both_kinds() {
        let mut out = Vec::new();
        claims_header(&mut out, 4, b"a b");
        for kind in [LockKind::Exclusive, LockKind::Shared] {
            for waits in [false, true] {
                let owner = Claim {
                    kind,
                    waits,
                    address: b"unix:1",
                    ms: 17,
                    token: u64::MAX / 2,
                    name: b"x y",
                };
                owner.encode(&mut out);
            }
        }
        let expect = "4 Lock Owners: a b\n\
                      x unix:1 17 9223372036854775807 x y\n\
                      xw unix:1 17 9223372036854775807 x y\n\
                      s unix:1 17 9223372036854775807 x y\n\
                      sw unix:1 17 9223372036854775807 x y\n";
        assert_eq!(str::from_utf8(&out), Ok(expect));
    }

    #[test]
    fn maps() {
        let (mut out, mut map) = (Vec::new(), Map::default());
        map.open(&mut out);
        map.entry(&mut out, b"a", b"unix:1");
        map.entry(&mut out, b"b c", b"unix:2");
        map.close(&mut out);
        assert_eq!(out, b"map[a:unix:1 b c:unix:2]\n");
    }

    #[test]
    fn maps_of_lists() {
        let (mut out, mut map) = (Vec::new(), Map::default());
        map.open(&mut out);
        for key in [b"a", b"b"] {
            map.list_open(&mut out, key);
            map.item(&mut out, b"unix:1");
            map.item(&mut out, b"unix:2");
            map.list_close(&mut out);
        }
        map.close(&mut out);
        assert_eq!(out, b"map[a:[unix:1 unix:2] b:[unix:1 unix:2]]\n");
    }

    #[test]
    fn empty_map() {
        let (mut out, mut map) = (Vec::new(), Map::default());
        map.open(&mut out);
        map.close(&mut out);
        assert_eq!(out, b"map[]\n");
    }

    proptest! {
        #[test]
        fn claim_is_decoded(name in name(), waits: bool, ms: u64, token: u64) {
            for kind in [LockKind::Exclusive, LockKind::Shared] {
                let owner = Claim { kind, waits, address: b"unix:1", ms, token, name: &name };
                let mut line = Vec::new();
                owner.encode(&mut line);
                assert_eq!(Claim::decode(&line[..line.len() - 1]), Some(owner));
            }
        }

        #[test]
        fn line_with_length_is_decoded(name in name(), holder in name()) {
            let mut line = Vec::new();
            line_with_length(&mut line, &name, &holder);
            assert_eq!(name_and_holder(&line[..line.len() - 1]), Some((&name[..], &holder[..])));
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(line in vec(any::<u8>(), 0..40)) {
            let _ = (Claim::decode(&line), Claim::decode_count(&line), name_and_holder(&line));
        }
    }

    #[test]
    fn header_tells_the_number_of_lines() {
        for listing in [
            Listing::Locks,
            Listing::SharedLocks,
            Listing::Clients,
            Listing::Statistics,
        ] {
            let mut line = Vec::new();
            header(&mut line, 12, listing, b"a: b");
            line.pop();
            assert_eq!(listing.decode(&line), Some(12));
            assert_eq!(Claim::decode_count(&line), None);
        }
        let mut line = Vec::new();
        claims_header(&mut line, 3, b"a");
        line.pop();
        assert_eq!(Claim::decode_count(&line), Some(3));
        assert_eq!(Listing::Locks.decode(&line), None);
    }

    #[test]
    fn line_with_wrong_length_is_refused() {
        for line in [
            "",
            "4",
            "prod: alice",
            "4: prod: alice",
            "3 prod: alice",
            "5 prod: alice",
            "99 prod: alice",
            "-4 prod: alice",
            "18446744073709551616 prod: alice",
            "4 prod:alice",
        ] {
            assert_eq!(name_and_holder(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn ended_claim_is_not_a_claim() {
        let mut line = Vec::new();
        claim_gone(&mut line);
        assert_eq!(line.pop(), Some(b'\n'));
        assert!(is_claim_gone(&line));
        assert_eq!(Claim::decode(&line), None);
        assert!(!is_claim_gone(b"xw - 0 0 -"));
    }
}
