//! The locks and waits of the model.

use glockd_protocol::LockKind;

use super::{Answer, Holder, Model, Wait, end};

/// Why a client does not get a lock.
pub(super) enum Denied {
    /// Others hold it or wait for it.
    Held,
    /// The client may not hold one more lock, or no client may.
    TooMany,
}

impl Model {
    /// Begins a wait, unless the attempt before it has succeeded or the wait is refused.
    pub(super) fn wait(
        &mut self,
        client: usize,
        name: &[u8],
        (kind, get, limit): (LockKind, bool, usize),
        got: Result<usize, Denied>,
        ms: u32,
    ) -> Answer {
        let waiting = self.queue(kind, name).len();
        let full = |model: &mut Model| {
            get && (model
                .policy
                .limits
                .max_waiters
                .is_some_and(|max| waiting >= max)
                || !model.has_room(client))
        };
        let (done, refusal) = match got {
            Ok(holders) => (Some(holders), ""),
            Err(Denied::TooMany) => (None, "Queue Full"),
            Err(Denied::Held) if ms == 0 => (None, "Timeout"),
            Err(Denied::Held) if full(self) => (None, "Queue Full"),
            Err(Denied::Held) => (None, ""),
        };
        if done.is_some() || !refusal.is_empty() {
            return Answer::Bytes(end(get, kind, done, refusal, name));
        }
        let name = name.to_vec();
        self.waits.push(Wait {
            client,
            kind,
            name,
            get,
            limit,
            done,
        });
        Answer::Wait
    }

    pub(super) fn get(&mut self, client: usize, name: &[u8]) -> Result<(), Denied> {
        if let Some(holder) = self.exclusive.get(name) {
            return match holder.client == client {
                true => Ok(()),
                false => Err(Denied::Held),
            };
        }
        if !self.has_room(client) {
            return Err(Denied::TooMany);
        }
        let grant = self.grant();
        self.exclusive.insert(name.into(), Holder { client, grant });
        Ok(())
    }

    pub(super) fn release(&mut self, name: &[u8]) {
        self.exclusive.remove(name);
        self.notify_watchers(LockKind::Exclusive, name, 0);
        let first = self.queue(LockKind::Exclusive, name);
        if let Some(&first) = first.first() {
            let (client, grant) = (self.waits[first].client, self.grant());
            self.exclusive.insert(name.into(), Holder { client, grant });
            self.waits[first].done = Some(1);
        }
    }

    /// Gets a shared lock if no other client waits to hold it.
    pub(super) fn shared_get_in_turn(
        &mut self,
        client: usize,
        name: &[u8],
        limit: u32,
    ) -> Result<usize, Denied> {
        let free = self.queue(LockKind::Shared, name).is_empty();
        let limit = if free { limit as usize } else { 0 };
        self.shared_get(client, name, limit)
    }

    pub(super) fn shared_get(
        &mut self,
        client: usize,
        name: &[u8],
        limit: usize,
    ) -> Result<usize, Denied> {
        let holders = self.shared.get(name).into_iter().flatten();
        if !holders.clone().any(|holder| holder.client == client) {
            if holders.count() >= limit {
                return Err(Denied::Held);
            }
            if !self.has_room(client) {
                return Err(Denied::TooMany);
            }
            self.share(client, name);
        }
        Ok(self.number(name))
    }

    pub(super) fn share(&mut self, client: usize, name: &[u8]) {
        let grant = self.grant();
        let holders = self.shared.entry(name.into()).or_default();
        holders.push(Holder { client, grant });
    }

    pub(super) fn shared_release(&mut self, client: usize, name: &[u8]) -> bool {
        let before = self.number(name);
        if let Some(holders) = self.shared.get_mut(name) {
            holders.retain(|holder| holder.client != client);
        }
        self.shared.retain(|_, holders| !holders.is_empty());
        let after = self.number(name);
        if after < before {
            self.notify_watchers(LockKind::Shared, name, after);
            self.serve_shared_waiters(name);
        }
        after < before
    }

    /// Grants a shared lock to its first waiters, as far as their limits allow.
    pub(super) fn serve_shared_waiters(&mut self, name: &[u8]) {
        while let Some(first) = self.queue(LockKind::Shared, name).first().copied()
            && self.number(name) < self.waits[first].limit
        {
            self.share(self.waits[first].client, name);
            self.waits[first].done = Some(self.number(name));
        }
    }

    /// Ends the waits to see a lock that are satisfied by this number of holders.
    pub(super) fn notify_watchers(&mut self, kind: LockKind, name: &[u8], holders: usize) {
        for wait in &mut self.waits {
            if wait.kind == kind && wait.name == name && !wait.get && wait.limit > holders {
                wait.done.get_or_insert(holders);
            }
        }
    }

    /// Returns the indices of the waits to hold a lock, the first in the queue first.
    pub(super) fn queue(&self, kind: LockKind, name: &[u8]) -> Vec<usize> {
        let waits =
            |wait: &Wait| wait.get && wait.done.is_none() && wait.kind == kind && wait.name == name;
        let indices = 0..self.waits.len();
        indices.filter(|&index| waits(&self.waits[index])).collect()
    }

    /// Returns the number of holders of a shared lock.
    pub(super) fn number(&self, name: &[u8]) -> usize {
        self.shared.get(name).map_or(0, Vec::len)
    }

    pub(super) fn grant(&mut self) -> usize {
        self.grants += 1;
        self.grants
    }

    /// Returns true if a client may hold one more lock. Counts a refusal otherwise.
    pub(super) fn has_room(&mut self, client: usize) -> bool {
        let limits = self.policy.limits;
        let in_all = limits.max_locks;
        let of_client = limits.max_locks_per_connection;
        let room = in_all.is_none_or(|limit| self.claimants().count() < limit)
            && of_client.is_none_or(|limit| self.claims_of(client) < limit);
        if !room {
            self.count("refused_locks", 1);
        }
        room
    }

    /// Returns the client of each claim: of each lock held, and of each wait to hold one.
    pub(super) fn claimants(&self) -> impl Iterator<Item = usize> {
        let exclusive = self.exclusive.values();
        let shared = self.shared.values().flatten();
        let holders = exclusive.chain(shared).map(|holder| holder.client);
        let waits = self.waits.iter();
        let waiters = waits.filter(|wait| wait.get && wait.done.is_none());
        holders.chain(waiters.map(|wait| wait.client))
    }

    pub(super) fn claims_of(&self, client: usize) -> usize {
        self.claimants()
            .filter(|claimant| *claimant == client)
            .count()
    }
}
