//! Which packet may carry which Reason Code (section 2.4 and the table of each packet).

use super::error::EncodeError;
use crate::packet::PacketType;
use crate::types::{ReasonCode, Version};

/// Whether `reason` is one of the codes of `packet_type`, from either side.
pub(super) const fn is_allowed(version: Version, packet_type: PacketType, reason: ReasonCode) -> bool {
    match (version, packet_type) {
        (Version::V3_1 | Version::V3_1_1, PacketType::SubAck) => matches!(reason.0, 0..=2 | 0x80),
        (_, PacketType::ConnAck) => matches!(
            reason.0,
            0x00 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F
        ),
        (_, PacketType::PubAck | PacketType::PubRec) => {
            matches!(reason.0, 0x00 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
        }
        (_, PacketType::PubRel | PacketType::PubComp) => matches!(reason.0, 0x00 | 0x92),
        (_, PacketType::SubAck) => {
            matches!(reason.0, 0x00..=0x02 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2)
        }
        (_, PacketType::UnsubAck) => matches!(reason.0, 0x00 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91),
        // Section 2.4 gives 0x8C to DISCONNECT, the table of section 3.14 leaves it out.
        (_, PacketType::Disconnect) => matches!(
            reason.0,
            0x00 | 0x04 | 0x80..=0x83 | 0x87 | 0x89 | 0x8B..=0x90 | 0x93..=0xA2
        ),
        (_, PacketType::Auth) => matches!(reason.0, 0x00 | 0x18 | 0x19),
        _ => false,
    }
}

/// Judges a code to be sent.
pub(super) const fn check(packet_type: PacketType, reason: ReasonCode) -> Result<(), EncodeError> {
    if is_allowed(Version::V5, packet_type, reason) { Ok(()) } else { Err(EncodeError::ReasonCode(reason)) }
}
