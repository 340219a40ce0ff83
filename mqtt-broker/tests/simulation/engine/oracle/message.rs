//! Application Messages as they were published: each tells its number, so that a delivery is known by its payload.

use mqtt_proto::packet::Property;
use mqtt_proto::types::Qos;

use super::{Oracle, PartyId};

pub(crate) type MessageId = usize;

/// What became of a Will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// No Will: published by its Client.
    Sent,
    /// Its connection lives.
    Armed,
    /// Its connection has ended; it is published then, unless its Client comes back before.
    Pending(u64),
    Published,
    Cancelled,
    /// It cannot be told.
    Maybe,
}

#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) publisher: PartyId,
    pub(crate) topic: String,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    /// An empty payload, which cannot tell who it is.
    pub(crate) empty: bool,
    /// Message Expiry Interval in seconds, cut to the broker's own.
    pub(crate) expiry: Option<u32>,
    pub(crate) properties: bool,
    pub(crate) payload: Vec<u8>,
    pub(crate) fate: Fate,
    /// When it was sent first, or when a Will was due.
    pub(crate) sent_at: u64,
    /// How often it was sent.
    pub(crate) tries: u32,
    /// When it was acknowledged with success.
    pub(crate) acked_at: Option<u64>,
    pub(crate) refused: bool,
    /// Acknowledged as matched by nobody.
    pub(crate) unmatched: bool,
}

/// What a publisher decides about a message.
#[derive(Clone, Debug)]
pub(crate) struct NewMessage<'a> {
    pub(crate) publisher: PartyId,
    pub(crate) topic: &'a str,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    pub(crate) empty: bool,
    pub(crate) expiry: Option<u32>,
    pub(crate) properties: bool,
    pub(crate) bytes: usize,
    pub(crate) hops: u32,
    pub(crate) will: bool,
}

impl Oracle {
    /// A message comes into being.
    pub(crate) fn new_message(&mut self, new: &NewMessage<'_>, now: u64) -> MessageId {
        let id = self.messages.len();
        let mut payload = Vec::new();
        if !new.empty {
            payload = format!("{id} {} ", new.hops).into_bytes();
            payload.extend((0..new.bytes).map(|at| b'a' + ((id + at) % 26) as u8));
        }
        let expiry = match (new.expiry, self.limits.message_expiry_max) {
            (asked, 0) => asked,
            (asked, max) => Some(asked.unwrap_or(max).min(max)),
        };
        self.messages.push(Message {
            publisher: new.publisher,
            topic: new.topic.to_owned(),
            qos: new.qos,
            retain: new.retain,
            empty: new.empty,
            expiry,
            properties: new.properties,
            payload,
            fate: if new.will { Fate::Armed } else { Fate::Sent },
            sent_at: now,
            tries: u32::from(new.will),
            acked_at: None,
            refused: false,
            unmatched: false,
        });
        id
    }
}

impl Message {
    /// Whether it may have expired at `now`.
    pub(crate) fn may_be_expired(&self, now: u64) -> bool {
        self.expiry.is_some_and(|seconds| self.sent_at + u64::from(seconds) * 1_000_000 <= now)
    }

    /// Bytes that it takes at least in a packet.
    pub(crate) fn len(&self) -> usize {
        self.topic.len() + self.payload.len()
    }

    /// Whether it certainly entered the broker and was taken.
    pub(crate) fn is_taken(&self) -> bool {
        !self.refused && (self.acked_at.is_some() || self.fate == Fate::Published)
    }
}

/// Number and hops of a message that is not empty.
pub(crate) fn parse_payload(payload: &[u8]) -> Option<(MessageId, u32)> {
    let mut parts = payload.splitn(3, |&byte| byte == b' ');
    let mut number = || core::str::from_utf8(parts.next()?).ok()?.parse::<usize>().ok();
    let (id, hops) = (number()?, number()?);
    Some((id, hops as u32))
}

/// The properties of a message that has some, in the order in which they are to arrive.
pub(crate) fn properties_of() -> [Property<'static>; 6] {
    [
        Property::PayloadFormatIndicator(1),
        Property::ContentType("text/plain"),
        Property::ResponseTopic("answers/here"),
        Property::CorrelationData(b"\x00\x01\x02"),
        Property::UserProperty("name", "first"),
        Property::UserProperty("name", "second"),
    ]
}
