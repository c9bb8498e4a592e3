//! How do I log or count who takes which lock? An observer gets an event for each grant, wait, release and more.
//!
//! ```text
//! cargo run --example events
//! ```

use std::future::pending;
use std::sync::mpsc::{self, SyncSender};
use std::thread;

use glockd::{Event, GrantDelay, Memory, Observer, Server};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};

/// Sends a line for each event that an audit cares for.
///
/// An observer runs where the server works, and holds up other clients meanwhile. So this one only writes the line, and
/// leaves the slow part, which is the output, to a thread of its own.
struct Audit {
    lines: SyncSender<String>,
}

impl Observer for Audit {
    fn event(&self, event: &Event<'_>) {
        let line = match event {
            Event::Connected { address, .. } => format!("connected: {}", address.escape_ascii()),
            Event::Granted { name, delay, .. } => {
                let waited = match delay {
                    GrantDelay::Immediate => "",
                    GrantDelay::Waited => " after a wait",
                };
                format!("granted{waited}: {}", name.escape_ascii())
            }
            Event::WaitBegun { name, .. } => format!("waits: {}", name.escape_ascii()),
            Event::Released { name, .. } => format!("released: {}", name.escape_ascii()),
            Event::Orphaned { name, .. } => format!("orphaned: {}", name.escape_ascii()),
            // There are others, and there will be more.
            _ => return,
        };
        // If the thread is behind by a whole channel, an event is lost rather than a client held up.
        let _ = self.lines.try_send(line);
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (lines, received) = mpsc::sync_channel(1000);
    let output = thread::spawn(move || {
        for line in received {
            println!("{line}");
        }
    });

    let (memory, connector) = Memory::new();
    let server = Server::builder()
        .transport(memory)
        .observer(Audit { lines })
        .bind()
        .await?;
    let handle = server.handle();
    let running = tokio::spawn(server.run(pending()));

    let mut worker = BufReader::new(connector.connect()?);
    ask(&mut worker, "g report").await?;
    let mut next = BufReader::new(connector.connect()?);
    // `ping` is answered during a wait, so its reply says that the wait has begun.
    ask(&mut next, "gw 60000 report\nping").await?;
    ask(&mut worker, "r report").await?;
    next.read_line(&mut String::new()).await?;

    // The next worker still holds the lock.
    handle.shutdown();
    running.await?;
    // The observer, and with it the channel, lives as long as a handle does.
    drop(handle);
    output.join().map_err(|_| "the thread panicked")?;
    Ok(())
}

/// Sends a command, and returns the first line of the reply.
async fn ask(client: &mut BufReader<DuplexStream>, command: &str) -> std::io::Result<String> {
    client.write_all(format!("{command}\n").as_bytes()).await?;
    let mut reply = String::new();
    client.read_line(&mut reply).await?;
    Ok(reply)
}
