//! Silent peers. Time is simulated: it passes when no task has anything to do.

use std::io::{self, ErrorKind};
use std::time::Duration;

use glockd_transports::{Input, Limits, Output, Session, WebSocketSession};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufStream, DuplexStream, duplex};
use tokio::time::{Instant, advance, sleep, timeout};

use crate::client::{PING, PONG, TEXT, frame, read_frame, serve};

const HOUR: Duration = Duration::from_secs(3600);

/// More pings than a session reads from a peer that does not read.
const PINGS: usize = 10_000;

/// Returns both ends of a WebSocket whose stream holds `room` bytes in each direction.
async fn open(limits: Limits, room: usize) -> (DuplexStream, WebSocketSession<DuplexStream>) {
    let (client, server) = duplex(room);
    let session = WebSocketSession::new(server, Vec::new(), limits).await;
    (client, session)
}

/// Receives until the session fails, which must happen within two days. Returns the error.
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
async fn peer_that_answers_no_ping_times_out() {
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
async fn peer_that_answers_pings_stays_connected() {
    let (mut client, session) = open(Limits::default(), 1000).await;
    let answering = async {
        let start = Instant::now();
        let mut pings = 0;
        while start.elapsed() < 24 * HOUR {
            let (first, payload) = read_frame(&mut client).await.unwrap();
            assert_eq!(first, PING);
            pings += 1;
            // It answers only some of them, but never misses three in a row.
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
async fn peer_that_sends_any_bytes_is_not_pinged() {
    let (mut client, session) = open(Limits::default(), 1000).await;
    // A message that arrives byte by byte.
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
async fn peer_is_not_pinged_without_keepalive() {
    let (mut client, session) = open(Limits::default().with_keepalive(None), 1000).await;
    tokio::select! {
        error = fails(session) => panic!("{error}"),
        quiet = timeout(24 * HOUR, client.read_u8()) => assert!(quiet.is_err()),
    }
}

#[tokio::test(start_paused = true)]
async fn peer_that_reads_a_reply_late_stays_connected() {
    let limits = Limits::default().with_write_timeout(Some(HOUR));
    let (mut client, mut session) = open(limits, 10).await;
    // It was pinged three times, and was about to time out.
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
async fn input_is_read_before_a_peer_times_out() {
    let (mut client, mut session) = open(Limits::default(), 1000).await;
    let mut frames = Input::new();
    let receiving = timeout(Duration::from_secs(29), session.recv(&mut frames));
    assert!(receiving.await.is_err());
    client.write_all(&frame(PONG, b"")).await.unwrap();
    // As if the process had been stopped.
    advance(HOUR).await;
    let receiving = timeout(Duration::from_secs(14), session.recv(&mut frames));
    assert!(receiving.await.is_err());
    advance(HOUR).await;
    // The ping is overdue, and the session still waits for its answer.
    let receiving = timeout(Duration::from_secs(14), session.recv(&mut frames));
    assert!(receiving.await.is_err());
}

#[tokio::test(start_paused = true)]
async fn peer_that_takes_no_pong_times_out() {
    for keepalive in [None, Limits::default().keepalive] {
        let limits = Limits::default()
            .with_keepalive(keepalive)
            .with_write_timeout(Some(Duration::from_secs(7)));
        let (mut client, session) = open(limits, 10).await;
        let start = Instant::now();
        let (error, ()) = tokio::join!(fails(session), async {
            // Each gets a pong. The stream holds 10 bytes of them.
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

/// A peer must not fill the memory with pongs that it does not read.
#[tokio::test(start_paused = true)]
async fn pings_are_read_only_while_few_pongs_wait() {
    // Pings alone, and messages with pings behind them.
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
        // Time passes only when neither side can continue.
        let stuck = timeout(HOUR, async { tokio::join!(pinging, serving) });
        assert!(stuck.await.is_err());
        // A kilobyte of pongs, a kilobyte of pings that are read next, and what fits into the stream.
        assert!((1..4000).contains(&read), "{read} bytes of pings were read");
    }
}

#[tokio::test(start_paused = true)]
async fn pings_before_the_end_of_input_are_all_answered() {
    let (mut client, session) = open(Limits::default(), 10).await;
    let asking = async {
        for _ in 0..20 {
            client.write_all(&frame(PING, b"")).await.unwrap();
        }
        client.shutdown().await.unwrap();
        // The client starts to read only now.
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
async fn peer_that_reads_pongs_slowly_stays_connected() {
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
async fn peer_with_much_to_read_gets_more_time() {
    let (mut client, mut session) = open(Limits::default(), 10_000_000).await;
    let mut reply = Output::new();
    reply.push(&[b'x'; 3_000_000]);
    session.send(&mut reply).await.unwrap();
    let reading = async {
        for _ in 0..100 {
            sleep(Duration::from_secs(1)).await;
            client.read_exact(&mut [0; 30_000]).await.unwrap();
        }
        // The rest of the frame: its header has 10 bytes.
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
async fn every_write_is_flushed() {
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
