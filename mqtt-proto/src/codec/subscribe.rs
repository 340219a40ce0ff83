//! SUBSCRIBE, SUBACK, UNSUBSCRIBE and UNSUBACK (sections 3.8 to 3.11), as far as versions agree.

use super::error::{DecodeError, EncodeError};
use super::property::{PropertyRules, put_properties, read_properties};
use super::read::Reader;
use super::reason;
use super::write::{Sink, put_packet_id, put_string};
use crate::packet::{
    Filters, PacketType, Properties, Reasons, SubAck, Subscribe, Subscription, SubscriptionOptions,
    Subscriptions, UnsubAck, Unsubscribe,
};
use crate::types::{ReasonCode, Version};

pub(super) fn decode_subscribe(version: Version, body: &[u8]) -> Result<Subscribe<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    let packet_id = reader.packet_id()?;
    let (properties, _) = read_properties(&mut reader, version, &PropertyRules::SUBSCRIBE)?;
    let payload = reader.rest();
    if payload.is_empty() {
        return Err(DecodeError::EmptyPayload);
    }
    while !reader.is_empty() {
        let filter = reader.string()?;
        let options = read_options(version, reader.u8()?)?;
        if options.no_local && is_shared(filter) {
            return Err(DecodeError::NoLocalOnShared);
        }
    }
    Ok(Subscribe { packet_id, properties, subscriptions: Subscriptions::from_wire(payload) })
}

fn read_options(version: Version, byte: u8) -> Result<SubscriptionOptions, DecodeError> {
    // Before 5.0 there is only the QoS, and 3 is as malformed as any reserved bit [MQTT-3.8.3-4 v3.1.1].
    let reserved = if version == Version::V5 { 0b1100_0000 } else { 0b1111_1100 };
    if byte & reserved != 0 {
        return Err(DecodeError::ReservedSubscriptionOptions(byte));
    }
    SubscriptionOptions::from_byte(byte).ok_or(match version {
        Version::V5 => DecodeError::SubscriptionOptions(byte),
        Version::V3_1 | Version::V3_1_1 => DecodeError::ReservedSubscriptionOptions(byte),
    })
}

fn is_shared(filter: &str) -> bool {
    filter.starts_with("$share/")
}

pub(super) fn put_subscribe(
    subscribe: &Subscribe<'_>,
    version: Version,
    sink: &mut impl Sink,
) -> Result<(), EncodeError> {
    put_packet_id(sink, subscribe.packet_id);
    put_properties(sink, subscribe.properties, version, &PropertyRules::SUBSCRIBE)?;
    let mut subscriptions = subscribe.subscriptions.iter().peekable();
    if subscriptions.peek().is_none() {
        return Err(EncodeError::EmptyPayload);
    }
    for Subscription { filter, options } in subscriptions {
        put_string(sink, filter)?;
        if version != Version::V5 {
            sink.put(&[options.qos.bits()]);
        } else if options.no_local && is_shared(filter) {
            return Err(EncodeError::NoLocalOnShared);
        } else {
            sink.put(&[options.to_byte()]);
        }
    }
    Ok(())
}

pub(super) fn decode_unsubscribe(version: Version, body: &[u8]) -> Result<Unsubscribe<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    let packet_id = reader.packet_id()?;
    let (properties, _) = read_properties(&mut reader, version, &PropertyRules::UNSUBSCRIBE)?;
    let payload = reader.rest();
    if payload.is_empty() {
        return Err(DecodeError::EmptyPayload);
    }
    while !reader.is_empty() {
        reader.string()?;
    }
    Ok(Unsubscribe { packet_id, properties, filters: Filters::from_wire(payload) })
}

pub(super) fn put_unsubscribe(
    unsubscribe: &Unsubscribe<'_>,
    version: Version,
    sink: &mut impl Sink,
) -> Result<(), EncodeError> {
    put_packet_id(sink, unsubscribe.packet_id);
    put_properties(sink, unsubscribe.properties, version, &PropertyRules::UNSUBSCRIBE)?;
    let mut filters = unsubscribe.filters.iter().peekable();
    if filters.peek().is_none() {
        return Err(EncodeError::EmptyPayload);
    }
    for filter in filters {
        put_string(sink, filter)?;
    }
    Ok(())
}

pub(super) fn decode_suback(version: Version, body: &[u8]) -> Result<SubAck<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    let packet_id = reader.packet_id()?;
    let (properties, _) = read_properties(&mut reader, version, &PropertyRules::ACK)?;
    let reasons = read_reasons(version, PacketType::SubAck, reader)?;
    Ok(SubAck { packet_id, properties, reasons })
}

pub(super) fn decode_unsuback(version: Version, body: &[u8]) -> Result<UnsubAck<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    let packet_id = reader.packet_id()?;
    if version != Version::V5 {
        reader.finish()?;
        return Ok(UnsubAck { packet_id, properties: Properties::EMPTY, reasons: Reasons::default() });
    }
    let (properties, _) = read_properties(&mut reader, version, &PropertyRules::ACK)?;
    let reasons = read_reasons(version, PacketType::UnsubAck, reader)?;
    Ok(UnsubAck { packet_id, properties, reasons })
}

fn read_reasons<'a>(
    version: Version,
    packet_type: PacketType,
    reader: Reader<'a>,
) -> Result<Reasons<'a>, DecodeError> {
    let reasons = Reasons(reader.rest());
    if reasons.0.is_empty() {
        return Err(DecodeError::EmptyPayload);
    }
    match reasons.iter().find(|&reason| !reason::is_allowed(version, packet_type, reason)) {
        Some(reason) => Err(DecodeError::ReasonCode(reason.0)),
        None => Ok(reasons),
    }
}

pub(super) fn put_suback(
    suback: &SubAck<'_>,
    version: Version,
    sink: &mut impl Sink,
) -> Result<(), EncodeError> {
    put_packet_id(sink, suback.packet_id);
    put_properties(sink, suback.properties, version, &PropertyRules::ACK)?;
    check_reasons(PacketType::SubAck, suback.reasons)?;
    if version == Version::V5 {
        sink.put(suback.reasons.0);
    } else {
        for reason in suback.reasons.iter() {
            sink.put(&[if reason.is_error() { ReasonCode::UNSPECIFIED_ERROR.0 } else { reason.0 }]);
        }
    }
    Ok(())
}

pub(super) fn put_unsuback(
    unsuback: &UnsubAck<'_>,
    version: Version,
    sink: &mut impl Sink,
) -> Result<(), EncodeError> {
    put_packet_id(sink, unsuback.packet_id);
    if version == Version::V5 {
        put_properties(sink, unsuback.properties, version, &PropertyRules::ACK)?;
        check_reasons(PacketType::UnsubAck, unsuback.reasons)?;
        sink.put(unsuback.reasons.0);
    }
    Ok(())
}

/// Judges the codes to be sent by 5.0, which has them all.
fn check_reasons(packet_type: PacketType, reasons: Reasons<'_>) -> Result<(), EncodeError> {
    if reasons.0.is_empty() {
        return Err(EncodeError::EmptyPayload);
    }
    reasons.iter().try_for_each(|reason| reason::check(packet_type, reason))
}
