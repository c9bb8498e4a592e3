//! A listener of your own: each connection is a child process, and the locks that its standard output asks for are
//! its own until it exits.
//!
//! The listener yields byte streams. Alone it is a transport of lines, the protocol that a shell script speaks best;
//! `Framed::new(children, …)` would speak another framing. For a framing of your own see `custom_framing.rs`.
//!
//! ```text
//! cargo run --example custom_transport
//! ```

use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};

use glockd::transports::{Accepted, Address, ByteStream, Limits, Listen, Listener, Peer};
use glockd::{BindError, Memory, Server};
use tokio::io::{
    AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, DuplexStream, ReadBuf,
};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;

/// Runs shell scripts. Each is a connection: `child:1`, `child:2`, …
struct Children {
    scripts: Vec<&'static str>,
}

impl Listen for Children {
    const NAME: &'static str = "children";

    type Stream = Pipes;

    async fn listen(self, _: Limits) -> Result<Listener<Accepted<Pipes>>, BindError> {
        let scripts = self.scripts.into_iter().enumerate();
        let children = scripts.map(|(index, script)| {
            // The server logs an error and continues with the next child.
            let stream = Pipes::spawn(script)?;
            let peer = Peer::new(&format!("child:{}", index + 1));
            Ok(Accepted { peer, stream })
        });
        Ok(Listener {
            address: Address::Name("child processes".to_owned()),
            incoming: Box::pin(tokio_stream::iter(children)),
        })
    }
}

/// A child process as a byte stream. When the server drops it, the child is killed.
struct Pipes {
    output: ChildStdout,
    input: Option<ChildStdin>,
    _child: Child,
}

impl Pipes {
    fn spawn(script: &str) -> io::Result<Pipes> {
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let input = child.stdin.take();
        Ok(Pipes {
            output,
            input,
            _child: child,
        })
    }

    fn input(&mut self) -> io::Result<Pin<&mut ChildStdin>> {
        let input = self.input.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Pin::new(input))
    }
}

impl ByteStream for Pipes {}

impl AsyncRead for Pipes {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_read(context, buffer)
    }
}

impl AsyncWrite for Pipes {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.input()?.poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.input()?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.input = None;
        Poll::Ready(Ok(()))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let children = Children {
        scripts: vec![
            // Takes a lock, registers the reply as its name, and keeps the lock while it lives.
            "echo 'g job 1'; read reply; echo \"iam told:$reply\"; read ok; read forever",
            // Takes another lock and exits at once, which releases the lock.
            "echo 'g job 2'; read reply",
        ],
    };
    let (memory, connector) = Memory::new();
    let server = Server::builder()
        .transport(children)
        .transport(memory)
        .bind()
        .await?;
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(server.run(async { drop(stopped.await) }));

    let mut observer = BufReader::new(connector.connect()?);
    loop {
        // Until the first child has a name, and the second has come and gone.
        observer.write_all(b"d job 1\nq\n").await?;
        let reply = read_to(&mut observer, "shared_orphans: ").await?;
        if reply.contains("told:") && reply.contains("\norphans: 1\n") {
            println!("{}", reply.lines().next().unwrap_or_default());
            break;
        }
    }

    drop(stop);
    running.await?;
    println!("stopped");
    Ok(())
}

/// Reads lines up to the first that starts with `start`, and returns them.
async fn read_to(client: &mut BufReader<DuplexStream>, start: &str) -> io::Result<String> {
    let mut lines = String::new();
    loop {
        let mut line = String::new();
        if client.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        lines += &line;
        if line.starts_with(start) {
            return Ok(lines);
        }
    }
}
