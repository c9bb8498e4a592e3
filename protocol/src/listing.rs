//! The text of `d`, `sd`, `who` and `dump`, piece by piece: a listing may be longer than memory, so it
//! is never one [`Reply`](crate::Reply).

/// Appends one line of `d`, `sd` (lock and holder) or `who` (address and registered name).
pub fn line(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    out.extend_from_slice(key);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.push(b'\n');
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
