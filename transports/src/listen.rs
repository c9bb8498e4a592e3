//! Where byte streams come from: the trait [`Listen`], and the listeners that the crate has.

pub(crate) mod channel;
pub(crate) mod memory;
mod std_socket;
pub(crate) mod tcp;
pub(crate) mod tcp_connection;
pub(crate) mod unix;

use crate::address::Peer;
use crate::limits::Limits;
use crate::stream::ByteStream;
use crate::transport::{BindError, Listener};

/// A place to listen whose connections are byte streams.
///
/// Every `Listen` is a [`Transport`](crate::Transport) that speaks lines. To speak another format, combine it with a
/// [`Framing`](crate::Framing) in a [`Framed`](crate::Framed). To wrap a listener (to observe, limit or change its connections), implement this trait
/// for a type that owns the inner listener, or use [`map_stream`](Listen::map_stream).
pub trait Listen: Sized + Send + 'static {
    /// Kind of the listener for the log, such as `tcp`.
    const NAME: &'static str;

    /// A connection of this listener.
    type Stream: ByteStream;

    /// Starts to listen: see [`Transport::listen`](crate::Transport::listen).
    fn listen(
        self,
        limits: Limits,
    ) -> impl Future<Output = Result<Listener<Accepted<Self::Stream>>, BindError>> + Send;

    /// Wraps each accepted stream, for example in one that counts its bytes. See [`ByteStream`] for what the wrapper must
    /// pass on.
    ///
    /// `map` must not block: it runs between two accepts. What takes a handshake belongs in a
    /// [`Framing`](crate::Framing).
    fn map_stream<S, M>(self, map: M) -> MapStream<Self, M>
    where
        S: ByteStream,
        M: FnMut(Self::Stream) -> S + Send + 'static,
    {
        MapStream {
            listener: self,
            map,
        }
    }
}

/// An accepted connection as a byte stream.
#[derive(Debug)]
pub struct Accepted<S> {
    /// Where it comes from.
    pub peer: Peer,
    /// The connection.
    pub stream: S,
}

/// A listener whose streams are wrapped. Made by [`Listen::map_stream`].
#[derive(Debug)]
pub struct MapStream<L, M> {
    listener: L,
    map: M,
}

impl<L, S, M> Listen for MapStream<L, M>
where
    L: Listen,
    S: ByteStream,
    M: FnMut(L::Stream) -> S + Send + 'static,
{
    const NAME: &'static str = L::NAME;

    type Stream = S;

    async fn listen(self, limits: Limits) -> Result<Listener<Accepted<S>>, BindError> {
        let MapStream { listener, mut map } = self;
        let listener = listener.listen(limits).await?;
        Ok(listener.map(move |Accepted { peer, stream }| Accepted {
            peer,
            stream: map(stream),
        }))
    }
}
