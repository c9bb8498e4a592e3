//! A handle to a server: what an embedder asks of it while it runs.

use std::sync::Arc;

use crate::server::lifecycle::{Lifecycle, Phase};

/// A handle to a [`Server`](crate::Server), made by [`Server::handle`](crate::Server::handle).
///
/// It is cheap to clone and can be used from any thread, before, while and after the server runs. It does not keep
/// the server running.
#[derive(Clone, Debug)]
pub struct Handle {
    lifecycle: Arc<Lifecycle>,
}

impl Handle {
    pub(super) fn new(lifecycle: Arc<Lifecycle>) -> Handle {
        Handle { lifecycle }
    }

    /// Tells the server to end, as the future given to [`Server::run`](crate::Server::run) does by completing. Returns
    /// at once; `run` returns once the server has ended.
    ///
    /// Before `run` is called, this makes it return without accepting a connection. After the server has ended, this
    /// does nothing.
    pub fn shutdown(&self) {
        self.lifecycle.advance(Phase::Stopping);
    }
}
