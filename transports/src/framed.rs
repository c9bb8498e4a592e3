//! Listener × framing: any framing over any listener is a transport.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;

use crate::limits::Limits;
use crate::listen::{Accepted, Listen};
use crate::stream::ByteStream;
use crate::transport::{BindError, Established, Handshake, Listener, Pending, Transport};

/// A way to make a [`Session`](crate::Session) of a byte stream, maybe by a handshake.
///
/// A framing can wrap another: it shakes hands over the stream it gets, and passes a new stream on to the inner
/// framing, with the [`Identity`](crate::Identity) that it has settled. That is the place of TLS: its handshake then
/// runs apart from accepting and under the time limit of handshakes, over any listener and below any framing. (A
/// wrapper around the listener would have neither, and could not yield an identity.)
pub trait Framing: Send + Sync + 'static {
    /// Name of the transport for the log. `None` means that the listener's name is clear enough.
    const NAME: Option<&'static str> = None;

    /// Makes a session of `stream`: see [`Handshake::establish`].
    fn establish<S: ByteStream>(
        &self,
        stream: S,
        limits: Limits,
    ) -> impl Future<Output = io::Result<Option<Established>>> + Send;

    /// Closes a connection that the server refuses: see [`Handshake::refuse`].
    fn refuse<S: ByteStream>(&self, stream: S) {
        drop(stream);
    }
}

/// The transport made of a listener and a framing.
#[derive(Debug)]
pub struct Framed<L, F> {
    pub(crate) listener: L,
    pub(crate) framing: F,
}

impl<L: Listen, F: Framing> Framed<L, F> {
    /// Returns a transport that accepts the connections of `listener` and speaks `framing` over them.
    pub fn new(listener: L, framing: F) -> Framed<L, F> {
        Framed { listener, framing }
    }
}

#[async_trait]
impl<L: Listen, F: Framing> Transport for Framed<L, F> {
    fn name(&self) -> &str {
        F::NAME.unwrap_or(L::NAME)
    }

    async fn listen(self: Box<Self>, limits: Limits) -> Result<Listener, BindError> {
        let Framed { listener, framing } = *self;
        let framing = Arc::new(framing);
        let listener = listener.listen(limits).await?;
        Ok(listener.map(move |accepted| {
            let Accepted { peer, stream } = accepted;
            let unframed = Unframed {
                stream,
                framing: Arc::clone(&framing),
                limits,
            };
            Pending::new(peer, unframed)
        }))
    }
}

/// An accepted byte stream, to be framed.
struct Unframed<S, F> {
    stream: S,
    framing: Arc<F>,
    limits: Limits,
}

#[async_trait]
impl<S: ByteStream, F: Framing> Handshake for Unframed<S, F> {
    async fn establish(self: Box<Self>) -> io::Result<Option<Established>> {
        let Unframed {
            stream,
            framing,
            limits,
        } = *self;
        framing.establish(stream, limits).await
    }

    fn refuse(self: Box<Self>) {
        let Unframed {
            stream, framing, ..
        } = *self;
        framing.refuse(stream);
    }
}
