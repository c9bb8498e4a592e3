//! Peers that mean no good: the others must not notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use glockd::{Limits, Memory, Policy, Server};
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{sleep, timeout};

use crate::server::{TestServer, Via, bounded};

/// Bytes of a kind that gets beyond the parser often.
fn noise(random: &mut TestRng, length: usize) -> Vec<u8> {
    const LIKELY: &[u8] = b"gris dmpqhowa e\n\n\n\r\t\x00\xC2\xA0\xFF";
    let byte = |random: &mut TestRng| match random.next_u32() {
        number if number % 4 == 0 => (number >> 8) as u8,
        number => LIKELY[(number >> 8) as usize % LIKELY.len()],
    };
    (0..length).map(|_| byte(random)).collect()
}

/// What `own` keeps for a reader is as much as there are owners, so there is a limit to how many may be under way
/// at a time. Time is paused, and goes on only when nobody has anything to do.
#[tokio::test(start_paused = true)]
async fn lists_of_owners_that_nobody_reads_are_few_at_a_time() {
    const OWNERS: usize = 3000;
    const AT_A_TIME: usize = 64;
    let (memory, connector) = Memory::new();
    let server = Server::builder().transport(memory).bind().await.unwrap();
    let running = tokio::spawn(server.run(std::future::pending()));
    let mut owners = Vec::new();
    for number in 1..=OWNERS {
        let mut owner = connector.connect().unwrap();
        owner.write_all(b"sg x\n").await.unwrap();
        let mut answer = vec![0; format!("{number} Shared Lock Get Success: x\n").len()];
        owner.read_exact(&mut answer).await.unwrap();
        owners.push(owner);
    }
    // More than a pipe takes.
    for owner in &mut owners[..AT_A_TIME] {
        owner.write_all(b"own x\n").await.unwrap();
    }
    sleep(Duration::from_secs(1)).await;
    let (late, others) = owners.split_last_mut().unwrap();
    late.write_all(b"i y\nown x\n").await.unwrap();
    let mut answer = vec![0; "0 Lock Not Locked: y\n".len()];
    late.read_exact(&mut answer).await.unwrap();
    let answered = timeout(Duration::from_secs(1), late.read_u8()).await;
    assert!(answered.is_err(), "one more was listed");
    // Others are answered meanwhile, about fewer owners too.
    let expect = "1 Lock Get Success: y\n1 Lock Owners: y\n";
    let mut answer = vec![0; expect.len()];
    others[AT_A_TIME].write_all(b"g y\nown y\n").await.unwrap();
    others[AT_A_TIME].read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, expect.as_bytes());
    // One reads, and makes room for the late one, who reads nothing either: that ends it, as it ends the others,
    // but it does not end who had to wait for them.
    let whole = async |client: &mut DuplexStream| {
        let mut read = String::new();
        loop {
            if let Some((owners, lines)) = read.split_once(" Lock Owners: x\n")
                && lines.lines().count() == owners.parse::<usize>().unwrap()
                && lines.ends_with('\n')
            {
                return lines.lines().count();
            }
            let mut more = [0; 4096];
            let length = client.read(&mut more).await.unwrap();
            assert!(length > 0, "it was ended");
            read += str::from_utf8(&more[..length]).unwrap();
        }
    };
    assert_eq!(whole(&mut others[0]).await, OWNERS);
    others[0].write_all(b"own x\n").await.unwrap();
    sleep(Limits::default().write_timeout.unwrap() * 3 / 2).await;
    assert!(whole(&mut others[0]).await < OWNERS);
    let mut cut = Vec::new();
    late.read_to_end(&mut cut).await.unwrap();
    assert!(cut.starts_with(format!("{OWNERS} Lock Owners: x\n").as_bytes()));
    running.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_noise_does_not_disturb_others() {
    bounded(async {
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
        // The flood is answered, and read, or it would stop by itself.
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
        // All that the noise held is free again.
        assert_eq!(
            client.ask(b"d").await.0,
            format!("a lock that no noise spells: {}\n", client.address).as_bytes()
        );
        server.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_never_reads_does_not_disturb_others() {
    bounded(async {
        let mut server = TestServer::default().await;
        let mut holder = server.connect(Via::Memory).await;
        for number in 0..2000 {
            let name = format!("{number:04}{}", "x".repeat(1000));
            holder.ask(format!("g {name}").as_bytes()).await;
        }
        // Asks for 2 GB, and never reads.
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
async fn a_listing_of_many_megabytes_arrives_whole() {
    for via in Via::ALL {
        bounded(async {
            let mut server = TestServer::default().await;
            let (mut holder, mut client) =
                (server.connect(Via::Memory).await, server.connect(via).await);
            let mut expect = Vec::new();
            for number in 0..3000 {
                let name = format!("{number:04}{}", "x".repeat(1000));
                holder.ask(format!("g {name}").as_bytes()).await;
                expect.extend(format!("{name}: {}\n", holder.address).into_bytes());
            }
            // What was answered before and after it stays in order.
            assert_eq!(client.ask(b"i x").await.0, b"0 Lock Not Locked: x\n");
            assert!(client.ask(b"d").await.0 == expect, "{via:?}");
            assert_eq!(client.ask(b"i y").await.0, b"0 Lock Not Locked: y\n");
            server.stop().await;
        })
        .await;
    }
}
