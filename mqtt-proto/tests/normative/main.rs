//! Statements of the standards one by one, at the edge of the codec and of the Client: `statements.toml` names them.

mod client;
mod client_connects;
mod client_receives;
mod client_sends;
mod connect;
mod data;
mod ending;
mod publish;
mod subscribe;
mod topics;

use mqtt_proto::connection::PeerLimits;
use mqtt_proto::{EncodeError, Packet, Sender, Version, encode};

const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

fn encoded(version: Version, packet: &Packet<'_>) -> Result<Vec<u8>, EncodeError> {
    let mut out = Vec::new();
    encode(packet, version, &mut out).map(|()| out)
}

/// A QoS 0 PUBLISH without payload to a topic of these bytes.
fn publish_to(version: Version, topic: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x30, topic.len() as u8 + if version == Version::V5 { 3 } else { 2 }];
    frame.extend((topic.len() as u16).to_be_bytes());
    frame.extend(topic);
    if version == Version::V5 {
        frame.push(0);
    }
    frame
}

/// Of the last packet a peer is sent what it takes: first the User Property goes, which makes it the second, then the
/// Reason String, which makes it the first.
#[track_caller]
fn gives_up_in_turn(packets: [Packet<'_>; 3]) {
    let [bare, string_alone, whole] = packets.map(|packet| encoded(Version::V5, &packet).expect("valid"));
    for (size, sent) in
        [(whole.len(), &whole), (whole.len() - 1, &string_alone), (string_alone.len() - 1, &bare)]
    {
        let peer = PeerLimits { maximum_packet_size: size as u32, ..PeerLimits::new(Version::V5) };
        let mut out = Vec::new();
        Sender::new(&peer, 0).encode(&packets[2], &mut out).expect("the packet itself fits");
        assert_eq!(&out, sent, "within {size} bytes");
    }
}
