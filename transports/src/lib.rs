//! Transports: the sources of glockd's connections.
//!
//! ```text
//!  listener    Tcp   Unix   Memory   (your own)        accepts byte streams        trait Listen
//!                 \    |      |      /
//!                   map_stream                          observes or changes them
//!                 /    |      |      \
//!  framing     Lines   WebSocketFraming   (your own)    byte stream -> Session      trait Framing
//!                 \    |      |      /
//!  transport      Framed    Channel   (your own)        all that a server knows     trait Transport
//! ```
//!
//! A [`Transport`] listens and yields [`Pending`] connections. The handshake of a connection yields a boxed
//! [`Session`], which receives and sends batches of frames ([`Input`], [`Output`]). Code above a `Session` does not
//! know what it runs on, and this crate knows nothing of the commands in the frames: it does not depend on the
//! protocol.
//!
//! Most transports are a listener and a framing, and any framing runs over any listener: `Tcp::port(9999)` alone
//! speaks lines, `WebSocket::port(9998)` speaks WebSocket, and so does `WebSocket::over(Unix::path("/run/ws"))`. To add
//! one of your own, implement the trait at the place where it differs:
//!
//! - [`Listen`] for another source of byte streams, or for a wrapper around a listener;
//! - [`Framing`], and [`Session`] if its frames are not lines, for another wire format, or for a handshake around
//!   another framing;
//! - [`Transport`] for anything else; or send finished connections to a [`Channel`].
//!
//! The listeners and framings of this crate deal with a server through these traits alone. `tests/outside.rs` shows a
//! transport outside the crate that does all that [`Tcp`] does.

#![forbid(unsafe_code)]

mod address;
mod framed;
mod frames;
mod limits;
mod listen;
mod session;
mod stream;
mod transport;
mod write;

pub use address::{Address, Peer};
pub use framed::{Framed, Framing};
pub use frames::{Input, InputFrame, Marks, Output, OutputFrame};
pub use limits::Limits;
pub use listen::channel::{Channel, ChannelSender};
pub use listen::memory::{Connector, Memory};
pub use listen::tcp::Tcp;
pub use listen::tcp_connection::TcpConnection;
pub use listen::unix::Unix;
pub use listen::{Accepted, Listen, MapStream};
pub use session::Session;
pub use session::line::{LineSession, Lines};
pub use session::websocket::{OriginError, Origins, WebSocket, WebSocketFraming, WebSocketSession};
pub use stream::ByteStream;
pub use transport::{
    BindError, Established, Handshake, Identity, Incoming, Listener, Pending, Transport,
};
pub use write::write_output;
