//! Connections within the process, for tests and for programs that embed a server.

use std::io;

use async_trait::async_trait;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::{Address, BindError, Limits, LineSession, Listener, Peer, Pending, Transport};

/// What a pipe holds before its writer has to wait, each way: as much as a small socket buffer.
const PIPE: usize = 64 * 1024;

/// Listens for connections that a [`Connector`] makes. Peers are `memory:1`, `memory:2`, … in the order
/// of arrival.
#[derive(Debug)]
pub struct Memory {
    arrivals: mpsc::UnboundedReceiver<DuplexStream>,
}

/// Makes connections to the [`Memory`] transport it came with. Clones connect to the same.
#[derive(Clone, Debug)]
pub struct Connector {
    arrivals: mpsc::UnboundedSender<DuplexStream>,
}

impl Memory {
    /// A transport, and what connects to it.
    pub fn new() -> (Memory, Connector) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (
            Memory { arrivals: receiver },
            Connector { arrivals: sender },
        )
    }
}

impl Connector {
    /// A new connection: a byte stream, used as a socket would be. It may be made before the server
    /// runs.
    ///
    /// # Errors
    ///
    /// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused) if the transport is gone.
    pub fn connect(&self) -> io::Result<DuplexStream> {
        let (client, server) = tokio::io::duplex(PIPE);
        match self.arrivals.send(server) {
            Ok(()) => Ok(client),
            Err(_) => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }
}

#[async_trait]
impl Transport for Memory {
    fn name(&self) -> &str {
        "memory"
    }

    async fn listen(self: Box<Self>, limits: Limits) -> Result<Listener, BindError> {
        let mut arrived = 0u64;
        let incoming = UnboundedReceiverStream::new(self.arrivals).map(move |stream| {
            arrived += 1;
            let peer = Peer::new(&format!("memory:{arrived}"));
            Ok(Pending::ready(peer, LineSession::new(stream, limits)))
        });
        Ok(Listener {
            address: Address::Name("memory".to_owned()),
            incoming: Box::pin(incoming),
        })
    }
}
