//! PUBLISH of every version (section 3.3): the path that has to be fast.

use alloc::vec::Vec;

use super::error::{DecodeError, EncodeError};
use super::property::{
    PropertyRules, measure_properties, put_measured_properties, read_properties, with_property_length,
};
use super::read::{Reader, text};
use super::write::{REMAINING_LENGTH_MAX, Sink, field_len, put_binary, put_packet_id};
use super::{DUP, put_fixed_header};
use crate::packet::{PacketType, Properties, PropertyId, Publish};
use crate::types::{PacketId, Qos, TopicName, Version};

const RETAIN: u8 = 0b0001;

/// `frame` if it is a valid PUBLISH as most are: a Remaining Length of one byte, no properties, a Topic Name that is seen
/// to be one at a glance. `None` says nothing about any other frame.
#[inline(always)]
pub(super) fn decode_plain(version: Version, frame: &[u8]) -> Option<Publish<'_>> {
    let &[first, remaining_len, ref body @ ..] = frame else { return None };
    if first >> 4 != PacketType::Publish as u8 || remaining_len >= 0x80 {
        return None;
    }
    if usize::from(remaining_len) != body.len() {
        return None;
    }
    let qos = Qos::from_bits(first >> 1 & 3)?;
    let dup = first & DUP != 0;
    let (topic_len, rest) = body.split_first_chunk()?;
    let (topic, mut rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*topic_len)))?;
    let mut packet_id = None;
    if qos != Qos::AtMostOnce {
        let (id, behind) = rest.split_first_chunk()?;
        packet_id = Some(PacketId::new(u16::from_be_bytes(*id))?);
        rest = behind;
    } else if dup {
        return None;
    }
    if version.has_properties() {
        let [0, behind @ ..] = rest else { return None };
        rest = behind;
    }
    let topic = Some(TopicName::plain(topic)?);
    let retain = first & RETAIN != 0;
    Some(Publish { dup, qos, retain, topic, packet_id, properties: Properties::EMPTY, payload: rest })
}

/// What PUBLISH packets of one topic and QoS have in common that are sent for the first time, not to be retained, and have
/// no properties: all but Packet Identifier and payload.
///
/// Publishers mostly stay with their topic: what a receiver found out about one packet holds for those behind it that
/// are alike, which [`Receiver::poll_alike`](crate::connection::Receiver::poll_alike) finds by comparing bytes.
#[derive(Clone, Copy, Debug)]
pub struct Alike<'a> {
    first: u8,
    qos: Qos,
    topic: TopicName<'a>,
}

impl<'a> Alike<'a> {
    /// Those like `packet`, whole and of this version, which a receiver has let through: without DUP and RETAIN, of the
    /// same QoS. `None` if it is no PUBLISH, has properties or has 16 KiB or more.
    pub fn to(packet: &'a [u8], version: Version) -> Option<Alike<'a>> {
        let (first, body) = match packet {
            [first, ..0x80, body @ ..] | [first, _, 1..0x80, body @ ..] => (*first, body),
            _ => return None,
        };
        if first >> 4 != PacketType::Publish as u8 {
            return None;
        }
        let qos = Qos::from_bits(first >> 1 & 3)?;
        let (topic_len, rest) = body.split_first_chunk()?;
        let (topic, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*topic_len)))?;
        let properties_at = if qos == Qos::AtMostOnce { 0 } else { 2 };
        if topic.is_empty() || version.has_properties() && rest.get(properties_at) != Some(&0) {
            return None;
        }
        let first = (PacketType::Publish as u8) << 4 | qos.bits() << 1;
        Some(Alike { first, qos, topic: TopicName::from_trusted(topic) })
    }

    /// The QoS of all of them.
    pub const fn qos(&self) -> Qos {
        self.qos
    }

    /// The topic of all of them.
    pub const fn topic(&self) -> TopicName<'a> {
        self.topic
    }

    /// The first of `packets`, all of which are known to be alike and of this version, with its bytes, which are cut off.
    /// `None` when none is left.
    #[inline(always)]
    pub fn split_first<'i>(
        &self,
        version: Version,
        packets: &mut &'i [u8],
    ) -> Option<(Publish<'i>, &'i [u8])> {
        let (publish, bytes) = self.decode::<true>(version, packets)?;
        *packets = &packets[bytes.len()..];
        Some((publish, bytes))
    }

    /// The packet that begins `input` and its bytes, if it is alike, whole and smaller than 16 KiB. `None` says nothing
    /// about what else it may be. `KNOWN`: that it is alike.
    #[inline(always)]
    pub(crate) fn decode<'i, const KNOWN: bool>(
        &self,
        version: Version,
        input: &'i [u8],
    ) -> Option<(Publish<'i>, &'i [u8])> {
        let (header_len, remaining_len) = match *input {
            [first, len @ ..0x80, ..] if KNOWN || first == self.first => (2, usize::from(len)),
            [first, low, high @ 1..0x80, ..] if KNOWN || first == self.first => {
                (3, usize::from(high) << 7 | usize::from(low & 0x7F))
            }
            _ => return None,
        };
        let frame = input.get(..header_len + remaining_len)?;
        let topic = self.topic.as_bytes();
        let (topic_field, mut rest) = frame[header_len..].split_at_checked(2 + topic.len())?;
        if !KNOWN && (topic_field[..2] != (topic.len() as u16).to_be_bytes() || topic_field[2..] != *topic) {
            return None;
        }
        let mut packet_id = None;
        if self.qos != Qos::AtMostOnce {
            let (id, behind) = rest.split_first_chunk()?;
            packet_id = Some(PacketId::new(u16::from_be_bytes(*id))?);
            rest = behind;
        }
        if version.has_properties() {
            let [0, behind @ ..] = rest else { return None };
            rest = behind;
        }
        let qos = self.qos;
        let topic = Some(TopicName::from_trusted(&topic_field[2..]));
        let properties = Properties::EMPTY;
        Some((Publish { dup: false, qos, retain: false, topic, packet_id, properties, payload: rest }, frame))
    }
}

pub(super) fn decode(version: Version, flags: u8, body: &[u8]) -> Result<Publish<'_>, DecodeError> {
    let qos = Qos::from_bits(flags >> 1 & 3).ok_or(DecodeError::Qos)?;
    let mut reader = Reader::new(body);
    let topic = reader.binary()?;
    let packet_id = match qos {
        Qos::AtMostOnce => None,
        Qos::AtLeastOnce | Qos::ExactlyOnce => Some(reader.packet_id()?),
    };
    let (properties, present) = read_properties(&mut reader, version, &PropertyRules::PUBLISH)?;
    let topic = if !topic.is_empty() {
        let text = text(topic)?;
        Some(TopicName::new(text)?)
    } else if present.contains(PropertyId::TopicAlias) {
        None
    } else {
        return Err(DecodeError::MissingTopic);
    };
    Ok(Publish {
        dup: flags & DUP != 0,
        qos,
        retain: flags & RETAIN != 0,
        topic,
        packet_id,
        properties,
        payload: reader.rest(),
    })
}

/// Appends `publish`: [`encode`](super::encode) for the one packet that is sent to many.
///
/// What the version cannot say is left out: properties before 5.0.
///
/// # Errors
/// What [`EncodeError`] lists; nothing is appended then.
#[inline]
pub fn encode_publish(publish: &Publish<'_>, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let measured = measure(publish, version)?;
    let flags = publish.qos.bits() << 1 | u8::from(publish.retain);
    let flags = if publish.dup { flags | DUP } else { flags };
    let topic = topic(publish);
    let [high, low] = field_len(topic)?.to_be_bytes();
    match u8::try_from(measured.remaining_len) {
        // What comes first has always as many bytes then.
        Ok(remaining_len @ ..0x80) => {
            out.reserve(2 + measured.remaining_len);
            out.extend_from_slice(&[(PacketType::Publish as u8) << 4 | flags, remaining_len, high, low]);
        }
        _ => {
            put_fixed_header(PacketType::Publish, flags, measured.remaining_len, out);
            out.extend_from_slice(&[high, low]);
        }
    }
    out.extend_from_slice(topic);
    put_rest(publish, version, measured, out)
}

/// Writes what follows the Fixed Header.
pub(super) fn put(publish: &Publish<'_>, version: Version, sink: &mut impl Sink) -> Result<(), EncodeError> {
    let measured = measure(publish, version)?;
    put_binary(sink, topic(publish))?;
    put_rest(publish, version, measured, sink)
}

#[inline]
fn topic<'a>(publish: &Publish<'a>) -> &'a [u8] {
    publish.topic.map_or(&[], TopicName::as_bytes)
}

struct Measured {
    remaining_len: usize,
    properties_len: usize,
}

/// Judges `publish` and measures it.
#[inline]
fn measure(publish: &Publish<'_>, version: Version) -> Result<Measured, EncodeError> {
    let packet_id_len = match (publish.qos, publish.packet_id) {
        (Qos::AtMostOnce, None) if publish.dup => return Err(EncodeError::DupAtQos0),
        (Qos::AtMostOnce, None) => 0,
        (Qos::AtLeastOnce | Qos::ExactlyOnce, Some(_)) => 2,
        _ => return Err(EncodeError::PacketId),
    };
    let topic_len = match publish.topic {
        Some(topic) => topic.as_bytes().len(),
        None if has_topic_alias(publish, version) => 0,
        None => return Err(EncodeError::MissingTopic),
    };
    let properties_len = measure_properties(publish.properties, version, &PropertyRules::PUBLISH)?;
    let remaining_len = (2 + topic_len + packet_id_len + with_property_length(version, properties_len))
        .saturating_add(publish.payload.len());
    if remaining_len > REMAINING_LENGTH_MAX {
        return Err(EncodeError::PacketTooLarge);
    }
    Ok(Measured { remaining_len, properties_len })
}

/// Kept out of the way: most packets carry their Topic Name.
#[cold]
fn has_topic_alias(publish: &Publish<'_>, version: Version) -> bool {
    version.has_properties() && publish.properties.topic_alias().is_some()
}

/// Writes what follows the Topic Name.
#[inline]
fn put_rest(
    publish: &Publish<'_>,
    version: Version,
    measured: Measured,
    sink: &mut impl Sink,
) -> Result<(), EncodeError> {
    if let Some(packet_id) = publish.packet_id {
        put_packet_id(sink, packet_id);
    }
    put_measured_properties(sink, publish.properties, version, measured.properties_len)?;
    sink.put(publish.payload);
    Ok(())
}
