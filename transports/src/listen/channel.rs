//! Connections that another part of the program has accepted.

use std::io;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::address::Address;
use crate::limits::Limits;
use crate::transport::{BindError, Listener, Pending, Transport};

/// A transport whose connections are sent to it, such as the upgraded connections of your own HTTP server.
#[derive(Debug)]
pub struct Channel {
    name: String,
    arrivals: mpsc::UnboundedReceiver<Pending>,
}

/// Sends connections to the [`Channel`] that it was made with. Clones send to the same channel.
#[derive(Clone, Debug)]
pub struct ChannelSender {
    arrivals: mpsc::UnboundedSender<Pending>,
}

impl Channel {
    /// Returns a transport and the sender of its connections. The log shows the name.
    pub fn new(name: impl Into<String>) -> (Channel, ChannelSender) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let channel = Channel {
            name: name.into(),
            arrivals: receiver,
        };
        (channel, ChannelSender { arrivals: sender })
    }
}

impl ChannelSender {
    /// Sends a connection, which the server then admits or refuses like any other. It may be sent before the server
    /// runs. The queue is unbounded: each entry is an open connection, which takes more than its place in the queue.
    ///
    /// # Errors
    ///
    /// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused) if the server has stopped. The connection is closed.
    pub fn send(&self, connection: Pending) -> io::Result<()> {
        let sent = self.arrivals.send(connection);
        sent.map_err(|_| io::ErrorKind::ConnectionRefused.into())
    }
}

#[async_trait]
impl Transport for Channel {
    fn name(&self) -> &str {
        "channel"
    }

    async fn listen(self: Box<Self>, _: Limits) -> Result<Listener, BindError> {
        Ok(Listener {
            address: Address::Name(self.name),
            incoming: Box::pin(UnboundedReceiverStream::new(self.arrivals).map(Ok)),
        })
    }
}
