//! What the peer can do wrong on a Network Connection, and the Reason Code that tells it so.
//!
//! All of it is the peer's fault. A mistake of the caller has another type ([`TooLarge`](super::TooLarge),
//! [`RequestError`](super::RequestError)).

use crate::codec::DecodeError;
use crate::packet::PacketType;
use crate::session::ReceiveMaximumExceeded;
use crate::types::ReasonCode;

/// The peer broke the protocol: the Network Connection is to be closed [MQTT-4.13.1-1].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A packet that cannot be decoded.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The first packet of a Client is not CONNECT [MQTT-3.1.0-1].
    #[error("the first packet is not CONNECT")]
    ConnectExpected,
    /// A second CONNECT [MQTT-3.1.0-2].
    #[error("a second CONNECT")]
    SecondConnect,
    /// The Server sent something else before CONNACK [MQTT-3.2.0-1].
    #[error("the Server's first packet is not CONNACK")]
    ConnAckExpected,
    /// The peer must not send this packet, or not now: only the other side sends it, it came after DISCONNECT
    /// [MQTT-3.14.4-1], or it is an AUTH although CONNECT named no Authentication Method [MQTT-4.12.0-7].
    #[error("{0:?} is not allowed here")]
    UnexpectedPacket(PacketType),
    /// A Topic Alias above the Topic Alias Maximum that was announced [MQTT-3.3.2-9] [MQTT-3.3.2-11].
    #[error("Topic Alias {alias} is above the maximum of {maximum}")]
    TopicAliasInvalid {
        /// The alias that came.
        alias: u16,
        /// The Topic Alias Maximum.
        maximum: u16,
    },
    /// A Topic Alias stands for no topic on this Network Connection [MQTT-3.3.2-7].
    #[error("Topic Alias {0} stands for no topic")]
    TopicAliasUnknown(u16),
    /// A Client's PUBLISH holds a Subscription Identifier [MQTT-3.3.4-6].
    #[error("a Client's PUBLISH holds a Subscription Identifier")]
    SubscriptionIdentifierFromClient,
    /// More QoS 1 and 2 PUBLISH packets than announced [MQTT-3.3.4-7] [MQTT-3.3.4-9].
    #[error("more than {limit} unacknowledged PUBLISH packets")]
    ReceiveMaximumExceeded {
        /// The Receive Maximum.
        limit: u16,
    },
    /// Nothing came for one and a half times the Keep Alive [MQTT-3.1.2-22].
    #[error("nothing received for one and a half times the Keep Alive")]
    KeepAliveTimeout,
    /// The packet that the peer owed did not come: CONNECT, CONNACK or PINGRESP.
    #[error("{0:?} did not come in time")]
    NotInTime(PacketType),
    /// Session Present is set although this Client begins anew or never had a session [MQTT-3.2.2-2] [MQTT-3.2.2-4].
    #[error("the Server resumed a session that the Client does not have")]
    UnexpectedSession,
    /// A SUBACK or UNSUBACK answers nothing that was sent, or has the wrong number of Reason Codes.
    #[error("{0:?} does not fit what was sent")]
    AnswerMismatch(PacketType),
    /// A PUBLISH above the Maximum QoS that CONNACK announced [MQTT-3.2.2-11].
    #[error("a PUBLISH above the Maximum QoS")]
    QosNotSupported,
    /// A PUBLISH with RETAIN although CONNACK said that it is not available [MQTT-3.2.2-14].
    #[error("a PUBLISH with RETAIN where retained messages are not available")]
    RetainNotSupported,
    /// AUTH or CONNACK names another Authentication Method than CONNECT did [MQTT-4.12.0-5].
    #[error("the Authentication Method is not that of CONNECT")]
    AuthenticationMethod,
}

impl ProtocolError {
    /// The Reason Code for the CONNACK or DISCONNECT that tells the peer (section 4.13).
    pub const fn reason_code(&self) -> ReasonCode {
        match self {
            ProtocolError::Decode(error) => error.reason_code(),
            ProtocolError::ConnectExpected
            | ProtocolError::SecondConnect
            | ProtocolError::ConnAckExpected
            | ProtocolError::UnexpectedPacket(_)
            | ProtocolError::TopicAliasUnknown(_)
            | ProtocolError::SubscriptionIdentifierFromClient
            | ProtocolError::UnexpectedSession
            | ProtocolError::AnswerMismatch(_) => ReasonCode::PROTOCOL_ERROR,
            ProtocolError::TopicAliasInvalid { .. } => ReasonCode::TOPIC_ALIAS_INVALID,
            ProtocolError::ReceiveMaximumExceeded { .. } => ReasonCode::RECEIVE_MAXIMUM_EXCEEDED,
            ProtocolError::KeepAliveTimeout => ReasonCode::KEEP_ALIVE_TIMEOUT,
            ProtocolError::NotInTime(_) => ReasonCode::UNSPECIFIED_ERROR,
            ProtocolError::QosNotSupported => ReasonCode::QOS_NOT_SUPPORTED,
            ProtocolError::RetainNotSupported => ReasonCode::RETAIN_NOT_SUPPORTED,
            ProtocolError::AuthenticationMethod => ReasonCode::BAD_AUTHENTICATION_METHOD,
        }
    }
}

impl From<ReceiveMaximumExceeded> for ProtocolError {
    fn from(exceeded: ReceiveMaximumExceeded) -> ProtocolError {
        ProtocolError::ReceiveMaximumExceeded { limit: exceeded.limit }
    }
}
