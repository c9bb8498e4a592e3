//! Connections that are parked: the future that runs one is dropped at every await, and a new one goes on.
//!
//! Each session is played twice, with and without that, and its bytes arrive in pieces of several sizes. Whatever is
//! lost, repeated or put in another order shows in the bytes that the peer receives.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context as TaskContext, Poll, Wake, Waker};

use glockd_protocol::parse;
use glockd_transports::{LineSession, WebSocketSession};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::advance;

use super::*;
use crate::core::locks::Disconnection;

/// Maximum length of a line in these sessions.
const MAX_LINE: usize = 100;

/// Locks whose listing is longer than a chunk of output.
const MANY: usize = 1500;

/// Sizes of the pieces in which the bytes of the peer arrive.
const PIECES: [usize; 3] = [1, 7, usize::MAX];

/// Numbers of bytes that the peer takes at a time, by turns.
const TAKES: [usize; 5] = [1, 3, 40, 500, 20_000];

/// One event of a session.
#[derive(Clone, Debug)]
enum Event {
    /// The peer sends a line.
    Line(String),
    /// The peer sends these bytes as they are.
    Bytes(Vec<u8>),
    /// Another client runs a command.
    Other(String),
    /// Time passes.
    Milliseconds(u64),
}

use Event::Milliseconds;

fn line(line: &str) -> Event {
    Event::Line(line.to_owned())
}

fn other(command: &str) -> Event {
    Event::Other(command.to_owned())
}

/// The framing of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Lines,
    WebSocket,
}

/// The server's end of a slow byte stream: it takes few bytes at a time, and every write and flush has to wait.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<WireState>>);

#[derive(Default)]
struct WireState {
    /// Bytes that have arrived and were not read.
    arrived: VecDeque<u8>,
    /// True once the peer sends nothing more.
    is_closed: bool,
    /// Bytes that the peer has received.
    received: Vec<u8>,
    calls: usize,
}

impl WireState {
    /// Returns true every third time. A write tries twice before it waits, so it always has to wait.
    fn is_ready(&mut self, context: &TaskContext<'_>) -> bool {
        self.calls += 1;
        let is_ready = self.calls.is_multiple_of(3);
        if !is_ready {
            context.waker().wake_by_ref();
        }
        is_ready
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        let count = state.arrived.len().min(buffer.remaining());
        if count == 0 && !state.is_closed {
            // Whoever lets bytes arrive polls the connection.
            return Poll::Pending;
        }
        let bytes: Vec<u8> = state.arrived.drain(..count).collect();
        buffer.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock();
        if !state.is_ready(context) {
            return Poll::Pending;
        }
        let count = bytes.len().min(TAKES[state.calls / 3 % TAKES.len()]);
        state.received.extend(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        match self.0.lock().is_ready(context) {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

/// What happens to the future that runs a connection when it has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WhenPending {
    /// It is kept.
    Keep,
    /// It is dropped, and a new one goes on.
    Park,
}

/// Result of a session.
#[derive(PartialEq, Eq)]
struct Played {
    /// Bytes that the peer has received.
    received: Vec<u8>,
    /// True if the connection ended before the peer had sent everything.
    ended_early: bool,
}

/// Plays a session: the events, then the end of the peer's input. The bytes of the peer arrive in pieces of this size.
async fn play(kind: Kind, events: &[Event], piece: usize, when_pending: WhenPending) -> Played {
    let dispatcher = Arc::new(Dispatcher::default());
    let (sender, _ended) = mpsc::unbounded_channel();
    let limits = Limits::default().with_max_line(MAX_LINE);
    let context = Arc::new(Context::new(
        Arc::clone(&dispatcher),
        limits,
        Capacity::default(),
        sender,
    ));
    let (peer, wire) = (Peer::new("peer"), Wire::default());
    let session: Box<dyn Session> = match kind {
        Kind::Lines => Box::new(LineSession::new(wire.clone(), limits).refuse_http()),
        Kind::WebSocket => Box::new(WebSocketSession::new(wire.clone(), Vec::new(), limits).await),
    };
    let permit = context.admit(&peer).unwrap();
    let mut connection = Connection::new(&peer, Admitted::new(session, permit), context, |_| {});
    let mut run = Run {
        wire,
        client: dispatcher.connect(b"other"),
        dispatcher: Arc::clone(&dispatcher),
        waits: 0,
        pieces: 0,
    };
    let ended_early = match when_pending {
        WhenPending::Keep => {
            let mut future = pin!(connection.run());
            let poll = |context: &mut TaskContext<'_>| future.as_mut().poll(context);
            run.play(kind, events, piece, poll).await
        }
        WhenPending::Park => {
            let poll = |context: &mut TaskContext<'_>| pin!(connection.run()).poll(context);
            run.play(kind, events, piece, poll).await
        }
    };
    assert!(
        run.waits + 1 >= run.pieces,
        "it did not have to wait for each piece"
    );
    drop(connection);
    // Only the other client has locks now, and nobody waits.
    let mut disconnection = Disconnection::new(run.client);
    while !dispatcher.disconnect(&mut disconnection, usize::MAX) {}
    for lock in [LockKind::Exclusive, LockKind::Shared] {
        assert_eq!(dispatcher.locks().count(lock), 0, "a lock was left");
    }
    Played {
        received: match kind {
            Kind::Lines => run.wire.0.lock().received.clone(),
            Kind::WebSocket => joined(&run.wire.0.lock().received),
        },
        ended_early,
    }
}

/// A session while it is played.
struct Run {
    wire: Wire,
    /// The other client.
    client: ClientId,
    dispatcher: Arc<Dispatcher>,
    /// Number of polls that were not the last.
    waits: usize,
    /// Number of pieces that have arrived.
    pieces: usize,
}

impl Run {
    /// Returns true if the connection ended early. `poll` polls the connection.
    async fn play(
        &mut self,
        kind: Kind,
        events: &[Event],
        piece: usize,
        mut poll: impl FnMut(&mut TaskContext<'_>) -> Poll<io::Result<()>>,
    ) -> bool {
        for event in events {
            match event {
                Event::Line(line) => {
                    let bytes = match kind {
                        Kind::Lines => [line.as_bytes(), b"\n"].concat(),
                        Kind::WebSocket => message(TEXT, line.as_bytes()),
                    };
                    if self.receive(&bytes, piece, &mut poll).await {
                        return true;
                    }
                }
                Event::Bytes(bytes) => {
                    if self.receive(bytes, piece, &mut poll).await {
                        return true;
                    }
                }
                Event::Other(command) => {
                    let command = parse(command.as_bytes()).unwrap();
                    drop(self.dispatcher.dispatch(self.client, &command));
                }
                Event::Milliseconds(time) => advance(Duration::from_millis(*time)).await,
            }
            if self.settle(&mut poll).await {
                return true;
            }
        }
        self.wire.0.lock().is_closed = true;
        assert!(self.settle(&mut poll).await, "the connection has not ended");
        false
    }

    /// Lets bytes of the peer arrive. Returns true if the connection has ended.
    async fn receive(
        &mut self,
        bytes: &[u8],
        piece: usize,
        mut poll: impl FnMut(&mut TaskContext<'_>) -> Poll<io::Result<()>>,
    ) -> bool {
        for piece in bytes.chunks(piece.min(bytes.len())) {
            self.wire.0.lock().arrived.extend(piece);
            self.pieces += 1;
            if self.settle(&mut poll).await {
                return true;
            }
        }
        false
    }

    /// Polls the connection until it only waits for events. Returns true if it has ended.
    async fn settle(
        &mut self,
        mut poll: impl FnMut(&mut TaskContext<'_>) -> Poll<io::Result<()>>,
    ) -> bool {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        loop {
            if let Poll::Ready(ended) = poll(&mut TaskContext::from_waker(&waker)) {
                ended.unwrap();
                return true;
            }
            self.waits += 1;
            // Meanwhile, the runtime wakes what has yielded.
            yield_now().await;
            if !woken.0.swap(false, SeqCst) {
                return false;
            }
        }
    }
}

/// First byte of a WebSocket frame that is a whole text message.
const TEXT: u8 = 0x81;

/// First byte of a ping.
const PING: u8 = 0x89;

/// Returns a WebSocket frame of a client, with a mask of zeros.
fn message(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match u8::try_from(payload.len()) {
        Ok(length @ ..=125) => bytes.push(0x80 | length),
        _ => {
            bytes.push(0x80 | 126);
            bytes.extend((payload.len() as u16).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

/// Joins the parts of messages that a server has sent: where a listing is cut depends on the keys of its lock table.
/// Each message keeps its first byte.
fn joined(mut bytes: &[u8]) -> Vec<u8> {
    const FIN: u8 = 0x80;
    let (mut joined, mut message) = (Vec::new(), Vec::new());
    while let [first, length, rest @ ..] = bytes {
        let (header, length) = match length {
            126 => (2, u64::from_be_bytes([0, 0, 0, 0, 0, 0, rest[0], rest[1]])),
            127 => (8, u64::from_be_bytes(rest[..8].try_into().unwrap())),
            length => (0, u64::from(*length)),
        };
        let (payload, rest) = rest[header..].split_at(length as usize);
        bytes = rest;
        if first & 0x0f >= 8 {
            joined.push(*first);
            joined.extend(payload);
            continue;
        }
        if message.is_empty() {
            message.push(*first);
        }
        message.extend(payload);
        if first & FIN != 0 {
            joined.append(&mut message);
        }
    }
    joined
}

/// Plays a session in all ways. Checks that the peer always receives the same bytes, and returns them.
async fn play_all(kind: Kind, events: &[Event]) -> String {
    let expected = play(kind, events, usize::MAX, WhenPending::Keep).await;
    for piece in PIECES {
        for when_pending in [WhenPending::Keep, WhenPending::Park] {
            let played = play(kind, events, piece, when_pending).await;
            let how = format!("{when_pending:?}, in pieces of {piece} bytes");
            check_same(&played.received, &expected.received, &how);
            assert_eq!(played.ended_early, expected.ended_early, "{how}");
        }
    }
    String::from_utf8_lossy(&expected.received).into_owned()
}

#[track_caller]
fn check_same(bytes: &[u8], expected: &[u8], how: &str) {
    if bytes != expected {
        let pairs = bytes.iter().zip(expected);
        let same = pairs
            .take_while(|(byte, expected)| byte == expected)
            .count();
        let show = |bytes: &[u8]| {
            let shown = &bytes[same.saturating_sub(40)..bytes.len().min(same + 80)];
            shown.escape_ascii().to_string()
        };
        panic!(
            "{how}: differs at byte {same}:\n{}\nexpected\n{}",
            show(bytes),
            show(expected)
        );
    }
}

/// Events that suit both framings: commands, waits of all outcomes, frames behind a wait, and long listings.
fn common_events() -> Vec<Event> {
    let mut events: Vec<Event> = (0..MANY)
        .map(|number| other(&format!("g a lock with a long name, number {number:05}")))
        .collect();
    events.extend(["g w", "g x", "g y", "g z"].map(other));
    events.extend(["i a", "g a", "r a", "r a", "sg s", "nonsense", ""].map(line));
    // A wait that is cancelled, with a ping before that and a command behind it.
    events.extend(["gw 60000 w", "ping one", "i behind", "cancel w"].map(line));
    // A wait that succeeds, with a long listing behind it.
    events.extend(["gw 60000 w", "ping two", "d", "iam somebody", "me"].map(line));
    events.extend([other("r w"), line("r w")]);
    // A wait that times out.
    events.extend([
        line("iw 50 x"),
        Milliseconds(49),
        line("ping three"),
        Milliseconds(2),
        line("ping after the timeout"),
    ]);
    // Waits behind a wait, one of which is cancelled before it begins.
    events.extend(
        [
            "gw 60000 x",
            "gw 60000 y",
            "sgw 60000 z",
            "cancel y",
            "ping four",
        ]
        .map(line),
    );
    events.extend([
        other("r x"),
        line("ping five"),
        other("r z"),
        line("g other"),
    ]);
    // Not `ld`: it tells how a listing is cut, which depends on the keys of its lock table.
    events.extend(["d", "sd", "who", "hello", "q"].map(line));
    events
}

#[tokio::test(start_paused = true)]
async fn parked_line_session_replies_as_an_unparked_one() {
    let mut events = common_events();
    let oversized = "x".repeat(MAX_LINE + 50);
    let lines = [
        "i a\r\ng b\n\nr b\r\n",
        &format!("{oversized}\ni a\n"),
        // The same during a wait.
        &format!("gw 60000 y\n{oversized}\nping\ni y\ncancel y\n"),
        // More frames behind a wait than there is room for.
        &format!("gw 60000 y\n{}", "i many\n".repeat(12_000)),
    ];
    events.extend(lines.map(|lines| Event::Bytes(lines.as_bytes().to_vec())));
    // The input ends during a wait, with a line without an end behind it.
    events.push(Event::Bytes(b"gw 60000 y\ni behind\nping\ni last".to_vec()));
    let received = play_all(Kind::Lines, &events).await;
    for reply in [
        "0 Lock Not Locked: a\n",
        "1 pong: three\n0 Lock Is Locked: x\n1 pong: after the timeout\n",
        "0 Line Too Long: limit 100\n",
        "0 Lock Not Locked: last\n",
    ] {
        assert!(received.contains(reply), "no {reply:?}");
    }
    assert!(received.len() > 2 * CHUNK);
}

#[tokio::test(start_paused = true)]
async fn parked_session_ends_at_a_line_of_http() {
    let get = "GET / HTTP/1.1\r\nHost: x\r\n\r\ng never\n";
    let oversized = format!("GET /{} HTTP/1.1\r\ng never\n", "x".repeat(MAX_LINE));
    for http in [get, &oversized] {
        for before in ["g a\n", "g a\ngw 60000 w\ni behind\n"] {
            let events = [
                other("g w"),
                Event::Bytes([before.as_bytes(), http.as_bytes()].concat()),
                line("g never"),
            ];
            let received = play_all(Kind::Lines, &events).await;
            assert!(received.starts_with("1 Lock Get Success: a\n"));
            assert!(!received.contains("never"), "{received}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn parked_websocket_session_replies_as_an_unparked_one() {
    let mut events = common_events();
    // Pings behind messages, one of which waits: their pongs keep their places.
    let pinged = [
        message(TEXT, b"i a"),
        message(TEXT, b"i b"),
        message(PING, b"1"),
        message(TEXT, b"gw 60000 y"),
        message(PING, b"2"),
        message(TEXT, b"ping"),
    ];
    events.push(Event::Bytes(pinged.concat()));
    events.extend([other("r y"), line("d")]);
    let received = play_all(Kind::WebSocket, &events).await;
    assert!(received.contains("1 pong: three\n"));
    assert!(received.len() > 2 * CHUNK);
}
