//! A PUBLISH that need not be encoded for each subscriber: passed on as it came, or encoded once and copied to each.

use mqtt_proto::codec;
use mqtt_proto::connection::{Sender, TooLarge};
use mqtt_proto::packet::Publish;
use mqtt_proto::types::{PacketId, Qos, Version};

use super::BUFFER_BYTES_MAX;
use super::deliver::Part;

/// A PUBLISH as it came, which a subscriber that is to get the same QoS in the same format gets as well. Only the flags
/// and the Packet Identifier are its own.
pub(super) struct Received<'a> {
    bytes: &'a [u8],
    has_properties: bool,
    qos: Qos,
    /// Where the Packet Identifier is, if there is one.
    packet_id_at: usize,
}

impl<'a> Received<'a> {
    /// `None` for a packet that an encoder would not make of the same message: one with properties, which are not all
    /// passed on as they came, or with a Remaining Length of more bytes than it needs.
    pub(super) fn of(publish: &Publish<'_>, bytes: &'a [u8], version: Version) -> Option<Received<'a>> {
        if !publish.properties.is_empty() {
            return None;
        }
        let received = Received::plain(publish, bytes, version);
        let header_len = received.packet_id_at - 2 - publish.topic?.as_bytes().len();
        // Whether the last byte of its length says anything.
        let is_minimal = header_len == 2 || bytes[header_len - 1] != 0;
        is_minimal.then_some(received)
    }

    /// Of a packet without properties, its Remaining Length in as few bytes as it needs.
    #[inline(always)]
    pub(super) fn plain(publish: &Publish<'_>, bytes: &'a [u8], version: Version) -> Received<'a> {
        let has_properties = version.has_properties();
        let packet_id_len = if publish.qos == Qos::AtMostOnce { 0 } else { 2 };
        let behind = packet_id_len + usize::from(has_properties) + publish.payload.len();
        Received { bytes, has_properties, qos: publish.qos, packet_id_at: bytes.len() - behind }
    }

    /// Whether the bytes are right for this subscriber, who gets no Topic Aliases and has no Subscription Identifier.
    #[inline]
    pub(super) fn serves(&self, part: &Part<'_>, sender: &Sender) -> bool {
        let has_properties = sender.version().has_properties();
        // What the Message Expiry Interval is cut to stands in no packet that came without one.
        let is_told_more = has_properties && part.message.expires_at.is_some();
        self.qos == part.qos && self.has_properties == has_properties && !is_told_more
    }

    #[inline(always)]
    pub(super) fn append(&self, part: &Part<'_>, sender: &Sender, out: &mut Vec<u8>) -> Result<(), TooLarge> {
        append(self.bytes, self.bytes, self.packet_id_at, part, sender, out)
    }

    /// Appends the packet without DUP and RETAIN, under this Packet Identifier.
    #[inline(always)]
    pub(super) fn append_under(&self, packet_id: PacketId, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(self.bytes);
        out[start] = PUBLISH | self.qos.bits() << 1;
        let at = start + self.packet_id_at;
        out[at..at + 2].copy_from_slice(&packet_id.get().to_be_bytes());
    }

    /// As [`Received::append`], without the payload if that is `shared`.
    pub(super) fn append_head(
        &self,
        part: &Part<'_>,
        sender: &Sender,
        shared: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), TooLarge> {
        append(head(self.bytes, part, shared), self.bytes, self.packet_id_at, part, sender, out)
    }
}

/// The PUBLISH `bytes` without the payload if that is `shared`.
fn head<'a>(bytes: &'a [u8], part: &Part<'_>, shared: bool) -> &'a [u8] {
    if shared { &bytes[..bytes.len() - part.message.payload.len()] } else { bytes }
}

/// Appends `bytes`, the whole of a PUBLISH or its head, with the flags and the Packet Identifier of `part`.
#[inline(always)]
fn append(
    bytes: &[u8],
    whole: &[u8],
    packet_id_at: usize,
    part: &Part<'_>,
    sender: &Sender,
    out: &mut Vec<u8>,
) -> Result<(), TooLarge> {
    if whole.len() > sender.maximum_packet_size() as usize {
        return Err(TooLarge);
    }
    let start = out.len();
    out.extend_from_slice(bytes);
    out[start] = PUBLISH | part.qos.bits() << 1 | u8::from(part.retain);
    if let Some(packet_id) = part.packet_id {
        let at = start + packet_id_at;
        out[at..at + 2].copy_from_slice(&packet_id.get().to_be_bytes());
    }
    Ok(())
}

/// The type of a PUBLISH in the first byte.
const PUBLISH: u8 = 0x30;

/// The bytes that the last subscriber got, for the next one that is to get the same.
#[derive(Default)]
pub(super) struct Frame {
    bytes: Vec<u8>,
    /// What they depend on beside the message: with properties or not, QoS.
    made_for: Option<(bool, Qos)>,
    /// Where the Packet Identifier is, if there is one.
    packet_id_at: usize,
}

impl Frame {
    /// Appends `part`. Not for peers that get Topic Aliases, nor for parts with Subscription Identifiers.
    #[inline]
    pub(super) fn append(
        &mut self,
        part: &Part<'_>,
        sender: &Sender,
        now: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), TooLarge> {
        self.prepare(part, sender, now)?;
        append(&self.bytes, &self.bytes, self.packet_id_at, part, sender, out)
    }

    /// As [`Frame::append`], without the payload if that is `shared`.
    pub(super) fn append_head(
        &mut self,
        part: &Part<'_>,
        sender: &Sender,
        now: u64,
        shared: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), TooLarge> {
        self.prepare(part, sender, now)?;
        append(head(&self.bytes, part, shared), &self.bytes, self.packet_id_at, part, sender, out)
    }

    /// Encodes the packet, if the last one was made for others.
    fn prepare(&mut self, part: &Part<'_>, sender: &Sender, now: u64) -> Result<(), TooLarge> {
        let version = sender.version();
        let wanted = (version.has_properties(), part.qos);
        if self.made_for != Some(wanted) {
            self.made_for = None;
            self.bytes.clear();
            part.with_publish(version, now, |publish| {
                codec::encode_publish(publish, version, &mut self.bytes)
            })
            .map_err(|_| TooLarge)?;
            let length_bytes = self.bytes[1..].iter().take_while(|&&byte| byte & 0x80 != 0).count() + 1;
            self.packet_id_at = 1 + length_bytes + 2 + part.message.topic.as_bytes().len();
            self.made_for = Some(wanted);
        }
        Ok(())
    }

    /// Ready for another message.
    pub(super) fn cleared(mut self) -> Frame {
        self.made_for = None;
        if self.bytes.capacity() > BUFFER_BYTES_MAX {
            self.bytes = Vec::new();
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use mqtt_proto::connection::PeerLimits;
    use mqtt_proto::packet::{Packet, Properties, Property};
    use mqtt_proto::types::TopicName;

    use super::*;
    use crate::message::MessageRef;

    fn publish<'a>(qos: Qos, properties: Properties<'a>, payload: &'a [u8]) -> Publish<'a> {
        Publish {
            dup: qos != Qos::AtMostOnce,
            qos,
            retain: true,
            topic: TopicName::new("a/b").ok(),
            packet_id: (qos != Qos::AtMostOnce).then_some(PacketId::FIRST),
            properties,
            payload,
        }
    }

    fn encoded(publish: &Publish<'_>, version: Version) -> Vec<u8> {
        let mut bytes = Vec::new();
        codec::encode_publish(publish, version, &mut bytes).expect("a packet");
        bytes
    }

    #[test]
    fn what_is_passed_on_is_what_an_encoder_makes_of_it() {
        let payload = [7; 200];
        for version in [Version::V3_1_1, Version::V5] {
            for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
                for payload in [&payload[..], &payload[..1], b""] {
                    let publish = publish(qos, Properties::EMPTY, payload);
                    let bytes = encoded(&publish, version);
                    let received =
                        Received::of(&publish, &bytes, version).expect("nothing speaks against it");
                    let packet_id = publish.packet_id.map(PacketId::next);
                    let message = MessageRef {
                        topic: publish.topic.expect("set"),
                        properties: &[],
                        payload,
                        qos,
                        retain: true,
                        expires_at: None,
                    };
                    let part = Part {
                        message: &message,
                        qos,
                        retain: false,
                        dup: false,
                        packet_id,
                        identifiers: &[],
                    };
                    let sender = Sender::new(&PeerLimits::new(version), 0);
                    assert!(received.serves(&part, &sender));
                    let mut out = vec![1];
                    assert_eq!(received.append(&part, &sender, &mut out), Ok(()));
                    let expected =
                        encoded(&Publish { dup: false, retain: false, packet_id, ..publish }, version);
                    assert_eq!(out[1..], expected);
                }
            }
        }
    }

    #[test]
    fn a_packet_that_an_encoder_would_not_make_is_not_passed_on() {
        let properties = [Property::ContentType("t")];
        let with_properties = publish(Qos::AtMostOnce, Properties::new(&properties), b"x");
        let bytes = encoded(&with_properties, Version::V5);
        assert!(Received::of(&with_properties, &bytes, Version::V5).is_none());
        let long: &[u8] = &[0x31, 0x86, 0x00, 0, 3, b'a', b'/', b'b', b'x'];
        let Ok(Packet::Publish(decoded)) = codec::decode(Version::V3_1_1, long) else {
            panic!("allowed before 5.0")
        };
        assert!(Received::of(&decoded, long, Version::V3_1_1).is_none());
    }

    #[test]
    fn subscribers_of_another_format_or_qos_get_a_packet_of_their_own() {
        let publish = publish(Qos::AtLeastOnce, Properties::EMPTY, b"x");
        let bytes = encoded(&publish, Version::V5);
        let received = Received::of(&publish, &bytes, Version::V5).expect("nothing speaks against it");
        let serves = |version, qos, expires_at| {
            let topic = publish.topic.expect("set");
            let message =
                MessageRef { topic, properties: &[], payload: b"x", qos, retain: false, expires_at };
            let part =
                Part { message: &message, qos, retain: false, dup: false, packet_id: None, identifiers: &[] };
            received.serves(&part, &Sender::new(&PeerLimits::new(version), 0))
        };
        assert!(serves(Version::V5, Qos::AtLeastOnce, None));
        assert!(!serves(Version::V5, Qos::AtLeastOnce, Some(9)), "it is told when the message expires");
        assert!(!serves(Version::V5, Qos::AtMostOnce, None));
        assert!(!serves(Version::V3_1_1, Qos::AtLeastOnce, None));
    }
}
