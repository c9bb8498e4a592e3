//! How do I test a program that uses glockd? Start a server within the test, on a Unix socket in a temporary directory.
//!
//! ```text
//! cargo run --example embedded
//! ```

use std::future::pending;

use glockd::{Policy, Server, Unix};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

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

    // The handle will end the server. `run` also takes a future for that: a signal, a channel, a timer.
    let handle = server.handle();
    let running = tokio::spawn(server.run(pending()));

    let mut worker = BufReader::new(UnixStream::connect(&socket).await?);
    let mut rival = BufReader::new(UnixStream::connect(&socket).await?);
    println!("worker: {}", ask(&mut worker, "g nightly report").await?);
    println!("rival:  {}", ask(&mut rival, "g nightly report").await?);

    // The worker disconnects, which releases its lock. The server notices that soon after, so the rival waits for it. A
    // worker that goes on would release the lock by `r nightly report`, and read the reply.
    drop(worker);
    println!(
        "rival:  {}",
        ask(&mut rival, "gw 60000 nightly report").await?
    );

    handle.shutdown();
    println!("stopped: {:?}", running.await?);
    println!("the socket file is gone: {}", !socket.exists());
    Ok(())
}

/// Sends a command, and returns its reply.
async fn ask(client: &mut BufReader<UnixStream>, command: &str) -> Result<String, Error> {
    client.write_all(format!("{command}\n").as_bytes()).await?;
    let mut reply = String::new();
    client.read_line(&mut reply).await?;
    Ok(reply.trim_end().to_owned())
}
