//! What only 3.1 and 3.1.1 have: Connect Return codes, and answers that are a Packet Identifier and nothing else.

use super::connect::{check_session_present, session_present};
use super::error::{DecodeError, EncodeError};
use super::read::Reader;
use super::write::{Sink, put_packet_id};
use crate::packet::{Ack, ConnAck, Disconnect, Properties};
use crate::types::{ReasonCode, Version};

pub(super) fn decode_connack(version: Version, body: &[u8]) -> Result<ConnAck<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    let flags = reader.u8()?;
    let code = reader.u8()?;
    reader.finish()?;
    let reason = ReasonCode::from_v3_connect_return(code).ok_or(DecodeError::ReasonCode(code))?;
    // 3.1 gives no meaning to the first byte.
    let session_present = version != Version::V3_1 && session_present(flags, reason)?;
    Ok(ConnAck { session_present, reason, properties: Properties::EMPTY })
}

pub(super) fn put_connack(
    connack: &ConnAck<'_>,
    version: Version,
    sink: &mut impl Sink,
) -> Result<(), EncodeError> {
    check_session_present(connack)?;
    let session_present = connack.session_present && version != Version::V3_1;
    sink.put(&[u8::from(session_present), connack.reason.to_v3_connect_return()]);
    Ok(())
}

pub(super) fn decode_ack(body: &[u8]) -> Result<Ack<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    let packet_id = reader.packet_id()?;
    reader.finish()?;
    Ok(Ack::new(packet_id, ReasonCode::SUCCESS))
}

pub(super) fn put_ack(ack: &Ack<'_>, sink: &mut impl Sink) {
    put_packet_id(sink, ack.packet_id);
}

pub(super) fn decode_disconnect(body: &[u8]) -> Result<Disconnect<'_>, DecodeError> {
    Reader::new(body).finish()?;
    Ok(Disconnect::new(ReasonCode::NORMAL_DISCONNECTION))
}
