//! CONNECT (section 3.1): it says its own version, so all versions are read and written here. And what the CONNACKs
//! of all versions share (section 3.2).

use super::error::{DecodeError, EncodeError};
use super::property::{PropertyRules, put_properties, read_properties};
use super::read::Reader;
use super::write::{Sink, put_binary, put_string};
use crate::packet::{ConnAck, Connect, Properties, PropertyId, Will};
use crate::types::{Qos, ReasonCode, TopicName, Version};

const RESERVED: u8 = 1;
const CLEAN_START: u8 = 1 << 1;
const WILL: u8 = 1 << 2;
const WILL_QOS_SHIFT: u8 = 3;
const WILL_RETAIN: u8 = 1 << 5;
const PASSWORD: u8 = 1 << 6;
const USER_NAME: u8 = 1 << 7;

/// Reads a CONNECT; `minimal` says how its Remaining Length was written.
pub(super) fn decode(body: &[u8], minimal: bool) -> Result<Connect<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    let version = read_version(&mut reader)?;
    if version == Version::V5 && !minimal {
        return Err(DecodeError::VariableByteInteger);
    }
    let flags = reader.u8()?;
    check_flags(version, flags)?;
    let keep_alive = reader.u16()?;
    let (properties, present) = read_properties(&mut reader, version, &PropertyRules::CONNECT)?;
    if present.contains(PropertyId::AuthenticationData) && !present.contains(PropertyId::AuthenticationMethod)
    {
        return Err(DecodeError::MissingAuthenticationMethod);
    }
    let client_id = reader.string()?;
    let will = if flags & WILL != 0 { Some(read_will(&mut reader, version, flags)?) } else { None };
    // In 3.1 the Remaining Length takes precedence over these flags: what does not fit is absent.
    let is_present =
        |flag, reader: &Reader<'_>| flags & flag != 0 && !(version == Version::V3_1 && reader.is_empty());
    let user_name = if is_present(USER_NAME, &reader) { Some(reader.string()?) } else { None };
    let password = if is_present(PASSWORD, &reader) { Some(reader.binary()?) } else { None };
    reader.finish()?;
    let clean_start = flags & CLEAN_START != 0;
    Ok(Connect { version, clean_start, keep_alive, client_id, properties, will, user_name, password })
}

/// Protocol Name and Protocol Version. Nothing behind them is looked at before they are known.
fn read_version(reader: &mut Reader<'_>) -> Result<Version, DecodeError> {
    let name = reader.binary()?;
    if name != b"MQTT" && name != b"MQIsdp" {
        return Err(DecodeError::ProtocolName);
    }
    let level = reader.u8()?;
    [Version::V3_1, Version::V3_1_1, Version::V5]
        .into_iter()
        .find(|version| version.protocol_name().as_bytes() == name && version.level() == level)
        .ok_or(DecodeError::UnsupportedProtocolVersion { level })
}

fn check_flags(version: Version, flags: u8) -> Result<(), DecodeError> {
    // 3.1 calls the bit unused and demands nothing of it.
    if flags & RESERVED != 0 && version != Version::V3_1 {
        return Err(DecodeError::ReservedConnectFlag);
    }
    if Qos::from_bits(flags >> WILL_QOS_SHIFT & 3).is_none() {
        return Err(DecodeError::Qos);
    }
    if flags & WILL == 0 && flags & (3 << WILL_QOS_SHIFT | WILL_RETAIN) != 0 {
        return Err(DecodeError::WillFlags);
    }
    if flags & PASSWORD != 0 && flags & USER_NAME == 0 && version != Version::V5 {
        return Err(DecodeError::PasswordWithoutUserName);
    }
    Ok(())
}

fn read_will<'a>(reader: &mut Reader<'a>, version: Version, flags: u8) -> Result<Will<'a>, DecodeError> {
    let (properties, _) = read_properties(reader, version, &PropertyRules::WILL)?;
    let topic = TopicName::new(reader.string()?)?;
    let payload = reader.binary()?;
    let qos = Qos::from_bits(flags >> WILL_QOS_SHIFT & 3).ok_or(DecodeError::Qos)?;
    Ok(Will { topic, payload, qos, retain: flags & WILL_RETAIN != 0, properties })
}

/// Writes what follows the Fixed Header.
pub(super) fn put(connect: &Connect<'_>, sink: &mut impl Sink) -> Result<(), EncodeError> {
    let version = connect.version;
    if connect.password.is_some() && connect.user_name.is_none() && version != Version::V5 {
        return Err(EncodeError::PasswordWithoutUserName);
    }
    put_string(sink, version.protocol_name())?;
    let mut flags = if connect.clean_start { CLEAN_START } else { 0 };
    if let Some(will) = &connect.will {
        flags |= WILL | will.qos.bits() << WILL_QOS_SHIFT;
        flags |= if will.retain { WILL_RETAIN } else { 0 };
    }
    flags |= if connect.user_name.is_some() { USER_NAME } else { 0 };
    flags |= if connect.password.is_some() { PASSWORD } else { 0 };
    sink.put(&[version.level(), flags]);
    sink.put(&connect.keep_alive.to_be_bytes());
    check_authentication(connect.properties)?;
    put_properties(sink, connect.properties, version, &PropertyRules::CONNECT)?;
    put_string(sink, connect.client_id)?;
    if let Some(will) = &connect.will {
        put_properties(sink, will.properties, version, &PropertyRules::WILL)?;
        put_string(sink, will.topic.as_str())?;
        put_binary(sink, will.payload)?;
    }
    if let Some(user_name) = connect.user_name {
        put_string(sink, user_name)?;
    }
    if let Some(password) = connect.password {
        put_binary(sink, password)?;
    }
    Ok(())
}

fn check_authentication(properties: Properties<'_>) -> Result<(), EncodeError> {
    if properties.authentication_data().is_some() && properties.authentication_method().is_none() {
        return Err(EncodeError::MissingAuthenticationMethod);
    }
    Ok(())
}

/// Session Present in the Connect Acknowledge Flags [MQTT-3.2.2-1] [MQTT-3.2.2-6].
pub(super) fn session_present(flags: u8, reason: ReasonCode) -> Result<bool, DecodeError> {
    match flags {
        0 => Ok(false),
        1 if reason == ReasonCode::SUCCESS => Ok(true),
        1 => Err(DecodeError::SessionPresentWithError),
        _ => Err(DecodeError::ReservedConnAckFlags),
    }
}

/// The same rule for a CONNACK to be sent.
pub(super) fn check_session_present(connack: &ConnAck<'_>) -> Result<(), EncodeError> {
    if connack.session_present && connack.reason != ReasonCode::SUCCESS {
        return Err(EncodeError::SessionPresentWithError);
    }
    Ok(())
}
