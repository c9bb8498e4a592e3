//! Writing to a peer that may not read.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::time::timeout;

use crate::frames::Output;

/// Writes the frames of `output`, and flushes. Fails with [`TimedOut`](io::ErrorKind::TimedOut) if the peer takes
/// nothing for as long as `patience`; every byte that it takes starts that anew.
///
/// Cancel-safe: what was written is [noted](Output::advance) in `output`, so that another call writes the rest.
pub async fn write_output(
    stream: &mut (impl AsyncWrite + Unpin),
    output: &mut Output,
    patience: Option<Duration>,
) -> io::Result<()> {
    while !output.unsent().is_empty() {
        let bytes = output.unsent();
        let attempt = |context: &mut Context<'_>| {
            Poll::Ready(Pin::new(&mut *stream).poll_write(context, bytes))
        };
        let written = match poll_fn(attempt).await {
            Poll::Ready(written) => written?,
            // Boxed, because mostly the peer takes all at once.
            Poll::Pending => Box::pin(write(stream, bytes, patience)).await?,
        };
        match written {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => output.advance(written),
        }
    }
    let attempt =
        |context: &mut Context<'_>| Poll::Ready(Pin::new(&mut *stream).poll_flush(context));
    match poll_fn(attempt).await {
        Poll::Ready(flushed) => flushed,
        Poll::Pending => Box::pin(flush(stream, patience)).await,
    }
}

/// Waits until what was written has gone out.
async fn flush(
    stream: &mut (impl AsyncWrite + Unpin),
    patience: Option<Duration>,
) -> io::Result<()> {
    within(
        patience,
        poll_fn(|context| Pin::new(&mut *stream).poll_flush(context)),
    )
    .await
}

/// Writes what the peer takes, once it does.
async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    patience: Option<Duration>,
) -> io::Result<usize> {
    within(
        patience,
        poll_fn(|context| Pin::new(&mut *stream).poll_write(context, bytes)),
    )
    .await
}

async fn within<T>(
    patience: Option<Duration>,
    attempt: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    match patience {
        Some(patience) => timeout(patience, attempt).await?,
        None => attempt.await,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::time::{Instant, sleep};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn output(bytes: &[u8]) -> Output {
        let mut output = Output::new();
        output.push(bytes);
        output
    }

    #[tokio::test]
    async fn dropped_write_is_continued_where_it_stopped() {
        let (mut ours, mut theirs) = tokio::io::duplex(3);
        let mut output = output(b"one two three");
        let mut received = Vec::new();
        loop {
            tokio::select! {
                biased;
                written = write_output(&mut ours, &mut output, Some(PATIENCE)) => break written.unwrap(),
                () = std::future::ready(()) => {}
            }
            theirs.read_buf(&mut received).await.unwrap();
        }
        drop(ours);
        theirs.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"one two three");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_given_up() {
        let (mut ours, _theirs) = tokio::io::duplex(10);
        let start = Instant::now();
        let error = write_output(&mut ours, &mut output(&[b'x'; 11]), Some(PATIENCE)).await;
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_little_is_not() {
        let (mut ours, mut theirs) = tokio::io::duplex(10);
        let reader = tokio::spawn(async move {
            for _ in 0..5 {
                sleep(PATIENCE - Duration::from_secs(1)).await;
                theirs.read_exact(&mut [0]).await.unwrap();
            }
            theirs
        });
        write_output(&mut ours, &mut output(&[b'x'; 15]), Some(PATIENCE))
            .await
            .unwrap();
        reader.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_it_waits() {
        let (mut ours, mut theirs) = tokio::io::duplex(10);
        let reader = tokio::spawn(async move {
            sleep(100 * PATIENCE).await;
            theirs.read_exact(&mut [0; 11]).await.unwrap();
            theirs
        });
        write_output(&mut ours, &mut output(&[b'x'; 11]), None)
            .await
            .unwrap();
        reader.await.unwrap();
    }
}
