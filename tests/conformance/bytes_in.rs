//! How received lines become commands.

use glockd::Policy;
use glockd_test_support::within;

use crate::script;
use crate::server::{TestServer, Via};

async fn check(case: &str, script: &str) {
    script::check(&format!("bytes_in__{case}"), Policy::default(), script).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn white_space_separates_words_and_folds_in_names() {
    check(
        "white_space_separates_words_and_folds_in_names",
        r"
        A:  g leading space
        A: g  a   b
        A: g \t a\x0Bb\fc \r
        A: g crlf\r
        A: \xC2\xA0g nbsp\xC2\xA0x\xE3\x80\x80
        A: g \xC2\x85\xE1\x9A\x80\xE2\x80\x80\xE2\x80\x8A\xE2\x80\xA8\xE2\x80\xA9\xE2\x80\xAF\xE2\x81\x9F.
        A: g not\xE2\x80\x8Bwhite\xEF\xBB\xBF\xE1\xA0\x8E
        A: iam  a   name\t
        A: me
        A: d
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn name_may_contain_any_byte() {
    check(
        "name_may_contain_any_byte",
        r"
        A: g \x00
        A: g \x85
        A: g \xA0
        A: g \xFF\xFE x
        A: g \xC3\xA9
        A: i \xC3
        A: sg \x00\xF0
        A: iam \xE2\x80
        A: me
        A: d
        A: sd \x00\xF0
        A: who \xE2\x80
        A: dump
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_name_is_a_lock_of_its_own() {
    check(
        "empty_name_is_a_lock_of_its_own",
        r"
        A: g
        B: g\x20
        B: i
        A: sg
        B: sg \t
        A: g x
        A: d\x20
        A: sd\x20
        A: dump
        A: iam x
        A: who\x20
        A: iam\x20
        A: who
        A: r
        A: r
        A: sr
        A: sr
        A: si
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_commands_get_no_reply_and_are_counted() {
    check(
        "unknown_commands_get_no_reply_and_are_counted",
        r"
        A: 
        A: \x20\x20\t
        A: \r
        A: stats
        A: G foo
        A: g\tfoo
        A: g\xC2\xA0foo
        A: \x00g foo
        A: gg foo
        A: \xFF
        A: q
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn surplus_arguments_are_ignored() {
    check(
        "surplus_arguments_are_ignored",
        r"
        A: g foo
        A: sg foo
        A: me too
        A: dump it
        A: dump  shared
        A: dump shared x
        A: dump Shared
        A: q 1 2 3
        ",
    )
    .await;
}

/// Connects a client that sends these segments and closes. Returns the replies.
async fn answered(server: &mut TestServer, via: Via, segments: &[&[u8]]) -> String {
    let client = server.connect(via).await;
    let address = client.address.clone();
    let read = client.finish(segments).await;
    read.escape_ascii().to_string().replace(&address, "<A>")
}

const PIPELINED: &[u8] =
    b"g a\n g  b \r\n\r\nnonsense\nr a\nsg c\xFF\nme\nd\nsi c\xFF\nr nothing\n";

const ANSWERED: &str = "1 Lock Get Success: a\\n1 Lock Get Success: b\\n1 Lock Release Success: a\\n\
    1 Shared Lock Get Success: c\\xff\\n1 <A> <A>\\nb: <A>\\n1 Shared Lock Is Locked: c\\xff\\n\
    0 Lock Release Failure: nothing\\n";

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_commands_in_one_segment_are_all_answered() {
    for via in Via::STREAMS {
        within(async {
            let mut server = TestServer::default().await;
            assert_eq!(answered(&mut server, via, &[PIPELINED]).await, ANSWERED);
            server.stop().await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_may_be_split_at_every_byte() {
    for via in Via::STREAMS {
        within(async {
            let mut server = TestServer::default().await;
            for cut in 0..PIPELINED.len() {
                let (head, tail) = PIPELINED.split_at(cut);
                // The locks of the first client are free once the server has closed its connection.
                assert_eq!(
                    answered(&mut server, via, &[head, tail]).await,
                    ANSWERED,
                    "cut at {cut}"
                );
            }
            let bytes: Vec<&[u8]> = PIPELINED.chunks(1).collect();
            assert_eq!(answered(&mut server, via, &bytes).await, ANSWERED);
            server.stop().await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousand_pipelined_commands_are_all_answered() {
    for via in Via::STREAMS {
        within(async {
            let mut server = TestServer::default().await;
            let (mut lines, mut expect) = (String::new(), String::new());
            for number in 0..1000 {
                lines += &format!("g lock {number}\n");
                expect += &format!("1 Lock Get Success: lock {number}\\n");
            }
            assert_eq!(
                answered(&mut server, via, &[lines.as_bytes()]).await,
                expect
            );
            server.stop().await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn last_line_without_a_line_end_is_answered() {
    for via in Via::STREAMS {
        within(async {
            let mut server = TestServer::default().await;
            let check = async |server: &mut TestServer, line: &[u8], expect: &str| {
                assert_eq!(answered(server, via, &[line]).await, expect);
            };
            check(&mut server, b"g foo", "1 Lock Get Success: foo\\n").await;
            check(
                &mut server,
                b"g foo\ni foo",
                "1 Lock Get Success: foo\\n1 Lock Is Locked: foo\\n",
            )
            .await;
            check(&mut server, b"i foo\r", "0 Lock Not Locked: foo\\n").await;
            check(&mut server, b"g foo\n\r", "1 Lock Get Success: foo\\n").await;
            check(&mut server, b"", "").await;
            server.stop().await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn overlong_line_is_refused_and_the_next_one_runs() {
    const TOO_LONG: &str = "0 Line Too Long: limit 10\\n";
    for via in Via::STREAMS {
        within(async {
            let mut server = TestServer::with_max_line(10).await;
            let check = async |server: &mut TestServer, lines: &[u8], expect: &str| {
                assert_eq!(
                    answered(server, via, &[lines]).await,
                    expect,
                    "{}",
                    lines.escape_ascii()
                );
            };
            check(
                &mut server,
                b"i 45678901\n",
                "0 Lock Not Locked: 45678901\\n",
            )
            .await;
            check(
                &mut server,
                b"i 45678901\r\n",
                "0 Lock Not Locked: 45678901\\n",
            )
            .await;
            check(&mut server, b"i 45678901", "0 Lock Not Locked: 45678901\\n").await;
            check(&mut server, b"i 456789012\n", TOO_LONG).await;
            check(&mut server, b"i 456789012\r\n", TOO_LONG).await;
            check(&mut server, b"i 456789012", TOO_LONG).await;
            check(&mut server, b"i 45678901\r", TOO_LONG).await;
            // The limit is on the raw line, with white space that would be stripped.
            check(&mut server, b"   i x      \n", TOO_LONG).await;
            let lines = b"i a\ni 4567890123456789\ni b\nq\n";
            let read = answered(&mut server, via, &[lines]).await;
            let expect = format!("0 Lock Not Locked: a\\n{TOO_LONG}0 Lock Not Locked: b\\n");
            assert!(read.starts_with(&expect), "{read}");
            assert!(read.contains("\\ninvalid_commands: 6\\n"), "{read}");
            server.stop().await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn default_limit_of_a_line_is_128_kib() {
    for via in Via::STREAMS {
        within(async {
            let mut server = TestServer::default().await;
            let name = "x".repeat(131_070);
            let line = format!("i {name}\ni {name}y\n");
            let expect = format!("0 Lock Not Locked: {name}\\n0 Line Too Long: limit 131072\\n");
            assert!(
                answered(&mut server, via, &[line.as_bytes()]).await == expect,
                "{via:?}"
            );
            server.stop().await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_line_is_refused_once() {
    for via in Via::STREAMS {
        within(async {
            let mut server = TestServer::default().await;
            let mut client = server.connect(via).await;
            client.send(&vec![b'x'; 131_073]).await;
            // The reply comes as soon as the limit is passed, not when the line ends.
            client.read_until(b"0 Line Too Long: limit 131072\n").await;
            for _ in 0..10 {
                client.send(&vec![b'x'; 1 << 20]).await;
            }
            client.send(b"\n").await;
            assert_eq!(client.ask(b"i x").await.0, b"0 Lock Not Locked: x\n");
            server.stop().await;
        })
        .await;
    }
}
