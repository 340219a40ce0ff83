//! The protocol versions, as the Protocol Name and Protocol Version fields of CONNECT tell them apart.

/// A version of the MQTT protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Version {
    /// MQTT 3.1: Protocol Name `MQIsdp`, level 3.
    V3_1,
    /// MQTT 3.1.1: Protocol Name `MQTT`, level 4.
    #[default]
    V3_1_1,
    /// MQTT 5.0: Protocol Name `MQTT`, version 5.
    V5,
}

impl Version {
    /// The value of the Protocol Version (3.1.1: Protocol Level) byte.
    pub const fn level(self) -> u8 {
        match self {
            Version::V3_1 => 3,
            Version::V3_1_1 => 4,
            Version::V5 => 5,
        }
    }

    /// The Protocol Name that goes with this version [MQTT-3.1.2-1].
    pub const fn protocol_name(self) -> &'static str {
        match self {
            Version::V3_1 => "MQIsdp",
            Version::V3_1_1 | Version::V5 => "MQTT",
        }
    }

    /// Whether packets of this version carry Properties.
    pub const fn has_properties(self) -> bool {
        matches!(self, Version::V5)
    }
}
