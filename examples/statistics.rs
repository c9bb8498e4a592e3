//! How do I see what my lock server does? Its handle has the counters, and the connections by address and name.
//!
//! ```text
//! cargo run --example statistics
//! ```

use std::future::pending;

use glockd::protocol::Verb;
use glockd::{Memory, Server};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (memory, connector) = Memory::new();
    let server = Server::builder().transport(memory).bind().await?;
    // A handle outlives the server's `run`, and can be cloned and sent to other threads.
    let handle = server.handle();
    let running = tokio::spawn(server.run(pending()));

    let mut worker = BufReader::new(connector.connect()?);
    ask(&mut worker, "iam nightly report").await?;
    ask(&mut worker, "g report").await?;
    let mut other = BufReader::new(connector.connect()?);
    ask(&mut other, "g report").await?;

    // Each counter is a field, except those of commands, of which there are many.
    let statistics = handle.statistics();
    println!("connections: {}", statistics.connections);
    println!("locks held: {}", statistics.locks);
    println!("gets: {}", statistics.commands(Verb::G));

    let mut connections = handle.connections();
    // Ids grow from connection to connection.
    connections.sort_by_key(|connection| connection.id);
    for connection in &connections {
        let name = connection.name.as_deref().unwrap_or(b"(no name)");
        println!("{}: {}", connection.address, String::from_utf8_lossy(name));
    }

    // A client that misbehaves can be disconnected. Its locks are released, and counted as orphans.
    assert!(handle.disconnect(connections[0].id));
    let mut end = String::new();
    worker.read_line(&mut end).await?;
    println!("the worker is told: {end:?}");

    handle.shutdown();
    running.await?;
    // After the end, the handle still answers.
    println!("orphans: {}", handle.statistics().orphans);
    Ok(())
}

/// Sends a command, and returns its reply.
async fn ask(client: &mut BufReader<DuplexStream>, command: &str) -> std::io::Result<String> {
    client.write_all(format!("{command}\n").as_bytes()).await?;
    let mut reply = String::new();
    client.read_line(&mut reply).await?;
    Ok(reply)
}
