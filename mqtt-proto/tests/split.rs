//! However a byte stream is cut into pieces, the same packets come out; and no bytes at all make the decoder panic.

mod support;

use mqtt_proto::{DecodeError, Framer, Version, decode};
use proptest::prelude::*;
use support::ingredients;

/// The frames that come out of `pieces`, up to the first error.
fn frames<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, Framer, Option<DecodeError>) {
    let (mut framer, mut frames) = (Framer::default(), Vec::new());
    for mut piece in pieces {
        loop {
            match framer.next_frame(&mut piece, 1 << 20) {
                Ok(Some(frame)) => frames.push(frame.to_vec()),
                Ok(None) => break,
                Err(error) => return (frames, framer, Some(error)),
            }
        }
        assert!(piece.is_empty(), "all input is taken in");
    }
    (frames, framer, None)
}

fn pieces<'a>(mut stream: &'a [u8], lengths: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut lengths = lengths.iter().copied().cycle();
    std::iter::from_fn(move || {
        if stream.is_empty() {
            return None;
        }
        let len = lengths.next().unwrap_or(1).min(stream.len());
        let (piece, rest) = stream.split_at(len);
        stream = rest;
        Some(piece)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_split_gives_the_same_packets(
        packets in prop::collection::vec(ingredients(), 1..8),
        lengths in prop::collection::vec(prop_oneof![3 => 1usize..8, 1 => 8usize..400], 1..20),
        cut in 0usize..64,
    ) {
        let sent: Vec<Vec<u8>> = packets.iter().filter_map(|packet| packet.encoded()).collect();
        let stream = sent.concat();
        for lengths in [&lengths[..], &[1], &[usize::MAX]] {
            let (received, framer, error) = frames(pieces(&stream, lengths));
            prop_assert_eq!(error, None);
            prop_assert_eq!(&received, &sent);
            prop_assert_eq!(framer.buffered_len(), 0);
        }

        // What is buffered of a packet cut off is exactly what somebody else needs to go on.
        let stream = &stream[..stream.len().saturating_sub(cut)];
        let (mut received, mut framer, _) = frames(pieces(stream, &lengths));
        let whole: usize = received.iter().map(Vec::len).sum();
        prop_assert_eq!(framer.buffered_len(), stream.len() - whole);
        prop_assert_eq!(framer.take_buffered(), &stream[whole..]);
        prop_assert_eq!(framer.buffered_len(), 0);
        let all = sent.concat();
        let (rest, _, error) = frames([&stream[whole..], &all[stream.len()..]].into_iter());
        prop_assert_eq!(error, None);
        received.extend(rest);
        prop_assert_eq!(received, sent);
    }

    #[test]
    fn arbitrary_bytes_fail_alike_in_any_split(
        stream in prop::collection::vec(any::<u8>(), 0..200),
        lengths in prop::collection::vec(1usize..20, 1..20),
    ) {
        let (whole, _, error) = frames(pieces(&stream, &[usize::MAX]));
        let (split, _, split_error) = frames(pieces(&stream, &lengths));
        prop_assert_eq!(&whole, &split);
        prop_assert_eq!(error, split_error);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn arbitrary_and_damaged_packets_never_panic(
        ingredients in ingredients(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        bytes in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
            consume(version, &bytes);
            if let Some(mut frame) = ingredients.encoded() {
                for (index, byte) in &damage {
                    let index = index.index(frame.len());
                    frame[index] = *byte;
                }
                consume(version, &frame);
            }
        }
    }
}

/// Decodes and walks every list: what decoded is valid to its end, so it also encodes again.
fn consume(version: Version, frame: &[u8]) {
    if let Ok(packet) = decode(version, frame) {
        let text = format!("{packet:?}");
        let mut out = Vec::new();
        mqtt_proto::encode(&packet, version, &mut out).expect("decoded packets encode");
        let again = decode(version, &out).expect("and decode again");
        assert_eq!(packet, again);
        assert_eq!(text, format!("{again:?}"));
    }
}
