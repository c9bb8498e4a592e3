//! The listings of the model.

use std::collections::BTreeMap;

use glockd_protocol::LockKind;

use super::{Claim, Client, Holder, Model, reply};

impl Model {
    pub(super) fn claims(&self, name: &[u8]) -> Vec<Claim> {
        let claim = |role, client: usize, grant| Claim {
            role,
            address: self.clients[client].address,
            grant,
            name: self.clients[client].shown_as().to_vec(),
        };
        let exclusive = self.exclusive.get(name).into_iter();
        let shared = self.shared.get(name).into_iter().flatten();
        let of = |kind, role| {
            let queue = self.queue(kind, name);
            queue
                .into_iter()
                .map(move |index| claim(role, self.waits[index].client, None))
        };
        exclusive
            .map(|holder| claim("x", holder.client, Some(holder.grant)))
            .chain(shared.map(|holder| claim("s", holder.client, Some(holder.grant))))
            .chain(of(LockKind::Exclusive, "xw"))
            .chain(of(LockKind::Shared, "sw"))
            .collect()
    }

    /// Returns the locks of a kind and their holders, sorted by name.
    pub(super) fn holders(&self, kind: LockKind) -> BTreeMap<&[u8], Vec<&Client>> {
        let clients = |holders: &[Holder]| {
            holders
                .iter()
                .map(|holder| &self.clients[holder.client])
                .collect()
        };
        match kind {
            LockKind::Exclusive => (self.exclusive.iter())
                .map(|(name, holder)| (&**name, clients(&[*holder])))
                .collect(),
            LockKind::Shared => (self.shared.iter())
                .map(|(name, holders)| (&**name, clients(holders)))
                .collect(),
        }
    }

    pub(super) fn list(
        &self,
        kind: LockKind,
        filter: Option<&[u8]>,
        with_lengths: bool,
    ) -> Vec<u8> {
        let mut lines = Vec::new();
        for (name, holders) in self.holders(kind) {
            if filter.is_none_or(|filter| filter == name) {
                for holder in holders {
                    if with_lengths {
                        lines.extend(format!("{} ", name.len()).into_bytes());
                    }
                    lines.extend([name, b": ", holder.shown_as(), b"\n"].concat());
                }
            }
        }
        lines
    }

    pub(super) fn dump(&self, kind: LockKind) -> Vec<u8> {
        let mut entries = Vec::new();
        for (name, holders) in self.holders(kind) {
            let addresses: Vec<&str> = holders.iter().map(|holder| holder.address).collect();
            let addresses = match kind {
                LockKind::Exclusive => addresses.concat(),
                LockKind::Shared => format!("[{}]", addresses.join(" ")),
            };
            entries.push([name, b":", addresses.as_bytes()].concat());
        }
        [b"map[", &entries.join(&b' ')[..], b"]\n"].concat()
    }

    pub(super) fn who(&self, filter: Option<&[u8]>) -> Vec<u8> {
        let mut clients: Vec<&Client> = self
            .clients
            .iter()
            .filter(|client| client.connected)
            .collect();
        // The sort is stable: clients of one address stay in the order in which they connected.
        clients.sort_by_key(|client| client.address);
        let mut lines = Vec::new();
        for client in clients {
            if let Some(name) = &client.name
                && filter.is_none_or(|filter| filter == name)
            {
                lines.extend([client.address.as_bytes(), b": ", name, b"\n"].concat());
            }
        }
        lines
    }

    pub(super) fn statistics(&self) -> Vec<u8> {
        let connections = self.clients.iter().filter(|client| client.connected);
        let mut counters = self.counters.clone();
        counters.insert("connections".to_owned(), connections.count());
        counters.insert("locks".to_owned(), self.exclusive.len());
        counters.insert("shared_locks".to_owned(), self.shared.len());
        let lines = counters
            .iter()
            .map(|(key, value)| format!("{key}: {value}\n"));
        lines.collect::<String>().into()
    }
}

/// Returns a counted listing in one block. The model does not know how the server cuts one into blocks.
pub(super) fn counted(what: &str, name: Option<&[u8]>, lines: Vec<u8>) -> Vec<u8> {
    let name = name.unwrap_or_default();
    let number = lines.iter().filter(|byte| **byte == b'\n').count();
    let end = reply(&format!("0 {what} List"), name);
    match number {
        0 => end,
        _ => [reply(&format!("{number} {what} List"), name), lines, end].concat(),
    }
}
