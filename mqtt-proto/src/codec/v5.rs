//! What only 5.0 has: Reason Codes and Properties in every answer, their short forms, AUTH.

use super::connect::{check_session_present, session_present};
use super::error::{DecodeError, EncodeError};
use super::property::{PropertyRules, put_properties, read_properties};
use super::read::Reader;
use super::reason;
use super::write::{Sink, put_packet_id};
use crate::packet::{Ack, Auth, ConnAck, Disconnect, PacketType, Properties, PropertyId};
use crate::types::{ReasonCode, Version};

fn read_reason(reader: &mut Reader<'_>, packet_type: PacketType) -> Result<ReasonCode, DecodeError> {
    let reason = ReasonCode(reader.u8()?);
    if reason::is_allowed(Version::V5, packet_type, reason) {
        Ok(reason)
    } else {
        Err(DecodeError::ReasonCode(reason.0))
    }
}

pub(super) fn decode_connack(body: &[u8]) -> Result<ConnAck<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    let flags = reader.u8()?;
    let reason = read_reason(&mut reader, PacketType::ConnAck)?;
    let session_present = session_present(flags, reason)?;
    let (properties, _) = read_properties(&mut reader, Version::V5, &PropertyRules::CONNACK)?;
    reader.finish()?;
    Ok(ConnAck { session_present, reason, properties })
}

pub(super) fn put_connack(connack: &ConnAck<'_>, sink: &mut impl Sink) -> Result<(), EncodeError> {
    check_session_present(connack)?;
    reason::check(PacketType::ConnAck, connack.reason)?;
    sink.put(&[u8::from(connack.session_present), connack.reason.0]);
    put_properties(sink, connack.properties, Version::V5, &PropertyRules::CONNACK)
}

/// Reads a Reason Code and Properties that are left out, the Properties first, where they say nothing.
fn read_optional<'a>(
    reader: &mut Reader<'a>,
    packet_type: PacketType,
    rules: &PropertyRules,
) -> Result<(ReasonCode, Properties<'a>), DecodeError> {
    if reader.is_empty() {
        return Ok((ReasonCode::SUCCESS, Properties::EMPTY));
    }
    let reason = read_reason(reader, packet_type)?;
    if reader.is_empty() {
        return Ok((reason, Properties::EMPTY));
    }
    let (properties, _) = read_properties(reader, Version::V5, rules)?;
    reader.finish()?;
    Ok((reason, properties))
}

/// Writes a Reason Code and Properties in the shortest form.
fn put_optional(
    sink: &mut impl Sink,
    packet_type: PacketType,
    reason: ReasonCode,
    properties: Properties<'_>,
    rules: &PropertyRules,
) -> Result<(), EncodeError> {
    reason::check(packet_type, reason)?;
    if properties.is_empty() && reason == ReasonCode::SUCCESS {
        return Ok(());
    }
    sink.put(&[reason.0]);
    if properties.is_empty() { Ok(()) } else { put_properties(sink, properties, Version::V5, rules) }
}

pub(super) fn decode_ack(packet_type: PacketType, body: &[u8]) -> Result<Ack<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    let packet_id = reader.packet_id()?;
    let (reason, properties) = read_optional(&mut reader, packet_type, &PropertyRules::ACK)?;
    Ok(Ack { packet_id, reason, properties })
}

pub(super) fn put_ack(
    ack: &Ack<'_>,
    packet_type: PacketType,
    sink: &mut impl Sink,
) -> Result<(), EncodeError> {
    put_packet_id(sink, ack.packet_id);
    put_optional(sink, packet_type, ack.reason, ack.properties, &PropertyRules::ACK)
}

pub(super) fn decode_disconnect(body: &[u8]) -> Result<Disconnect<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    let (reason, properties) =
        read_optional(&mut reader, PacketType::Disconnect, &PropertyRules::DISCONNECT)?;
    Ok(Disconnect { reason, properties })
}

pub(super) fn put_disconnect(disconnect: &Disconnect<'_>, sink: &mut impl Sink) -> Result<(), EncodeError> {
    let Disconnect { reason, properties } = *disconnect;
    put_optional(sink, PacketType::Disconnect, reason, properties, &PropertyRules::DISCONNECT)
}

/// Only an AUTH of no bytes at all may leave its Authentication Method out (section 3.15.2.2.2).
pub(super) fn decode_auth(body: &[u8]) -> Result<Auth<'_>, DecodeError> {
    if body.is_empty() {
        return Ok(Auth { reason: ReasonCode::SUCCESS, properties: Properties::EMPTY });
    }
    let mut reader = Reader::new(body);
    let reason = read_reason(&mut reader, PacketType::Auth)?;
    let (properties, present) = read_properties(&mut reader, Version::V5, &PropertyRules::AUTH)?;
    reader.finish()?;
    if !present.contains(PropertyId::AuthenticationMethod) {
        return Err(DecodeError::MissingAuthenticationMethod);
    }
    Ok(Auth { reason, properties })
}

pub(super) fn put_auth(auth: &Auth<'_>, sink: &mut impl Sink) -> Result<(), EncodeError> {
    let Auth { reason, properties } = *auth;
    reason::check(PacketType::Auth, reason)?;
    if reason == ReasonCode::SUCCESS && properties.is_empty() {
        return Ok(());
    }
    if properties.authentication_method().is_none() {
        return Err(EncodeError::MissingAuthenticationMethod);
    }
    sink.put(&[reason.0]);
    put_properties(sink, properties, Version::V5, &PropertyRules::AUTH)
}
