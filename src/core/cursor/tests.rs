//! Listings against what they are to show, and against a table that changes under them.

use std::iter;

use super::step::CHUNK;
use super::*;
use crate::core::dispatcher::Dispatcher;
use crate::core::locks::{Attempt, Disconnection, IfBusy, WaitHandle};
use crate::core::registry::ClientId;

fn dispatcher() -> (Dispatcher, Vec<ClientId>) {
    let dispatcher = Dispatcher::default();
    let clients = ["c:1", "a:2", "b:3"].map(|peer| dispatcher.connect(peer.as_bytes()));
    (dispatcher, clients.to_vec())
}

/// A listing to its end, with what is done to the table after each step.
fn listed(dispatcher: &Dispatcher, mut cursor: Cursor, mut between: impl FnMut()) -> String {
    let mut out = Vec::new();
    while !cursor.step(dispatcher.state(), &mut out).done {
        between();
    }
    out.escape_ascii().to_string()
}

/// The blocks of a counted listing, each without its header; there must be an end mark behind them and
/// nothing else.
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

/// Whether a counted listing shows what the other one does.
#[track_caller]
fn check_counted(dispatcher: &Dispatcher, counted: Cursor, title: &str, plain: Cursor) {
    let (counted, plain) = (
        listed(dispatcher, counted, || ()),
        listed(dispatcher, plain, || ()),
    );
    let plain: Vec<&str> = plain.split_terminator("\\n").collect();
    assert!(blocks(&counted, title).concat() == plain, "{title}");
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
fn empty_listings() {
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
fn counted_listings_show_what_the_others_do() {
    let dispatcher = Dispatcher::default();
    let clients: Vec<ClientId> = (0..20_000)
        .map(|number| {
            let client = dispatcher.connect(format!("peer:{number}").as_bytes());
            let name = format!("name {}", number % 100);
            dispatcher.registry().rename(client, Some(name.as_bytes()));
            client
        })
        .collect();
    // More than one window each, with names of several lengths and locks of many holders among them.
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

/// A counted listing, from which `vanish` takes what has not been shown as soon as something was: how many
/// lines there are in each block.
#[track_caller]
fn counts(
    dispatcher: &Dispatcher,
    mut cursor: Cursor,
    title: &str,
    vanish: impl FnOnce(),
) -> Vec<usize> {
    // A step leaves alone what is there already.
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
fn what_vanishes_is_not_counted() {
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

    // What is left of the last one is found after steps that find nothing.
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
fn connections_of_one_address_are_listed_as_they_came() {
    let dispatcher = Dispatcher::default();
    let early = dispatcher.connect(b"early");
    for name in ["one", "two", "three"] {
        let client = dispatcher.connect(b"x");
        dispatcher.registry().rename(client, Some(name.as_bytes()));
    }
    // The identity that this frees is the lowest, and now goes to the last one to arrive.
    assert!(dispatcher.disconnect(&mut Disconnection::new(early), usize::MAX));
    let last = dispatcher.connect(b"x");
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

/// A line of `own`: role, address, milliseconds, token, name.
type OwnerLine = (String, String, u64, u64, String);

/// The lines of `own`, as many as its header says.
#[track_caller]
fn owner_lines(listing: &str, name: &str) -> Vec<OwnerLine> {
    let mut lines = listing.split_terminator("\\n");
    let (count, rest) = lines.next().unwrap().split_once(' ').unwrap();
    assert_eq!(rest, format!("Lock Owners: {name}"));
    let lines: Vec<OwnerLine> = lines
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

#[track_caller]
fn waits(attempt: Attempt) -> WaitHandle {
    match attempt {
        Attempt::Waits(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

#[test]
fn owners_are_listed_by_what_they_are() {
    let dispatcher = Dispatcher::default();
    let clients = [1, 2, 3, 4, 5, 6, 7, 8]
        .map(|number| dispatcher.connect(format!("peer:{number}").as_bytes()));
    let locks = dispatcher.locks();
    dispatcher.registry().rename(clients[0], Some(b"a name"));

    assert!(locks.get(clients[0], b"a b"));
    assert_eq!(locks.shared_get(clients[2], b"a b"), 1);
    assert_eq!(locks.shared_get(clients[1], b"a b"), 2);
    for (client, kind) in [
        (6, LockKind::Shared),
        (4, LockKind::Exclusive),
        (3, LockKind::Exclusive),
        (1, LockKind::Exclusive),
        (5, LockKind::Shared),
    ] {
        let client = clients[client];
        waits(match kind {
            LockKind::Exclusive => locks.get_or_wait(client, b"a b", IfBusy::Wait),
            LockKind::Shared => locks.shared_get_or_wait(client, b"a b", 2, IfBusy::Wait),
        });
    }
    // Who has to do with another name, and who only watches, is not listed.
    assert!(locks.get(clients[7], b"a"));
    waits(locks.watch(clients[7], LockKind::Exclusive, b"a b", 1, IfBusy::Wait));

    let token = |client, kind| {
        let stamp = locks.held_since(client, kind, b"a b").unwrap();
        dispatcher.state().fence.token(stamp).unwrap()
    };
    let expect = [
        ("x", 1, token(clients[0], LockKind::Exclusive), "a name"),
        ("s", 3, token(clients[2], LockKind::Shared), "peer:3"),
        ("s", 2, token(clients[1], LockKind::Shared), "peer:2"),
        ("xw", 5, 0, "peer:5"),
        ("xw", 4, 0, "peer:4"),
        ("xw", 2, 0, "peer:2"),
        ("sw", 7, 0, "peer:7"),
        ("sw", 6, 0, "peer:6"),
    ];
    let shown = listed(&dispatcher, Cursor::claims(b"a b"), || ());
    let shown: Vec<_> = owner_lines(&shown, "a b")
        .into_iter()
        .map(|(role, address, _, token, name)| (role, address, token, name))
        .collect();
    let expect = expect.map(|(role, number, token, name)| {
        (role.into(), format!("peer:{number}"), token, name.into())
    });
    assert_eq!(shown, expect);
}

#[test]
fn owners_are_shown_with_their_age() {
    let (dispatcher, clients) = dispatcher();
    let locks = dispatcher.locks();
    locks.get(clients[0], b"foo");
    waits(locks.get_or_wait(clients[1], b"foo", IfBusy::Wait));
    let mut owners = Vec::new();
    locks.visit_claims(b"foo", usize::MAX, |owner| owners.push(owner));
    let end = locks.age_ms() + 3;
    while locks.age_ms() < end {
        std::thread::yield_now();
    }
    let shown = listed(&dispatcher, Cursor::claims(b"foo"), || ());
    let shown = owner_lines(&shown, "foo");
    assert_eq!(shown.len(), owners.len());
    for ((.., ms, _, _), owner) in shown.iter().zip(owners) {
        let since = owner.stamp.ms();
        assert!((end - since..=locks.age_ms() - since).contains(ms), "{ms}");
    }
}

#[test]
fn a_lock_that_nobody_has_to_do_with() {
    let (dispatcher, clients) = dispatcher();
    check(&dispatcher, Cursor::claims(b"a b"), "0 Lock Owners: a b\n");
    dispatcher.locks().get(clients[0], b"a b");
    check(&dispatcher, Cursor::claims(b""), "0 Lock Owners: \n");
}

#[test]
fn a_lock_that_is_handed_over_while_it_is_listed_has_a_holder() {
    let (dispatcher, clients) = dispatcher();
    let locks = dispatcher.locks();
    assert!(locks.get(clients[0], b"foo"));
    waits(locks.get_or_wait(clients[1], b"foo", IfBusy::Wait));
    let mut steps = 0;
    let shown = listed(&dispatcher, Cursor::claims(b"foo"), || {
        steps += 1;
        locks.release(clients[0], b"foo");
    });
    assert!(steps > 0);
    let shown: Vec<(String, String)> = owner_lines(&shown, "foo")
        .into_iter()
        .map(|(role, address, ..)| (role, address))
        .collect();
    let expect = [("x", "c:1"), ("xw", "a:2")];
    assert_eq!(shown, expect.map(|(a, b)| (a.to_owned(), b.to_owned())));
}

/// Role and address of each line.
fn roles(lines: Vec<OwnerLine>) -> Vec<(String, String)> {
    let role = |(role, address, ..): OwnerLine| (role, address);
    lines.into_iter().map(role).collect()
}

/// A lock `foo` with an exclusive holder, the first client, then shared holders up to this number, and behind them
/// waiters for the exclusive one.
fn owned(holders: usize, owners: usize) -> (Dispatcher, Vec<ClientId>, Vec<WaitHandle>) {
    let dispatcher = Dispatcher::default();
    let clients: Vec<ClientId> = (0..owners)
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

/// What `own foo` shows of that lock, if these are its owners.
fn owned_lines(owners: impl Iterator<Item = usize>, holders: usize) -> Vec<(String, String)> {
    owners
        .map(|number| {
            let role = match number {
                0 => "x",
                _ if number < holders => "s",
                _ => "xw",
            };
            (role.to_owned(), format!("peer:{number:04}"))
        })
        .collect()
}

#[test]
fn owners_that_go_before_the_count_is_shown_are_not_counted() {
    let (dispatcher, clients, mut tickets) = owned(200, 400);
    let locks = dispatcher.locks();
    let mut steps = 0;
    let shown = listed(&dispatcher, Cursor::claims(b"foo"), || {
        steps += 1;
        match steps {
            1 => {
                // Before they are looked up: half of the holders, of whom one has a successor…
                for &client in &clients[100..200] {
                    assert!(locks.shared_release(client, b"foo"));
                }
                assert!(dispatcher.disconnect(&mut Disconnection::new(clients[199]), usize::MAX));
                assert_eq!(dispatcher.connect(b"other"), clients[199]);
                assert_eq!(locks.shared_get(clients[199], b"foo"), 100);
                // …one that came back, half of the waiters, and the first of these, who holds it now. The
                // holder before is among the first, who have been looked up.
                assert_eq!(locks.shared_get(clients[198], b"foo"), 101);
                for ticket in tickets.drain(100..) {
                    assert_eq!(locks.end_wait(ticket), None);
                }
                assert!(locks.release(clients[0], b"foo"));
            }
            // When all have been: too late to be left out.
            7 => {
                for &client in &clients[1..100] {
                    assert!(locks.shared_release(client, b"foo"));
                }
            }
            _ => {}
        }
    });
    assert!(steps > 7);
    let expect = owned_lines((0..100).chain(201..300), 200);
    assert_eq!(roles(owner_lines(&shown, "foo")), expect);
}

#[test]
fn waiter_that_queues_anew_is_not_listed_at_its_old_place() {
    let (dispatcher, clients, mut tickets) = owned(1, 100);
    let locks = dispatcher.locks();
    let mut steps = 0;
    let shown = listed(&dispatcher, Cursor::claims(b"foo"), || {
        steps += 1;
        if steps == 1 {
            // It is beyond those that are looked up at once, and gets the same node again.
            let ticket = tickets.remove(79);
            assert_eq!(locks.end_wait(ticket), None);
            waits(locks.get_or_wait(clients[80], b"foo", IfBusy::Wait));
        }
    });
    let expect = owned_lines((0..80).chain(81..100), 1);
    assert_eq!(roles(owner_lines(&shown, "foo")), expect);
}

/// What `own foo` shows if `leave` is called as soon as it has shown the count.
#[track_caller]
fn owners_after_count(dispatcher: &Dispatcher, leave: impl FnOnce()) -> Vec<(String, String)> {
    let (mut cursor, mut out) = (Cursor::claims(b"foo"), Vec::new());
    while out.is_empty() {
        assert!(!cursor.step(dispatcher.state(), &mut out).done);
    }
    leave();
    while !cursor.step(dispatcher.state(), &mut out).done {}
    roles(owner_lines(&out.escape_ascii().to_string(), "foo"))
}

fn gone(lines: usize) -> impl Iterator<Item = (String, String)> {
    iter::repeat_n(("-".to_owned(), "-".to_owned()), lines)
}

#[test]
fn owners_that_go_after_the_count_is_shown_leave_gaps() {
    let (dispatcher, clients, mut tickets) = owned(1000, 2000);
    let locks = dispatcher.locks();
    let shown = owners_after_count(&dispatcher, || {
        // All that was found already, but the end of the window and what comes next…
        for &client in &clients[1..500] {
            assert!(locks.shared_release(client, b"foo"));
        }
        // …and from among those to come: holders, one of which comes again; waiters, one of which holds it now,
        // and one of which waits again.
        for &client in &clients[700..800] {
            assert!(locks.shared_release(client, b"foo"));
        }
        locks.shared_get(clients[750], b"foo");
        for ticket in tickets.drain(500..600) {
            assert_eq!(locks.end_wait(ticket), None);
        }
        waits(locks.get_or_wait(clients[1550], b"foo", IfBusy::Wait));
        assert!(locks.release(clients[0], b"foo"));
        waits(locks.get_or_wait(clients[0], b"foo", IfBusy::Wait));
    });
    let rest = (0..700)
        .chain(800..1000)
        .chain(1001..1500)
        .chain(1600..2000);
    let expect = owned_lines(rest, 1000).into_iter().chain(gone(201));
    assert_eq!(shown, expect.collect::<Vec<_>>());
}

#[test]
fn owners_are_found_again_when_the_last_one_found_has_gone() {
    for holders in [1, 300, 600, 2000] {
        let (dispatcher, clients, mut tickets) = owned(holders, 2000);
        let locks = dispatcher.locks();
        let shown = owners_after_count(&dispatcher, || {
            // The last of a window and some on both sides of it, wherever that may be.
            for &client in clients.iter().take(holders.min(1700)).skip(400) {
                assert!(locks.shared_release(client, b"foo"));
            }
            let waiting = |number: usize| number.saturating_sub(holders);
            for ticket in tickets.drain(waiting(400)..waiting(1700)) {
                assert_eq!(locks.end_wait(ticket), None);
            }
        });
        // The first window was looked up before.
        let rest = (0..512).chain(1700..2000);
        let expect = owned_lines(rest, holders).into_iter().chain(gone(1188));
        assert_eq!(shown, expect.collect::<Vec<_>>(), "{holders} holders");
    }
}

#[test]
fn owners_that_stay_are_listed_once_while_others_come_and_go() {
    let (dispatcher, clients, mut tickets) = owned(1500, 3000);
    let locks = dispatcher.locks();
    let stays = |number: usize| number.is_multiple_of(3);
    let mut steps = 0;
    let shown = listed(&dispatcher, Cursor::claims(b"foo"), || {
        steps += 1;
        for (number, &client) in clients.iter().enumerate() {
            // Each of the others in every so many steps, so that at any time some are gone and some are back.
            if stays(number) || !(number + steps).is_multiple_of(17) {
                continue;
            }
            if number < 1500 {
                if !locks.shared_release(client, b"foo") {
                    locks.shared_get(client, b"foo");
                }
            } else {
                let place = &mut tickets[number - 1500];
                let again = waits(locks.get_or_wait(client, b"foo", IfBusy::Wait));
                let ticket = std::mem::replace(place, again);
                assert_eq!(locks.end_wait(ticket), None);
            }
        }
    });
    assert!(steps > 50);
    // As many as were counted, or the count would be wrong.
    let shown = roles(owner_lines(&shown, "foo"));
    let those_there: Vec<_> = shown.iter().filter(|(role, _)| role != "-").collect();
    assert!(
        those_there.iter().is_sorted_by(|a, b| a.1 < b.1),
        "twice, or not in order"
    );
    let staying = owned_lines((0..3000).filter(|&number| stays(number)), 1500);
    assert!(staying.iter().all(|line| those_there.contains(&line)));
}

#[test]
fn all_owners_may_go_while_they_are_listed() {
    let (dispatcher, clients, tickets) = owned(1000, 2000);
    let locks = dispatcher.locks();
    let shown = owners_after_count(&dispatcher, || {
        for ticket in tickets {
            assert_eq!(locks.end_wait(ticket), None);
        }
        for &client in &clients {
            assert!(dispatcher.disconnect(&mut Disconnection::new(client), usize::MAX));
        }
    });
    let expect = owned_lines(0..512, 1000).into_iter().chain(gone(1488));
    assert_eq!(shown, expect.collect::<Vec<_>>());
}

#[test]
fn name_that_changes_while_who_lists_it_is_left_out() {
    let (dispatcher, clients) = dispatcher();
    let registry = dispatcher.registry();
    // Whenever that happens: before the connection is found, or between then and when it is shown.
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

/// A listing, of which no step may bring more than a chunk and a line of this length.
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
fn a_step_brings_a_bounded_piece() {
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
fn a_step_brings_a_bounded_piece_of_one_lock() {
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
    assert_eq!(owner_lines(&shown, &name).len(), 200);
}

#[test]
fn a_step_brings_a_bounded_piece_of_long_owners() {
    let dispatcher = Dispatcher::default();
    for _ in 0..200 {
        let client = dispatcher.connect(b"c:1");
        dispatcher.registry().rename(client, Some(&[b'x'; 30_000]));
        dispatcher.locks().shared_get(client, b"foo");
    }
    let shown = listed_in_pieces(&dispatcher, Cursor::claims(b"foo"), 30_060);
    assert_eq!(owner_lines(&shown, "foo").len(), 200);
}

/// The most work of a step, of a listing to its end.
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
fn all_who_are_found_at_once_are_reckoned() {
    let (dispatcher, clients, _) = owned(8001, 8001);
    let lines = Cursor::lines(LockKind::Shared, Some(b"foo"));
    let most = most_work(&dispatcher, lines, |_| ());
    assert!((1000..1100).contains(&most), "{most}");

    // Of owners only a window is found…
    let most = most_work(&dispatcher, Cursor::claims(b"foo"), |_| ());
    assert!((64..200).contains(&most), "{most}");
    // …unless its end has gone: then the next one has to be looked for.
    let most = most_work(&dispatcher, Cursor::claims(b"foo"), |steps| {
        if steps == 200 {
            for &client in &clients[5500..6500] {
                assert!(dispatcher.locks().shared_release(client, b"foo"));
            }
        }
    });
    assert!((600..1100).contains(&most), "{most}");
}
