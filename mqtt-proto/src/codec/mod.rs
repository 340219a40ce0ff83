//! Packets to bytes and back (chapters 2 and 3), and where they begin and end in a stream.
//!
//! Meet [`Framer`], which cuts a byte stream into whole packets, [`decode`] and [`encode`]. Decoding judges
//! everything that can be judged from the packet alone, borrows from the input and allocates nothing. What depends
//! on the Session, on earlier packets or on who sent it is for the layers above.

mod connect;
mod error;
mod frame;
mod property;
mod publish;
mod read;
mod reason;
mod subscribe;
mod v3;
mod v5;
mod write;

use alloc::vec::Vec;

use crate::packet::{Ack, Packet, PacketType, Property};
use crate::types::{PacketId, ReasonCode, Version};
use read::{Reader, variable_byte_integer_len};
use write::{Length, REMAINING_LENGTH_MAX, Sink, variable_byte_integer};

pub use error::{DecodeError, EncodeError};
pub use frame::{FrameHeader, Framer, peek_frame};
pub(crate) use property::decode_property;
pub use publish::{Alike, encode_publish};

/// Appends one property, identifier and value: for those who forward some of a packet's properties and not others.
///
/// # Errors
/// [`EncodeError`] where its value cannot be written, which a decoded property's always can.
pub fn encode_property(property: &Property<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    property::encode_property(property, out)
}

/// Fixed Header flag of a packet that is sent again: PUBLISH, and what 3.1 counts as QoS 1.
const DUP: u8 = 0b1000;

/// Decodes one whole packet, Fixed Header included, as [`Framer::next_frame`] returns it.
///
/// A CONNECT says its own version, `version` is ignored for it.
///
/// ```
/// use mqtt_proto::{Packet, Version, decode};
///
/// let Packet::Publish(publish) = decode(Version::V3_1_1, b"\x30\x05\x00\x01ahi")? else { panic!() };
/// assert_eq!(publish.topic.map(|topic| topic.as_str()), Some("a"));
/// assert_eq!(publish.payload, b"hi");
/// # Ok::<(), mqtt_proto::DecodeError>(())
/// ```
///
/// # Errors
/// What [`DecodeError`] lists.
#[inline]
pub fn decode(version: Version, frame: &[u8]) -> Result<Packet<'_>, DecodeError> {
    match publish::decode_plain(version, frame) {
        Some(publish) => Ok(Packet::Publish(publish)),
        None => decode_other(version, frame),
    }
}

/// Kept out of the way of PUBLISH.
#[inline(never)]
fn decode_other(version: Version, frame: &[u8]) -> Result<Packet<'_>, DecodeError> {
    let ack = frame.first_chunk().filter(|_| frame.len() == 4).and_then(plain_ack);
    match ack.map(|(packet_type, id)| (packet_type, Ack::new(id, ReasonCode::SUCCESS))) {
        Some((PacketType::PubAck, ack)) => Ok(Packet::PubAck(ack)),
        Some((PacketType::PubRec, ack)) => Ok(Packet::PubRec(ack)),
        Some((PacketType::PubRel, ack)) => Ok(Packet::PubRel(ack)),
        Some((PacketType::PubComp, ack)) => Ok(Packet::PubComp(ack)),
        _ => decode_any(version, frame),
    }
}

/// An acknowledgement of success that says nothing more: four bytes, the same in every version, and as frequent as PUBLISH.
/// `None` says nothing about any other frame.
#[inline(always)]
pub(crate) fn plain_ack(frame: &[u8; 4]) -> Option<(PacketType, PacketId)> {
    let packet_type = match frame {
        [0x40, 2, ..] => PacketType::PubAck,
        [0x50, 2, ..] => PacketType::PubRec,
        [0x62, 2, ..] => PacketType::PubRel,
        [0x70, 2, ..] => PacketType::PubComp,
        _ => return None,
    };
    Some((packet_type, PacketId::new(u16::from_be_bytes([frame[2], frame[3]]))?))
}

fn decode_any(version: Version, frame: &[u8]) -> Result<Packet<'_>, DecodeError> {
    let header = peek_frame(frame, u32::MAX)?.ok_or(DecodeError::Truncated)?;
    let mut reader = Reader::new(&frame[header.header_len..]);
    let body = reader.bytes(header.remaining_len)?;
    reader.finish()?;
    if version == Version::V5 && !header.is_minimal() && header.packet_type != PacketType::Connect {
        return Err(DecodeError::VariableByteInteger);
    }
    let FrameHeader { packet_type, flags, .. } = header;
    if flags & DUP != 0 && version != Version::V3_1 && packet_type != PacketType::Publish {
        return Err(DecodeError::ReservedFlags { packet_type, flags });
    }
    let v5 = version == Version::V5;
    let ack = || if v5 { v5::decode_ack(packet_type, body) } else { v3::decode_ack(body) };
    Ok(match packet_type {
        PacketType::Connect => Packet::Connect(connect::decode(body, header.is_minimal())?),
        PacketType::ConnAck if v5 => Packet::ConnAck(v5::decode_connack(body)?),
        PacketType::ConnAck => Packet::ConnAck(v3::decode_connack(version, body)?),
        PacketType::Publish => Packet::Publish(publish::decode(version, flags, body)?),
        PacketType::PubAck => Packet::PubAck(ack()?),
        PacketType::PubRec => Packet::PubRec(ack()?),
        PacketType::PubRel => Packet::PubRel(ack()?),
        PacketType::PubComp => Packet::PubComp(ack()?),
        PacketType::Subscribe => Packet::Subscribe(subscribe::decode_subscribe(version, body)?),
        PacketType::SubAck => Packet::SubAck(subscribe::decode_suback(version, body)?),
        PacketType::Unsubscribe => Packet::Unsubscribe(subscribe::decode_unsubscribe(version, body)?),
        PacketType::UnsubAck => Packet::UnsubAck(subscribe::decode_unsuback(version, body)?),
        PacketType::PingReq => Reader::new(body).finish().map(|()| Packet::PingReq)?,
        PacketType::PingResp => Reader::new(body).finish().map(|()| Packet::PingResp)?,
        PacketType::Disconnect if v5 => Packet::Disconnect(v5::decode_disconnect(body)?),
        PacketType::Disconnect => Packet::Disconnect(v3::decode_disconnect(body)?),
        PacketType::Auth if v5 => Packet::Auth(v5::decode_auth(body)?),
        PacketType::Auth => return Err(DecodeError::ForbiddenPacketType(packet_type as u8)),
    })
}

/// Bytes of `packet` once encoded, Fixed Header included.
///
/// # Errors
/// What [`EncodeError`] lists.
pub fn encoded_len(packet: &Packet<'_>, version: Version) -> Result<usize, EncodeError> {
    let remaining_len = measure(packet, version)?;
    Ok(1 + variable_byte_integer_len(remaining_len as u32) + remaining_len)
}

/// Appends `packet`: exactly [`encoded_len`] bytes.
///
/// What the version cannot say is left out: before 5.0 properties, Reason Codes of acknowledgements and of
/// DISCONNECT, and every Subscription Option but the QoS. A CONNECT is written in its own version.
///
/// ```
/// use mqtt_proto::{Packet, Version, encode};
///
/// let mut out = Vec::new();
/// encode(&Packet::PingReq, Version::V5, &mut out)?;
/// assert_eq!(out, [0xC0, 0x00]);
/// # Ok::<(), mqtt_proto::EncodeError>(())
/// ```
///
/// # Errors
/// What [`EncodeError`] lists; nothing is appended then.
#[inline]
pub fn encode(packet: &Packet<'_>, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    if let Packet::Publish(publish) = packet {
        return encode_publish(publish, version, out);
    }
    let remaining_len = measure(packet, version)?;
    let packet_type = packet.packet_type();
    let flags = match packet_type {
        PacketType::PubRel | PacketType::Subscribe | PacketType::Unsubscribe => 0b0010,
        _ => 0,
    };
    put_fixed_header(packet_type, flags, remaining_len, out);
    put_body(packet, version, out)
}

/// Makes room for the whole packet and writes its Fixed Header.
#[inline]
fn put_fixed_header(packet_type: PacketType, flags: u8, remaining_len: usize, out: &mut Vec<u8>) {
    let (length, length_len) = variable_byte_integer(remaining_len as u32);
    let first = (packet_type as u8) << 4 | flags;
    let header_len = 1 + length_len;
    // Five bytes are one store, however many of them stay.
    out.reserve((header_len + remaining_len).max(5));
    let start = out.len();
    out.extend_from_slice(&[first, length[0], length[1], length[2], length[3]]);
    out.truncate(start + header_len);
}

/// Judges `packet`; returns its Remaining Length.
fn measure(packet: &Packet<'_>, version: Version) -> Result<usize, EncodeError> {
    let mut length = Length::default();
    put_body(packet, version, &mut length)?;
    if length.0 > REMAINING_LENGTH_MAX { Err(EncodeError::PacketTooLarge) } else { Ok(length.0) }
}

/// Writes what follows the Fixed Header. Whatever can fail fails the same way for every sink.
fn put_body(packet: &Packet<'_>, version: Version, sink: &mut impl Sink) -> Result<(), EncodeError> {
    let v5 = version == Version::V5;
    match packet {
        Packet::Connect(connect) => connect::put(connect, sink),
        Packet::ConnAck(connack) if v5 => v5::put_connack(connack, sink),
        Packet::ConnAck(connack) => v3::put_connack(connack, version, sink),
        Packet::Publish(publish) => publish::put(publish, version, sink),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) if v5 => {
            v5::put_ack(ack, packet.packet_type(), sink)
        }
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            v3::put_ack(ack, sink);
            Ok(())
        }
        Packet::Subscribe(subscribe) => subscribe::put_subscribe(subscribe, version, sink),
        Packet::SubAck(suback) => subscribe::put_suback(suback, version, sink),
        Packet::Unsubscribe(unsubscribe) => subscribe::put_unsubscribe(unsubscribe, version, sink),
        Packet::UnsubAck(unsuback) => subscribe::put_unsuback(unsuback, version, sink),
        Packet::Disconnect(disconnect) if v5 => v5::put_disconnect(disconnect, sink),
        Packet::PingReq | Packet::PingResp | Packet::Disconnect(_) => Ok(()),
        Packet::Auth(auth) if v5 => v5::put_auth(auth, sink),
        Packet::Auth(_) => Err(EncodeError::NotInVersion(PacketType::Auth)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Properties, Publish};
    use crate::types::{PacketId, Qos, TopicName};

    /// Of valid packets and of all that differ from them in one byte.
    #[test]
    fn the_short_way_to_read_a_publish_says_nothing_that_the_long_one_would_not() {
        let (mut short, mut neither) = (0, 0);
        for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
            for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
                let packet_id = (qos != Qos::AtMostOnce).then(|| PacketId::new(1).expect("not 0"));
                let topic = TopicName::new("plant/7/rpm").expect("a Topic Name");
                let publish = Publish {
                    dup: false,
                    qos,
                    retain: true,
                    topic: Some(topic),
                    packet_id,
                    properties: Properties::EMPTY,
                    payload: b"12",
                };
                let mut frame = Vec::new();
                encode_publish(&publish, version, &mut frame).expect("valid");
                assert_eq!(publish::decode_plain(version, &frame), Some(publish));
                for at in 0..frame.len() {
                    let kept = frame[at];
                    for byte in 0..=255 {
                        frame[at] = byte;
                        match publish::decode_plain(version, &frame).map(Packet::Publish) {
                            Some(packet) => {
                                assert_eq!(decode_any(version, &frame), Ok(packet), "{frame:02x?}");
                                short += 1;
                            }
                            None => neither += usize::from(decode_any(version, &frame).is_err()),
                        }
                    }
                    frame[at] = kept;
                }
            }
        }
        assert!(short > 10_000 && neither > 10_000, "{short} {neither}");
    }
}
