//! An Application Message as it is routed and kept: immutable, shared, `Send`.
//!
//! [`MessageRef`] borrows the parts of a PUBLISH that is being routed; [`Message`] owns them in one allocation and is
//! made only when something keeps the message: a queue, the send window, a retained slot, a log record.

use core::fmt;
use std::sync::Arc;

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
    /// A [`Head`], then topic, properties and payload one behind the other, then what the allocation has too much.
    bytes: Arc<[u8]>,
    qos: Qos,
    retain: bool,
}

/// What the bytes of a [`Message`] begin with: where its parts end, and when it expires.
struct Head {
    topic_len: u16,
    properties_len: u32,
    payload_len: u32,
    /// `u64::MAX`: never.
    expires_at: u64,
}

/// Allocations of messages that are gone, for the next ones: in the steady state a message that is kept until its
/// acknowledgement comes takes nothing from the allocator.
#[derive(Default)]
pub(crate) struct Spares {
    /// By the number of [`UNIT`]s that they have.
    lists: Vec<Vec<Arc<[u8]>>>,
    bytes: usize,
}

/// Allocations grow in steps of this many bytes, so that those of like messages can take each other's place.
const UNIT: usize = 32;

/// Larger messages have allocations of their very length and leave no spares.
const SPARE_LEN_MAX: usize = 1024;

/// Bytes that all spares of a core take at most.
const SPARE_BYTES_MAX: usize = 1024 * 1024;

impl MessageRef<'_> {
    /// Bytes of topic, properties and payload.
    pub fn len(&self) -> usize {
        self.topic.as_bytes().len() + self.properties.len() + self.payload.len()
    }

    /// Never: a topic has at least one byte.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Bytes that keeping this message costs.
    pub fn cost(&self) -> usize {
        self.allocation() + Message::OVERHEAD
    }

    /// A copy of its own.
    pub fn to_message(&self) -> Message {
        self.copy_to(core::iter::repeat_n(0, self.allocation()).collect())
    }

    /// Bytes of the allocation for a copy.
    fn allocation(&self) -> usize {
        match Head::LEN + self.len() {
            len @ ..=SPARE_LEN_MAX => len.next_multiple_of(UNIT),
            len => len,
        }
    }

    /// A copy in an allocation that nobody else has.
    fn copy_to(&self, mut allocation: Arc<[u8]>) -> Message {
        let head = Head {
            topic_len: self.topic.as_bytes().len() as u16,
            properties_len: self.properties.len() as u32,
            payload_len: self.payload.len() as u32,
            expires_at: self.expires_at.unwrap_or(u64::MAX),
        };
        let mut rest = Arc::get_mut(&mut allocation).expect("nobody else has it");
        for part in [&head.encode()[..], self.topic.as_bytes(), self.properties, self.payload] {
            let (place, behind) = rest.split_at_mut(part.len());
            place.copy_from_slice(part);
            rest = behind;
        }
        Message { bytes: allocation, qos: self.qos, retain: self.retain }
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

impl Head {
    const LEN: usize = 18;

    fn encode(&self) -> [u8; Head::LEN] {
        let mut bytes = [0; Head::LEN];
        bytes[..8].copy_from_slice(&self.expires_at.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.properties_len.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.payload_len.to_le_bytes());
        bytes[16..].copy_from_slice(&self.topic_len.to_le_bytes());
        bytes
    }

    /// The head of these bytes, and what is behind it.
    fn decode(bytes: &[u8]) -> (Head, &[u8]) {
        let (head, rest) = bytes.split_first_chunk::<{ Head::LEN }>().expect("a message has a head");
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r] = *head;
        let head = Head {
            expires_at: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            properties_len: u32::from_le_bytes([i, j, k, l]),
            payload_len: u32::from_le_bytes([m, n, o, p]),
            topic_len: u16::from_le_bytes([q, r]),
        };
        (head, rest)
    }
}

impl Message {
    /// Bytes a message costs beside its allocation's: the handle and the counts of the shared allocation.
    pub const OVERHEAD: usize = size_of::<Message>() + 2 * size_of::<usize>();

    /// Borrows all parts.
    pub fn as_ref(&self) -> MessageRef<'_> {
        let (head, rest) = Head::decode(&self.bytes);
        let (topic, rest) = rest.split_at(head.topic_len as usize);
        let (properties, rest) = rest.split_at(head.properties_len as usize);
        MessageRef {
            topic: TopicName::from_trusted(topic),
            properties,
            payload: &rest[..head.payload_len as usize],
            qos: self.qos,
            retain: self.retain,
            expires_at: (head.expires_at != u64::MAX).then_some(head.expires_at),
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
        let at = Head::decode(&self.bytes).0.expires_at;
        (at != u64::MAX).then_some(at)
    }

    /// Whether it is due at `now` (monotonic milliseconds).
    pub fn is_expired(&self, now: u64) -> bool {
        Head::decode(&self.bytes).0.expires_at <= now
    }

    /// Bytes that keeping this message costs.
    pub fn cost(&self) -> usize {
        self.bytes.len() + Message::OVERHEAD
    }
}

impl Spares {
    /// [`MessageRef::to_message`], in a spare allocation if there is one of its size.
    pub(crate) fn message(&mut self, message: &MessageRef<'_>) -> Message {
        match self.lists.get_mut(message.allocation() / UNIT).and_then(Vec::pop) {
            Some(spare) if message.allocation() <= SPARE_LEN_MAX => {
                self.bytes -= spare.len();
                message.copy_to(spare)
            }
            _ => message.to_message(),
        }
    }

    /// Takes a message that is of no more use here. Unless others share its bytes they become a spare.
    pub(crate) fn take_back(&mut self, message: Message) {
        let Message { mut bytes, .. } = message;
        let len = bytes.len();
        if len > SPARE_LEN_MAX || self.bytes + len > SPARE_BYTES_MAX || Arc::get_mut(&mut bytes).is_none() {
            return;
        }
        if self.lists.is_empty() {
            self.lists.resize_with(SPARE_LEN_MAX / UNIT + 1, Vec::new);
        }
        self.bytes += len;
        self.lists[len / UNIT].push(bytes);
    }
}

impl Retainable for Message {
    fn topic(&self) -> &str {
        let (head, rest) = Head::decode(&self.bytes);
        core::str::from_utf8(&rest[..head.topic_len as usize]).expect("made from a Topic Name")
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
#[inline]
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
    if properties.is_empty() {
        return &[];
    }
    if properties.iter().all(|property| stays(&property)) {
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
    fn a_message_that_is_gone_leaves_its_allocation_to_the_next() {
        let message = |payload: &'static [u8]| MessageRef {
            topic: TopicName::new("a/b").expect("a topic"),
            properties: &[],
            payload,
            qos: Qos::AtLeastOnce,
            retain: false,
            expires_at: None,
        };
        let mut spares = Spares::default();
        let first = spares.message(&message(b"first"));
        let (shared, place) = (first.clone(), first.bytes.as_ptr());
        spares.take_back(first);
        assert_eq!(spares.bytes, 0, "somebody still reads it");
        spares.take_back(shared);
        assert_eq!(spares.bytes, UNIT);
        // Another length of the same size of allocation, and then one that is too large.
        let second = spares.message(&message(b"2"));
        assert_eq!((second.bytes.as_ptr(), second.as_ref().payload), (place, &b"2"[..]));
        spares.take_back(second);
        let large = spares.message(&message(&[1; SPARE_LEN_MAX]));
        assert_eq!(large.as_ref().payload, [1; SPARE_LEN_MAX]);
        spares.take_back(large);
        assert_eq!(spares.bytes, UNIT);
    }

    #[test]
    fn spares_are_bounded() {
        let message = MessageRef {
            topic: TopicName::new("a").expect("a topic"),
            properties: &[],
            payload: &[0; 900],
            qos: Qos::AtMostOnce,
            retain: false,
            expires_at: None,
        };
        let mut spares = Spares::default();
        for _ in 0..2 * SPARE_BYTES_MAX / 900 {
            spares.take_back(message.to_message());
        }
        assert!(spares.bytes <= SPARE_BYTES_MAX && spares.bytes > SPARE_BYTES_MAX - 1024);
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
