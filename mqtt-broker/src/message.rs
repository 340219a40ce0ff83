//! An Application Message as it is routed and kept: immutable, shared, `Send`.
//!
//! [`MessageRef`] borrows the parts of a PUBLISH that is being routed; [`Message`] owns them in one allocation and is
//! made only when something keeps the message: a queue, the send window, a retained slot, a log record.

use core::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use mqtt_proto::packet::{Properties, Property, PropertyId};
use mqtt_proto::types::{Qos, TopicName};

use crate::router::Retainable;

/// An Application Message by reference.
#[derive(Clone, Copy, Debug)]
pub struct MessageRef<'a> {
    /// Where it was published.
    pub topic: TopicName<'a>,
    /// The properties that travel with it, encoded: all of the publisher's but Topic Alias, Message Expiry Interval
    /// and Subscription Identifiers.
    pub properties: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
    /// The QoS it was published with.
    pub qos: Qos,
    /// The RETAIN flag it was published with.
    pub retain: bool,
    /// Monotonic milliseconds at which it expires; `None`: never.
    pub expires_at: Option<u64>,
}

/// An owned Application Message; a clone shares the bytes.
#[derive(Clone)]
pub struct Message {
    /// Topic, properties and payload, one behind the other.
    bytes: Bytes,
    topic_len: u16,
    properties_len: u32,
    qos: Qos,
    retain: bool,
    /// `u64::MAX`: never.
    expires_at: u64,
}

impl MessageRef<'_> {
    /// Bytes of topic, properties and payload.
    pub fn len(&self) -> usize {
        self.topic.as_str().len() + self.properties.len() + self.payload.len()
    }

    /// Never: a topic has at least one byte.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// A copy of its own.
    pub fn to_message(&self) -> Message {
        let mut bytes = BytesMut::with_capacity(self.len());
        bytes.put_slice(self.topic.as_str().as_bytes());
        bytes.put_slice(self.properties);
        bytes.put_slice(self.payload);
        Message {
            bytes: bytes.freeze(),
            topic_len: self.topic.as_str().len() as u16,
            properties_len: self.properties.len() as u32,
            qos: self.qos,
            retain: self.retain,
            expires_at: self.expires_at.unwrap_or(u64::MAX),
        }
    }

    /// Whether it is due at `now` (monotonic milliseconds).
    pub fn is_expired(&self, now: u64) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// The Message Expiry Interval to forward at `now`: what is left, in whole seconds rounded up
    /// [MQTT-3.3.2-6].
    pub fn expiry_left(&self, now: u64) -> Option<u32> {
        self.expires_at.map(|at| at.saturating_sub(now).div_ceil(1000).min(u64::from(u32::MAX)) as u32)
    }
}

impl Message {
    /// Bytes a message costs beside those of its topic, properties and payload: the handle and the shared allocation.
    pub const OVERHEAD: usize = size_of::<Message>() + 32;

    /// Borrows all parts.
    pub fn as_ref(&self) -> MessageRef<'_> {
        let (topic, rest) = self.bytes.split_at(self.topic_len as usize);
        let (properties, payload) = rest.split_at(self.properties_len as usize);
        let topic = core::str::from_utf8(topic).ok().and_then(|topic| TopicName::new(topic).ok());
        MessageRef {
            topic: topic.expect("made from a Topic Name"),
            properties,
            payload,
            qos: self.qos,
            retain: self.retain,
            expires_at: self.expires_at(),
        }
    }

    /// The same bytes with another QoS and RETAIN flag.
    pub fn with(&self, qos: Qos, retain: bool) -> Message {
        Message { qos, retain, ..self.clone() }
    }

    /// The QoS it was published with.
    pub fn qos(&self) -> Qos {
        self.qos
    }

    /// Monotonic milliseconds at which it expires; `None`: never.
    pub fn expires_at(&self) -> Option<u64> {
        (self.expires_at != u64::MAX).then_some(self.expires_at)
    }

    /// Whether it is due at `now` (monotonic milliseconds).
    pub fn is_expired(&self, now: u64) -> bool {
        self.expires_at <= now
    }

    /// Bytes that keeping this message costs.
    pub fn cost(&self) -> usize {
        self.bytes.len() + Message::OVERHEAD
    }
}

impl Retainable for Message {
    fn topic(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.topic_len as usize]).expect("made from a Topic Name")
    }

    fn cost(&self) -> usize {
        Message::cost(self)
    }
}

impl fmt::Debug for Message {
    /// Leaves the payload out: it does not belong in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = self.as_ref();
        f.debug_struct("Message")
            .field("topic", &message.topic.as_str())
            .field("payload_bytes", &message.payload.len())
            .field("qos", &message.qos)
            .field("retain", &message.retain)
            .field("expires_at", &message.expires_at)
            .finish()
    }
}

/// The publisher's properties that are forwarded, out of those of its PUBLISH (or of its Will).
///
/// Usually that is a slice of the packet; only where a property that is not forwarded stands among them are the rest
/// copied to `scratch`.
pub fn forwarded_properties<'a>(properties: Properties<'a>, scratch: &'a mut Vec<u8>) -> &'a [u8] {
    let stays = |property: &Property<'_>| {
        !matches!(
            property.id(),
            PropertyId::TopicAlias
                | PropertyId::MessageExpiryInterval
                | PropertyId::SubscriptionIdentifier
                | PropertyId::WillDelayInterval
        )
    };
    if properties.is_empty() || properties.iter().all(|property| stays(&property)) {
        return properties.wire();
    }
    scratch.clear();
    for property in properties.iter().filter(stays) {
        mqtt_proto::codec::encode_property(&property, scratch).expect("a decoded property can be encoded");
    }
    scratch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owned_message_gives_back_all_parts() {
        let topic = TopicName::new("a/b").expect("a topic");
        let message = MessageRef {
            topic,
            properties: &[1, 1],
            payload: b"payload",
            qos: Qos::AtLeastOnce,
            retain: true,
            expires_at: Some(7),
        }
        .to_message();
        let back = message.as_ref();
        assert_eq!((back.topic, back.properties, back.payload), (topic, &[1u8, 1][..], &b"payload"[..]));
        assert_eq!((back.qos, back.retain, back.expires_at), (Qos::AtLeastOnce, true, Some(7)));
        assert!(message.is_expired(7) && !message.is_expired(6));
    }

    #[test]
    fn what_is_left_of_the_expiry_is_rounded_up() {
        let topic = TopicName::new("a").expect("a topic");
        let message = MessageRef {
            topic,
            properties: &[],
            payload: &[],
            qos: Qos::AtMostOnce,
            retain: false,
            expires_at: Some(2500),
        };
        assert_eq!(message.expiry_left(1000), Some(2));
        assert_eq!(message.expiry_left(1500), Some(1));
    }
}
