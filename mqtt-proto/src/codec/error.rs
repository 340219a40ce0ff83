//! What can be wrong with a packet: [`DecodeError`] is the peer's fault, [`EncodeError`] the caller's.

use crate::packet::{PacketType, PropertyId};
use crate::types::{ReasonCode, TopicError};

/// What the peer did wrong; [`DecodeError::reason_code`] says what to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The Control Packet type is 0, or 15 (AUTH) before 5.0.
    #[error("Control Packet type {0} is forbidden")]
    ForbiddenPacketType(u8),
    /// The flags of the Fixed Header are not those of this type [MQTT-2.1.3-1].
    #[error("{packet_type:?} with the reserved flags {flags:#06b}")]
    ReservedFlags {
        /// The type they came with.
        packet_type: PacketType,
        /// The lower four bits of the first byte.
        flags: u8,
    },
    /// Both QoS bits are set, in a PUBLISH [MQTT-3.3.1-4] or for the Will Message [MQTT-3.1.2-12].
    #[error("QoS 3 does not exist")]
    Qos,
    /// DUP is set at QoS 0 [MQTT-3.3.1-2].
    #[error("DUP is set on a QoS 0 PUBLISH")]
    DupAtQos0,
    /// A Variable Byte Integer has more than four bytes, or more than it needs [MQTT-1.5.5-1].
    #[error("a Variable Byte Integer is longer than it may be")]
    VariableByteInteger,
    /// The packet is larger than the receiver takes [MQTT-3.1.2-24] [MQTT-3.2.2-15].
    #[error("a packet of {size} bytes is larger than the Maximum Packet Size of {maximum}")]
    PacketTooLarge {
        /// Its size with the Fixed Header.
        size: u32,
        /// The receiver's limit.
        maximum: u32,
    },
    /// A field runs over the end of the packet or of the properties.
    #[error("a field runs over the end of the packet")]
    Truncated,
    /// Bytes are left over behind the last field.
    #[error("{0} bytes are left over at the end of the packet")]
    TrailingBytes(u32),
    /// A UTF-8 Encoded String is not well-formed [MQTT-1.5.4-1].
    #[error("a string is not well-formed UTF-8")]
    Utf8,
    /// A UTF-8 Encoded String holds U+0000 [MQTT-1.5.4-2].
    #[error("a string holds the null character")]
    NullCharacter,
    /// The Packet Identifier is 0 [MQTT-2.2.1-3].
    #[error("Packet Identifier 0")]
    PacketIdZero,
    /// A Topic Name, Will Topic or Response Topic is no Topic Name [MQTT-3.3.2-2] [MQTT-3.3.2-14].
    #[error(transparent)]
    Topic(TopicError),
    /// A PUBLISH has neither Topic Name nor Topic Alias.
    #[error("a PUBLISH without Topic Name and Topic Alias")]
    MissingTopic,
    /// A Topic Alias is 0 [MQTT-3.3.2-8].
    #[error("Topic Alias 0")]
    TopicAliasZero,
    /// The standard defines no property with this identifier.
    #[error("unknown property {0:#04x}")]
    UnknownProperty(u32),
    /// The property is not one of this packet's (section 2.2.2.2).
    #[error("{0:?} does not belong in this packet")]
    PropertyNotAllowed(PropertyId),
    /// The property may be there once only.
    #[error("{0:?} appears more than once")]
    DuplicateProperty(PropertyId),
    /// The property has a value outside its range.
    #[error("{0:?} has a value that it cannot have")]
    PropertyValue(PropertyId),
    /// Authentication Data without an Authentication Method.
    #[error("Authentication Data without an Authentication Method")]
    MissingAuthenticationMethod,
    /// The Protocol Name is not MQTT's [MQTT-3.1.2-1].
    #[error("the Protocol Name is not MQTT's")]
    ProtocolName,
    /// The Protocol Name is MQTT's, the version not one that we know [MQTT-3.1.2-2].
    #[error("Protocol Version {level} is not supported")]
    UnsupportedProtocolVersion {
        /// The Protocol Version byte, which tells the dialect of the answer.
        level: u8,
    },
    /// The reserved bit of the Connect Flags is set [MQTT-3.1.2-3].
    #[error("the reserved Connect Flag is set")]
    ReservedConnectFlag,
    /// Will QoS or Will Retain is set without the Will Flag [MQTT-3.1.2-11] [MQTT-3.1.2-13].
    #[error("Will QoS or Will Retain without a Will Message")]
    WillFlags,
    /// A Password without a User Name before 5.0 [MQTT-3.1.2-22 v3.1.1].
    #[error("a Password without a User Name")]
    PasswordWithoutUserName,
    /// A reserved Connect Acknowledge Flag is set [MQTT-3.2.2-1].
    #[error("a reserved Connect Acknowledge Flag is set")]
    ReservedConnAckFlags,
    /// Session Present is set although the connection is refused [MQTT-3.2.2-6].
    #[error("Session Present with a Reason Code other than success")]
    SessionPresentWithError,
    /// The Reason Code, or Connect Return code, is not one of this packet's.
    #[error("Reason Code {0:#04x} does not belong in this packet")]
    ReasonCode(u8),
    /// A list that needs an entry has none [MQTT-3.8.3-2] [MQTT-3.10.3-2].
    #[error("no Topic Filter or Reason Code in the payload")]
    EmptyPayload,
    /// A reserved bit of the Subscription Options is set [MQTT-3.8.3-5].
    #[error("reserved bits in the Subscription Options {0:#010b}")]
    ReservedSubscriptionOptions(u8),
    /// Maximum QoS or Retain Handling is 3.
    #[error("Maximum QoS or Retain Handling is 3 in the Subscription Options {0:#010b}")]
    SubscriptionOptions(u8),
    /// No Local on a Shared Subscription [MQTT-3.8.3-4].
    #[error("No Local on a Shared Subscription")]
    NoLocalOnShared,
}

impl DecodeError {
    /// The Reason Code for the CONNACK or DISCONNECT that tells the peer (section 4.13).
    pub const fn reason_code(&self) -> ReasonCode {
        match self {
            DecodeError::ForbiddenPacketType(_)
            | DecodeError::ReservedFlags { .. }
            | DecodeError::Qos
            | DecodeError::VariableByteInteger
            | DecodeError::Truncated
            | DecodeError::TrailingBytes(_)
            | DecodeError::Utf8
            | DecodeError::NullCharacter
            | DecodeError::UnknownProperty(_)
            | DecodeError::PropertyNotAllowed(_)
            | DecodeError::ReservedConnectFlag
            | DecodeError::ReservedConnAckFlags
            | DecodeError::ReservedSubscriptionOptions(_) => ReasonCode::MALFORMED_PACKET,
            DecodeError::DupAtQos0
            | DecodeError::PacketIdZero
            | DecodeError::MissingTopic
            | DecodeError::DuplicateProperty(_)
            | DecodeError::PropertyValue(_)
            | DecodeError::MissingAuthenticationMethod
            | DecodeError::WillFlags
            | DecodeError::PasswordWithoutUserName
            | DecodeError::SessionPresentWithError
            | DecodeError::ReasonCode(_)
            | DecodeError::EmptyPayload
            | DecodeError::SubscriptionOptions(_)
            | DecodeError::NoLocalOnShared => ReasonCode::PROTOCOL_ERROR,
            DecodeError::ProtocolName | DecodeError::UnsupportedProtocolVersion { .. } => {
                ReasonCode::UNSUPPORTED_PROTOCOL_VERSION
            }
            DecodeError::Topic(_) => ReasonCode::TOPIC_NAME_INVALID,
            DecodeError::TopicAliasZero => ReasonCode::TOPIC_ALIAS_INVALID,
            DecodeError::PacketTooLarge { .. } => ReasonCode::PACKET_TOO_LARGE,
        }
    }
}

impl From<TopicError> for DecodeError {
    /// U+0000 makes any string malformed, not only a Topic Name.
    fn from(error: TopicError) -> DecodeError {
        match error {
            TopicError::Null => DecodeError::NullCharacter,
            error => DecodeError::Topic(error),
        }
    }
}

/// Why a packet that the caller made cannot be sent: each is a mistake of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// This version does not have this packet.
    #[error("{0:?} does not exist in this version")]
    NotInVersion(PacketType),
    /// The Remaining Length would pass 268,435,455.
    #[error("the packet has more than 268,435,455 bytes")]
    PacketTooLarge,
    /// A string or Binary Data has more than 65,535 bytes.
    #[error("a string or Binary Data has more than 65,535 bytes")]
    FieldTooLong,
    /// A string holds U+0000 [MQTT-1.5.4-2].
    #[error("a string holds the null character")]
    NullCharacter,
    /// DUP is set at QoS 0 [MQTT-3.3.1-2].
    #[error("DUP is set on a QoS 0 PUBLISH")]
    DupAtQos0,
    /// A Packet Identifier at QoS 0, or none at QoS 1 or 2 [MQTT-2.2.1-2].
    #[error("a PUBLISH has a Packet Identifier at QoS 1 and 2, and only there")]
    PacketId,
    /// A PUBLISH has no Topic Name where no Topic Alias can stand for it.
    #[error("a PUBLISH without Topic Name and Topic Alias")]
    MissingTopic,
    /// The Response Topic is no Topic Name [MQTT-3.3.2-14].
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The property is not one of this packet's.
    #[error("{0:?} does not belong in this packet")]
    PropertyNotAllowed(PropertyId),
    /// The property may be there once only.
    #[error("{0:?} appears more than once")]
    DuplicateProperty(PropertyId),
    /// The property has a value outside its range.
    #[error("{0:?} has a value that it cannot have")]
    PropertyValue(PropertyId),
    /// An AUTH, or Authentication Data, without an Authentication Method.
    #[error("no Authentication Method")]
    MissingAuthenticationMethod,
    /// A Password without a User Name before 5.0 [MQTT-3.1.2-22 v3.1.1].
    #[error("a Password without a User Name")]
    PasswordWithoutUserName,
    /// Session Present is set although the connection is refused [MQTT-3.2.2-6].
    #[error("Session Present with a Reason Code other than success")]
    SessionPresentWithError,
    /// The Reason Code is not one of this packet's.
    #[error("Reason Code {0} does not belong in this packet")]
    ReasonCode(ReasonCode),
    /// A list that needs an entry has none [MQTT-3.8.3-2] [MQTT-3.10.3-2].
    #[error("no Topic Filter or Reason Code in the payload")]
    EmptyPayload,
    /// No Local on a Shared Subscription [MQTT-3.8.3-4].
    #[error("No Local on a Shared Subscription")]
    NoLocalOnShared,
}
