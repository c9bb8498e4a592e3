//! The parser against a plain reading of its rules.

mod naive;

use glockd_protocol::parse;
use proptest::prelude::*;

/// Pieces that frames are made of: what the grammar knows, white space whole and in halves, and noise.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let known: Vec<&[u8]> = vec![
        b"g",
        b"r",
        b"i",
        b"sg",
        b"sr",
        b"si",
        b"d",
        b"sd",
        b"dump",
        b"shared",
        b"me",
        b"iam",
        b"who",
        b"q",
        b"hello",
        b"ping",
        b"gw ",
        b"sgl ",
        b"sgw ",
        b"cancel",
        b"iw ",
        b"siw ",
        b"f",
        b"sf",
        b"own",
        b"ld",
        b"lsd",
        b"ldl",
        b"lsdl",
        b"lwho",
        b"lq",
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
        8 => prop::sample::select(known).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn likely_frames(pieces in prop::collection::vec(piece(), 0..10)) {
        let frame = pieces.concat();
        prop_assert_eq!(parse(&frame), naive::parse(&frame), "{}", frame.escape_ascii());
    }

    #[test]
    fn arbitrary_bytes(frame in prop::collection::vec(any::<u8>(), 0..64)) {
        prop_assert_eq!(parse(&frame), naive::parse(&frame), "{}", frame.escape_ascii());
    }
}
