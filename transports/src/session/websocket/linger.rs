//! Closing a connection so that its last output arrives.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, sink};

/// Maximum number of bytes that are read and dropped while the peer has not closed its side.
const MAX_DROPPED: u64 = 1024 * 1024;

/// Ends the output and waits until the peer closes too. Closing a socket with unread input would reset the
/// connection, and a reset destroys output that the peer has not read yet.
pub(super) async fn close(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    stream.shutdown().await?;
    copy(&mut stream.take(MAX_DROPPED), &mut sink()).await?;
    Ok(())
}
