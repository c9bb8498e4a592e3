//! Where glockd's connections come from: one trait, [`Transport`], and four that implement it.
//!
//! A transport listens, accepts, shakes hands and cuts bytes into frames. What comes out is a stream
//! of [`Pending`] connections, each of which becomes a boxed [`Session`] that receives and sends
//! batches of frames ([`Input`], [`Output`]). Nothing above a `Session` knows what it stands on, and nothing here
//! knows what is said: this crate does not depend on the protocol's.
//!
//! The seam is a batch, not a line, because a boxed future costs about as much as a lock: twice a
//! batch that is nothing, once a line it would be a third of the work.
//!
//! To add a transport of your own, implement [`Transport`]; if it is made of byte streams, wrap each in
//! a [`LineSession`] and be done, otherwise implement [`Session`] too. Nothing here has to change for it:
//! the four transports below use no more than what is public.

mod frames;
mod line;
mod memory;
mod tcp;
mod tcp_socket;
mod transport;
mod unix;
mod websocket;
mod write;

pub use frames::{Input, InputFrame, Marks, Output, OutputFrame};
pub use line::LineSession;
pub use memory::{Connector, Memory};
pub use tcp::Tcp;
pub use transport::{
    Address, BindError, Established, Handshake, Identity, Incoming, Limits, Listener, Peer,
    Pending, Session, Transport,
};
pub use unix::Unix;
pub use websocket::{OriginError, Origins, WebSocket, WebSocketSession};
