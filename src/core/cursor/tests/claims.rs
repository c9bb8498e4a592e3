//! The listing of `own`.

use std::iter;

use glockd_protocol::LockKind;

use super::*;
use crate::core::locks::Disconnection;

#[test]
fn claims_are_listed_by_role_and_age() {
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
    // A client with a claim to another name, or one that only watches, is not listed.
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
    let shown: Vec<_> = claim_lines(&shown, "a b")
        .into_iter()
        .map(|(role, address, _, token, name)| (role, address, token, name))
        .collect();
    let expect = expect.map(|(role, number, token, name)| {
        (role.into(), format!("peer:{number}"), token, name.into())
    });
    assert_eq!(shown, expect);
}

#[test]
fn claims_are_shown_with_their_age() {
    let (dispatcher, clients) = dispatcher();
    let locks = dispatcher.locks();
    locks.get(clients[0], b"foo");
    waits(locks.get_or_wait(clients[1], b"foo", IfBusy::Wait));
    let mut claims = Vec::new();
    locks.visit_claims(b"foo", usize::MAX, |claim| claims.push(claim));
    let end = locks.age_ms() + 3;
    while locks.age_ms() < end {
        std::thread::yield_now();
    }
    let shown = listed(&dispatcher, Cursor::claims(b"foo"), || ());
    let shown = claim_lines(&shown, "foo");
    assert_eq!(shown.len(), claims.len());
    for ((.., ms, _, _), claim) in shown.iter().zip(claims) {
        let since = claim.stamp.ms();
        assert!((end - since..=locks.age_ms() - since).contains(ms), "{ms}");
    }
}

#[test]
fn unclaimed_name_has_an_empty_list() {
    let (dispatcher, clients) = dispatcher();
    check(&dispatcher, Cursor::claims(b"a b"), "0 Lock Owners: a b\n");
    dispatcher.locks().get(clients[0], b"a b");
    check(&dispatcher, Cursor::claims(b""), "0 Lock Owners: \n");
}

#[test]
fn lock_that_is_handed_over_during_the_listing_has_a_holder() {
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
    let shown: Vec<(String, String)> = claim_lines(&shown, "foo")
        .into_iter()
        .map(|(role, address, ..)| (role, address))
        .collect();
    let expect = [("x", "c:1"), ("xw", "a:2")];
    assert_eq!(shown, expect.map(|(a, b)| (a.to_owned(), b.to_owned())));
}

/// Returns the role and the address of each line.
fn roles(lines: Vec<ClaimLine>) -> Vec<(String, String)> {
    let role = |(role, address, ..): ClaimLine| (role, address);
    lines.into_iter().map(role).collect()
}

/// Returns what `own foo` shows of that lock if these clients have claims to it.
fn expected_claims(claims: impl Iterator<Item = usize>, holders: usize) -> Vec<(String, String)> {
    claims
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
fn claims_that_end_before_the_count_is_shown_are_not_counted() {
    let (dispatcher, clients, mut tickets) = claimed(200, 400);
    let locks = dispatcher.locks();
    let mut steps = 0;
    let shown = listed(&dispatcher, Cursor::claims(b"foo"), || {
        steps += 1;
        match steps {
            1 => {
                // Before they are looked up, these claims end: those of half of the holders, one of which is replaced by
                // another client…
                for &client in &clients[100..200] {
                    assert!(locks.shared_release(client, b"foo"));
                }
                assert!(dispatcher.disconnect(&mut Disconnection::new(clients[199]), usize::MAX));
                assert_eq!(dispatcher.connect(b"other"), clients[199]);
                assert_eq!(locks.shared_get(clients[199], b"foo"), 100);
                // …and one of which gets the lock again; those of half of the waiters; and that of the first waiter, which
                // holds the lock now. The holder before it is among the first claims, which were looked up at once.
                assert_eq!(locks.shared_get(clients[198], b"foo"), 101);
                for ticket in tickets.drain(100..) {
                    assert_eq!(locks.end_wait(ticket), None);
                }
                assert!(locks.release(clients[0], b"foo"));
            }
            // All have been looked up: these end too late to be left out.
            7 => {
                for &client in &clients[1..100] {
                    assert!(locks.shared_release(client, b"foo"));
                }
            }
            _ => {}
        }
    });
    assert!(steps > 7);
    let expect = expected_claims((0..100).chain(201..300), 200);
    assert_eq!(roles(claim_lines(&shown, "foo")), expect);
}

#[test]
fn waiter_that_queues_again_is_not_listed_at_its_old_position() {
    let (dispatcher, clients, mut tickets) = claimed(1, 100);
    let locks = dispatcher.locks();
    let mut steps = 0;
    let shown = listed(&dispatcher, Cursor::claims(b"foo"), || {
        steps += 1;
        if steps == 1 {
            // This claim is not among those that are looked up at once. The client gets the same node again.
            let ticket = tickets.remove(79);
            assert_eq!(locks.end_wait(ticket), None);
            waits(locks.get_or_wait(clients[80], b"foo", IfBusy::Wait));
        }
    });
    let expect = expected_claims((0..80).chain(81..100), 1);
    assert_eq!(roles(claim_lines(&shown, "foo")), expect);
}

/// Runs `own foo`, and `leave` as soon as the count was shown. Returns the role and the address of each line.
#[track_caller]
fn claims_after_count(dispatcher: &Dispatcher, leave: impl FnOnce()) -> Vec<(String, String)> {
    let (mut cursor, mut out) = (Cursor::claims(b"foo"), Vec::new());
    while out.is_empty() {
        assert!(!cursor.step(dispatcher.state(), &mut out).done);
    }
    leave();
    while !cursor.step(dispatcher.state(), &mut out).done {}
    roles(claim_lines(&out.escape_ascii().to_string(), "foo"))
}

fn gone(lines: usize) -> impl Iterator<Item = (String, String)> {
    iter::repeat_n(("-".to_owned(), "-".to_owned()), lines)
}

#[test]
fn claims_that_end_after_the_count_is_shown_leave_gaps() {
    let (dispatcher, clients, mut tickets) = claimed(1000, 2000);
    let locks = dispatcher.locks();
    let shown = claims_after_count(&dispatcher, || {
        // These claims end: those that were found, except the last ones of the batch…
        for &client in &clients[1..500] {
            assert!(locks.shared_release(client, b"foo"));
        }
        // …and of those to come, some holders, one of which gets the lock again, and some waiters, one of which holds the
        // lock now, and one of which waits again.
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
    let expect = expected_claims(rest, 1000).into_iter().chain(gone(201));
    assert_eq!(shown, expect.collect::<Vec<_>>());
}

#[test]
fn search_continues_when_the_last_claim_of_a_batch_has_ended() {
    for holders in [1, 300, 600, 2000] {
        let (dispatcher, clients, mut tickets) = claimed(holders, 2000);
        let locks = dispatcher.locks();
        let shown = claims_after_count(&dispatcher, || {
            // The last claim of a batch, and some on both sides of it.
            for &client in clients.iter().take(holders.min(1700)).skip(400) {
                assert!(locks.shared_release(client, b"foo"));
            }
            let waiting = |number: usize| number.saturating_sub(holders);
            for ticket in tickets.drain(waiting(400)..waiting(1700)) {
                assert_eq!(locks.end_wait(ticket), None);
            }
        });
        // The first batch was looked up before.
        let rest = (0..512).chain(1700..2000);
        let expect = expected_claims(rest, holders).into_iter().chain(gone(1188));
        assert_eq!(shown, expect.collect::<Vec<_>>(), "{holders} holders");
    }
}

#[test]
fn claims_that_last_are_listed_once_while_others_come_and_go() {
    let (dispatcher, clients, mut tickets) = claimed(1500, 3000);
    let locks = dispatcher.locks();
    let stays = |number: usize| number.is_multiple_of(3);
    let mut steps = 0;
    let shown = listed(&dispatcher, Cursor::claims(b"foo"), || {
        steps += 1;
        for (number, &client) in clients.iter().enumerate() {
            // Each of the others changes in one step of 17, so at any time some are gone and some are back.
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
    // `claim_lines` has compared the number of lines with the count.
    let shown = roles(claim_lines(&shown, "foo"));
    let those_there: Vec<_> = shown.iter().filter(|(role, _)| role != "-").collect();
    assert!(
        those_there.iter().is_sorted_by(|a, b| a.1 < b.1),
        "twice, or not in order"
    );
    let staying = expected_claims((0..3000).filter(|&number| stays(number)), 1500);
    assert!(staying.iter().all(|line| those_there.contains(&line)));
}

#[test]
fn all_claims_may_end_while_they_are_listed() {
    let (dispatcher, clients, tickets) = claimed(1000, 2000);
    let locks = dispatcher.locks();
    let shown = claims_after_count(&dispatcher, || {
        for ticket in tickets {
            assert_eq!(locks.end_wait(ticket), None);
        }
        for &client in &clients {
            assert!(dispatcher.disconnect(&mut Disconnection::new(client), usize::MAX));
        }
    });
    let expect = expected_claims(0..512, 1000).into_iter().chain(gone(1488));
    assert_eq!(shown, expect.collect::<Vec<_>>());
}
