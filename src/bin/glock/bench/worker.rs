//! A thread of the load, and its connections.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use glockd::protocol::Command;
use glockd_client::Endpoint;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::batch::{Batch, WAIT_MS, Work};
use super::load::Load;
use super::tally::{Answered, Tally};
use crate::failure::Failure;

/// Pauses, in milliseconds, after which a refused connection is tried again. The server may take its time to see that
/// another connection is closed, above all the one by which glock has asked for its features.
const PAUSES_MS: [u64; 5] = [50, 100, 200, 400, 800];

/// Maximum time for which a server that could answer may be silent.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);

/// Runs the connections of one thread. If they fail, so does the whole load: other threads do not wait for them.
pub(super) fn run(load: &Arc<Load>, connections: Vec<u32>) -> Result<Tally, Failure> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .event_interval(256)
        .build_local(LocalOptions::default())
        .map_err(Failure::of_system);
    let outcome = runtime.and_then(|runtime| {
        runtime.block_on(async {
            tokio::select! {
                outcome = run_all(load, connections) => outcome,
                silent = stalled(load) => Err(Failure::unavailable(format!(
                    "the server has not answered for {silent:?}"
                ))),
            }
        })
    });
    outcome.inspect_err(|_| load.fail())
}

async fn run_all(load: &Arc<Load>, connections: Vec<u32>) -> Result<Tally, Failure> {
    let tally = Rc::new(RefCell::new(Tally::new()?));
    let mut tasks = JoinSet::new();
    for number in connections {
        let (load, tally) = (Arc::clone(load), Rc::clone(&tally));
        tasks.spawn_local(async move { run_one(&load, number, &tally).await });
    }
    while let Some(task) = tasks.join_next().await {
        task.map_err(|error| Failure::of_system(io::Error::other(error)))??;
    }
    // All tasks have ended, so nothing else refers to it.
    Ok(Rc::unwrap_or_clone(tally).into_inner())
}

/// Waits until no connection has been answered for longer than any of them may have to wait. Returns that time.
async fn stalled(load: &Load) -> Duration {
    let limit = match load.plan.work {
        Work::Wait => ANSWERED_WITHIN + Duration::from_millis(WAIT_MS.into()),
        _ => ANSWERED_WITHIN,
    };
    let (mut before, mut since) = (load.done(), Instant::now());
    while since.elapsed() < limit {
        sleep(Duration::from_secs(1)).await;
        let done = load.done();
        if done != before {
            (before, since) = (done, Instant::now());
        }
    }
    limit
}

async fn run_one(load: &Load, number: u32, tally: &RefCell<Tally>) -> Result<(), Failure> {
    match &load.plan.endpoint {
        Endpoint::Tcp { host, port } => {
            let connect = async || {
                let stream = connect_tcp(host, *port).await?;
                stream.set_nodelay(true)?;
                Ok(stream)
            };
            let mut stream = open(load, number, connect).await?;
            let (reader, writer) = stream.split();
            send_batches(load, number, tally, reader, writer).await
        }
        Endpoint::Unix(path) => {
            let connect = async || UnixStream::connect(path).await;
            let mut stream = open(load, number, connect).await?;
            let (reader, writer) = stream.split();
            send_batches(load, number, tally, reader, writer).await
        }
        // Rejected before the load began.
        _ => Err(load.not_connected(io::ErrorKind::Unsupported.into())),
    }
}

/// Connects to a host. As for the client, `localhost` means the loopback addresses, even if a lookup would find only one of
/// them.
async fn connect_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    if !host.eq_ignore_ascii_case("localhost") {
        return TcpStream::connect((host, port)).await;
    }
    let loopback = [
        IpAddr::from(Ipv6Addr::LOCALHOST),
        IpAddr::from(Ipv4Addr::LOCALHOST),
    ];
    TcpStream::connect(&loopback.map(|ip| SocketAddr::new(ip, port))[..]).await
}

/// Opens a connection, and sends one request on it: a server at its maximum number of connections accepts one more, but
/// closes it. [`Load::check_open`] reports refused connections, once all have been tried.
async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    load: &Load,
    number: u32,
    connect: impl AsyncFn() -> io::Result<S>,
) -> Result<S, Failure> {
    let mut request = Vec::new();
    Command::Inspect(load.lock_name(number).as_bytes().into()).encode(&mut request);
    let mut pauses = PAUSES_MS.into_iter();
    loop {
        let mut stream = connect().await.map_err(|error| load.not_connected(error))?;
        if is_answered(&mut stream, &request).await {
            load.connection_is_open();
            return Ok(stream);
        }
        let Some(pause) = pauses.next() else {
            return Ok(stream);
        };
        drop(stream);
        sleep(Duration::from_millis(pause)).await;
    }
}

/// Returns whether the server answers a request.
async fn is_answered(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &[u8]) -> bool {
    let mut reply = Vec::new();
    stream.write_all(request).await.is_ok()
        && BufReader::new(stream)
            .read_until(b'\n', &mut reply)
            .await
            .is_ok()
        && reply.ends_with(b"\n")
}

/// Sends batch after batch, until the load is done.
async fn send_batches(
    load: &Load,
    number: u32,
    tally: &RefCell<Tally>,
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
) -> Result<(), Failure> {
    let mut batch = Batch::new(load.plan.work, &load.lock_name(number), load.plan.pipeline);
    let Some(start) = load.all_ready().await else {
        return Ok(());
    };
    load.check_open()?;
    while !load.has_failed() {
        let commands = load.take_batch();
        if commands == 0 {
            break;
        }
        let sent = Instant::now();
        let exchanged = batch.exchange(commands as usize, &mut reader, &mut writer);
        let is_as_expected = exchanged.await.map_err(|error| {
            Failure::unavailable(format!(
                "the server closed a connection under load: {error}"
            ))
        })?;
        let answered = Instant::now();
        tally.borrow_mut().count(&Answered {
            sent,
            answered,
            commands,
            refused: if is_as_expected { 0 } else { batch.refused()? },
        });
        load.answered(commands);
        if load.plan.time.is_some_and(|time| answered - start >= time) {
            break;
        }
    }
    Ok(())
}
