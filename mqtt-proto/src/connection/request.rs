//! What the application hands to a [`Client`](super::Client), and how it is told that this cannot be.

use alloc::string::String;
use alloc::vec::Vec;

use crate::codec::{self, EncodeError};
use crate::packet::{Connect, Packet, Properties, Publish};
use crate::types::{Qos, TopicName, Version};

/// How to open a Network Connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnectOptions<'a> {
    /// The CONNECT to send.
    pub connect: Connect<'a>,
    /// Milliseconds to wait for CONNACK, and for each PINGRESP.
    pub patience: u64,
    /// Topic Aliases to use at most, within what the Server allows.
    pub topic_alias_limit: u16,
    /// Whether the application acknowledges messages itself, by [`Client::acknowledge`](super::Client::acknowledge).
    pub manual_acknowledgement: bool,
}

impl<'a> ConnectOptions<'a> {
    /// This CONNECT, 10 seconds of patience, up to 16 aliases, messages acknowledged as they come.
    pub const fn new(connect: Connect<'a>) -> ConnectOptions<'a> {
        ConnectOptions { connect, patience: 10_000, topic_alias_limit: 16, manual_acknowledgement: false }
    }
}

/// An Application Message that the application keeps in its own form.
pub trait Outgoing {
    /// The PUBLISH of this message. DUP flag and Packet Identifier are set by the Client.
    fn as_publish(&self) -> Publish<'_>;
}

/// An Application Message on the heap: the plain form of [`Outgoing`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    topic: String,
    qos: Qos,
    retain: bool,
    /// As on the wire, without their length.
    properties: Vec<u8>,
    payload: Vec<u8>,
}

impl Message {
    /// A message without properties.
    pub fn new(topic: TopicName<'_>, qos: Qos, payload: &[u8]) -> Message {
        Message {
            topic: topic.as_str().into(),
            qos,
            retain: false,
            properties: Vec::new(),
            payload: payload.into(),
        }
    }

    /// Sets the RETAIN flag.
    #[must_use]
    pub fn retained(mut self) -> Message {
        self.retain = true;
        self
    }

    /// Sets the properties; before 5.0 they are not sent.
    ///
    /// # Errors
    /// What a PUBLISH cannot carry.
    pub fn with_properties(mut self, properties: Properties<'_>) -> Result<Message, EncodeError> {
        let mut frame = Vec::new();
        let publish = Publish { properties, payload: &[], qos: Qos::AtMostOnce, ..self.as_publish() };
        codec::encode_publish(&publish, Version::V5, &mut frame)?;
        if let Ok(Packet::Publish(publish)) = codec::decode(Version::V5, &frame) {
            self.properties = publish.properties.wire().into();
        }
        Ok(self)
    }
}

impl Outgoing for Message {
    fn as_publish(&self) -> Publish<'_> {
        Publish {
            dup: false,
            qos: self.qos,
            retain: self.retain,
            topic: TopicName::new(&self.topic).ok(),
            packet_id: None,
            properties: Properties::from_wire(&self.properties),
            payload: &self.payload,
        }
    }
}

/// Why a request was not sent. Nothing has changed by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// There is no Network Connection, or CONNACK has not come.
    #[error("not connected")]
    NotConnected,
    /// A Network Connection is open already.
    #[error("already connected")]
    AlreadyConnected,
    /// As many messages as the Server allows are unacknowledged [MQTT-3.3.4-7]; try again after an acknowledgement.
    #[error("the send window is full")]
    WindowFull,
    /// The Server has ruled out this QoS [MQTT-3.2.2-11].
    #[error("the Server does not support this QoS")]
    QosNotSupported,
    /// The Server keeps no retained messages [MQTT-3.2.2-14].
    #[error("the Server does not support retained messages")]
    RetainNotSupported,
    /// AUTH is only for a connection whose CONNECT named an Authentication Method [MQTT-4.12.0-7].
    #[error("CONNECT named no Authentication Method")]
    NoAuthenticationMethod,
    /// No message with this Packet Identifier waits for [`Client::acknowledge`](super::Client::acknowledge).
    #[error("no message with this Packet Identifier waits to be acknowledged")]
    NothingToAcknowledge,
    /// AUTH names another Authentication Method than CONNECT did [MQTT-4.12.0-5].
    #[error("AUTH goes by the Authentication Method that CONNECT named")]
    AuthenticationMethod,
    /// The packet breaks the format or is larger than the Server accepts [MQTT-3.2.2-15].
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// A message that was not sent, with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsent<M> {
    /// The message, handed back.
    pub message: M,
    /// Why.
    pub reason: RequestError,
}
