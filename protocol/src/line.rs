//! Pieces of reply lines, written and read.

/// Appends a line: a text and the name behind it.
pub(crate) fn append(out: &mut Vec<u8>, text: &str, name: &[u8]) {
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(name);
    out.push(b'\n');
}

/// Appends a number in decimal.
pub(crate) fn append_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Splits a line at its first space. Returns the number before it, and the rest from the space on.
pub(crate) fn split_number(line: &[u8]) -> Option<(u64, &[u8])> {
    let space = line.iter().position(|&byte| byte == b' ')?;
    let (digits, rest) = line.split_at(space);
    Some((number(digits)?, rest))
}

/// Reads a decimal number that has no sign.
pub(crate) fn number(digits: &[u8]) -> Option<u64> {
    // `parse` alone would accept a sign.
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(digits).ok()?.parse().ok()
}
