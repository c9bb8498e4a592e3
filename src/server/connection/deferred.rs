//! The rest of the work on a frame that has no reply yet.

use glockd_protocol::Refusal;
use tokio::time::{Duration, Instant};

use crate::core::cursor::Cursor;
use crate::core::dispatcher::Dispatcher;
use crate::core::ticket::Ticket;

/// The rest of the work on a frame that could not be answered at once.
#[derive(Debug)]
pub(super) enum Deferred {
    /// A listing that is appended step by step.
    List(Box<Cursor>),
    /// A command that waits for a lock.
    Wait(Box<PendingWait>),
    /// A line of HTTP, which has no reply. It ends the connection if the
    /// [session](glockd_transports::Session::refuses_http) says so.
    Http,
}

/// A command that waits for a lock, until a deadline.
#[derive(Debug)]
pub(super) struct PendingWait {
    pub(super) ticket: Ticket,
    pub(super) deadline: Instant,
    /// Chunks of the backlog that were already searched for the wait that the next frame of the input cancels.
    pub(super) searched_chunks: usize,
}

impl PendingWait {
    /// Returns a wait that begins now.
    pub(super) fn new(ticket: Ticket) -> PendingWait {
        let limit = Duration::from_millis(ticket.ms().into());
        PendingWait {
            deadline: Instant::now() + limit,
            ticket,
            searched_chunks: 0,
        }
    }

    /// Returns true once the wait has ended and no search of the backlog is under way.
    pub(super) fn is_done(&self) -> bool {
        self.ticket.is_over() && self.searched_chunks == 0
    }

    /// Ends the wait without a reply, if it has not ended yet.
    pub(super) fn abandon(mut self, dispatcher: &Dispatcher) {
        if !self.ticket.is_over() {
            dispatcher.end_wait(&mut self.ticket, Refusal::Cancelled);
        }
    }
}
