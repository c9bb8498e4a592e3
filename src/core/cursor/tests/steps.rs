//! Size and cost of a listing's steps.

use glockd_protocol::LockKind;

use super::*;
use crate::core::cursor::step::CHUNK;

/// Runs a listing. Fails if a step adds more than a chunk and a line of this length.
#[track_caller]
fn listed_in_pieces(dispatcher: &Dispatcher, mut cursor: Cursor, line: usize) -> String {
    let (mut listing, mut done) = (Vec::new(), false);
    while !done {
        let mut out = vec![b'x'; CHUNK];
        done = cursor.step(dispatcher.state(), &mut out).done;
        let piece = &out[CHUNK..];
        assert!(piece.len() < CHUNK + line, "{}", piece.len());
        listing.extend_from_slice(piece);
    }
    listing.escape_ascii().to_string()
}

#[test]
fn step_with_long_names_has_bounded_output() {
    let (dispatcher, clients) = dispatcher();
    for number in 0..200 {
        let name = format!("{number:03}{}", "x".repeat(30_000));
        dispatcher.locks().get(clients[0], name.as_bytes());
    }
    let lines = Cursor::lines(LockKind::Exclusive, None);
    let shown = listed_in_pieces(&dispatcher, lines, 30_010);
    assert_eq!(shown.len(), 200 * (30_003 + ": c:1\\n".len()));
    let lines = Cursor::counted_lines(LockKind::Exclusive, None);
    let shown = listed_in_pieces(&dispatcher, lines, 30_030);
    assert_eq!(blocks(&shown, "Lock List: ").concat().len(), 200);
}

#[test]
fn step_with_many_holders_has_bounded_output() {
    let dispatcher = Dispatcher::default();
    let name = "x".repeat(30_000);
    for _ in 0..200 {
        let client = dispatcher.connect(b"c:1");
        dispatcher.locks().shared_get(client, name.as_bytes());
    }
    let lines = Cursor::lines(LockKind::Shared, None);
    let shown = listed_in_pieces(&dispatcher, lines, 30_010);
    assert_eq!(shown.len(), 200 * (30_000 + ": c:1\\n".len()));
    let shown = listed_in_pieces(&dispatcher, Cursor::claims(name.as_bytes()), 30_030);
    assert_eq!(claim_lines(&shown, &name).len(), 200);
}

#[test]
fn step_with_long_claims_has_bounded_output() {
    let dispatcher = Dispatcher::default();
    for _ in 0..200 {
        let client = dispatcher.connect(b"c:1");
        dispatcher.registry().rename(client, Some(&[b'x'; 30_000]));
        dispatcher.locks().shared_get(client, b"foo");
    }
    let shown = listed_in_pieces(&dispatcher, Cursor::claims(b"foo"), 30_060);
    assert_eq!(claim_lines(&shown, "foo").len(), 200);
}

/// Runs a listing, and `between` after each step but the last. Returns the largest cost of a step.
fn most_work(dispatcher: &Dispatcher, mut cursor: Cursor, mut between: impl FnMut(usize)) -> u32 {
    let (mut most, mut out, mut steps) = (0, Vec::new(), 0);
    loop {
        let step = cursor.step(dispatcher.state(), &mut out);
        most = most.max(step.work);
        if step.done {
            return most;
        }
        steps += 1;
        between(steps);
    }
}

#[test]
fn work_counts_all_claims_that_are_found_at_once() {
    let (dispatcher, clients, _) = claimed(8001, 8001);
    let lines = Cursor::lines(LockKind::Shared, Some(b"foo"));
    let most = most_work(&dispatcher, lines, |_| ());
    assert!((1000..1100).contains(&most), "{most}");

    // Only a batch of claims is found at a time…
    let most = most_work(&dispatcher, Cursor::claims(b"foo"), |_| ());
    assert!((64..200).contains(&most), "{most}");
    // …unless the last claim of the batch has ended: then the next one must be searched.
    let most = most_work(&dispatcher, Cursor::claims(b"foo"), |steps| {
        if steps == 200 {
            for &client in &clients[5500..6500] {
                assert!(dispatcher.locks().shared_release(client, b"foo"));
            }
        }
    });
    assert!((600..1100).contains(&most), "{most}");
}

/// A step lasts some ten microseconds, which is a hundred plain commands or so.
#[test]
fn steps_of_a_sorted_listing_are_short() {
    let (dispatcher, clients) = dispatcher();
    let prefix = "x".repeat(5000);
    for number in 0..20_000 {
        let name = match number % 10 {
            0 => format!("{prefix}{number}"),
            _ => format!("name {number}"),
        };
        assert!(dispatcher.locks().get(clients[0], name.as_bytes()));
    }
    let list = || Cursor::lines(LockKind::Exclusive, None);
    let large = most_work(&dispatcher, list(), |_| ());
    while dispatcher.state().large_pages.try_acquire() {}
    let small = most_work(&dispatcher, list(), |_| ());
    assert!(large < 400 && small < 400, "{large}, {small}");
}
