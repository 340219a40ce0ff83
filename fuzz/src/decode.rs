//! Arbitrary bytes as a byte stream: nothing panics, and any split gives the same packets and the same error.

use mqtt_proto::codec::{DecodeError, Framer, decode, encode, encoded_len};
use mqtt_proto::connection::{Receiver, Role};
use mqtt_proto::packet::{ConnAck, Connect, Packet, Properties};
use mqtt_proto::types::{ReasonCode, Version};

const MAXIMUM_PACKET_SIZE: u32 = 1 << 16;

/// Reads `data` in every version and role, in one piece and in pieces whose length is its own first byte.
pub fn run(data: &[u8]) {
    let piece = usize::from(data.first().map_or(1, |byte| byte % 16)) + 1;
    let whole = frames(data, data.len().max(1));
    assert_eq!(whole, frames(data, piece));
    for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
        for frame in &whole.0 {
            if let Ok(packet) = decode(version, frame) {
                encoded_len(&packet, version).expect("a decoded packet can be encoded");
                assert!(!format!("{packet:?}").is_empty());
            }
        }
        for (role, opening) in [(Role::Server, connect(version)), (Role::Client, CONNACK)] {
            let mut receiver = Receiver::new(role, MAXIMUM_PACKET_SIZE);
            receiver.set_version(version);
            receiver.set_topic_alias_maximum(8);
            let mut bytes = Vec::new();
            encode(&opening, version, &mut bytes).expect("a plain packet");
            receive(&mut receiver, &bytes);
            data.chunks(piece).take_while(|piece| receive(&mut receiver, piece)).count();
        }
    }
    receive(&mut Receiver::default(), data);
}

/// The packets of a stream that comes in pieces, and the error that ends it.
fn frames(data: &[u8], piece: usize) -> (Vec<Vec<u8>>, Option<DecodeError>) {
    let (mut framer, mut frames) = (Framer::default(), Vec::new());
    for mut piece in data.chunks(piece) {
        loop {
            match framer.next_frame(&mut piece, MAXIMUM_PACKET_SIZE) {
                Ok(Some(frame)) => frames.push(frame.to_vec()),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        assert!(piece.is_empty() && framer.buffered_len() <= data.len());
    }
    (frames, None)
}

/// Whether the stream goes on behind these bytes.
fn receive(receiver: &mut Receiver, mut bytes: &[u8]) -> bool {
    loop {
        match receiver.poll_packet(&mut bytes) {
            Ok(Some(Packet::Publish(publish))) => assert!(publish.topic.is_some(), "aliases are resolved"),
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(error) => {
                assert!(error.reason_code().is_error(), "{error}");
                return false;
            }
        }
    }
}

const CONNACK: Packet<'static> = Packet::ConnAck(ConnAck {
    session_present: false,
    reason: ReasonCode::SUCCESS,
    properties: Properties::EMPTY,
});

fn connect(version: Version) -> Packet<'static> {
    Packet::Connect(Connect::new(version, "c"))
}
