//! The reply to `hello`, for clients.

use crate::texts::HELLO;

/// Returns the words of a reply to `hello`: `wait`, `limit` and so on; `None` if the line is not such a reply.
pub fn features(line: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let words = line.strip_prefix(HELLO.as_bytes())?.trim_ascii();
    Some(words.split(|&byte| byte == b' '))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reply;

    #[test]
    fn hello_is_words() {
        let mut line = Vec::new();
        Reply::Hello { peer_timeout: None }.encode(&mut line);
        let words: Vec<&[u8]> = features(&line).into_iter().flatten().collect();
        let expect = [
            "wait",
            "limit",
            "fence",
            "list",
            "own",
            "ping",
            "lengths",
            "timeout=0",
        ];
        assert_eq!(words, expect.map(str::as_bytes));
        assert!(features(b"0 disabled").is_none());
    }
}
