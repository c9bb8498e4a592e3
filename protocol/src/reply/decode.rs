//! Lines to replies, for clients.

use std::borrow::Cow;

use super::{Refusal, Reply};
use crate::Verb;
use crate::line::{number, split_number};
use crate::texts::{self, with_replies};

impl<'a> Reply<'a> {
    /// Reads a line that came in reply to this verb. The line has no `\n`; it may end in the `\r` that the original
    /// sends in places.
    ///
    /// Returns `None` if the line is not a reply to the verb. Lines of listings and of `q` never are, because they can
    /// say anything: see [`rows`](crate::rows). Nor is the reply to `hello`, which [`features`](crate::features())
    /// reads.
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
        decode_about_lock(verb, line)
            .or_else(|| decode_other(verb, line))
            .or_else(|| decode_refusal(line))
    }
}

macro_rules! define_decode {
    ($(
        $(($number:ident))? $text:literal $reply:ident { $($fields:tt)* } [$($verb:ident)+]
    )*) => {
        /// Reads a reply about a lock.
        fn decode_about_lock(verb: Verb, line: &[u8]) -> Option<Reply<'_>> {
            $(
                let reply = || {
                    let rest = line;
                    $(let ($number, rest) = positive_number(rest)?;)?
                    let name = after(rest, $text)?;
                    Some(Reply::$reply { name, $($fields)* })
                };
                if matches!(verb, $(Verb::$verb)|+) && let Some(reply) = reply() {
                    return Some(reply);
                }
            )*
            None
        }
    };
}

with_replies!(define_decode);

/// Reads a reply of its own form.
fn decode_other(verb: Verb, line: &[u8]) -> Option<Reply<'_>> {
    match verb {
        Verb::Me => {
            let rest = after(line, texts::ME)?;
            let space = rest.iter().position(|&byte| byte == b' ')?;
            Some(Reply::Me {
                address: Cow::Borrowed(&rest[..space]),
                name: Cow::Borrowed(&rest[space + 1..]),
            })
        }
        Verb::Iam => (line == texts::OK.as_bytes()).then_some(Reply::Ok),
        Verb::Ping => after(line, texts::PONG).map(Reply::Pong),
        _ => None,
    }
}

/// Reads a refusal that may come in reply to any verb.
fn decode_refusal(line: &[u8]) -> Option<Reply<'_>> {
    if line == texts::DISABLED.as_bytes() {
        return Some(Reply::Disabled);
    }
    if let Some(verb) = after(line, texts::BAD_ARGUMENT) {
        return Verb::from_bytes(verb).map(Reply::BadArgument);
    }
    let limit = number(after(line, texts::LINE_TOO_LONG)?)?;
    Some(Reply::LineTooLong {
        limit: usize::try_from(limit).ok()?,
    })
}

/// Returns what stands behind this text, if the line starts with it.
fn after<'a>(line: &'a [u8], text: &str) -> Option<&'a [u8]> {
    line.strip_prefix(text.as_bytes())
}

/// Splits a line into the number that it starts with, which must be at least 1, and the rest.
fn positive_number<T: TryFrom<u64>>(line: &[u8]) -> Option<(T, &[u8])> {
    let (number, rest) = split_number(line)?;
    if number == 0 {
        return None;
    }
    Some((T::try_from(number).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{any, proptest};

    use super::*;
    use crate::testing::name;

    /// Every reply of one line, each with a verb that it may be in reply to.
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
        fn encoded_reply_is_decoded(name in name(), yes: bool, count: u32, token: u64) {
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
        fn arbitrary_bytes_do_not_panic(line in vec(any::<u8>(), 0..40)) {
            for verb in Verb::ALL {
                let _ = Reply::decode(verb, &line);
            }
        }
    }
}
