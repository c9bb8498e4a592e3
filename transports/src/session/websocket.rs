//! WebSocket: a message is a frame.
//!
//! Two libraries serve a connection one after the other. First hyper reads the HTTP request ([`handshake`]), so that
//! every client gets a proper answer, including a browser that was pointed at this port. Then tungstenite takes over
//! ([`messages`]), and hyper keeps nothing. Handing the stream to tungstenite at once would be less code, but its
//! handshake answers a bad request by closing the connection. A web framework would be as much code, but keeps
//! 130 KiB a connection.

mod captured_stream;
mod handshake;
mod linger;
mod messages;
mod origins;

use std::io;
use std::net::SocketAddr;

use http_body_util::Full;
use hyper::body::{Body, Bytes};
use hyper::{Request, Response};

pub use messages::WebSocketSession;
pub use origins::{OriginError, Origins};

use crate::framed::{Framed, Framing};
use crate::limits::Limits;
use crate::listen::Listen;
use crate::listen::tcp::Tcp;
use crate::stream::ByteStream;
use crate::transport::Established;

/// The framing by WebSocket messages (RFC 6455), after an HTTP handshake.
///
/// Any path and any `Host` is accepted, and any or no `Origin` unless told [otherwise](WebSocketFraming::origins). A
/// subprotocol is accepted if it is the only one offered. A connection that the server
/// [refuses](crate::Pending::refuse) gets status 503.
#[derive(Clone, Debug, Default)]
pub struct WebSocketFraming {
    origins: Origins,
}

impl WebSocketFraming {
    /// Admits web pages of these origins alone; others get status 403.
    pub fn origins(self, origins: Origins) -> WebSocketFraming {
        WebSocketFraming { origins }
    }

    /// Answers an HTTP request, for programs that serve WebSockets with an HTTP server of their own. The handshake
    /// has succeeded if the status of the response is 101 (Switching Protocols). Then the upgraded connection makes a
    /// [`WebSocketSession`]. Any other response says why not.
    pub fn respond<B: Body>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        handshake::respond(request, &self.origins)
    }
}

impl Framing for WebSocketFraming {
    const NAME: Option<&'static str> = Some("websocket");

    async fn establish<S: ByteStream>(
        &self,
        stream: S,
        limits: Limits,
    ) -> io::Result<Option<Established>> {
        let respond = |request: &Request<_>| handshake::respond(request, &self.origins);
        match handshake::serve_request(stream, respond).await? {
            Some((stream, leftover)) => {
                let session = WebSocketSession::new(stream, leftover, limits).await;
                Ok(Some(Established::new(session)))
            }
            None => Ok(None),
        }
    }

    fn refuse<S: ByteStream>(&self, stream: S) {
        stream.close_with(handshake::TOO_MANY_CONNECTIONS);
    }
}

/// A transport of WebSockets over a listener: over TCP, unless made by [`over`](WebSocket::over).
pub type WebSocket<L = Tcp> = Framed<L, WebSocketFraming>;

impl WebSocket {
    /// Listens on this port of all addresses: see [`Tcp::port`].
    pub fn port(port: u16) -> WebSocket {
        WebSocket::over(Tcp::port(port))
    }

    /// Listens on this address alone.
    pub fn address(address: SocketAddr) -> WebSocket {
        WebSocket::over(Tcp::address(address))
    }
}

impl<L: Listen> WebSocket<L> {
    /// Accepts the connections of this listener.
    pub fn over(listener: L) -> WebSocket<L> {
        Framed::new(listener, WebSocketFraming::default())
    }

    /// Admits web pages of these origins alone; others get status 403.
    pub fn origins(self, origins: Origins) -> WebSocket<L> {
        Framed::new(self.listener, self.framing.origins(origins))
    }
}
