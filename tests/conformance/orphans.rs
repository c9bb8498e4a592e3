//! The locks of a connection that has ended, in whatever way: they are free, and counted as orphans.

use glockd::Policy;

use glockd_test_support::within;

use crate::client::{Client, reset_on_close};
use crate::script;
use crate::server::{TestServer, Via};

async fn check(case: &str, script: &str) {
    script::check(&format!("orphans__{case}"), Policy::default(), script).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exclusive_locks_of_an_ended_connection_are_orphans() {
    check(
        "exclusive_locks_of_an_ended_connection_are_orphans",
        "
        A: g foo
        A: g bar
        A: g bar
        B: g foo
        B: g baz
        - A
        B: i foo
        B: g foo
        B: d
        B: q
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_lock_of_an_ended_connection_stays_with_the_other_holder() {
    check(
        "shared_lock_of_an_ended_connection_stays_with_the_other_holder",
        "
        A: sg foo
        B: sg foo
        C: si foo
        - A
        C: si foo
        C: sd foo
        C: q
        - B
        C: si foo
        C: dump shared
        C: q
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn released_locks_are_not_orphans() {
    check(
        "released_locks_are_not_orphans",
        "
        A: g foo
        A: sg foo
        A: r foo
        A: sr foo
        B: q
        - A
        B: q
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registered_name_ends_with_its_connection() {
    check(
        "registered_name_ends_with_its_connection",
        "
        A: iam worker
        B: who
        - A
        B: who
        A: me
        ",
    )
    .await;
}

/// Sends a command again and again, until this is the reply.
async fn await_reply(client: &mut Client, command: &[u8], expect: &[u8]) {
    while client.ask(command).await.0 != expect {}
}

#[tokio::test(flavor = "multi_thread")]
async fn reset_connection_frees_its_locks() {
    within(async {
        let mut server = TestServer::default().await;
        let mut other = server.connect(Via::Memory).await;
        let mut stream = server.tcp().await;
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"g foo\nsg bar\n")
            .await
            .unwrap();
        await_reply(&mut other, b"si bar", b"1 Shared Lock Is Locked: bar\n").await;
        reset_on_close(&stream);
        drop(stream);
        await_reply(&mut other, b"g foo", b"1 Lock Get Success: foo\n").await;
        await_reply(&mut other, b"si bar", b"0 Shared Lock Not Locked: bar\n").await;
        loop {
            let statistics = String::from_utf8(other.ask(b"q").await.0).unwrap();
            if statistics.contains("connections: 1\n") {
                let expect = "\nlocks: 1\norphans: 1\nshared_locks: 0\nshared_orphans: 1\n";
                assert!(statistics.contains(expect), "{statistics}");
                break;
            }
        }
        server.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_locks_of_one_connection_are_freed_and_counted() {
    const COUNT: usize = 30_000;
    for via in Via::ALL {
        within(async {
            let mut server = TestServer::default().await;
            let (mut holder, mut other) = (server.connect(via).await, server.connect(via).await);
            for number in 0..COUNT {
                let verb = if number % 3 == 0 { "sg" } else { "g" };
                let end = if via == Via::WebSocket { "" } else { "\n" };
                holder
                    .send(format!("{verb} lock {number}{end}").as_bytes())
                    .await;
                if number % 100 == 99 {
                    let last = format!("lock {number}\n");
                    holder.read_until(last.as_bytes()).await;
                }
            }
            let (statistics, _) = other.ask(b"q").await;
            let statistics = String::from_utf8(statistics).unwrap();
            assert!(statistics.contains("\nlocks: 20000\n"), "{statistics}");
            assert!(
                statistics.contains("\nshared_locks: 10000\n"),
                "{statistics}"
            );
            drop(holder);
            loop {
                let (statistics, _) = other.ask(b"q").await;
                let statistics = String::from_utf8(statistics).unwrap();
                if statistics.contains("connections: 1\n") {
                    assert!(
                        statistics.contains("\nlocks: 0\norphans: 20000\n"),
                        "{statistics}"
                    );
                    let shared = "\nshared_locks: 0\nshared_orphans: 10000\n";
                    assert!(statistics.contains(shared), "{statistics}");
                    break;
                }
            }
            server.stop().await;
        })
        .await;
    }
}
