//! Connections within the process, for tests and for programs that embed a server.

use std::io;

use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::address::{Address, Peer};
use crate::limits::Limits;
use crate::listen::{Accepted, Listen};
use crate::transport::{BindError, Listener};

/// Bytes that a pipe holds in each direction before its writer has to wait: as much as a small socket buffer.
const PIPE_SIZE: usize = 64 * 1024;

/// Listens for connections that a [`Connector`] makes. Peers are named `memory:1`, `memory:2`, … in the order of
/// arrival.
#[derive(Debug)]
pub struct Memory {
    arrivals: mpsc::UnboundedReceiver<DuplexStream>,
}

/// Makes connections to the [`Memory`] listener that it was made with. Clones connect to the same listener.
#[derive(Clone, Debug)]
pub struct Connector {
    arrivals: mpsc::UnboundedSender<DuplexStream>,
}

impl Memory {
    /// Returns a listener and the connector to it.
    pub fn new() -> (Memory, Connector) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (
            Memory { arrivals: receiver },
            Connector { arrivals: sender },
        )
    }
}

impl Connector {
    /// Makes a connection: a byte stream, used as a socket would be. It may be made before the server runs.
    ///
    /// # Errors
    ///
    /// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused) if the server has stopped.
    pub fn connect(&self) -> io::Result<DuplexStream> {
        let (client, server) = tokio::io::duplex(PIPE_SIZE);
        match self.arrivals.send(server) {
            Ok(()) => Ok(client),
            Err(_) => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }
}

impl Listen for Memory {
    const NAME: &'static str = "memory";

    type Stream = DuplexStream;

    async fn listen(self, _: Limits) -> Result<Listener<Accepted<DuplexStream>>, BindError> {
        let mut arrived = 0u64;
        let incoming = UnboundedReceiverStream::new(self.arrivals).map(move |stream| {
            arrived += 1;
            let peer = Peer::new(&format!("memory:{arrived}"));
            Ok(Accepted { peer, stream })
        });
        Ok(Listener {
            address: Address::Name("memory".to_owned()),
            incoming: Box::pin(incoming),
        })
    }
}
