//! What decodes encodes again, to the same packet; and what was encoded once is stable.

use mqtt_proto::codec::{decode, encode, encoded_len};
use mqtt_proto::types::Version;

/// Takes `data` as one packet of every version.
pub fn run(data: &[u8]) {
    for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
        let Ok(packet) = decode(version, data) else { continue };
        let mut once = vec![0xAA];
        encode(&packet, version, &mut once).expect("a decoded packet can be encoded");
        assert_eq!(once.remove(0), 0xAA, "what is there already stays");
        assert_eq!(encoded_len(&packet, version), Ok(once.len()));
        let again = decode(version, &once).expect("an encoded packet can be decoded");
        assert_eq!(packet, again);
        let mut twice = Vec::new();
        encode(&again, version, &mut twice).expect("a decoded packet can be encoded");
        assert_eq!(once, twice);
    }
}
