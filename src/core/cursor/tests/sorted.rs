//! Sorted listings.

use std::collections::BTreeSet;

use glockd_protocol::{LockKind, rows};

use super::*;
use crate::core::locks::Disconnection;

/// Fails unless a counted listing has the lines of the plain one.
#[track_caller]
fn check_counted(dispatcher: &Dispatcher, counted: Cursor, title: &str, plain: Cursor) {
    let (counted, plain) = (
        listed(dispatcher, counted, || ()),
        listed(dispatcher, plain, || ()),
    );
    let plain: Vec<&str> = plain.split_terminator("\\n").collect();
    assert!(blocks(&counted, title).concat() == plain, "{title}");
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

    check(
        &dispatcher,
        Cursor::counted_lines(LockKind::Exclusive, None),
        "4 Lock List: \n: c:1\na b: you\nbar: me\nfoo: c:1\n0 Lock List: \n",
    );
    check(
        &dispatcher,
        Cursor::counted_lines(LockKind::Exclusive, Some(b"a b")),
        "1 Lock List: a b\na b: you\n0 Lock List: a b\n",
    );
    check(
        &dispatcher,
        Cursor::counted_lines(LockKind::Shared, Some(b"foo")),
        "3 Shared Lock List: foo\nfoo: you\nfoo: c:1\nfoo: me\n0 Shared Lock List: foo\n",
    );
    check(
        &dispatcher,
        Cursor::lines_with_lengths(LockKind::Exclusive, None),
        "4 Lock List: \n0 : c:1\n3 a b: you\n3 bar: me\n3 foo: c:1\n0 Lock List: \n",
    );
    check(
        &dispatcher,
        Cursor::lines_with_lengths(LockKind::Shared, Some(b"foo")),
        "3 Shared Lock List: foo\n3 foo: you\n3 foo: c:1\n3 foo: me\n0 Shared Lock List: foo\n",
    );
    check(
        &dispatcher,
        Cursor::counted_who(None),
        "2 Client List: \na:2: me\nb:3: you\n0 Client List: \n",
    );
    check(
        &dispatcher,
        Cursor::counted_who(Some(b"you")),
        "1 Client List: you\nb:3: you\n0 Client List: you\n",
    );
}

#[test]
fn empty_table_has_empty_listings() {
    let (dispatcher, _) = dispatcher();
    check(&dispatcher, Cursor::lines(LockKind::Exclusive, None), "");
    check(&dispatcher, Cursor::lines(LockKind::Shared, None), "");
    check(&dispatcher, Cursor::map(LockKind::Exclusive), "map[]\n");
    check(&dispatcher, Cursor::map(LockKind::Shared), "map[]\n");
    check(&dispatcher, Cursor::who(None), "");
    for (cursor, expect) in [
        (
            Cursor::counted_lines(LockKind::Exclusive, None),
            "0 Lock List: \n",
        ),
        (
            Cursor::counted_lines(LockKind::Exclusive, Some(b"a b")),
            "0 Lock List: a b\n",
        ),
        (
            Cursor::counted_lines(LockKind::Shared, None),
            "0 Shared Lock List: \n",
        ),
        (
            Cursor::counted_lines(LockKind::Shared, Some(b"foo")),
            "0 Shared Lock List: foo\n",
        ),
        (Cursor::counted_who(None), "0 Client List: \n"),
        (Cursor::counted_who(Some(b"x")), "0 Client List: x\n"),
    ] {
        check(&dispatcher, cursor, expect);
    }
}

#[test]
fn counted_listings_show_the_lines_of_the_others() {
    let dispatcher = Dispatcher::default();
    let clients: Vec<ClientId> = (0..20_000)
        .map(|number| {
            let client = dispatcher.connect(format!("peer:{number}").as_bytes());
            let name = format!("name {}", number % 100);
            dispatcher.registry().rename(client, Some(name.as_bytes()));
            client
        })
        .collect();
    // More than a small page of each, with names of several lengths and locks of many holders among them.
    for (number, &client) in clients.iter().enumerate() {
        let name = format!("{number}{}", "x".repeat(number % 50));
        dispatcher.locks().get(client, name.as_bytes());
        dispatcher.locks().shared_get(client, name.as_bytes());
        if number % 4 == 0 {
            dispatcher.locks().shared_get(client, b"many");
        }
    }
    for (kind, title) in [
        (LockKind::Exclusive, "Lock List: "),
        (LockKind::Shared, "Shared Lock List: "),
    ] {
        for name in ["", "many", "17", "17xxxxxxxxxxxxxxxxx"] {
            let filter = Some(name.as_bytes()).filter(|name| !name.is_empty());
            check_counted(
                &dispatcher,
                Cursor::counted_lines(kind, filter),
                &format!("{title}{name}"),
                Cursor::lines(kind, filter),
            );
        }
    }
    for name in ["", "name 17", "nobody"] {
        let filter = Some(name.as_bytes()).filter(|name| !name.is_empty());
        check_counted(
            &dispatcher,
            Cursor::counted_who(filter),
            &format!("Client List: {name}"),
            Cursor::who(filter),
        );
    }
}

/// Runs a counted listing, and `vanish` after its first output. Returns the number of lines in each block.
#[track_caller]
fn counts(
    dispatcher: &Dispatcher,
    mut cursor: Cursor,
    title: &str,
    vanish: impl FnOnce(),
) -> Vec<usize> {
    // A step does not change earlier output.
    let mut out = b"earlier\n".to_vec();
    while out.len() == 8 {
        assert!(!cursor.step(dispatcher.state(), &mut out).done);
    }
    vanish();
    while !cursor.step(dispatcher.state(), &mut out).done {}
    let listing = out.strip_prefix(b"earlier\n").unwrap();
    blocks(&listing.escape_ascii().to_string(), title)
        .iter()
        .map(Vec::len)
        .collect()
}

#[test]
fn released_locks_are_not_counted() {
    let dispatcher = Dispatcher::default();
    let clients: Vec<ClientId> = (0..1000)
        .map(|number| dispatcher.connect(format!("peer:{number:03}").as_bytes()))
        .collect();
    let (locks, registry) = (dispatcher.locks(), dispatcher.registry());
    let name = |number: usize| format!("{number:03}").into_bytes();
    for (number, &client) in clients.iter().enumerate() {
        locks.get(client, &name(number));
        locks.shared_get(client, &name(number));
        locks.shared_get(client, b"many");
        registry.rename(client, Some(b"me"));
    }
    let counts = |cursor, title, vanish: &dyn Fn(usize)| {
        counts(&dispatcher, cursor, title, || (100..999).for_each(vanish))
    };

    // The last holder that is left is found after steps that find none.
    let lines = Cursor::counted_lines(LockKind::Shared, Some(b"many"));
    let found = counts(lines, "Shared Lock List: many", &|number| {
        assert!(locks.shared_release(clients[number], b"many"));
    });
    assert_eq!((found.iter().sum(), found.last()), (101, Some(&1)));

    let lines = Cursor::counted_lines(LockKind::Exclusive, None);
    let found = counts(lines, "Lock List: ", &|number| {
        assert!(locks.release(clients[number], &name(number)));
    });
    assert_eq!((found.iter().sum(), found.last()), (101, Some(&1)));

    let found = counts(Cursor::counted_who(None), "Client List: ", &|number| {
        registry.rename(clients[number], None);
    });
    assert_eq!((found.iter().sum(), found.last()), (101, Some(&1)));
}

#[test]
fn connections_of_one_address_are_listed_in_the_order_of_their_arrival() {
    let dispatcher = Dispatcher::default();
    let early = dispatcher.connect(b"early");
    for name in ["one", "two", "three"] {
        let client = dispatcher.connect(b"x");
        dispatcher.registry().rename(client, Some(name.as_bytes()));
    }
    // This frees the lowest identity, and the last connection to arrive gets it.
    assert!(dispatcher.disconnect(&mut Disconnection::new(early), usize::MAX));
    let last = dispatcher.connect(b"x");
    dispatcher.registry().rename(last, Some(b"four"));
    check(
        &dispatcher,
        Cursor::who(None),
        "x: one\nx: two\nx: three\nx: four\n",
    );
}

/// Lists a table that changes.
#[track_caller]
fn check_changing_table(dispatcher: &Dispatcher, clients: &[ClientId]) {
    let name = |number: usize| format!("{number:06}").into_bytes();
    for number in 0..40_000 {
        dispatcher.locks().get(clients[number % 3], &name(number));
    }
    let (mut released, mut taken) = (0, 0);
    let shown = listed(dispatcher, Cursor::lines(LockKind::Exclusive, None), || {
        // Odd numbers are released and others granted, so that slots are freed and reused.
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
    });
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
fn lock_that_is_held_throughout_is_listed_once() {
    let (dispatcher, clients) = dispatcher();
    check_changing_table(&dispatcher, &clients);
}

#[test]
fn lock_that_is_held_throughout_is_listed_once_in_several_pages() {
    let (dispatcher, clients) = dispatcher();
    use_small_pages(&dispatcher);
    check_changing_table(&dispatcher, &clients);
}

#[test]
fn name_that_changes_while_who_runs_is_left_out() {
    let (dispatcher, clients) = dispatcher();
    let registry = dispatcher.registry();
    // The name may change before the connection is found, or between then and the moment when it is shown.
    for when in 1.. {
        for &client in &clients {
            registry.rename(client, Some(b"me"));
        }
        let mut steps = 0;
        let shown = listed(&dispatcher, Cursor::who(Some(b"me")), || {
            steps += 1;
            if steps == when {
                registry.rename(clients[2], Some(b"you"));
            }
        });
        if steps < when {
            assert!(when > 2, "it was all done in one step");
            break;
        }
        assert_eq!(shown, "a:2: me\\nc:1: me\\n", "after {when} steps");
    }
}

/// Takes all permits for large pages, so that listings make do with small ones.
fn use_small_pages(dispatcher: &Dispatcher) {
    while dispatcher.state().large_pages.try_acquire() {}
}

/// Makes names that differ early, late or only in their length: more than a few small pages of them.
fn diverse_names() -> BTreeSet<Vec<u8>> {
    let (long, longer) = ("long/".repeat(20), "long/".repeat(60));
    let numbered = (0..12_000).flat_map(|number| {
        [
            format!("{number}"),
            format!("{long}{number:06}"),
            format!("{longer}{number}"),
            format!("{}{}", &long[..number % 100], number / 100),
        ]
    });
    let zeros = (0..700).map(|length| "\0".repeat(length));
    let repeated = (0..1000).map(|length| "abcdefg".repeat(length));
    let bytes = (0..=255).map(|byte| vec![b'x', byte]);
    let texts = numbered.chain(zeros).chain(repeated);
    texts.map(String::into_bytes).chain(bytes).collect()
}

#[test]
fn all_locks_are_listed_in_order_whatever_their_names() {
    let (dispatcher, clients) = dispatcher();
    let locks = dispatcher.locks();
    let names = diverse_names();
    for name in &names {
        assert!(locks.get(clients[0], name));
        assert_eq!(locks.shared_get(clients[0], name), 1);
    }
    let mut expect = Vec::new();
    for name in &names {
        rows::line(&mut expect, name, b"c:1");
    }
    let expect = expect.escape_ascii().to_string();
    for _ in 0..2 {
        for kind in [LockKind::Exclusive, LockKind::Shared] {
            let shown = listed(&dispatcher, Cursor::lines(kind, None), || ());
            assert!(shown == expect, "{kind:?}");
        }
        use_small_pages(&dispatcher);
    }
}

#[test]
fn many_connections_of_one_address_are_listed_in_the_order_of_their_arrival() {
    let dispatcher = Dispatcher::default();
    let mut expect = String::new();
    for number in 0..20_000 {
        let client = dispatcher.connect(b"the address of them all");
        let name = format!("name {number}");
        dispatcher.registry().rename(client, Some(name.as_bytes()));
        expect += &format!("the address of them all: {name}\\n");
    }
    for _ in 0..2 {
        let shown = listed(&dispatcher, Cursor::who(None), || ());
        assert!(shown == expect);
        use_small_pages(&dispatcher);
    }
}

#[test]
fn next_connection_with_the_same_identity_is_not_listed_in_place_of_the_last() {
    let dispatcher = Dispatcher::default();
    let client = dispatcher.connect(b"x");
    dispatcher.registry().rename(client, Some(b"one"));
    let (mut cursor, mut out) = (Cursor::who(None), Vec::new());
    // The table is scanned in the second step.
    for _ in 0..2 {
        assert!(!cursor.step(dispatcher.state(), &mut out).done);
    }
    assert!(dispatcher.disconnect(&mut Disconnection::new(client), usize::MAX));
    assert_eq!(dispatcher.connect(b"w"), client);
    dispatcher.registry().rename(client, Some(b"two"));
    while !cursor.step(dispatcher.state(), &mut out).done {}
    assert_eq!(out, b"");
}

#[test]
fn large_page_is_given_back_when_the_listing_ends_or_is_dropped() {
    let (dispatcher, clients) = dispatcher();
    for number in 0..20_000 {
        let name = format!("{number}").into_bytes();
        assert!(dispatcher.locks().get(clients[0], &name));
    }
    let list = || Cursor::lines(LockKind::Exclusive, None);
    for _ in 0..10 {
        listed(&dispatcher, list(), || ());
        let mut dropped = list();
        dropped.step(dispatcher.state(), &mut Vec::new());
    }
    assert!(dispatcher.state().large_pages.try_acquire());
}
