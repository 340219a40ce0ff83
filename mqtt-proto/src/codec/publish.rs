//! PUBLISH of every version (section 3.3): the path that has to be fast.

use alloc::vec::Vec;

use super::error::{DecodeError, EncodeError};
use super::property::{
    PropertyRules, measure_properties, put_measured_properties, read_properties, with_property_length,
};
use super::read::{Reader, text};
use super::write::{REMAINING_LENGTH_MAX, Sink, field_len, put_packet_id};
use super::{DUP, put_fixed_header};
use crate::packet::{PacketType, PropertyId, Publish};
use crate::types::{Qos, TopicName, Version};

const RETAIN: u8 = 0b0001;

#[inline(always)]
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
    put_fixed_header(PacketType::Publish, flags, measured.remaining_len, out);
    put_measured(publish, version, measured, out)
}

/// Writes what follows the Fixed Header.
pub(super) fn put(publish: &Publish<'_>, version: Version, sink: &mut impl Sink) -> Result<(), EncodeError> {
    put_measured(publish, version, measure(publish, version)?, sink)
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
        Some(topic) => topic.as_str().len(),
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

#[inline]
fn put_measured(
    publish: &Publish<'_>,
    version: Version,
    measured: Measured,
    sink: &mut impl Sink,
) -> Result<(), EncodeError> {
    let topic = publish.topic.map_or("", TopicName::as_str).as_bytes();
    sink.put(&field_len(topic)?.to_be_bytes());
    sink.put(topic);
    if let Some(packet_id) = publish.packet_id {
        put_packet_id(sink, packet_id);
    }
    put_measured_properties(sink, publish.properties, version, measured.properties_len)?;
    sink.put(publish.payload);
    Ok(())
}
