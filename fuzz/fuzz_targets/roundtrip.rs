//! What can be decoded can be encoded, in as many bytes as foretold, and decodes to the same packet again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mqtt_proto::{Packet, Version, decode, encode, encoded_len};

fuzz_target!(|input: &[u8]| {
    for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
        let Ok(packet) = decode(version, input) else { continue };
        // A CONNECT says its own version.
        let version = if let Packet::Connect(connect) = &packet { connect.version } else { version };
        let mut bytes = Vec::new();
        encode(&packet, version, &mut bytes).expect("a decoded packet keeps to the rules");
        assert_eq!(encoded_len(&packet, version).expect("it was encoded"), bytes.len());
        assert_eq!(decode(version, &bytes).expect("it was encoded by us"), packet);
    }
});
