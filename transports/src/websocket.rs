//! WebSocket: a message is a frame.
//!
//! A connection goes through two hands. hyper reads the HTTP request ([`handshake`]), so that whatever
//! comes to this port gets a proper answer, a browser that was pointed at it included. Then tungstenite
//! takes over ([`session`]), and nothing of hyper's is left. Handing the socket to tungstenite at once
//! would be less code, but its handshake answers a bad request by closing; a web framework would be no
//! more code, but keeps 130 KiB a connection.

mod handshake;
mod inlet;
mod origins;
mod session;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, sink};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;

use handshake::Arrival;
pub use origins::{OriginError, Origins};
pub use session::WebSocketSession;

use crate::tcp::{On, listen, tune};
use crate::{Address, BindError, Limits, Listener, Pending, Transport};

/// How much a peer may still send after our last word before we hang up on it.
const LAST_WORDS: u64 = 1024 * 1024;

/// Listens for WebSocket connections on a TCP port.
///
/// Any path and any `Host` is welcome, and any or no `Origin` unless told [otherwise](WebSocket::origins).
/// Of subprotocols, one that is offered alone is accepted. A connection that the server [refuses](Pending::refuse) is
/// answered by 503.
#[derive(Clone, Debug)]
pub struct WebSocket {
    on: On,
    origins: Origins,
}

impl WebSocket {
    /// On this port of all addresses: IPv4 and IPv6, or IPv4 alone on a host that has no IPv6. Port 0
    /// lets the system choose one.
    pub fn port(port: u16) -> WebSocket {
        WebSocket {
            on: On::Port(port),
            origins: Origins::ANY,
        }
    }

    /// On this address alone.
    pub fn address(address: SocketAddr) -> WebSocket {
        WebSocket {
            on: On::Address(address),
            origins: Origins::ANY,
        }
    }

    /// For the pages of these origins alone; others are answered by 403.
    pub fn origins(self, origins: Origins) -> WebSocket {
        WebSocket { origins, ..self }
    }
}

#[async_trait]
impl Transport for WebSocket {
    fn name(&self) -> &str {
        "websocket"
    }

    async fn listen(self: Box<Self>, limits: Limits) -> Result<Listener, BindError> {
        let (address, listener) = listen(self.on)?;
        let origins = Arc::new(self.origins);
        let incoming = TcpListenerStream::new(listener).map(move |accepted| {
            let (peer, stream) = tune(accepted?, limits)?;
            let origins = Arc::clone(&origins);
            let arrival = Arrival {
                stream,
                limits,
                origins,
            };
            Ok(Pending::new(peer, arrival))
        });
        Ok(Listener {
            address: Address::Ip(address),
            incoming: Box::pin(incoming),
        })
    }
}

/// Ends a connection so that what was written arrives: closing a socket whose input has not been read
/// resets it, and a reset destroys what the peer has not yet read.
async fn part(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    stream.shutdown().await?;
    copy(&mut stream.take(LAST_WORDS), &mut sink()).await?;
    Ok(())
}
