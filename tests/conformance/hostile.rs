//! Hostile clients, which must not disturb others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use glockd::{Limits, Memory, Policy, Server};
use glockd_test_support::within;
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::{sleep, timeout};

use crate::server::{TestServer, Via};

/// Returns random bytes that the parser often accepts as commands.
fn noise(random: &mut TestRng, length: usize) -> Vec<u8> {
    const LIKELY: &[u8] = b"gris dmpqhowa e\n\n\n\r\t\x00\xC2\xA0\xFF";
    let byte = |random: &mut TestRng| match random.next_u32() {
        number if number % 4 == 0 => (number >> 8) as u8,
        number => LIKELY[(number >> 8) as usize % LIKELY.len()],
    };
    (0..length).map(|_| byte(random)).collect()
}

/// Other clients get the same list at once, and the reply to the next command, however many readers are slow. Time is
/// paused, and advances only when all tasks are idle.
#[tokio::test(start_paused = true)]
async fn slow_readers_of_own_do_not_delay_others() {
    const OWNERS: usize = 3000;
    const SLOW: usize = 192;
    let (memory, connector) = Memory::new();
    let server = Server::builder().transport(memory).bind().await.unwrap();
    let running = tokio::spawn(server.run(std::future::pending()));
    let mut owners = Vec::new();
    for number in 1..=OWNERS {
        let mut owner = connector.connect().unwrap();
        let command = format!("iam {}\nsg x\n", "a long name ".repeat(20));
        owner.write_all(command.as_bytes()).await.unwrap();
        let mut answer = vec![0; format!("1 ok\n{number} Shared Lock Get Success: x\n").len()];
        owner.read_exact(&mut answer).await.unwrap();
        owners.push(owner);
    }
    let (slow, others) = owners.split_at_mut(SLOW);
    for reader in &mut *slow {
        reader.write_all(b"own x\n").await.unwrap();
    }
    let patience = Limits::default().write_timeout.unwrap();
    for other in others.iter_mut().take(10) {
        // The slow readers are just fast enough to stay connected.
        sleep(patience * 2 / 3).await;
        for reader in &mut *slow {
            let mut some = [0; 4096];
            reader.read_exact(&mut some).await.unwrap();
        }
        other.write_all(b"own x\ni y\n").await.unwrap();
        let mut lines = BufReader::new(other).lines();
        let answered = timeout(Duration::from_secs(1), async {
            let mut read = Vec::new();
            while read.len() < OWNERS + 2 {
                read.push(lines.next_line().await.unwrap().unwrap());
            }
            read
        });
        let read = answered.await.expect("it has to wait for slow readers");
        assert_eq!(read[0], format!("{OWNERS} Lock Owners: x"));
        assert!(read[1..=OWNERS].iter().all(|line| line.starts_with("s ")));
        assert_eq!(read[OWNERS + 1], "0 Lock Not Locked: y");
    }
    // A client that stops reading is disconnected.
    sleep(patience * 2).await;
    let mut rest = Vec::new();
    slow[0].read_to_end(&mut rest).await.unwrap();
    running.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn flood_of_random_bytes_does_not_disturb_others() {
    within(async {
        let limits = Limits::default().with_max_line(200);
        let mut server = TestServer::start(Policy::default(), limits).await;
        let mut client = server.connect(Via::Unix).await;
        assert_eq!(
            client.ask(b"g a lock that no noise spells").await.0,
            b"1 Lock Get Success: a lock that no noise spells\n"
        );

        let (mut input, mut output) = server.tcp().await.into_split();
        let done = Arc::new(AtomicBool::new(false));
        let flooding = tokio::spawn({
            let done = Arc::clone(&done);
            async move {
                let mut random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
                for _ in 0..200 {
                    output.write_all(&noise(&mut random, 4096)).await.unwrap();
                }
                output.shutdown().await.unwrap();
                done.store(true, Relaxed);
            }
        });
        // The replies to the flood are read, or the flood would stop by itself.
        let reading = tokio::spawn(async move {
            let mut answers = Vec::new();
            input.read_to_end(&mut answers).await.unwrap();
            answers
        });
        let mut rounds = 0;
        while !done.load(Relaxed) || rounds < 100 {
            let name = format!("a lock of round {rounds}");
            let reply = client.ask(format!("g {name}").as_bytes()).await.0;
            assert_eq!(reply, format!("1 Lock Get Success: {name}\n").as_bytes());
            let reply = client.ask(format!("r {name}").as_bytes()).await.0;
            assert_eq!(
                reply,
                format!("1 Lock Release Success: {name}\n").as_bytes()
            );
            rounds += 1;
        }
        flooding.await.unwrap();
        let answers = reading.await.unwrap();
        assert!(answers.ends_with(b"\n"), "an answer was cut");
        assert!(
            answers.len() > 10_000,
            "the noise got nowhere: {}",
            answers.len()
        );
        // All locks that the flood held are free again.
        assert_eq!(
            client.ask(b"d").await.0,
            format!("a lock that no noise spells: {}\n", client.address).as_bytes()
        );
        server.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_that_never_reads_does_not_disturb_others() {
    within(async {
        let mut server = TestServer::default().await;
        let mut holder = server.connect(Via::Memory).await;
        for number in 0..2000 {
            let name = format!("{number:04}{}", "x".repeat(1000));
            holder.ask(format!("g {name}").as_bytes()).await;
        }
        // The client asks for 2 GB, and never reads.
        let mut deaf = server.tcp().await;
        deaf.write_all(&b"d\n".repeat(1000)).await.unwrap();
        let mut client = server.connect(Via::Tcp).await;
        for _ in 0..100 {
            assert_eq!(client.ask(b"g foo").await.0, b"1 Lock Get Success: foo\n");
            assert_eq!(
                client.ask(b"r foo").await.0,
                b"1 Lock Release Success: foo\n"
            );
        }
        drop(deaf);
        server.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listing_of_many_megabytes_arrives_complete() {
    for via in Via::ALL {
        within(async {
            let mut server = TestServer::default().await;
            let (mut holder, mut client) =
                (server.connect(Via::Memory).await, server.connect(via).await);
            let mut expect = Vec::new();
            for number in 0..3000 {
                let name = format!("{number:04}{}", "x".repeat(1000));
                holder.ask(format!("g {name}").as_bytes()).await;
                expect.extend(format!("{name}: {}\n", holder.address).into_bytes());
            }
            // The replies before and after it stay in order.
            assert_eq!(client.ask(b"i x").await.0, b"0 Lock Not Locked: x\n");
            assert!(client.ask(b"d").await.0 == expect, "{via:?}");
            assert_eq!(client.ask(b"i y").await.0, b"0 Lock Not Locked: y\n");
            server.stop().await;
        })
        .await;
    }
}
