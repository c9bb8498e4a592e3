//! The text of `d`, `sd`, `who` and `dump`, piece by piece: a listing may be longer than memory, so it
//! is never one [`Reply`](crate::Reply). And that of `own`, and of what makes a listing a counted one.

use crate::LockKind;
use crate::reply::number;

/// Appends one line of `d`, `sd` (lock and holder) or `who` (address and registered name).
pub fn line(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    out.extend_from_slice(key);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Appends one line of `ldl` or `lsdl`: the length of the lock's name in bytes, the name and its holder. Either may have
/// a `: ` in it, so in [`line()`] a reader cannot tell where the name ends.
pub fn line_with_length(out: &mut Vec<u8>, name: &[u8], holder: &[u8]) {
    number(out, name.len() as u64);
    out.push(b' ');
    line(out, name, holder);
}

/// What a counted listing lists.
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

/// Appends what stands before a block of so many lines of a counted listing, which was asked for with this
/// argument; of none, what ends it.
pub fn header(out: &mut Vec<u8>, lines: usize, listing: Listing, argument: &[u8]) {
    number(out, lines as u64);
    out.extend_from_slice(match listing {
        Listing::Locks => b" Lock List: ",
        Listing::SharedLocks => b" Shared Lock List: ",
        Listing::Clients => b" Client List: ",
        Listing::Statistics => b" Stats List: ",
    });
    out.extend_from_slice(argument);
    out.push(b'\n');
}

/// Appends what stands before the lines of `own`, of which there are so many.
pub fn claims_header(out: &mut Vec<u8>, lines: usize, name: &[u8]) {
    number(out, lines as u64);
    out.extend_from_slice(b" Lock Owners: ");
    out.extend_from_slice(name);
    out.push(b'\n');
}

/// A line of `own` in the place of an owner that was counted, and has gone before it could be shown. It has as many
/// words as any other.
const CLAIM_GONE: &[u8] = b"- - 0 0 -";

/// Appends the line of `own` that stands for an owner which has gone since they were counted.
pub fn claim_gone(out: &mut Vec<u8>) {
    out.extend_from_slice(CLAIM_GONE);
    out.push(b'\n');
}

/// True if this line of `own` stands for an owner which has gone since they were counted.
pub fn is_claim_gone(line: &[u8]) -> bool {
    line == CLAIM_GONE
}

/// A line of `own`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim<'a> {
    /// The kind of lock.
    pub kind: LockKind,
    /// Whether the lock is held or waited for.
    pub waits: bool,
    /// Where the connection comes from.
    pub address: &'a [u8],
    /// For how long it has held the lock or waited for it, in milliseconds.
    pub ms: u64,
    /// The fencing token of the lock; 0 if there is none to show.
    pub token: u64,
    /// What the connection is shown as.
    pub name: &'a [u8],
}

impl Claim<'_> {
    /// Appends the line.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(match (self.kind, self.waits) {
            (LockKind::Exclusive, false) => b"x ",
            (LockKind::Shared, false) => b"s ",
            (LockKind::Exclusive, true) => b"xw ",
            (LockKind::Shared, true) => b"sw ",
        });
        out.extend_from_slice(self.address);
        out.push(b' ');
        number(out, self.ms);
        out.push(b' ');
        number(out, self.token);
        out.push(b' ');
        out.extend_from_slice(self.name);
        out.push(b'\n');
    }
}

/// The one line of `dump` and `dump shared`: `map[N:ADDR N2:ADDR2]`, `map[N:[ADDR ADDR2]]`, as Go
/// prints a map of strings and one of lists.
///
/// The pieces are to be appended in the order `open (entry | (list_open item+ list_close))* close`.
#[derive(Debug, Default)]
pub struct Map {
    entries: bool,
    items: bool,
}

impl Map {
    /// Appends what stands before the first entry.
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

    /// Appends what stands after the last entry.
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
    use super::*;

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
    fn owners_of_both_kinds() {
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
    fn an_empty_map() {
        let (mut out, mut map) = (Vec::new(), Map::default());
        map.open(&mut out);
        map.close(&mut out);
        assert_eq!(out, b"map[]\n");
    }
}
