//! PUBACK, PUBREC, PUBREL and PUBCOMP: four names of one shape (sections 3.4 to 3.7).

use crate::packet::Properties;
use crate::types::{PacketId, ReasonCode};

/// The contents of a PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ack<'a> {
    /// The Packet Identifier of the PUBLISH [MQTT-2.2.1-5].
    pub packet_id: PacketId,
    /// Always success before 5.0.
    pub reason: ReasonCode,
    /// Empty before 5.0.
    pub properties: Properties<'a>,
}

impl Ack<'_> {
    /// An acknowledgement without properties.
    pub const fn new(packet_id: PacketId, reason: ReasonCode) -> Ack<'static> {
        Ack { packet_id, reason, properties: Properties::EMPTY }
    }
}
