//! Replies to bytes.

use super::{Refusal, Reply};
use crate::Counter;
use crate::line::{append, append_number};
use crate::rows::{self, Listing};
use crate::texts::{self, with_replies};

macro_rules! define_encode {
    ($(
        $(($number:ident))? $text:literal $reply:ident { $($fields:tt)* } [$($verb:ident)+]
    )*) => {
        impl Reply<'_> {
            /// Appends the bytes of this reply to `out`.
            #[inline]
            pub fn encode(&self, out: &mut Vec<u8>) {
                match self {
                    $(Reply::$reply { name, $($fields)* } => {
                        $(append_number(out, u64::from(*$number));)?
                        append(out, $text, name);
                    })*
                    Reply::Nothing => {}
                    Reply::Me { address, name } => {
                        out.extend_from_slice(texts::ME.as_bytes());
                        out.extend_from_slice(address);
                        append(out, " ", name);
                    }
                    Reply::Ok => append(out, texts::OK, b""),
                    Reply::Disabled => append(out, texts::DISABLED, b""),
                    Reply::LineTooLong { limit } => {
                        append_numbered(out, texts::LINE_TOO_LONG, *limit as u64);
                    }
                    Reply::Statistics(counters) => append_statistics(out, counters),
                    Reply::CountedStatistics(counters) => {
                        rows::header(out, counters.len(), Listing::Statistics, b"");
                        append_statistics(out, counters);
                        rows::header(out, 0, Listing::Statistics, b"");
                    }
                    Reply::Hello { peer_timeout } => {
                        out.extend_from_slice(texts::HELLO.as_bytes());
                        let ms = peer_timeout.unwrap_or_default().as_millis();
                        let ms = u64::try_from(ms).unwrap_or(u64::MAX);
                        append_numbered(out, texts::FEATURES, ms);
                    }
                    Reply::Pong(text) => append(out, texts::PONG, text),
                    Reply::BadArgument(verb) => {
                        append(out, texts::BAD_ARGUMENT, verb.as_str().as_bytes());
                    }
                }
            }
        }
    };
}

with_replies!(define_encode);

/// Appends a line: a text and the number behind it.
fn append_numbered(out: &mut Vec<u8>, text: &str, number: u64) {
    out.extend_from_slice(text.as_bytes());
    append_number(out, number);
    out.push(b'\n');
}

fn append_statistics(out: &mut Vec<u8>, counters: &[(Counter, u64)]) {
    for (counter, value) in counters {
        counter.encode(*value, out);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Counter, Refusal, Verb};

    #[track_caller]
    fn check(reply: Reply<'_>, expect: &str) {
        let mut out = Vec::new();
        reply.encode(&mut out);
        assert_eq!(
            out.escape_ascii().to_string(),
            expect.escape_default().to_string()
        );
    }

    #[test]
    fn texts_of_the_original() {
        let name = b"foo";
        check(Reply::Nothing, "");
        check(
            Reply::Get {
                granted: true,
                name,
            },
            "1 Lock Get Success: foo\n",
        );
        check(
            Reply::Get {
                granted: false,
                name,
            },
            "0 Lock Get Failure: foo\n",
        );
        check(
            Reply::Release {
                released: true,
                name,
            },
            "1 Lock Release Success: foo\n",
        );
        check(
            Reply::Release {
                released: false,
                name,
            },
            "0 Lock Release Failure: foo\n",
        );
        check(
            Reply::Inspect { locked: true, name },
            "1 Lock Is Locked: foo\n",
        );
        check(
            Reply::Inspect {
                locked: false,
                name,
            },
            "0 Lock Not Locked: foo\n",
        );
        check(
            Reply::SharedGet { holders: 12, name },
            "12 Shared Lock Get Success: foo\n",
        );
        check(
            Reply::SharedGet { holders: 0, name },
            "0 Shared Lock Get Failure: foo\n",
        );
        check(
            Reply::SharedRelease {
                released: true,
                name,
            },
            "1 Shared Lock Release Success: foo\n",
        );
        check(
            Reply::SharedRelease {
                released: false,
                name,
            },
            "0 Shared Lock Release Failure: foo\n",
        );
        check(
            Reply::SharedInspect { holders: 3, name },
            "3 Shared Lock Is Locked: foo\n",
        );
        check(
            Reply::SharedInspect { holders: 0, name },
            "0 Shared Lock Not Locked: foo\n",
        );
        let me = Reply::Me {
            address: b"unix:1".as_slice().into(),
            name: b"x y".as_slice().into(),
        };
        check(me, "1 unix:1 x y\n");
        check(Reply::Ok, "1 ok\n");
        check(Reply::Disabled, "0 disabled\n");
        check(
            Reply::LineTooLong { limit: 131_072 },
            "0 Line Too Long: limit 131072\n",
        );
    }

    #[test]
    fn texts_of_the_extensions() {
        let name = b"foo";
        let hello = |peer_timeout| Reply::Hello { peer_timeout };
        check(
            hello(Some(Duration::from_millis(30_500))),
            "1 hello: wait limit fence list own ping lengths timeout=30500\n",
        );
        check(
            hello(None),
            "1 hello: wait limit fence list own ping lengths timeout=0\n",
        );
        check(Reply::Pong(b""), "1 pong: \n");
        check(Reply::Pong(b"a b"), "1 pong: a b\n");
        for (refusal, text) in [
            (Refusal::Timeout, "Timeout"),
            (Refusal::QueueFull, "Queue Full"),
            (Refusal::Cancelled, "Cancelled"),
        ] {
            check(
                Reply::GetRefused { refusal, name },
                &format!("0 Lock Get {text}: foo\n"),
            );
            check(
                Reply::SharedGetRefused { refusal, name },
                &format!("0 Shared Lock Get {text}: foo\n"),
            );
        }
        check(
            Reply::SharedGetFull { name },
            "0 Shared Lock Get Full: foo\n",
        );
        let cancel = |cancelled| Reply::Cancel { cancelled, name };
        check(cancel(true), "1 Cancel Success: foo\n");
        check(cancel(false), "0 Cancel Failure: foo\n");
        check(
            Reply::InspectWait { free: true, name },
            "1 Lock Is Free: foo\n",
        );
        check(
            Reply::InspectWait { free: false, name },
            "0 Lock Is Locked: foo\n",
        );
        let fence = |token| Reply::Fence { token, name };
        check(
            fence(Some(u64::MAX / 2)),
            "9223372036854775807 Lock Fence: foo\n",
        );
        check(fence(None), "0 Lock Fence Failure: foo\n");
        check(Reply::BadArgument(Verb::Sgw), "0 Bad Argument: sgw\n");
        check(
            Reply::CountedStatistics(vec![
                (Counter::Command(Verb::Lq), 1),
                (Counter::Connections, 2),
            ]),
            "2 Stats List: \ncommand_lq: 1\nconnections: 2\n0 Stats List: \n",
        );
    }

    #[test]
    fn statistics_are_lines_of_key_and_value() {
        let counters = vec![
            (Counter::Command(Verb::Dump), 7),
            (Counter::SharedOrphans, u64::MAX),
        ];
        check(
            Reply::Statistics(counters),
            "command_dump: 7\nshared_orphans: 18446744073709551615\n",
        );
    }

    #[test]
    fn names_are_sent_back_unchanged() {
        check(
            Reply::Get {
                granted: true,
                name: b"",
            },
            "1 Lock Get Success: \n",
        );
        let mut out = Vec::new();
        Reply::Get {
            granted: true,
            name: b"\0\xFF\xC2",
        }
        .encode(&mut out);
        assert_eq!(out, b"1 Lock Get Success: \0\xFF\xC2\n");
    }
}
