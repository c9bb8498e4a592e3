//! A lock server in a program of one's own, on a Unix socket in a temporary directory: what an
//! integration test of a program that uses glockd would do.
//!
//! ```text
//! cargo run --example embedded
//! ```

use glockd::{Policy, Server, Unix};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

type Error = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("glockd.sock");

    let server = Server::builder()
        .transport(Unix::path(&socket))
        .policy(Policy {
            registry: false,
            ..Policy::default()
        })
        .bind()
        .await?;
    println!("listening on {}", server.addresses()[0]);

    // `run` takes any future for its end: a signal, a channel, a timer.
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(server.run(async { drop(stopped.await) }));

    let mut worker = BufReader::new(UnixStream::connect(&socket).await?);
    let mut rival = BufReader::new(UnixStream::connect(&socket).await?);
    println!("worker: {}", ask(&mut worker, "g nightly report").await?);
    println!("rival:  {}", ask(&mut rival, "g nightly report").await?);

    // No unlock, no timeout: the worker is gone, and so is its lock. But closing is not synchronous, so the rival asks
    // until the server has noticed. A worker that goes on would release, `r nightly report`, and read the reply.
    drop(worker);
    while ask(&mut rival, "i nightly report").await?.starts_with('1') {}
    println!("rival:  {}", ask(&mut rival, "g nightly report").await?);

    drop(stop);
    running.await?;
    println!("stopped, and the socket file is gone: {}", !socket.exists());
    Ok(())
}

async fn ask(client: &mut BufReader<UnixStream>, command: &str) -> Result<String, Error> {
    client.write_all(format!("{command}\n").as_bytes()).await?;
    let mut reply = String::new();
    client.read_line(&mut reply).await?;
    Ok(reply.trim_end().to_owned())
}
