//! The shards in which waiters are due.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// A queue of shards, and the one task that serves their waiters.
#[derive(Debug, Default)]
pub(super) struct DueShards(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    shards: VecDeque<usize>,
    /// The task, if it waits.
    waker: Option<Waker>,
}

impl DueShards {
    /// Adds a shard and wakes the task.
    pub(super) fn push(&self, shard: usize) {
        let mut state = self.0.lock();
        state.shards.push_back(shard);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes the first shard.
    pub(super) fn pop(&self) -> Option<usize> {
        self.0.lock().shards.pop_front()
    }

    /// Is ready if there is a shard. Otherwise stores the task, in place of any other, to be woken when there is one.
    pub(super) fn poll(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        if !state.shards.is_empty() {
            return Poll::Ready(());
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}
