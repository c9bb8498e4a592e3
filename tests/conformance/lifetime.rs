//! The beginning and end of connections and servers, and their independence of each other.

use glockd::{Memory, Policy, Server};
use glockd_test_support::within;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use crate::script;
use crate::server::{TestServer, Via};

#[tokio::test(flavor = "multi_thread")]
async fn half_closed_client_is_answered_and_then_closed() {
    for via in Via::STREAMS {
        within(async {
            let mut server = TestServer::default().await;
            let client = server.connect(via).await;
            let answers = client.finish(&[b"g foo\ng bar\n"]).await;
            assert_eq!(
                answers,
                b"1 Lock Get Success: foo\n1 Lock Get Success: bar\n"
            );
            let mut other = server.connect(via).await;
            assert_eq!(other.ask(b"g foo").await.0, b"1 Lock Get Success: foo\n");
            server.stop().await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn end_of_the_server_closes_every_connection() {
    within(async {
        let mut server = TestServer::default().await;
        let mut clients = Vec::new();
        for via in Via::ALL {
            let mut client = server.connect(via).await;
            assert_eq!(
                client.ask(b"sg foo").await.0,
                format!("{} Shared Lock Get Success: foo\n", clients.len() + 1).as_bytes()
            );
            clients.push(client);
        }
        let ending = tokio::spawn(server.stop());
        for mut client in clients {
            assert_eq!(client.expect_end().await, b"");
        }
        ending.await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_server_closes_every_connection() {
    within(async {
        let (memory, connector) = Memory::new();
        let server = Server::builder().transport(memory).bind().await.unwrap();
        let running = tokio::spawn(server.run(std::future::pending()));
        let mut client = connector.connect().unwrap();
        client.write_all(b"g foo\n").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'1');
        running.abort();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b" Lock Get Success: foo\n");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_do_not_share_locks() {
    within(async {
        let (mut one, mut two) = (TestServer::default().await, TestServer::default().await);
        for server in [&mut one, &mut two] {
            let mut client = server.connect(Via::Memory).await;
            assert_eq!(client.ask(b"g foo").await.0, b"1 Lock Get Success: foo\n");
            let statistics = String::from_utf8(client.ask(b"q").await.0).unwrap();
            assert!(statistics.contains("command_g: 1\n"), "{statistics}");
            assert!(statistics.contains("connections: 1\n"), "{statistics}");
        }
        one.stop().await;
        two.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_over_all_transports_contend_for_one_lock() {
    within(async {
        let mut server = TestServer::default().await;
        let mut clients = Vec::new();
        for via in Via::ALL {
            clients.push(server.connect(via).await);
        }
        let mut clients = clients.into_iter();
        let mut holder = clients.next().unwrap();
        assert_eq!(holder.ask(b"g foo").await.0, b"1 Lock Get Success: foo\n");
        for mut client in clients {
            assert_eq!(client.ask(b"g foo").await.0, b"0 Lock Get Failure: foo\n");
            assert_eq!(
                client.ask(b"r foo").await.0,
                b"0 Lock Release Failure: foo\n"
            );
        }
        server.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_address_do_not_share_locks() {
    script::check(
        "lifetime__connections_of_one_address_do_not_share_locks",
        Policy::default(),
        "
        A: iam twin
        B: iam twin
        A: g foo
        B: r foo
        B: g foo
        B: who twin
        - A
        B: g foo
        B: d
        ",
    )
    .await;
}

/// Connections end one after the other, and there are many between the holder and its waiter. (A test in
/// `src/server/context.rs` checks that the end of a server closes the table first.)
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn end_of_the_server_grants_no_lock_to_waiters() {
    const PAIRS: usize = 100;
    const IDLE: usize = 4000;
    within(async {
        let (memory, connector) = Memory::new();
        let server = Server::builder().transport(memory).bind().await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(server.run(async { drop(stopped.await) }));
        let ask = async |line: String, expect: String| {
            let mut client = connector.connect().unwrap();
            client.write_all(line.as_bytes()).await.unwrap();
            let mut answer = vec![0; expect.len()];
            client.read_exact(&mut answer).await.unwrap();
            assert_eq!(String::from_utf8(answer).unwrap(), expect);
            client
        };
        let (mut others, mut waiters) = (Vec::new(), Vec::new());
        for pair in 0..PAIRS {
            let granted = format!("1 Lock Get Success: {pair}\n");
            others.push(ask(format!("g {pair}\n"), granted).await);
        }
        for _ in 0..IDLE {
            others.push(ask("ping\n".to_owned(), "1 pong: \n".to_owned()).await);
        }
        for pair in 0..PAIRS {
            let wait = format!("gw 3600000 {pair}\nping\n");
            waiters.push(ask(wait, "1 pong: \n".to_owned()).await);
        }
        drop(stop);
        for mut waiter in waiters {
            let mut rest = String::new();
            waiter.read_to_string(&mut rest).await.unwrap();
            assert_eq!(rest, "");
        }
        running.await.unwrap();
    })
    .await;
}
