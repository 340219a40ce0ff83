//! What the codecs are measured with: QoS 0 PUBLISHes of 64 bytes, 256 of them in 16 KiB.

use mqtt_proto::packet::{Properties, Publish};
use mqtt_proto::types::{Qos, TopicName};
use mqtt_proto::{Packet, Version, encode};

/// Bytes of each packet, Fixed Header included.
pub(crate) const PACKET: usize = 64;
/// How many packets there are.
pub(crate) const COUNT: usize = 256;

/// The topic of packet `number`.
pub(crate) fn topic(number: usize) -> String {
    format!("plant/{}/line{}/rpm", 10 + number % 50, number % 7)
}

/// The payload behind the topic `topic` that fills up a packet.
pub(crate) fn payload(version: Version, topic: &str) -> Vec<u8> {
    let properties = usize::from(version.has_properties());
    (0..(PACKET - 2 - 2 - topic.len() - properties) as u8).collect()
}

/// The packet of `topic` and `payload`.
pub(crate) fn publish<'a>(topic: &'a str, payload: &'a [u8]) -> Publish<'a> {
    Publish {
        dup: false,
        qos: Qos::AtMostOnce,
        retain: false,
        topic: Some(TopicName::new(topic).expect("a Topic Name")),
        packet_id: None,
        properties: Properties::EMPTY,
        payload,
    }
}

/// All packets, one behind the other.
pub(crate) fn packed(version: Version) -> Vec<u8> {
    let mut out = Vec::new();
    for topic in (0..COUNT).map(topic) {
        let payload = payload(version, &topic);
        encode(&Packet::Publish(publish(&topic, &payload)), version, &mut out).expect("valid");
    }
    assert_eq!(out.len(), PACKET * COUNT);
    out
}
