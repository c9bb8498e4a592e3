//! HTTP on the TCP port. Any web page can make a browser send it.

use glockd::{Limits, Policy};

use glockd_test_support::within;

use crate::client::Client;
use crate::server::{TestServer, Via};

/// Returns what Chromium sends over TCP for `fetch(url, {method: "POST", mode: "no-cors", body})` in a page.
fn fetch(body: &str) -> String {
    format!(
        "POST / HTTP/1.1\r\n\
        Host: 127.0.0.1:9999\r\n\
        Connection: keep-alive\r\n\
        Content-Length: {}\r\n\
        sec-ch-ua-platform: \"Linux\"\r\n\
        User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
        HeadlessChrome/156.0.0.0 Safari/537.36\r\n\
        sec-ch-ua: \"Chromium\";v=\"156\", \"Not(A:Brand\";v=\"24\"\r\n\
        Content-Type: text/plain;charset=UTF-8\r\n\
        sec-ch-ua-mobile: ?0\r\n\
        Accept: */*\r\n\
        Origin: http://127.0.0.1:8000\r\n\
        Sec-Fetch-Site: same-site\r\n\
        Sec-Fetch-Mode: no-cors\r\n\
        Sec-Fetch-Dest: empty\r\n\
        Referer: http://127.0.0.1:8000/\r\n\
        Accept-Encoding: gzip, deflate, br, zstd\r\n\
        Accept-Language: en-US,en;q=0.9\r\n\r\n\
        {body}",
        body.len()
    )
}

/// Returns the reply to `q` of another client, once it is the only one.
async fn statistics(server: &mut TestServer) -> String {
    let mut observer = server.connect(Via::Memory).await;
    loop {
        let statistics = String::from_utf8(observer.ask(b"q").await.0).unwrap();
        if statistics.contains("\nconnections: 1\n") {
            return statistics;
        }
    }
}

#[track_caller]
fn assert_counted(statistics: &str, key: &str, expect: u64) {
    let value = statistics
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{key}: ")));
    let value = value.map_or(0, |value| value.parse().unwrap());
    assert_eq!(value, expect, "{key} in\n{statistics}");
}

/// Sends these segments over TCP, and keeps the connection open. Checks that the server closes it at a line of HTTP,
/// after it has sent `answers` to the commands before that line, and runs no command after it.
async fn check_closed(policy: Policy, limits: Limits, segments: &[&[u8]], answers: &str) {
    within(async {
        let mut server = TestServer::start(policy, limits).await;
        let client = server.connect(Via::Tcp).await;
        let answered = client.send_until_closed(segments).await;
        let shown = segments.concat().escape_ascii().to_string();
        let answered = answered.escape_ascii().to_string();
        assert_eq!(answered, answers.escape_default().to_string(), "{shown}");
        let statistics = statistics(&mut server).await;
        assert_counted(&statistics, "refused_http", 1);
        assert_counted(&statistics, "invalid_commands", 1);
        let before = answers.matches("Lock Get").count() as u64;
        assert_counted(&statistics, "command_g", before);
        assert_counted(&statistics, "locks", 0);
        server.stop().await;
    })
    .await;
}

async fn check_closed_by_default(segments: &[&[u8]], answers: &str) {
    check_closed(Policy::default(), Limits::default(), segments, answers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fetch_of_a_web_page_takes_no_lock() {
    let request = fetch("g prod-deploy\n");
    check_closed_by_default(&[request.as_bytes()], "").await;
    let bytes: Vec<&[u8]> = request.as_bytes().chunks(1).collect();
    check_closed_by_default(&bytes, "").await;
    // A slow body would otherwise hold the lock for as long as it takes.
    let (head, body) = request.split_at(request.len() - "g prod-deploy\n".len());
    check_closed_by_default(&[head.as_bytes(), body.as_bytes()], "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn line_of_http_closes_a_tcp_connection() {
    for line in [
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.0\n",
        "BREW /pot HTTP/1.1\r\n",
        "patch / HTTP/1.1\r\n",
        "  GET / HTTP/1.1 \t\r\n",
        "Host: localhost\r\n",
        "host: localhost\n",
        "HOST:\n",
        "\thOsT:x\n",
        "\x16\x03\x01\x02\0\x01\0\n",
    ] {
        let lines = format!("{line}g behind\nme\n");
        check_closed_by_default(&[lines.as_bytes()], "").await;
        check_closed_by_default(&[line.as_bytes(), b"g behind\nme\n"], "").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_before_a_line_of_http_are_answered() {
    let lines = b"g a\ni a\nGET / HTTP/1.1\r\ng b\n";
    let answers = "1 Lock Get Success: a\n1 Lock Is Locked: a\n";
    check_closed_by_default(&[lines], answers).await;
    check_closed_by_default(&[b"g a\ni a\nHost", b": x\ng b\n"], answers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn last_line_without_a_line_end_can_be_http() {
    within(async {
        let mut server = TestServer::default().await;
        let client = server.connect(Via::Tcp).await;
        assert_eq!(client.finish(&[b"GET / HTTP/1.1"]).await, b"");
        let statistics = statistics(&mut server).await;
        assert_counted(&statistics, "refused_http", 1);
        server.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_never_taken_for_http() {
    let check = async |client: &mut Client, command: &str, expect: &str| {
        let (reply, _) = client.ask(command.as_bytes()).await;
        assert_eq!(reply.escape_ascii().to_string(), format!("{expect}\\n"));
    };
    for via in Via::ALL {
        within(async {
            let mut server = TestServer::default().await;
            let mut client = server.connect(via).await;
            for (command, expect) in [
                ("g foo HTTP/1.1", "1 Lock Get Success: foo HTTP/1.1"),
                ("g Host: a", "1 Lock Get Success: Host: a"),
                ("i / HTTP/1.1", "0 Lock Not Locked: / HTTP/1.1"),
                ("ping / HTTP/1.1", "1 pong: / HTTP/1.1"),
                ("gw / HTTP/1.1", "0 Bad Argument: gw"),
                ("gw 0 / HTTP/1.1", "1 Lock Get Success: / HTTP/1.1"),
                ("iam Host: HTTP/1.1", "1 ok"),
            ] {
                check(&mut client, command, expect).await;
            }
            drop(client);
            let statistics = statistics(&mut server).await;
            assert_counted(&statistics, "refused_http", 0);
            server.stop().await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_verb_with_an_http_version_is_http() {
    let policy = Policy {
        extensions: false,
        ..Policy::default()
    };
    for verb in ["ping", "gw"] {
        let lines = format!("{verb} / HTTP/1.1\r\ng x\n");
        check_closed(policy, Limits::default(), &[lines.as_bytes()], "").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_header_lines_are_unknown_commands() {
    within(async {
        let mut server = TestServer::default().await;
        let mut client = server.connect(Via::Tcp).await;
        for line in ["Hosts: x", "User-Agent: x", "GET /", "HTTP/1.1", ""] {
            assert_eq!(client.ask(line.as_bytes()).await.0, b"", "{line}");
        }
        server.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_is_an_unknown_command_on_other_transports() {
    for via in [Via::Unix, Via::Memory, Via::WebSocket] {
        within(async {
            let mut server = TestServer::default().await;
            let mut client = server.connect(via).await;
            for line in ["POST / HTTP/1.1", "Host: localhost", "\x16\x03\x01"] {
                assert_eq!(client.ask(line.as_bytes()).await.0, b"", "{via:?}: {line}");
            }
            assert_eq!(client.ask(b"g x").await.0, b"1 Lock Get Success: x\n");
            drop(client);
            let statistics = statistics(&mut server).await;
            assert_counted(&statistics, "invalid_commands", 3);
            assert_counted(&statistics, "refused_http", 0);
            server.stop().await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_after_an_overlong_line_of_http_do_not_run() {
    let check = async |max_line: usize, line: &str| {
        let limits = Limits::default().with_max_line(max_line);
        let answer = format!("0 Line Too Long: limit {max_line}\n");
        let lines = format!("{line}\r\ng x\n");
        for cut in [0, 1, max_line, max_line + 1, line.len(), line.len() + 1] {
            let (head, tail) = lines.as_bytes().split_at(cut);
            check_closed(Policy::default(), limits, &[head, tail], &answer).await;
        }
    };
    check(131_072, &format!("POST /{} HTTP/1.1", "a".repeat(200_000))).await;
    check(100, &format!("Host: {}", "a".repeat(200))).await;
    check(100, &format!("  Host: {}", "a".repeat(99))).await;
    check(8, "GET / HTTP/1.1").await;
    check(8, "Host: localhost").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_overlong_lines_do_not_close_the_connection() {
    for via in Via::STREAMS {
        within(async {
            let limits = Limits::default().with_max_line(50);
            let mut server = TestServer::start(Policy::default(), limits).await;
            let mut client = server.connect(via).await;
            let long = "a".repeat(100);
            for line in [
                format!("g {long} HTTP/1.1"),
                format!("gw {long} HTTP/1.1"),
                format!("g Host: {long}"),
                format!("POST /{long} HTTP/1.1 x"),
                long,
            ] {
                let (reply, _) = client.ask(line.as_bytes()).await;
                let reply = reply.escape_ascii().to_string();
                assert_eq!(reply, "0 Line Too Long: limit 50\\n", "{via:?}: {line}");
            }
            server.stop().await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_during_a_wait_ends_the_wait() {
    for line in ["Host: x", &format!("GET /{} HTTP/1.1", "x".repeat(200_000))] {
        within(async {
            let mut server = TestServer::default().await;
            let mut holder = server.connect(Via::Memory).await;
            holder.ask(b"g x").await;
            let mut waiter = server.connect(Via::Tcp).await;
            assert_eq!(waiter.begin(b"gw 600000 x").await, b"");
            // The commands that have queued run. The one after the line of HTTP does not, although it need not wait.
            let lines = format!("i queued\n{line}\r\nping\ncancel x\ng y\n");
            let answered = waiter.send_until_closed(&[lines.as_bytes()]).await;
            let mut expect = "0 Lock Get Cancelled: x\n0 Lock Not Locked: queued\n".to_owned();
            if line.len() > 131_072 {
                expect += "0 Line Too Long: limit 131072\n";
            }
            assert_eq!(String::from_utf8(answered).unwrap(), expect);
            drop(holder);
            let statistics = statistics(&mut server).await;
            assert_counted(&statistics, "refused_http", 1);
            assert_counted(&statistics, "invalid_commands", 1);
            assert_counted(&statistics, "command_ping", 1);
            assert_counted(&statistics, "command_cancel", 0);
            assert_counted(&statistics, "command_g", 1);
            server.stop().await;
        })
        .await;
    }
}
