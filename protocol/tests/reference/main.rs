//! The parser, compared with its rules in plain code.

mod naive;

use glockd_protocol::{Verb, parse};
use proptest::prelude::*;

/// Pieces of frames: verbs, numbers, whole and cut white space, and noise.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let verbs = Verb::ALL.map(|verb| verb.as_str().as_bytes());
    let others: Vec<&[u8]> = vec![
        b"shared",
        b"0",
        b"17",
        b"+1",
        b"4294967295",
        b"4294967296",
        b"foo",
        b" ",
        b" ",
        b" ",
        b"  ",
        b"\t",
        b"\n",
        b"\x0B",
        b"\x0C",
        b"\r",
        b"\0",
        b"\xC2\x85",
        b"\xC2\xA0",
        b"\xE1\x9A\x80",
        b"\xE2\x80\x80",
        b"\xE2\x80\x8A",
        b"\xE2\x80\x8B",
        b"\xE2\x80\xA8",
        b"\xE2\x80\xA9",
        b"\xE2\x80\xAF",
        b"\xE2\x81\x9F",
        b"\xE3\x80\x80",
        b"\xEF\xBB\xBF",
        b"\xC2",
        b"\xE1",
        b"\xE2",
        b"\xE2\x80",
        b"\xE3\x80",
        b"\x80",
        b"\x85",
        b"\xA0",
        b"\xF0\x90",
        b"\xC3\xA9",
    ];
    prop_oneof![
        3 => prop::sample::select(verbs.to_vec()).prop_map(<[u8]>::to_vec),
        1 => prop::sample::select(verbs.to_vec()).prop_map(|verb| [verb, b" "].concat()),
        4 => prop::sample::select(others).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn likely_frames_are_parsed_alike(pieces in prop::collection::vec(piece(), 0..10)) {
        let frame = pieces.concat();
        prop_assert_eq!(parse(&frame), naive::parse(&frame), "{}", frame.escape_ascii());
    }

    #[test]
    fn arbitrary_bytes_are_parsed_alike(frame in prop::collection::vec(any::<u8>(), 0..64)) {
        prop_assert_eq!(parse(&frame), naive::parse(&frame), "{}", frame.escape_ascii());
    }
}
