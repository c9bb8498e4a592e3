//! Writing to a peer that may not be reading.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::time::timeout;

use crate::frames::Output;

/// Writes the frames of `output` and flushes. `write_timeout` is the maximum time that the peer may take nothing, as
/// in [`Limits::write_timeout`](crate::Limits::write_timeout); every byte that it takes restarts it.
///
/// Cancel-safe: `output` [counts](Output::advance) the written bytes, so that another call writes the rest.
///
/// # Errors
///
/// [`TimedOut`](io::ErrorKind::TimedOut) after that time, and any error of the stream.
pub async fn write_output(
    stream: &mut (impl AsyncWrite + Unpin),
    output: &mut Output,
    write_timeout: Option<Duration>,
) -> io::Result<()> {
    let attempt = |context: &mut Context<'_>| Poll::Ready(poll_write(stream, output, context));
    match poll_fn(attempt).await {
        Poll::Ready(written) => written,
        // Boxed, because most peers take everything at once.
        Poll::Pending => Box::pin(write_on(stream, output, write_timeout)).await,
    }
}

/// Writes what the peer takes now. Ready when everything is written and flushed.
fn poll_write(
    stream: &mut (impl AsyncWrite + Unpin),
    output: &mut Output,
    context: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    loop {
        let unsent = output.unsent();
        if unsent.is_empty() {
            return Pin::new(stream).poll_flush(context);
        }
        match ready!(Pin::new(&mut *stream).poll_write(context, unsent))? {
            0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => output.advance(written),
        }
    }
}

/// Writes to a peer that does not take everything at once. Each progress restarts the time limit.
async fn write_on(
    stream: &mut (impl AsyncWrite + Unpin),
    output: &mut Output,
    write_timeout: Option<Duration>,
) -> io::Result<()> {
    loop {
        let unsent = output.unsent().len();
        let progress = poll_fn(|context| match poll_write(stream, output, context) {
            Poll::Pending if output.unsent().len() < unsent => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
            Poll::Ready(written) => Poll::Ready(Some(written)),
        });
        let written = match write_timeout {
            Some(limit) => timeout(limit, progress).await?,
            None => progress.await,
        };
        if let Some(written) = written {
            return written;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::time::{Instant, sleep};

    use super::*;

    const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

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
                written = write_output(&mut ours, &mut output, Some(WRITE_TIMEOUT)) => break written.unwrap(),
                () = std::future::ready(()) => {}
            }
            theirs.read_buf(&mut received).await.unwrap();
        }
        drop(ours);
        theirs.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"one two three");
    }

    #[tokio::test(start_paused = true)]
    async fn peer_that_takes_nothing_times_out() {
        let (mut ours, _theirs) = tokio::io::duplex(10);
        let start = Instant::now();
        let error = write_output(&mut ours, &mut output(&[b'x'; 11]), Some(WRITE_TIMEOUT)).await;
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed(), WRITE_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn peer_that_takes_a_little_does_not_time_out() {
        let (mut ours, mut theirs) = tokio::io::duplex(10);
        let reader = tokio::spawn(async move {
            for _ in 0..5 {
                sleep(WRITE_TIMEOUT - Duration::from_secs(1)).await;
                theirs.read_exact(&mut [0]).await.unwrap();
            }
            theirs
        });
        write_output(&mut ours, &mut output(&[b'x'; 15]), Some(WRITE_TIMEOUT))
            .await
            .unwrap();
        reader.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn write_without_a_time_limit_waits() {
        let (mut ours, mut theirs) = tokio::io::duplex(10);
        let reader = tokio::spawn(async move {
            sleep(100 * WRITE_TIMEOUT).await;
            theirs.read_exact(&mut [0; 11]).await.unwrap();
            theirs
        });
        write_output(&mut ours, &mut output(&[b'x'; 11]), None)
            .await
            .unwrap();
        reader.await.unwrap();
    }
}
