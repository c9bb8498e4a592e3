//! The parser against the naive parser of its property tests.

#![no_main]

#[path = "../../protocol/tests/reference/naive.rs"]
mod naive;

use glockd_protocol::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|frame: &[u8]| {
    assert_eq!(
        parse(frame),
        naive::parse(frame),
        "{}",
        frame.escape_ascii()
    );
});
