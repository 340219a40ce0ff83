//! What a Client saw of a PUBLISH, kept beyond the packet; and raw packets, right or wrong.

use mqtt_proto::packet::{Ack, Packet};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, Version};

use crate::cluster::{ClientId, Cluster};

/// Those whose rules differ in form only.
pub(crate) const VERSIONS: [Version; 2] = [Version::V3_1_1, Version::V5];

/// The flags and fields of a PUBLISH, properties aside.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) dup: bool,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    /// Empty where a Topic Alias stands for it.
    pub(crate) topic: String,
    pub(crate) packet_id: Option<PacketId>,
    pub(crate) payload: Vec<u8>,
}

/// The next packet, which has to be a PUBLISH. It is not acknowledged.
#[track_caller]
pub(crate) fn see(cluster: &mut Cluster, client: ClientId) -> Seen {
    cluster.expect(client, |packet| {
        let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
        Seen {
            dup: publish.dup,
            qos: publish.qos,
            retain: publish.retain,
            topic: publish.topic.map_or(String::new(), |topic| topic.to_string()),
            packet_id: publish.packet_id,
            payload: publish.payload.to_vec(),
        }
    })
}

/// The next packet, which has to be a PUBLISH of QoS 1 or 2: its Packet Identifier.
#[track_caller]
pub(crate) fn see_id(cluster: &mut Cluster, client: ClientId) -> PacketId {
    see(cluster, client).packet_id.expect("QoS 1 or 2")
}

/// An acknowledgement that says success.
pub(crate) fn ok(id: PacketId) -> Ack<'static> {
    Ack::new(id, ReasonCode::SUCCESS)
}

pub(crate) fn packet_id(id: u16) -> PacketId {
    PacketId::new(id).expect("not 0")
}

/// A PUBLISH byte by byte: `first` is the whole first byte, `properties` are left out before 5.0.
pub(crate) fn raw_publish(
    version: Version,
    first: u8,
    topic: &[u8],
    id: Option<u16>,
    properties: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let mut body = (topic.len() as u16).to_be_bytes().to_vec();
    body.extend(topic);
    body.extend(id.into_iter().flat_map(u16::to_be_bytes));
    if version == Version::V5 {
        body.push(u8::try_from(properties.len()).expect("a short list"));
        body.extend(properties);
    }
    body.extend(payload);
    let mut packet = vec![first, u8::try_from(body.len()).expect("a short packet")];
    packet.extend(body);
    packet
}

/// The connection was closed for its Client's fault, which a 5.0 Client is told.
#[track_caller]
pub(crate) fn expect_fault(cluster: &mut Cluster, client: ClientId, version: Version, reason: ReasonCode) {
    if version == Version::V5 {
        cluster.expect_disconnect(client, reason);
    }
    cluster.expect_nothing(client);
    assert!(cluster.is_closed(client));
}
