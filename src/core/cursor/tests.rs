//! Listings against their expected text, and against a table that changes under them.

mod claims;
mod sorted;
mod steps;

use crate::core::cursor::Cursor;
use crate::core::dispatcher::Dispatcher;
use crate::core::locks::{Attempt, IfBusy, WaitHandle};
use crate::core::registry::ClientId;

fn dispatcher() -> (Dispatcher, Vec<ClientId>) {
    let dispatcher = Dispatcher::default();
    let clients = ["c:1", "a:2", "b:3"].map(|peer| dispatcher.connect(peer.as_bytes()));
    (dispatcher, clients.to_vec())
}

/// Runs a listing to its end, and `between` after each step but the last. Returns its text, escaped.
fn listed(dispatcher: &Dispatcher, mut cursor: Cursor, mut between: impl FnMut()) -> String {
    let mut out = Vec::new();
    while !cursor.step(dispatcher.state(), &mut out).done {
        between();
    }
    out.escape_ascii().to_string()
}

/// Returns the lines of each block of a counted listing. Fails unless the end mark follows and ends the listing.
#[track_caller]
fn blocks<'a>(listing: &'a str, title: &str) -> Vec<Vec<&'a str>> {
    let mut lines = listing.split_terminator("\\n");
    let mut blocks = Vec::new();
    loop {
        let (count, rest) = lines.next().unwrap().split_once(' ').unwrap();
        assert_eq!(rest, title);
        let count: usize = count.parse().unwrap();
        if count == 0 {
            break;
        }
        let block: Vec<&str> = lines.by_ref().take(count).collect();
        assert_eq!(block.len(), count);
        blocks.push(block);
    }
    assert_eq!(lines.next(), None);
    blocks
}

#[track_caller]
fn check(dispatcher: &Dispatcher, cursor: Cursor, expect: &str) {
    assert_eq!(
        listed(dispatcher, cursor, || ()),
        expect.escape_default().to_string()
    );
}

#[track_caller]
fn waits(attempt: Attempt) -> WaitHandle {
    match attempt {
        Attempt::Waits(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

/// A line of `own`: role, address, milliseconds, token, name.
type ClaimLine = (String, String, u64, u64, String);

/// Returns the lines of `own`. Fails unless there are as many as the header says.
#[track_caller]
fn claim_lines(listing: &str, name: &str) -> Vec<ClaimLine> {
    let mut lines = listing.split_terminator("\\n");
    let (count, rest) = lines.next().unwrap().split_once(' ').unwrap();
    assert_eq!(rest, format!("Lock Owners: {name}"));
    let lines: Vec<ClaimLine> = lines
        .map(|line| {
            let fields: Vec<&str> = line.splitn(5, ' ').collect();
            let [role, address, ms, token, name] = fields[..] else {
                panic!("{line}")
            };
            let (ms, token) = (ms.parse().unwrap(), token.parse().unwrap());
            (role.into(), address.into(), ms, token, name.into())
        })
        .collect();
    assert_eq!(count.parse(), Ok(lines.len()));
    lines
}

/// Makes a lock `foo` with this number of claims: the first client holds the exclusive lock, clients up to number `holders`
/// hold the shared one, and the others wait for the exclusive one.
fn claimed(holders: usize, claims: usize) -> (Dispatcher, Vec<ClientId>, Vec<WaitHandle>) {
    let dispatcher = Dispatcher::default();
    let clients: Vec<ClientId> = (0..claims)
        .map(|number| dispatcher.connect(format!("peer:{number:04}").as_bytes()))
        .collect();
    let locks = dispatcher.locks();
    assert!(locks.get(clients[0], b"foo"));
    for &client in &clients[1..holders] {
        assert_ne!(locks.shared_get(client, b"foo"), 0);
    }
    let tickets = clients[holders..]
        .iter()
        .map(|&client| waits(locks.get_or_wait(client, b"foo", IfBusy::Wait)))
        .collect();
    (dispatcher, clients, tickets)
}
