//! The other direction, for clients: what a line of a reply says.

use std::borrow::Cow;

use crate::rows::{Claim, Listing};
use crate::{LockKind, Refusal, Reply, Verb};

impl<'a> Reply<'a> {
    /// Reads a line that came in answer to this verb: without its `\n`, but with the `\r` before it, if there was
    /// one, as the original has it in places.
    ///
    /// `None` if it is no answer to it. Lines of listings and of `q` are none, for they can say anything: see
    /// [`rows`](crate::rows). Nor is the answer to `hello`, which [`features`] reads.
    ///
    /// ```
    /// use glockd_protocol::{Reply, Verb};
    ///
    /// let granted = Reply::Get { granted: true, name: b"foo" };
    /// assert_eq!(Reply::decode(Verb::G, b"1 Lock Get Success: foo"), Some(granted));
    /// assert_eq!(Reply::decode(Verb::G, b"+OK"), None);
    /// ```
    pub fn decode(verb: Verb, line: &'a [u8]) -> Option<Reply<'a>> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (number, rest) = numbered(line)?;
        if number == 0
            && let Some(reply) = decode_refusal(rest)
        {
            return Some(reply);
        }
        match verb {
            Verb::Me => {
                let space = rest.iter().position(|&byte| byte == b' ')?;
                let (address, name) = (&rest[..space], &rest[space + 1..]);
                return (number == 1).then_some(Reply::Me {
                    address: Cow::Borrowed(address),
                    name: Cow::Borrowed(name),
                });
            }
            Verb::Iam => return (number == 1 && rest == b"ok").then_some(Reply::Ok),
            _ => {}
        }
        let (text, name) = text_and_name(rest)?;
        let (yes, count) = (number == 1, u32::try_from(number).ok());
        let refused = |refusal| match verb {
            Verb::Gw => Some(Reply::GetRefused { refusal, name }),
            _ => Some(Reply::SharedGetRefused { refusal, name }),
        };
        match (verb, number, text) {
            (Verb::G | Verb::Gw, 1, b"Lock Get Success")
            | (Verb::G | Verb::Gw, 0, b"Lock Get Failure") => {
                Some(Reply::Get { granted: yes, name })
            }
            (Verb::R, 1, b"Lock Release Success") | (Verb::R, 0, b"Lock Release Failure") => {
                Some(Reply::Release {
                    released: yes,
                    name,
                })
            }
            (Verb::I, 1, b"Lock Is Locked") | (Verb::I, 0, b"Lock Not Locked") => {
                Some(Reply::Inspect { locked: yes, name })
            }
            (Verb::Sg | Verb::Sgl | Verb::Sgw, 1.., b"Shared Lock Get Success")
            | (Verb::Sg, 0, b"Shared Lock Get Failure") => Some(Reply::SharedGet {
                holders: count?,
                name,
            }),
            (Verb::Sr, 1, b"Shared Lock Release Success")
            | (Verb::Sr, 0, b"Shared Lock Release Failure") => Some(Reply::SharedRelease {
                released: yes,
                name,
            }),
            (Verb::Si, 1.., b"Shared Lock Is Locked")
            | (Verb::Si, 0, b"Shared Lock Not Locked") => Some(Reply::SharedInspect {
                holders: count?,
                name,
            }),
            (Verb::Ping, 1, b"pong") => Some(Reply::Pong(name)),
            (Verb::Gw, 0, b"Lock Get Timeout") | (Verb::Sgw, 0, b"Shared Lock Get Timeout") => {
                refused(Refusal::Timeout)
            }
            (Verb::Gw, 0, b"Lock Get Queue Full")
            | (Verb::Sgw, 0, b"Shared Lock Get Queue Full") => refused(Refusal::QueueFull),
            (Verb::Gw, 0, b"Lock Get Cancelled") | (Verb::Sgw, 0, b"Shared Lock Get Cancelled") => {
                refused(Refusal::Cancelled)
            }
            (Verb::Sgl, 0, b"Shared Lock Get Full") => Some(Reply::SharedGetFull { name }),
            (Verb::Cancel, 1, b"Cancel Success") | (Verb::Cancel, 0, b"Cancel Failure") => {
                Some(Reply::Cancel {
                    cancelled: yes,
                    name,
                })
            }
            (Verb::Iw | Verb::Siw, 1, b"Lock Is Free")
            | (Verb::Iw | Verb::Siw, 0, b"Lock Is Locked") => {
                Some(Reply::InspectWait { free: yes, name })
            }
            (Verb::F | Verb::Sf, 1.., b"Lock Fence") => Some(Reply::Fence {
                token: Some(number),
                name,
            }),
            (Verb::F | Verb::Sf, 0, b"Lock Fence Failure") => {
                Some(Reply::Fence { token: None, name })
            }
            _ => None,
        }
    }
}

/// What any verb may be refused by, apart from its own words.
fn decode_refusal(rest: &[u8]) -> Option<Reply<'_>> {
    if rest == b"disabled" {
        return Some(Reply::Disabled);
    }
    match text_and_name(rest)? {
        (b"Bad Argument", verb) => Verb::from_bytes(verb).map(Reply::BadArgument),
        (b"Line Too Long", limit) => {
            let limit = number(limit.strip_prefix(b"limit ")?)?;
            Some(Reply::LineTooLong {
                limit: usize::try_from(limit).ok()?,
            })
        }
        _ => None,
    }
}

/// The words of a `hello` that was answered: `wait`, `limit` and so on. `None` if the line is no such answer.
pub fn features(line: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let words = line.strip_prefix(b"1 hello:")?.trim_ascii();
    Some(words.split(|&byte| byte == b' '))
}

impl Listing {
    /// How many lines this header says that follow it. `None` if it is no header of such a listing.
    pub fn decode(self, line: &[u8]) -> Option<usize> {
        count(
            line,
            match self {
                Listing::Locks => b"Lock List",
                Listing::SharedLocks => b"Shared Lock List",
                Listing::Clients => b"Client List",
                Listing::Statistics => b"Stats List",
            },
        )
    }
}

/// Reads a line of `ldl` or `lsdl`: the lock's name and its holder. `None` if it is none.
pub fn name_and_holder(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = numbered(line)?;
    let (name, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    Some((name, rest.strip_prefix(b": ")?))
}

impl<'a> Claim<'a> {
    /// How many lines this header of `own` says that follow it. `None` if it is none.
    pub fn decode_count(line: &[u8]) -> Option<usize> {
        count(line, b"Lock Owners")
    }

    /// Reads a line of `own`. `None` if it is none.
    pub fn decode(line: &'a [u8]) -> Option<Claim<'a>> {
        let mut words = line.splitn(5, |&byte| byte == b' ');
        let (kind, waits) = match words.next()? {
            b"x" => (LockKind::Exclusive, false),
            b"s" => (LockKind::Shared, false),
            b"xw" => (LockKind::Exclusive, true),
            b"sw" => (LockKind::Shared, true),
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
}

fn count(line: &[u8], expected: &[u8]) -> Option<usize> {
    let (count, rest) = numbered(line)?;
    let (text, _) = text_and_name(rest)?;
    let count = usize::try_from(count).ok()?;
    (text == expected).then_some(count)
}

/// The number that a line begins with, and what stands behind the space that follows it.
fn numbered(line: &[u8]) -> Option<(u64, &[u8])> {
    let space = line.iter().position(|&byte| byte == b' ')?;
    Some((number(&line[..space])?, &line[space + 1..]))
}

fn number(digits: &[u8]) -> Option<u64> {
    // `parse` alone would take a sign.
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(digits).ok()?.parse().ok()
}

/// The words of a reply, and the name behind them. No words of ours have a colon; a name may.
fn text_and_name(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = rest.windows(2).position(|two| two == b": ")?;
    Some((&rest[..colon], &rest[colon + 2..]))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};

    use super::*;
    use crate::{parse, rows};

    fn name() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            Just(b": ".to_vec()),
            Just(b"Lock Get Success: ".to_vec()),
            vec(any::<u8>(), 0..8),
        ];
        vec(part, 0..4).prop_map(|parts| crate::fold(&parts.concat()).into_owned())
    }

    /// Every reply of one line, with the verbs that it may come in answer to.
    fn replies(name: &[u8], yes: bool, count: u32, token: u64) -> Vec<(Verb, Reply<'_>)> {
        use Verb::{Cancel, F, G, Gw, I, Iam, Iw, Me, Ping, R, Sf, Sg, Sgl, Sgw, Si, Siw, Sr};
        let get = Reply::Get { granted: yes, name };
        let holders = count.max(1);
        let shared = Reply::SharedGet { holders, name };
        let seen = Reply::InspectWait { free: yes, name };
        let token = yes.then_some(token.max(1));
        let fence = Reply::Fence { token, name };
        let me = Reply::Me {
            address: Cow::Borrowed(b"[::1]:57871"),
            name: Cow::Borrowed(name),
        };
        let mut replies = vec![
            (G, get.clone()),
            (
                R,
                Reply::Release {
                    released: yes,
                    name,
                },
            ),
            (I, Reply::Inspect { locked: yes, name }),
            (
                Sg,
                Reply::SharedGet {
                    holders: count,
                    name,
                },
            ),
            (
                Sr,
                Reply::SharedRelease {
                    released: yes,
                    name,
                },
            ),
            (
                Si,
                Reply::SharedInspect {
                    holders: count,
                    name,
                },
            ),
            (Me, me),
            (Iam, Reply::Ok),
            (Ping, Reply::Pong(name)),
            (
                Gw,
                Reply::Get {
                    granted: true,
                    name,
                },
            ),
            (Sgl, shared.clone()),
            (Sgl, Reply::SharedGetFull { name }),
            (Sgw, shared),
            (
                Cancel,
                Reply::Cancel {
                    cancelled: yes,
                    name,
                },
            ),
            (Iw, seen.clone()),
            (Siw, seen),
            (F, fence.clone()),
            (Sf, fence),
        ];
        for refusal in [Refusal::Timeout, Refusal::QueueFull, Refusal::Cancelled] {
            replies.push((Gw, Reply::GetRefused { refusal, name }));
            replies.push((Sgw, Reply::SharedGetRefused { refusal, name }));
        }
        for verb in Verb::ALL {
            replies.push((verb, Reply::Disabled));
            replies.push((verb, Reply::BadArgument(verb)));
            replies.push((
                verb,
                Reply::LineTooLong {
                    limit: count as usize,
                },
            ));
        }
        replies
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(name in name(), yes: bool, count: u32, token: u64) {
            for (verb, reply) in replies(&name, yes, count, token) {
                let mut line = Vec::new();
                reply.encode(&mut line);
                let expect = Some(reply.clone());
                assert_eq!(Reply::decode(verb, &line[..line.len() - 1]), expect, "{verb:?}");
                line.splice(line.len() - 1.., *b"\r");
                assert_eq!(Reply::decode(verb, &line), expect, "{verb:?}");
            }
        }

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
        fn a_line_with_a_length_is_decoded(name in name(), holder in name()) {
            let mut line = Vec::new();
            rows::line_with_length(&mut line, &name, &holder);
            assert_eq!(name_and_holder(&line[..line.len() - 1]), Some((&name[..], &holder[..])));
        }

        #[test]
        fn anything_at_all_does_no_harm(line in vec(any::<u8>(), 0..40)) {
            for verb in Verb::ALL {
                let _ = Reply::decode(verb, &line);
            }
            let _ = (Claim::decode(&line), Claim::decode_count(&line), features(&line).is_some());
            let _ = name_and_holder(&line);
        }

        #[test]
        fn a_command_is_parsed_as_it_was_encoded(name in name(), a: u32, b: u32) {
            let (a, b) = (format!("{a} "), format!("{b} "));
            for verb in Verb::ALL {
                for operands in [[" ", "", ""], [" ", &a, ""], [" ", &a, &b]] {
                    let operands = operands.concat();
                    let frame = [verb.as_str().as_bytes(), operands.as_bytes(), &name].concat();
                    let Ok(command) = parse(&frame) else { continue };
                    let mut line = Vec::new();
                    command.encode(&mut line);
                    assert_eq!(line.pop(), Some(b'\n'));
                    assert_eq!(parse(&line), Ok(command));
                }
            }
        }
    }

    #[test]
    fn headers_say_how_many_follow() {
        for listing in [
            Listing::Locks,
            Listing::SharedLocks,
            Listing::Clients,
            Listing::Statistics,
        ] {
            let mut line = Vec::new();
            rows::header(&mut line, 12, listing, b"a: b");
            line.pop();
            assert_eq!(listing.decode(&line), Some(12));
            assert_eq!(Claim::decode_count(&line), None);
        }
        let mut line = Vec::new();
        rows::claims_header(&mut line, 3, b"a");
        line.pop();
        assert_eq!(Claim::decode_count(&line), Some(3));
        assert_eq!(Listing::Locks.decode(&line), None);
    }

    #[test]
    fn line_whose_length_is_wrong_is_none() {
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
    fn claim_that_has_gone_is_told_from_one_that_is_there() {
        let mut line = Vec::new();
        rows::claim_gone(&mut line);
        assert_eq!(line.pop(), Some(b'\n'));
        assert!(rows::is_claim_gone(&line));
        assert_eq!(Claim::decode(&line), None);
        assert!(!rows::is_claim_gone(b"xw - 0 0 -"));
    }

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
