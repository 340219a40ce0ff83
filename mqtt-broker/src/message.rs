//! An Application Message as it is routed and kept: immutable, shared, `Send`.
//!
//! [`MessageRef`] borrows the parts of a PUBLISH that is being routed; [`Message`] owns them in one allocation and is
//! made only when something keeps the message: a queue, the send window, a retained slot, a log record.

use core::fmt;
use core::ops::Range;
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
}

/// What the bytes of a [`Message`] begin with: how it was published, where its parts end, and when it expires.
///
/// Four bytes for most messages: flags, the number of bytes too much, the topic's length. The properties' length and the
/// time of expiry follow if there is any.
struct Head {
    qos: Qos,
    retain: bool,
    too_much: u8,
    topic_len: u16,
    properties_len: u32,
    expires_at: Option<u64>,
}

/// Allocations of messages that are gone, for the next ones: in the steady state a message that is kept until its
/// acknowledgement comes takes nothing from the allocator.
#[derive(Default)]
pub(crate) struct Spares {
    /// By the number of [`UNIT`]s that they take.
    lists: Vec<Vec<Arc<[u8]>>>,
    bytes: usize,
}

/// The two counts that a shared allocation begins with.
const COUNTS: usize = 2 * size_of::<usize>();

/// Allocations grow in steps of this many bytes, larger ones in steps of an eighth to a quarter of theirs: those of like
/// messages can take each other's place, and allocators round up by as much.
const UNIT: usize = 16;

/// Larger allocations have the very length of their message and leave no spares.
const SPARE_MAX: usize = 1024;

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

    /// Bytes of the allocation for a copy, without its counts.
    fn allocation(&self) -> usize {
        let len = Head::len(!self.properties.is_empty(), self.expires_at.is_some()) + self.len();
        match len + COUNTS {
            taken @ ..=SPARE_MAX => {
                let step = (taken.next_power_of_two() / 8).max(UNIT);
                taken.next_multiple_of(step) - COUNTS
            }
            _ => len,
        }
    }

    /// A copy in an allocation that nobody else has.
    fn copy_to(&self, mut allocation: Arc<[u8]>) -> Message {
        let mut head = Head {
            qos: self.qos,
            retain: self.retain,
            too_much: 0,
            topic_len: self.topic.as_bytes().len() as u16,
            properties_len: self.properties.len() as u32,
            expires_at: self.expires_at,
        };
        let head_len = Head::len(head.properties_len > 0, head.expires_at.is_some());
        let too_much = allocation.len() - head_len - self.len();
        head.too_much = u8::try_from(too_much).expect("steps are shorter than that");
        let mut rest = Arc::get_mut(&mut allocation).expect("nobody else has it");
        for part in [&head.encode()[..head_len], self.topic.as_bytes(), self.properties, self.payload] {
            let (place, behind) = rest.split_at_mut(part.len());
            place.copy_from_slice(part);
            rest = behind;
        }
        Message { bytes: allocation }
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
    const LEN_MAX: usize = Head::len(true, true);

    const QOS: u8 = 0b0000_0011;
    const RETAIN: u8 = 0b0000_0100;
    const HAS_PROPERTIES: u8 = 0b0000_1000;
    const EXPIRES: u8 = 0b0001_0000;

    const fn len(has_properties: bool, expires: bool) -> usize {
        4 + 4 * has_properties as usize + 8 * expires as usize
    }

    fn encode(&self) -> [u8; Head::LEN_MAX] {
        let mut bytes = [0; Head::LEN_MAX];
        let mut flags = self.qos.bits();
        if self.retain {
            flags |= Head::RETAIN;
        }
        let mut at = 4;
        if self.properties_len > 0 {
            flags |= Head::HAS_PROPERTIES;
            bytes[at..at + 4].copy_from_slice(&self.properties_len.to_le_bytes());
            at += 4;
        }
        if let Some(expires_at) = self.expires_at {
            flags |= Head::EXPIRES;
            bytes[at..at + 8].copy_from_slice(&expires_at.to_le_bytes());
        }
        bytes[0] = flags;
        bytes[1] = self.too_much;
        bytes[2..4].copy_from_slice(&self.topic_len.to_le_bytes());
        bytes
    }

    /// The head of a message's bytes, and what is behind it.
    fn decode(bytes: &[u8]) -> (Head, &[u8]) {
        const WHOLE: &str = "a message has its whole head";
        let (&[flags, too_much, low, high], mut rest) = bytes.split_first_chunk().expect(WHOLE);
        let (mut properties_len, mut expires_at) = (0, None);
        if flags & Head::HAS_PROPERTIES != 0 {
            let (&field, behind) = rest.split_first_chunk().expect(WHOLE);
            (properties_len, rest) = (u32::from_le_bytes(field), behind);
        }
        if flags & Head::EXPIRES != 0 {
            let (&field, behind) = rest.split_first_chunk().expect(WHOLE);
            (expires_at, rest) = (Some(u64::from_le_bytes(field)), behind);
        }
        let qos = Qos::from_bits(flags & Head::QOS).expect("made from a QoS");
        let topic_len = u16::from_le_bytes([low, high]);
        let retain = flags & Head::RETAIN != 0;
        (Head { qos, retain, too_much, topic_len, properties_len, expires_at }, rest)
    }
}

impl Message {
    /// Bytes a message costs beside its allocation's: the handle and the counts of the shared allocation.
    pub const OVERHEAD: usize = size_of::<Message>() + COUNTS;

    /// Borrows all parts.
    pub fn as_ref(&self) -> MessageRef<'_> {
        let (head, rest) = Head::decode(&self.bytes);
        let (topic, rest) = rest.split_at(usize::from(head.topic_len));
        let (properties, rest) = rest.split_at(head.properties_len as usize);
        MessageRef {
            topic: TopicName::from_trusted(topic),
            properties,
            payload: &rest[..rest.len() - usize::from(head.too_much)],
            qos: head.qos,
            retain: head.retain,
            expires_at: head.expires_at,
        }
    }

    /// The bytes that it shares with its clones, and where the payload is in them.
    pub(crate) fn into_payload(self) -> (Arc<[u8]>, Range<usize>) {
        let (head, rest) = Head::decode(&self.bytes);
        let start =
            self.bytes.len() - rest.len() + usize::from(head.topic_len) + head.properties_len as usize;
        let end = self.bytes.len() - usize::from(head.too_much);
        (self.bytes, start..end)
    }

    /// The message with this QoS and RETAIN flag: itself if it has them, else a copy.
    pub fn with(&self, qos: Qos, retain: bool) -> Message {
        let (head, _) = Head::decode(&self.bytes);
        match (head.qos, head.retain) == (qos, retain) {
            true => self.clone(),
            false => MessageRef { qos, retain, ..self.as_ref() }.to_message(),
        }
    }

    /// The QoS it was published with.
    pub fn qos(&self) -> Qos {
        Head::decode(&self.bytes).0.qos
    }

    /// Monotonic milliseconds at which it expires; `None`: never.
    pub fn expires_at(&self) -> Option<u64> {
        Head::decode(&self.bytes).0.expires_at
    }

    /// Whether it is due at `now` (monotonic milliseconds).
    pub fn is_expired(&self, now: u64) -> bool {
        self.expires_at().is_some_and(|at| at <= now)
    }

    /// Bytes that keeping this message costs.
    pub fn cost(&self) -> usize {
        self.bytes.len() + Message::OVERHEAD
    }

    /// Whether somebody else keeps the same bytes.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.bytes) > 1
    }

    /// Where its bytes are: no other message that is kept has the same address, but for clones.
    pub(crate) fn address(&self) -> usize {
        self.bytes.as_ptr().addr()
    }
}

impl Spares {
    /// [`MessageRef::to_message`], in a spare allocation if there is one of its size.
    pub(crate) fn message(&mut self, message: &MessageRef<'_>) -> Message {
        let taken = message.allocation() + COUNTS;
        match self.lists.get_mut(taken / UNIT).filter(|_| taken <= SPARE_MAX).and_then(Vec::pop) {
            Some(spare) => {
                self.bytes -= taken;
                message.copy_to(spare)
            }
            None => message.to_message(),
        }
    }

    /// Takes a message that is of no more use here. Unless others share its bytes they become a spare.
    pub(crate) fn take_back(&mut self, message: Message) {
        let Message { mut bytes } = message;
        let taken = bytes.len() + COUNTS;
        if taken > SPARE_MAX || self.bytes + taken > SPARE_BYTES_MAX || Arc::get_mut(&mut bytes).is_none() {
            return;
        }
        if self.lists.is_empty() {
            self.lists.resize_with(SPARE_MAX / UNIT + 1, Vec::new);
        }
        self.bytes += taken;
        self.lists[taken / UNIT].push(bytes);
    }
}

impl Retainable for Message {
    fn topic(&self) -> &str {
        core::str::from_utf8(self.topic_bytes()).expect("made from a Topic Name")
    }

    fn topic_bytes(&self) -> &[u8] {
        let (head, rest) = Head::decode(&self.bytes);
        &rest[..usize::from(head.topic_len)]
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
    fn messages_of_any_length_with_any_head_give_back_all_parts() {
        let bytes = [7; 1200];
        for payload_len in 0..bytes.len() {
            for which in 0..4 {
                let message = MessageRef {
                    topic: TopicName::new("a/b").expect("a topic"),
                    properties: if which & 1 == 0 { &[] } else { &[1, 0] },
                    payload: &bytes[..payload_len],
                    qos: Qos::ExactlyOnce,
                    retain: which == 3,
                    expires_at: (which & 2 != 0).then_some(9),
                };
                let owned = message.to_message();
                let back = owned.as_ref();
                assert_eq!((back.topic, back.payload), (message.topic, message.payload));
                assert_eq!((back.properties, back.expires_at), (message.properties, message.expires_at));
                assert_eq!((back.qos, back.retain), (message.qos, message.retain));
                assert_eq!(owned.cost(), message.cost());
            }
        }
    }

    #[test]
    fn another_qos_or_flag_makes_a_copy() {
        let topic = TopicName::new("a").expect("a topic");
        let (qos, retain) = (Qos::AtLeastOnce, true);
        let message = MessageRef { topic, properties: &[], payload: b"p", qos, retain, expires_at: None };
        let message = message.to_message();
        assert_eq!(message.with(qos, retain).bytes.as_ptr(), message.bytes.as_ptr());
        let lower = message.with(Qos::AtMostOnce, false);
        let lower = lower.as_ref();
        assert_eq!((lower.qos, lower.retain, lower.payload), (Qos::AtMostOnce, false, &b"p"[..]));
        assert_eq!(message.qos(), qos, "that of others stays");
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
        // Counts, head, topic and payload are 28 bytes.
        assert_eq!(spares.bytes, 2 * UNIT);
        // Another length of the same size of allocation, and then one that is too large.
        let second = spares.message(&message(b"2"));
        assert_eq!((second.bytes.as_ptr(), second.as_ref().payload), (place, &b"2"[..]));
        spares.take_back(second);
        let large = spares.message(&message(&[1; SPARE_MAX]));
        assert_eq!(large.as_ref().payload, [1; SPARE_MAX]);
        spares.take_back(large);
        assert_eq!(spares.bytes, 2 * UNIT);
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
