//! The lines of an export: one thing each, as JSON. `docs/store-tools.md` describes them.
//!
//! Invariant: what is written is read as the same, and what is read is checked as a record of the log would be.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mqtt_broker::message::MessageRef;
use mqtt_proto::packet::{Properties, Property, SubscriptionOptions};
use mqtt_proto::types::{Qos, TopicName};
use serde::{Deserialize, Serialize};

/// The version of the lines.
pub(super) const VERSION: u32 = 1;

/// A line.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// The first line.
    MqttdExport(Header),
    Retained(Message),
    GroupMessage(GroupMessage),
    /// The lines with what is on its way to this session's Client come behind it.
    Session(Session),
    Delivery(Delivery),
    Released(Released),
}

/// What the file is.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) version: u32,
    /// The latest time that the store knew of. Times are milliseconds since the beginning of 1970.
    pub(super) time: u64,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) qos: u8,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) retain: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) expires_at: Option<u64>,
    /// In their order.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) properties: Vec<Forwarded>,
    pub(super) payload: Bytes,
}

/// A property that goes on with a message.
#[derive(Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Forwarded {
    PayloadFormatIndicator(u8),
    ContentType(String),
    ResponseTopic(String),
    CorrelationData(Bytes),
    UserProperty(String, String),
}

/// A text, or anything else in base64.
#[derive(Debug, Deserialize, Serialize, PartialEq)]
#[serde(untagged)]
pub(super) enum Bytes {
    Text(String),
    Other { base64: String },
}

/// A message that waits in a shared group; those of a group are in order.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupMessage {
    pub(super) group: String,
    pub(super) message: Message,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Session {
    pub(super) client_id: String,
    /// 4,294,967,295: never.
    pub(super) expiry_seconds: u32,
    /// None if the Client was connected when the log ended.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) away_since: Option<u64>,
    pub(super) next_packet_id: u16,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) subscriptions: Vec<Subscription>,
    /// Packet Identifiers of QoS 2 messages from the Client whose PUBREL has not come.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) received: Vec<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) will: Option<Will>,
}

#[derive(Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(super) struct Subscription {
    pub(super) filter: String,
    pub(super) qos: u8,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) no_local: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) retain_as_published: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) retain_handling: u8,
    /// The Subscription Identifier, 0 for none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) identifier: u32,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Will {
    pub(super) delay_seconds: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) expiry_seconds: Option<u32>,
    pub(super) message: Message,
}

/// A message that waits for the session, or is under way with a Packet Identifier.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Delivery {
    pub(super) client_id: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) packet_id: Option<u16>,
    pub(super) qos: u8,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) retain: bool,
    /// Subscription Identifiers.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) identifiers: Vec<u32>,
    pub(super) message: Message,
}

/// A delivery of which PUBCOMP alone is missing.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Released {
    pub(super) client_id: String,
    pub(super) packet_id: u16,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Bytes {
    pub(super) fn new(bytes: &[u8]) -> Bytes {
        match std::str::from_utf8(bytes) {
            Ok(text) if !text.chars().any(char::is_control) => Bytes::Text(text.to_owned()),
            _ => Bytes::Other { base64: STANDARD.encode(bytes) },
        }
    }

    fn decode(&self) -> Result<Vec<u8>, String> {
        match self {
            Bytes::Text(text) => Ok(text.clone().into_bytes()),
            Bytes::Other { base64 } => {
                STANDARD.decode(base64).map_err(|error| format!("the base64 is none: {error}"))
            }
        }
    }
}

impl Message {
    pub(super) fn new(message: MessageRef<'_>) -> Message {
        Message {
            topic: message.topic.as_str().to_owned(),
            qos: message.qos.bits(),
            retain: message.retain,
            expires_at: message.expires_at,
            properties: Properties::from_wire(message.properties).iter().filter_map(Forwarded::new).collect(),
            payload: Bytes::new(message.payload),
        }
    }

    /// Gives the message to `take`.
    ///
    /// # Errors
    /// A part of it is not what it should be.
    pub(super) fn with<T>(&self, take: impl FnOnce(MessageRef<'_>) -> T) -> Result<T, String> {
        let topic = TopicName::new(&self.topic).map_err(|error| format!("the topic is none: {error}"))?;
        let mut properties = Vec::new();
        for property in &self.properties {
            property.encode(&mut properties)?;
        }
        let payload = self.payload.decode()?;
        let (qos, retain, expires_at) = (qos(self.qos)?, self.retain, self.expires_at);
        let (properties, payload) = (&properties[..], &payload[..]);
        Ok(take(MessageRef { topic, properties, payload, qos, retain, expires_at }))
    }
}

/// The QoS of this number.
pub(super) fn qos(number: u8) -> Result<Qos, String> {
    Qos::from_bits(number).ok_or_else(|| format!("the QoS is {number}: it must be 0, 1 or 2"))
}

impl Subscription {
    pub(super) fn new(filter: &str, options: SubscriptionOptions, identifier: u32) -> Subscription {
        Subscription {
            filter: filter.to_owned(),
            qos: options.qos.bits(),
            no_local: options.no_local,
            retain_as_published: options.retain_as_published,
            retain_handling: options.retain_handling as u8,
            identifier,
        }
    }

    pub(super) fn options(&self) -> Result<SubscriptionOptions, String> {
        let flags = u8::from(self.no_local) << 2 | u8::from(self.retain_as_published) << 3;
        let options = match self.retain_handling {
            0..=2 => {
                SubscriptionOptions::from_byte(qos(self.qos)?.bits() | flags | self.retain_handling << 4)
            }
            _ => None,
        };
        options.ok_or_else(|| format!("retain_handling is {}: it must be 0, 1 or 2", self.retain_handling))
    }
}

impl Forwarded {
    /// None of a kind that no message keeps.
    fn new(property: Property<'_>) -> Option<Forwarded> {
        Some(match property {
            Property::PayloadFormatIndicator(value) => Forwarded::PayloadFormatIndicator(value),
            Property::ContentType(text) => Forwarded::ContentType(text.to_owned()),
            Property::ResponseTopic(text) => Forwarded::ResponseTopic(text.to_owned()),
            Property::CorrelationData(data) => Forwarded::CorrelationData(Bytes::new(data)),
            Property::UserProperty(name, value) => Forwarded::UserProperty(name.to_owned(), value.to_owned()),
            _ => return None,
        })
    }

    /// Appends it as it is on the wire (section 2.2.2).
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), String> {
        match self {
            Forwarded::PayloadFormatIndicator(value) => {
                out.extend([Property::PayloadFormatIndicator(0).id() as u8, *value])
            }
            Forwarded::ContentType(text) => put(out, Property::ContentType(""), &[text.as_bytes()])?,
            Forwarded::ResponseTopic(text) => put(out, Property::ResponseTopic(""), &[text.as_bytes()])?,
            Forwarded::CorrelationData(data) => put(out, Property::CorrelationData(&[]), &[&data.decode()?])?,
            Forwarded::UserProperty(name, value) => {
                put(out, Property::UserProperty("", ""), &[name.as_bytes(), value.as_bytes()])?;
            }
        }
        Ok(())
    }
}

/// Appends the identifier of `kind`, and each part behind its length.
fn put(out: &mut Vec<u8>, kind: Property<'_>, parts: &[&[u8]]) -> Result<(), String> {
    out.push(kind.id() as u8);
    for part in parts {
        let length = u16::try_from(part.len())
            .map_err(|_| format!("a property has {} bytes: it can have 65535", part.len()))?;
        out.extend(length.to_be_bytes());
        out.extend_from_slice(part);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_text_where_they_can_be_read_and_the_same_again_in_any_case() {
        for (bytes, is_text) in [
            (&b"hello"[..], true),
            ("\u{20ac}\"\\".as_bytes(), true),
            (b"a\nb", false),
            (b"\xff", false),
            (b"", true),
        ] {
            let told = Bytes::new(bytes);
            assert_eq!(matches!(told, Bytes::Text(_)), is_text, "{bytes:?}");
            let json = serde_json::to_string(&told).expect("it can be told");
            let read: Bytes = serde_json::from_str(&json).expect("it is its own");
            assert_eq!(read.decode().as_deref(), Ok(bytes));
        }
    }

    #[test]
    fn properties_keep_their_bytes_and_their_order() {
        let wire = b"\x26\0\x01a\0\x01b\x01\x01\x03\0\x04text\x08\0\x01r\x09\0\x02\0\xff\x26\0\x01a\0\x01c";
        let told: Vec<_> = Properties::from_wire(wire).iter().filter_map(Forwarded::new).collect();
        assert_eq!(told.len(), 6);
        let mut again = Vec::new();
        told.iter().try_for_each(|property| property.encode(&mut again)).expect("they were right");
        assert_eq!(again, wire);
    }

    #[test]
    fn every_subscription_option_is_kept() {
        for options in (0..64).filter_map(SubscriptionOptions::from_byte) {
            assert_eq!(Subscription::new("a", options, 0).options(), Ok(options));
        }
    }

    #[test]
    fn what_is_out_of_range_is_said() {
        let mut subscription = Subscription::new("a", SubscriptionOptions::default(), 0);
        subscription.retain_handling = 3;
        assert!(subscription.options().expect_err("reserved").contains("retain_handling is 3"));
        subscription.qos = 3;
        subscription.retain_handling = 0;
        assert!(subscription.options().expect_err("reserved").contains("QoS is 3"));
    }
}
