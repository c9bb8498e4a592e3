//! Peers of which nothing is heard. Time is the test's own: it passes when nobody has anything to do.

use std::io::{self, ErrorKind};
use std::time::Duration;

use glockd_transports::{Input, Limits, Output, Session, WebSocketSession};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufStream, DuplexStream, duplex};
use tokio::time::{Instant, advance, sleep, timeout};

use crate::client::{PING, PONG, TEXT, frame, read_frame, serve};

const HOUR: Duration = Duration::from_secs(3600);

/// More pings than are read from a peer that does not read.
const PINGS: usize = 10_000;

/// Both ends of a WebSocket between which so many bytes fit, each way.
async fn open(limits: Limits, room: usize) -> (DuplexStream, WebSocketSession<DuplexStream>) {
    let (client, server) = duplex(room);
    let session = WebSocketSession::new(server, Vec::new(), limits).await;
    (client, session)
}

/// Receives until the end, which is to be an error, and to come within two days.
async fn fails(mut session: WebSocketSession<DuplexStream>) -> io::Error {
    let failing = async {
        loop {
            let mut frames = Input::new();
            match session.recv(&mut frames).await {
                Ok(0) => panic!("the session ended"),
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    };
    timeout(48 * HOUR, failing).await.expect("the test hangs")
}

#[tokio::test(start_paused = true)]
async fn who_answers_no_ping_is_given_up() {
    let (mut client, session) = open(Limits::default(), 1000).await;
    let start = Instant::now();
    let (error, ()) = tokio::join!(fails(session), async {
        for second in [15, 20, 25] {
            let ping = read_frame(&mut client).await;
            assert_eq!(ping, Some((PING, Vec::new())));
            assert_eq!(start.elapsed(), Duration::from_secs(second));
        }
        assert_eq!(read_frame(&mut client).await, None);
        assert_eq!(start.elapsed(), Duration::from_secs(30));
    });
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn who_answers_pings_stays() {
    let (mut client, session) = open(Limits::default(), 1000).await;
    let answering = async {
        let start = Instant::now();
        let mut pings = 0;
        while start.elapsed() < 24 * HOUR {
            let (first, payload) = read_frame(&mut client).await.unwrap();
            assert_eq!(first, PING);
            pings += 1;
            // Now and then it misses two.
            if pings % 5 > 1 {
                client.write_all(&frame(PONG, &payload)).await.unwrap();
            }
        }
    };
    tokio::select! {
        error = fails(session) => panic!("{error}"),
        () = answering => {}
    }
}

#[tokio::test(start_paused = true)]
async fn who_says_anything_at_all_stays() {
    let (mut client, session) = open(Limits::default(), 1000).await;
    // A message of which a byte comes now and then.
    let talking = async {
        for byte in frame(TEXT, &[b'x'; 100]) {
            sleep(Duration::from_secs(14)).await;
            client.write_all(&[byte]).await.unwrap();
        }
        let quiet = timeout(Duration::from_secs(14), client.read_u8()).await;
        assert!(quiet.is_err(), "it was pinged");
    };
    tokio::select! {
        error = fails(session) => panic!("{error}"),
        () = talking => {}
    }
}

#[tokio::test(start_paused = true)]
async fn without_keepalive_nobody_is_asked() {
    let (mut client, session) = open(Limits::default().with_keepalive(None), 1000).await;
    tokio::select! {
        error = fails(session) => panic!("{error}"),
        quiet = timeout(24 * HOUR, client.read_u8()) => assert!(quiet.is_err()),
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_busy_with_a_reply_is_not_given_up() {
    let limits = Limits::default().with_write_timeout(Some(HOUR));
    let (mut client, mut session) = open(limits, 10).await;
    // It was pinged three times, and about to be given up.
    let mut frames = Input::new();
    let receiving = timeout(Duration::from_secs(29), session.recv(&mut frames));
    assert!(receiving.await.is_err());
    let mut reply = Output::new();
    reply.push(&[b'x'; 100]);
    let (sent, ()) = tokio::join!(session.send(&mut reply), async {
        sleep(HOUR / 2).await;
        for _ in 0..3 {
            assert_eq!(read_frame(&mut client).await.unwrap().0, PING);
        }
        assert_eq!(read_frame(&mut client).await.unwrap().0, TEXT);
    });
    sent.unwrap();
    let receiving = async {
        let start = Instant::now();
        let error = fails(session).await;
        (error, start.elapsed())
    };
    let reading = async { while read_frame(&mut client).await.is_some() {} };
    let ((error, after), ()) = tokio::join!(receiving, reading);
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(after, Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn what_it_sent_meanwhile_is_read_before_it_is_judged() {
    let (mut client, mut session) = open(Limits::default(), 1000).await;
    let mut frames = Input::new();
    let receiving = timeout(Duration::from_secs(29), session.recv(&mut frames));
    assert!(receiving.await.is_err());
    client.write_all(&frame(PONG, b"")).await.unwrap();
    // As if the daemon had been stopped.
    advance(HOUR).await;
    let receiving = timeout(Duration::from_secs(14), session.recv(&mut frames));
    assert!(receiving.await.is_err());
    advance(HOUR).await;
    // It is high time to ask it, and no reason not to wait for its answers.
    let receiving = timeout(Duration::from_secs(14), session.recv(&mut frames));
    assert!(receiving.await.is_err());
}

#[tokio::test(start_paused = true)]
async fn who_takes_no_answer_to_its_pings_is_given_up() {
    for keepalive in [None, Limits::default().keepalive] {
        let limits = Limits::default()
            .with_keepalive(keepalive)
            .with_write_timeout(Some(Duration::from_secs(7)));
        let (mut client, session) = open(limits, 10).await;
        let start = Instant::now();
        let (error, ()) = tokio::join!(fails(session), async {
            // For each there is a pong, of which the first 10 bytes are taken.
            for _ in 0..PINGS {
                if client.write_all(&frame(PING, b"12345678")).await.is_err() {
                    return;
                }
            }
            panic!("it reads on");
        });
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_eq!(start.elapsed(), Duration::from_secs(7), "{keepalive:?}");
    }
}

/// A peer must not fill the memory by pings whose pongs it does not read.
#[tokio::test(start_paused = true)]
async fn pings_are_read_only_while_their_pongs_are_few() {
    // Pings, and messages with pings behind them.
    for message in [None, Some(b"12345678")] {
        let limits = Limits::default().with_write_timeout(None);
        let (mut client, session) = open(limits.with_keepalive(None), 10).await;
        let ping = frame(PING, b"12345678");
        let message = message.map_or(Vec::new(), |message| frame(TEXT, message));
        let mut read = 0;
        let pinging = async {
            for _ in 0..PINGS {
                client.write_all(&message).await.unwrap();
                client.write_all(&ping).await.unwrap();
                read += ping.len();
            }
        };
        let serving = serve(Box::new(session));
        // Time passes only when both can do nothing more.
        let stuck = timeout(HOUR, async { tokio::join!(pinging, serving) });
        assert!(stuck.await.is_err());
        // A kilobyte of pongs, and one of pings to come, and what both ends have begun with.
        assert!((1..4000).contains(&read), "{read} bytes of pings were read");
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_said_all_is_answered_all() {
    let (mut client, session) = open(Limits::default(), 10).await;
    let asking = async {
        for _ in 0..20 {
            client.write_all(&frame(PING, b"")).await.unwrap();
        }
        client.shutdown().await.unwrap();
        // Only now it reads.
        let mut answered = 0;
        while let Some((first, _)) = read_frame(&mut client).await {
            assert_eq!(first, PONG);
            answered += 1;
        }
        assert_eq!(answered, 20);
    };
    tokio::join!(asking, serve(Box::new(session)));
}

#[tokio::test(start_paused = true)]
async fn who_takes_its_answers_slowly_stays() {
    let limits = Limits::default().with_write_timeout(Some(Duration::from_secs(7)));
    let (mut client, session) = open(limits, 10).await;
    let reading = async {
        for _ in 0..100 {
            client.write_all(&frame(PING, b"1")).await.unwrap();
            sleep(Duration::from_secs(6)).await;
            assert_eq!(read_frame(&mut client).await, Some((PONG, b"1".to_vec())));
        }
    };
    tokio::select! {
        error = fails(session) => panic!("{error}"),
        () = reading => {}
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_much_to_read_has_time_for_it() {
    let (mut client, mut session) = open(Limits::default(), 10_000_000).await;
    let mut reply = Output::new();
    reply.push(&[b'x'; 3_000_000]);
    session.send(&mut reply).await.unwrap();
    let reading = async {
        for _ in 0..100 {
            sleep(Duration::from_secs(1)).await;
            client.read_exact(&mut [0; 30_000]).await.unwrap();
        }
        // What is left of it is its head.
        client.read_exact(&mut [0; 10]).await.unwrap();
        for _ in 0..3 {
            assert_eq!(read_frame(&mut client).await, Some((PING, Vec::new())));
        }
        client.write_all(&frame(PONG, b"")).await.unwrap();
        assert_eq!(read_frame(&mut client).await, Some((PING, Vec::new())));
    };
    tokio::select! {
        error = fails(session) => panic!("{error}"),
        () = reading => {}
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_in_a_buffer() {
    let (mut client, server) = duplex(1000);
    let limits = Limits::default();
    let session = WebSocketSession::new(BufStream::new(server), Vec::new(), limits).await;
    let asking = async {
        client.write_all(&frame(PING, b"1")).await.unwrap();
        assert_eq!(read_frame(&mut client).await, Some((PONG, b"1".to_vec())));
        client.write_all(&frame(TEXT, b"2")).await.unwrap();
        assert_eq!(read_frame(&mut client).await, Some((TEXT, b"2".to_vec())));
        assert_eq!(read_frame(&mut client).await, Some((PING, Vec::new())));
        client.shutdown().await.unwrap();
    };
    tokio::join!(asking, serve(Box::new(session)));
}
