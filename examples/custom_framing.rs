//! A framing of your own: each frame is four bytes of length, most significant byte first, and that many bytes. It
//! runs over any listener; here over a Unix socket.
//!
//! ```text
//! cargo run --example custom_framing
//! ```

use std::io;

use async_trait::async_trait;
use glockd::transports::{
    ByteStream, Established, Framed, Framing, Input, Limits, Output, OutputFrame, Session,
    write_output,
};
use glockd::{Server, Unix};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

/// Bytes of the length before each frame.
const HEADER: usize = 4;

/// The framing. It needs no handshake, so its sessions are established at once.
struct LengthPrefixed;

impl Framing for LengthPrefixed {
    async fn establish<S: ByteStream>(
        &self,
        stream: S,
        limits: Limits,
    ) -> io::Result<Option<Established>> {
        Ok(Some(Established::new(LengthPrefixedSession {
            stream,
            limits,
            unframed: Vec::new(),
            skipped: 0,
            reply: Vec::new(),
            outgoing: Output::new(),
        })))
    }
}

struct LengthPrefixedSession<S> {
    stream: S,
    limits: Limits,
    /// Received bytes that are not a whole frame yet.
    unframed: Vec<u8>,
    /// Bytes still to arrive of an oversized frame, which are dropped.
    skipped: usize,
    /// Parts of a reply whose end, and so whose length, is not known yet.
    reply: Vec<u8>,
    /// Replies with their lengths, while they are being sent.
    outgoing: Output,
}

#[async_trait]
impl<S: ByteStream> Session for LengthPrefixedSession<S> {
    async fn recv(&mut self, input: &mut Input) -> io::Result<usize> {
        while input.is_empty() {
            // Cancel-safe: what was read is in a field, and whole frames are taken from it without waiting.
            if self.stream.read_buf(&mut self.unframed).await? == 0 {
                return match self.unframed.is_empty() && self.skipped == 0 {
                    true => Ok(0),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
            self.take_frames(input);
        }
        Ok(input.len())
    }

    async fn send(&mut self, output: &mut Output) -> io::Result<()> {
        for frame in output.iter() {
            match frame {
                OutputFrame::Part(part) => self.reply.extend_from_slice(part),
                OutputFrame::Complete(last) => {
                    self.reply.extend_from_slice(last);
                    let bytes = self.outgoing.buffer();
                    bytes.extend((self.reply.len() as u32).to_be_bytes());
                    bytes.append(&mut self.reply);
                    self.outgoing.end();
                }
            }
        }
        // Cancel-safe: what is in `outgoing` is removed from `output`, so that another call does not encode it again.
        output.clear_finished();
        write_output(
            &mut self.stream,
            &mut self.outgoing,
            self.limits.write_timeout,
        )
        .await?;
        self.outgoing.clear();
        Ok(())
    }
}

impl<S> LengthPrefixedSession<S> {
    /// Moves all whole frames into the batch. A frame that is too long is reported as soon as its length is known.
    fn take_frames(&mut self, input: &mut Input) {
        let mut rest = &self.unframed[..];
        loop {
            let skipped = self.skipped.min(rest.len());
            rest = &rest[skipped..];
            self.skipped -= skipped;
            let Some((header, behind)) = rest.split_first_chunk::<HEADER>() else {
                break;
            };
            let length = u32::from_be_bytes(*header) as usize;
            if length > self.limits.max_line {
                input.push_oversized();
                self.skipped = length;
                rest = behind;
            } else if let Some((frame, behind)) = behind.split_at_checked(length) {
                input.push(frame);
                rest = behind;
            } else {
                break;
            }
        }
        let taken = self.unframed.len() - rest.len();
        self.unframed.drain(..taken);
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("socket");
    let server = Server::builder()
        .transport(Framed::new(Unix::path(&socket), LengthPrefixed))
        .limits(Limits::default().with_max_line(100))
        .bind()
        .await?;
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(server.run(async { drop(stopped.await) }));

    let mut client = UnixStream::connect(&socket).await?;
    for command in ["g foo", &"x".repeat(1000), "r foo"] {
        client
            .write_all(&(command.len() as u32).to_be_bytes())
            .await?;
        client.write_all(command.as_bytes()).await?;
        let mut reply = vec![0; client.read_u32().await? as usize];
        client.read_exact(&mut reply).await?;
        print!(
            "{} bytes: {}",
            command.len(),
            String::from_utf8_lossy(&reply)
        );
    }

    drop(stop);
    running.await?;
    println!("stopped");
    Ok(())
}
