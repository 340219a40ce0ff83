//! Arbitrary bytes are a packet or an error with a Reason Code, in every version: never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mqtt_proto::{Framer, Version, decode, peek_frame};

/// Small, so that inputs reach it.
const MAXIMUM_PACKET_SIZE: u32 = 4096;

fuzz_target!(|input: &[u8]| {
    for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
        if let Err(error) = decode(version, input) {
            assert!(error.reason_code().is_error(), "{error}");
        }
        let mut framer = Framer::default();
        let mut rest = input;
        while let Ok(Some(frame)) = framer.next_frame(&mut rest, MAXIMUM_PACKET_SIZE) {
            let header = peek_frame(frame, MAXIMUM_PACKET_SIZE).expect("it was cut").expect("it is whole");
            assert_eq!(header.frame_len(), frame.len());
            // Walks every part that is decoded only when it is looked at.
            let _ = decode(version, frame).map(|packet| format!("{packet:?}"));
        }
        assert!(framer.buffered_len() <= input.len(), "a buffer grows by what came, not by what was announced");
    }
});
