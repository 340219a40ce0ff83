//! PUBLISH frames of one stream, made once: sending one is a copy, and what comes back is first compared byte by byte.
//!
//! This keeps the tool cheaper than what it measures. What differs from the template is not wrong for that: a broker may
//! add properties. It is decoded then.

use std::io;

use mqtt_proto::{PacketId, Properties, Publish, Qos, TopicName, Version, encode_publish};

use crate::load::payload::{self, Header};

/// A frame whose Packet Identifier and payload are to be filled in.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    topic: String,
    frame: Vec<u8>,
    /// Where the Packet Identifier is, if there is one.
    packet_id_at: Option<usize>,
    payload_at: usize,
}

impl Template {
    /// For messages to `topic` with payloads of `payload_len` bytes.
    pub(crate) fn new(topic: String, qos: Qos, payload_len: usize, version: Version) -> io::Result<Template> {
        let has_id = qos != Qos::AtMostOnce;
        let payload = vec![0; payload_len];
        let publish = Publish {
            dup: false,
            qos,
            retain: false,
            topic: Some(TopicName::new(&topic).map_err(io::Error::other)?),
            packet_id: has_id.then_some(PacketId::FIRST),
            properties: Properties::EMPTY,
            payload: &payload,
        };
        let mut frame = Vec::new();
        encode_publish(&publish, version, &mut frame).map_err(io::Error::other)?;
        let payload_at = frame.len() - payload_len;
        let properties_len = usize::from(version == Version::V5);
        let packet_id_at = has_id.then(|| payload_at - properties_len - 2);
        Ok(Template { topic, frame, packet_id_at, payload_at })
    }

    /// The topic.
    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    /// Appends a frame.
    pub(crate) fn write(&self, header: Header, packet_id: PacketId, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.frame);
        let frame = &mut out[start..];
        if let Some(at) = self.packet_id_at {
            frame[at..at + 2].copy_from_slice(&packet_id.get().to_be_bytes());
        }
        payload::fill(header, &mut frame[self.payload_at..]);
    }

    /// Whether `frame` is one of this stream, whatever its payload; and the Packet Identifier that it has.
    pub(crate) fn recognize(&self, frame: &[u8]) -> Option<Option<PacketId>> {
        if frame.len() != self.frame.len() {
            return None;
        }
        let (ours, theirs) = (&self.frame[..self.payload_at], &frame[..self.payload_at]);
        let Some(at) = self.packet_id_at else {
            return (ours == theirs).then_some(None);
        };
        if ours[..at] != theirs[..at] || ours[at + 2..] != theirs[at + 2..] {
            return None;
        }
        PacketId::new(u16::from_be_bytes([theirs[at], theirs[at + 1]])).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use mqtt_proto::{Packet, decode};

    use super::*;

    #[test]
    fn a_frame_decodes_to_what_was_written_and_any_other_head_is_not_recognized() {
        let packet_id = PacketId::new(0x1234).expect("not 0");
        let header = Header { stream: 3, sequence: 9, sent_ns: 77 };
        for version in [Version::V3_1_1, Version::V5] {
            for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
                let template = Template::new("load/x/3".into(), qos, 64, version).expect("a topic");
                let mut frame = Vec::new();
                template.write(header, packet_id, &mut frame);
                let Packet::Publish(publish) = decode(version, &frame).expect("a packet") else {
                    panic!("a PUBLISH");
                };
                let expected_id = (qos != Qos::AtMostOnce).then_some(packet_id);
                assert_eq!((publish.qos, publish.packet_id), (qos, expected_id));
                assert_eq!(publish.topic.map(|topic| topic.as_str()), Some("load/x/3"));
                assert_eq!(payload::read(publish.payload, 64), Some(header));
                assert_eq!(template.recognize(&frame), Some(expected_id));
                for at in 0..frame.len() - 64 {
                    frame[at] ^= 0x01;
                    let is_id = template.packet_id_at.is_some_and(|id| (id..id + 2).contains(&at));
                    assert_eq!(template.recognize(&frame).is_some(), is_id, "byte {at}");
                    frame[at] ^= 0x01;
                }
            }
        }
    }
}
