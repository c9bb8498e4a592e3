//! Tables and locks that are large.

use std::collections::HashSet;

use glockd_protocol::LockKind;

use super::support::{clients, disconnect};
use crate::core::locks::{LockTable, ScanPosition};

#[test]
fn every_lock_of_many_is_found_and_released() {
    let (table, clients) = (LockTable::new(), clients(2));
    let names: Vec<Vec<u8>> = (0..50_000)
        .map(|n| format!("a rather long name of a lock {n}").into_bytes())
        .collect();
    for round in 0..2 {
        for name in &names {
            assert!(table.get(clients[0], name));
            assert!(!table.get(clients[1], name));
            assert_eq!(table.shared_get(clients[0], name), 1);
            assert_eq!(table.shared_get(clients[1], name), 2);
        }
        let mut found = HashSet::new();
        let all = table.scan(
            LockKind::Exclusive,
            ScanPosition::default(),
            usize::MAX,
            |_, name| {
                found.insert(name.to_vec());
            },
        );
        assert!(all.is_none());
        assert_eq!(found.len(), names.len(), "round {round}");
        let released = disconnect(&table, clients[0]);
        assert_eq!(
            (released.exclusive, released.shared),
            (names.len(), names.len())
        );
        assert_eq!(table.count(LockKind::Exclusive), 0);
        assert_eq!(table.count(LockKind::Shared), names.len());
        disconnect(&table, clients[1]);
        assert_eq!(table.count(LockKind::Shared), 0);
    }
}

#[test]
fn shared_lock_keeps_the_order_of_ten_thousand_holders() {
    let (table, clients) = (LockTable::new(), clients(10_000));
    for (index, &client) in clients.iter().enumerate() {
        assert_eq!(table.shared_get(client, b"x") as usize, index + 1);
    }
    assert_eq!(table.shared_holders(b"x"), clients);
    for &client in clients.iter().rev() {
        assert!(table.shared_release(client, b"x"));
    }
    assert_eq!(table.shared_holder_count(b"x"), 0);
}

/// The parts of a shard do not all give their memory back at the same size.
#[test]
fn emptied_table_of_any_size_can_be_filled_again() {
    let client = clients(1)[0];
    let table = LockTable::new();
    let shards = table.shards.len();
    for per_shard in [800, 930, 960, 990, 1100] {
        let name = |number: usize| number.to_string().into_bytes();
        for _ in 0..2 {
            for number in 0..shards * per_shard {
                assert!(table.get(client, &name(number)));
                assert_eq!(table.shared_get(client, &name(number)), 1);
            }
            for number in 0..shards * per_shard {
                assert!(
                    table.release(client, &name(number)),
                    "{number} of {per_shard}"
                );
                assert!(table.shared_release(client, &name(number)));
            }
        }
    }
}
