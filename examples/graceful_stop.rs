//! How do I stop a lock server without cutting off clients that work under a lock? Drain it, with a limit in time.
//!
//! ```text
//! cargo run --example graceful_stop
//! ```

use std::future::pending;
use std::time::Duration;

use glockd::{Handle, Memory, Server};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio::time::timeout;

/// Time that clients have to release their locks.
const GRACE: Duration = Duration::from_secs(30);

/// Stops the server: gently, and if that takes too long, at once. A program would call this on SIGTERM.
async fn stop(server: Handle) {
    if timeout(GRACE, server.drain()).await.is_err() {
        server.shutdown();
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (memory, connector) = Memory::new();
    let server = Server::builder().transport(memory).bind().await?;
    let handle = server.handle();
    let running = tokio::spawn(server.run(pending()));

    let mut worker = BufReader::new(connector.connect()?);
    println!("worker: {}", ask(&mut worker, "g report").await?);
    let mut idle = BufReader::new(connector.connect()?);
    println!("idle:   {}", ask(&mut idle, "i report").await?);

    let stopping = tokio::spawn(stop(handle));

    // A client without a lock is disconnected, and nobody can connect any more.
    println!("idle:   {:?}", read_line(&mut idle).await?);
    println!("new:    {}", connector.connect().is_err());
    // The worker goes on, and may even take another lock.
    println!("worker: {}", ask(&mut worker, "g archive").await?);
    println!("worker: {}", ask(&mut worker, "r report").await?);
    println!("worker: {}", ask(&mut worker, "r archive").await?);
    // Now it is idle, too.
    println!("worker: {:?}", read_line(&mut worker).await?);

    stopping.await?;
    println!("stopped: {:?}", running.await?);
    Ok(())
}

/// Sends a command, and returns its reply.
async fn ask(client: &mut BufReader<DuplexStream>, command: &str) -> std::io::Result<String> {
    client.write_all(format!("{command}\n").as_bytes()).await?;
    read_line(client).await
}

/// Reads a line without its end. An empty one is the end of the connection.
async fn read_line(client: &mut BufReader<DuplexStream>) -> std::io::Result<String> {
    let mut line = String::new();
    client.read_line(&mut line).await?;
    Ok(line.trim_end().to_owned())
}
