//! Test data.

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};

/// Names as a client may send them, likely to contain what texts contain.
pub(crate) fn name() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        Just(b": ".to_vec()),
        Just(b"Lock Get Success: ".to_vec()),
        vec(any::<u8>(), 0..8),
    ];
    vec(part, 0..4).prop_map(|parts| crate::fold(&parts.concat()).into_owned())
}
