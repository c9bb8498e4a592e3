//! Listings against what they are to show, and against a table that changes under them.

use glockd_transports::Peer;

use super::*;
use crate::dispatcher::Departure;
use crate::policy::Policy;
use crate::registry::ClientId;

fn dispatcher() -> (Dispatcher, Vec<ClientId>) {
    let dispatcher = Dispatcher::new(Policy::default());
    let clients = ["c:1", "a:2", "b:3"].map(|peer| dispatcher.connect(&Peer::new(peer)));
    (dispatcher, clients.to_vec())
}

/// A listing to its end, with what is done to the table after each step.
fn listed(dispatcher: &Dispatcher, mut cursor: Cursor, mut between: impl FnMut()) -> String {
    let mut out = Vec::new();
    while !cursor.step(dispatcher, &mut out).done {
        between();
    }
    out.escape_ascii().to_string()
}

#[track_caller]
fn check(dispatcher: &Dispatcher, cursor: Cursor, expect: &str) {
    assert_eq!(
        listed(dispatcher, cursor, || ()),
        expect.escape_default().to_string()
    );
}

#[test]
fn listings_are_sorted() {
    let (dispatcher, clients) = dispatcher();
    let locks = dispatcher.locks();
    for (client, name) in [(0, "foo"), (1, "bar"), (0, ""), (2, "a b")] {
        locks.get(clients[client], name.as_bytes());
    }
    for (client, name) in [(2, "foo"), (0, "foo"), (1, "foo"), (1, "bar")] {
        locks.shared_get(clients[client], name.as_bytes());
    }
    dispatcher.registry().rename(clients[1], Some(b"me"));
    dispatcher.registry().rename(clients[2], Some(b"you"));

    check(
        &dispatcher,
        Cursor::lines(LockKind::Exclusive, None),
        ": c:1\na b: you\nbar: me\nfoo: c:1\n",
    );
    check(
        &dispatcher,
        Cursor::lines(LockKind::Exclusive, Some(b"bar")),
        "bar: me\n",
    );
    check(
        &dispatcher,
        Cursor::lines(LockKind::Exclusive, Some(b"baz")),
        "",
    );
    check(
        &dispatcher,
        Cursor::lines(LockKind::Shared, None),
        "bar: me\nfoo: you\nfoo: c:1\nfoo: me\n",
    );
    check(
        &dispatcher,
        Cursor::lines(LockKind::Shared, Some(b"foo")),
        "foo: you\nfoo: c:1\nfoo: me\n",
    );
    check(
        &dispatcher,
        Cursor::map(LockKind::Exclusive),
        "map[:c:1 a b:b:3 bar:a:2 foo:c:1]\n",
    );
    check(
        &dispatcher,
        Cursor::map(LockKind::Shared),
        "map[bar:[a:2] foo:[b:3 c:1 a:2]]\n",
    );
    check(&dispatcher, Cursor::who(None), "a:2: me\nb:3: you\n");
    check(&dispatcher, Cursor::who(Some(b"you")), "b:3: you\n");
    check(&dispatcher, Cursor::who(Some(b"nobody")), "");
}

#[test]
fn empty_listings() {
    let (dispatcher, _) = dispatcher();
    check(&dispatcher, Cursor::lines(LockKind::Exclusive, None), "");
    check(&dispatcher, Cursor::lines(LockKind::Shared, None), "");
    check(&dispatcher, Cursor::map(LockKind::Exclusive), "map[]\n");
    check(&dispatcher, Cursor::map(LockKind::Shared), "map[]\n");
    check(&dispatcher, Cursor::who(None), "");
}

#[test]
fn connections_of_one_address_are_listed_as_they_came() {
    let dispatcher = Dispatcher::new(Policy::default());
    let early = dispatcher.connect(&Peer::new("early"));
    for name in ["one", "two", "three"] {
        let client = dispatcher.connect(&Peer::new("x"));
        dispatcher.registry().rename(client, Some(name.as_bytes()));
    }
    // The identity that this frees is the lowest, and now goes to the last one to arrive.
    assert!(dispatcher.disconnect(&mut Departure::new(early), usize::MAX));
    let last = dispatcher.connect(&Peer::new("x"));
    dispatcher.registry().rename(last, Some(b"four"));
    check(
        &dispatcher,
        Cursor::who(None),
        "x: one\nx: two\nx: three\nx: four\n",
    );
}

#[test]
fn what_is_held_throughout_appears_once_in_several_windows() {
    let (dispatcher, clients) = dispatcher();
    let name = |number: usize| format!("{number:06}").into_bytes();
    for number in 0..40_000 {
        dispatcher.locks().get(clients[number % 3], &name(number));
    }
    let (mut released, mut taken) = (0, 0);
    let shown = listed(
        &dispatcher,
        Cursor::lines(LockKind::Exclusive, None),
        || {
            // Odd ones go, and others come and go, so that slots are freed and used again.
            for _ in 0..20 {
                let number = released * 2 + 1;
                if number < 40_000 {
                    assert!(
                        dispatcher
                            .locks()
                            .release(clients[number % 3], &name(number))
                    );
                    assert!(dispatcher.locks().get(clients[0], &name(100_000 + taken)));
                    released += 1;
                    taken += 1;
                }
            }
        },
    );
    assert!(
        released > 1000,
        "the table has not changed while it was listed"
    );
    let shown: Vec<&str> = shown
        .split("\\n")
        .filter_map(|line| line.split(':').next())
        .collect();
    let shown: Vec<&str> = shown.into_iter().filter(|name| !name.is_empty()).collect();
    assert!(shown.is_sorted_by(|a, b| a < b), "not sorted, or twice");
    let even = shown.iter().filter(|name| {
        name.parse::<usize>().unwrap() < 40_000 && !name.ends_with(['1', '3', '5', '7', '9'])
    });
    assert_eq!(even.count(), 20_000);
}

#[test]
fn a_step_brings_a_bounded_piece() {
    let (dispatcher, clients) = dispatcher();
    for number in 0..200 {
        dispatcher.locks().get(
            clients[0],
            format!("{number:03}{}", "x".repeat(30_000)).as_bytes(),
        );
    }
    let mut cursor = Cursor::lines(LockKind::Exclusive, None);
    let (mut total, mut done) = (0, false);
    while !done {
        let mut out = Vec::new();
        done = cursor.step(&dispatcher, &mut out).done;
        assert!(out.len() < CHUNK + 30_100, "{}", out.len());
        total += out.len();
    }
    assert_eq!(total, 200 * (30_003 + ": c:1\n".len()));
}
