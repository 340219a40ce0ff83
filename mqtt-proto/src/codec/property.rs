//! Properties on the wire (section 2.2.2): which packet may carry which, how often, with what values.

use super::error::{DecodeError, EncodeError};
use super::read::{Reader, variable_byte_integer_len};
use super::write::{Length, REMAINING_LENGTH_MAX, Sink, put_binary, put_string, put_variable_byte_integer};
use crate::packet::{Properties, Property, PropertyId};
use crate::types::{TopicError, TopicName, Version};

/// A set of property identifiers; all that exist are below 64.
#[derive(Clone, Copy, Default)]
pub(super) struct PropertySet(u64);

impl PropertySet {
    const fn of(ids: &[PropertyId]) -> PropertySet {
        let mut bits = 0;
        let mut index = 0;
        while index < ids.len() {
            bits |= 1 << ids[index] as u8;
            index += 1;
        }
        PropertySet(bits)
    }

    pub(super) const fn contains(self, id: PropertyId) -> bool {
        self.0 >> id as u8 & 1 != 0
    }

    const fn insert(&mut self, id: PropertyId) {
        self.0 |= 1 << id as u8;
    }
}

/// What one packet (or the Will) may carry: table 2-4.
pub(super) struct PropertyRules {
    allowed: PropertySet,
    repeatable: PropertySet,
}

impl PropertyRules {
    const fn new(allowed: &[PropertyId]) -> PropertyRules {
        PropertyRules {
            allowed: PropertySet::of(allowed),
            repeatable: PropertySet::of(&[PropertyId::UserProperty]),
        }
    }

    pub(super) const CONNECT: PropertyRules = PropertyRules::new(&[
        PropertyId::SessionExpiryInterval,
        PropertyId::AuthenticationMethod,
        PropertyId::AuthenticationData,
        PropertyId::RequestProblemInformation,
        PropertyId::RequestResponseInformation,
        PropertyId::ReceiveMaximum,
        PropertyId::TopicAliasMaximum,
        PropertyId::UserProperty,
        PropertyId::MaximumPacketSize,
    ]);
    pub(super) const WILL: PropertyRules = PropertyRules::new(&[
        PropertyId::PayloadFormatIndicator,
        PropertyId::MessageExpiryInterval,
        PropertyId::ContentType,
        PropertyId::ResponseTopic,
        PropertyId::CorrelationData,
        PropertyId::WillDelayInterval,
        PropertyId::UserProperty,
    ]);
    pub(super) const CONNACK: PropertyRules = PropertyRules::new(&[
        PropertyId::SessionExpiryInterval,
        PropertyId::AssignedClientIdentifier,
        PropertyId::ServerKeepAlive,
        PropertyId::AuthenticationMethod,
        PropertyId::AuthenticationData,
        PropertyId::ResponseInformation,
        PropertyId::ServerReference,
        PropertyId::ReasonString,
        PropertyId::ReceiveMaximum,
        PropertyId::TopicAliasMaximum,
        PropertyId::MaximumQos,
        PropertyId::RetainAvailable,
        PropertyId::UserProperty,
        PropertyId::MaximumPacketSize,
        PropertyId::WildcardSubscriptionAvailable,
        PropertyId::SubscriptionIdentifierAvailable,
        PropertyId::SharedSubscriptionAvailable,
    ]);
    /// A forwarded message carries one Subscription Identifier for each subscription it matches [MQTT-3.3.4-4].
    pub(super) const PUBLISH: PropertyRules = PropertyRules {
        allowed: PropertySet::of(&[
            PropertyId::PayloadFormatIndicator,
            PropertyId::MessageExpiryInterval,
            PropertyId::ContentType,
            PropertyId::ResponseTopic,
            PropertyId::CorrelationData,
            PropertyId::SubscriptionIdentifier,
            PropertyId::TopicAlias,
            PropertyId::UserProperty,
        ]),
        repeatable: PropertySet::of(&[PropertyId::UserProperty, PropertyId::SubscriptionIdentifier]),
    };
    /// PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK and UNSUBACK.
    pub(super) const ACK: PropertyRules =
        PropertyRules::new(&[PropertyId::ReasonString, PropertyId::UserProperty]);
    pub(super) const SUBSCRIBE: PropertyRules =
        PropertyRules::new(&[PropertyId::SubscriptionIdentifier, PropertyId::UserProperty]);
    pub(super) const UNSUBSCRIBE: PropertyRules = PropertyRules::new(&[PropertyId::UserProperty]);
    pub(super) const DISCONNECT: PropertyRules = PropertyRules::new(&[
        PropertyId::SessionExpiryInterval,
        PropertyId::ServerReference,
        PropertyId::ReasonString,
        PropertyId::UserProperty,
    ]);
    pub(super) const AUTH: PropertyRules = PropertyRules::new(&[
        PropertyId::AuthenticationMethod,
        PropertyId::AuthenticationData,
        PropertyId::ReasonString,
        PropertyId::UserProperty,
    ]);
}

/// Reads the Property Length and the properties; before 5.0 there are none. Also says which were there.
#[inline]
pub(super) fn read_properties<'a>(
    reader: &mut Reader<'a>,
    version: Version,
    rules: &PropertyRules,
) -> Result<(Properties<'a>, PropertySet), DecodeError> {
    if !version.has_properties() {
        return Ok((Properties::EMPTY, PropertySet::default()));
    }
    let len = reader.variable_byte_integer()?;
    if len == 0 {
        return Ok((Properties::EMPTY, PropertySet::default()));
    }
    read_some(reader.bytes(len as usize)?, rules)
}

fn read_some<'a>(
    wire: &'a [u8],
    rules: &PropertyRules,
) -> Result<(Properties<'a>, PropertySet), DecodeError> {
    let mut seen = PropertySet::default();
    let mut rest = wire;
    while !rest.is_empty() {
        let property = decode_property(&mut rest)?;
        let id = property.id();
        if !rules.allowed.contains(id) {
            return Err(DecodeError::PropertyNotAllowed(id));
        }
        if seen.contains(id) && !rules.repeatable.contains(id) {
            return Err(DecodeError::DuplicateProperty(id));
        }
        match check_value(&property) {
            Ok(()) => {}
            Err(BadValue::Range) if id == PropertyId::TopicAlias => return Err(DecodeError::TopicAliasZero),
            Err(BadValue::Range) => return Err(DecodeError::PropertyValue(id)),
            Err(BadValue::Topic(error)) => return Err(error.into()),
        }
        seen.insert(id);
    }
    Ok((Properties::from_wire(wire), seen))
}

/// Reads one property off the front of `wire`, whatever packet it is in.
pub(crate) fn decode_property<'a>(wire: &mut &'a [u8]) -> Result<Property<'a>, DecodeError> {
    let mut reader = Reader::new(wire);
    let id = reader.variable_byte_integer()?;
    let id = PropertyId::from_u32(id).ok_or(DecodeError::UnknownProperty(id))?;
    let property = match id {
        PropertyId::PayloadFormatIndicator => Property::PayloadFormatIndicator(reader.u8()?),
        PropertyId::MessageExpiryInterval => Property::MessageExpiryInterval(reader.u32()?),
        PropertyId::ContentType => Property::ContentType(reader.string()?),
        PropertyId::ResponseTopic => Property::ResponseTopic(reader.string()?),
        PropertyId::CorrelationData => Property::CorrelationData(reader.binary()?),
        PropertyId::SubscriptionIdentifier => {
            Property::SubscriptionIdentifier(reader.variable_byte_integer()?)
        }
        PropertyId::SessionExpiryInterval => Property::SessionExpiryInterval(reader.u32()?),
        PropertyId::AssignedClientIdentifier => Property::AssignedClientIdentifier(reader.string()?),
        PropertyId::ServerKeepAlive => Property::ServerKeepAlive(reader.u16()?),
        PropertyId::AuthenticationMethod => Property::AuthenticationMethod(reader.string()?),
        PropertyId::AuthenticationData => Property::AuthenticationData(reader.binary()?),
        PropertyId::RequestProblemInformation => Property::RequestProblemInformation(reader.u8()?),
        PropertyId::WillDelayInterval => Property::WillDelayInterval(reader.u32()?),
        PropertyId::RequestResponseInformation => Property::RequestResponseInformation(reader.u8()?),
        PropertyId::ResponseInformation => Property::ResponseInformation(reader.string()?),
        PropertyId::ServerReference => Property::ServerReference(reader.string()?),
        PropertyId::ReasonString => Property::ReasonString(reader.string()?),
        PropertyId::ReceiveMaximum => Property::ReceiveMaximum(reader.u16()?),
        PropertyId::TopicAliasMaximum => Property::TopicAliasMaximum(reader.u16()?),
        PropertyId::TopicAlias => Property::TopicAlias(reader.u16()?),
        PropertyId::MaximumQos => Property::MaximumQos(reader.u8()?),
        PropertyId::RetainAvailable => Property::RetainAvailable(reader.u8()?),
        PropertyId::UserProperty => Property::UserProperty(reader.string()?, reader.string()?),
        PropertyId::MaximumPacketSize => Property::MaximumPacketSize(reader.u32()?),
        PropertyId::WildcardSubscriptionAvailable => Property::WildcardSubscriptionAvailable(reader.u8()?),
        PropertyId::SubscriptionIdentifierAvailable => {
            Property::SubscriptionIdentifierAvailable(reader.u8()?)
        }
        PropertyId::SharedSubscriptionAvailable => Property::SharedSubscriptionAvailable(reader.u8()?),
    };
    *wire = reader.rest();
    Ok(property)
}

enum BadValue {
    Range,
    Topic(TopicError),
}

/// Whether the value is one that the standard gives a meaning.
fn check_value(property: &Property<'_>) -> Result<(), BadValue> {
    let in_range = match *property {
        Property::PayloadFormatIndicator(value)
        | Property::RequestProblemInformation(value)
        | Property::RequestResponseInformation(value)
        | Property::MaximumQos(value)
        | Property::RetainAvailable(value)
        | Property::WildcardSubscriptionAvailable(value)
        | Property::SubscriptionIdentifierAvailable(value)
        | Property::SharedSubscriptionAvailable(value) => value <= 1,
        Property::ReceiveMaximum(value) | Property::TopicAlias(value) => value != 0,
        Property::MaximumPacketSize(value) => value != 0,
        Property::SubscriptionIdentifier(value) => (1..=REMAINING_LENGTH_MAX as u32).contains(&value),
        Property::ResponseTopic(topic) => {
            TopicName::new(topic).map_err(BadValue::Topic)?;
            true
        }
        Property::MessageExpiryInterval(_)
        | Property::ContentType(_)
        | Property::CorrelationData(_)
        | Property::SessionExpiryInterval(_)
        | Property::AssignedClientIdentifier(_)
        | Property::ServerKeepAlive(_)
        | Property::AuthenticationMethod(_)
        | Property::AuthenticationData(_)
        | Property::WillDelayInterval(_)
        | Property::ResponseInformation(_)
        | Property::ServerReference(_)
        | Property::ReasonString(_)
        | Property::TopicAliasMaximum(_)
        | Property::UserProperty(..) => true,
    };
    if in_range { Ok(()) } else { Err(BadValue::Range) }
}

/// Judges properties to be sent; returns their bytes without the Property Length.
///
/// [`Properties::wire`] is trusted, as its documentation says.
#[inline]
pub(super) fn measure_properties(
    properties: Properties<'_>,
    version: Version,
    rules: &PropertyRules,
) -> Result<usize, EncodeError> {
    if !version.has_properties() || properties.is_empty() {
        return Ok(0);
    }
    measure_some(properties, rules)
}

fn measure_some(properties: Properties<'_>, rules: &PropertyRules) -> Result<usize, EncodeError> {
    let mut seen = PropertySet::default();
    let mut length = Length(properties.wire().len());
    for property in properties.list() {
        let id = property.id();
        if !rules.allowed.contains(id) {
            return Err(EncodeError::PropertyNotAllowed(id));
        }
        if seen.contains(id) && !rules.repeatable.contains(id) {
            return Err(EncodeError::DuplicateProperty(id));
        }
        match check_value(property) {
            Ok(()) => {}
            Err(BadValue::Range) => return Err(EncodeError::PropertyValue(id)),
            Err(BadValue::Topic(error)) => return Err(EncodeError::Topic(error)),
        }
        seen.insert(id);
        encode_property(property, &mut length)?;
    }
    // Whether they are too long is asked of the whole packet.
    Ok(length.0)
}

/// Bytes of properties that measure `len`, Property Length included.
#[inline]
pub(super) const fn with_property_length(version: Version, len: usize) -> usize {
    if version.has_properties() { variable_byte_integer_len(len as u32) + len } else { 0 }
}

/// Writes the Property Length, zero if there are none [MQTT-2.2.2-1], and the properties; before 5.0 nothing.
pub(super) fn put_properties(
    sink: &mut impl Sink,
    properties: Properties<'_>,
    version: Version,
    rules: &PropertyRules,
) -> Result<(), EncodeError> {
    let len = measure_properties(properties, version, rules)?;
    put_measured_properties(sink, properties, version, len)
}

/// The same for properties that measure `len`.
#[inline]
pub(super) fn put_measured_properties(
    sink: &mut impl Sink,
    properties: Properties<'_>,
    version: Version,
    len: usize,
) -> Result<(), EncodeError> {
    if version.has_properties() {
        put_variable_byte_integer(sink, len as u32);
        if len != 0 {
            put_some(sink, properties)?;
        }
    }
    Ok(())
}

fn put_some(sink: &mut impl Sink, properties: Properties<'_>) -> Result<(), EncodeError> {
    sink.put(properties.wire());
    properties.list().iter().try_for_each(|property| encode_property(property, sink))
}

pub(super) fn encode_property(property: &Property<'_>, sink: &mut impl Sink) -> Result<(), EncodeError> {
    sink.put(&[property.id() as u8]);
    match *property {
        Property::PayloadFormatIndicator(value)
        | Property::RequestProblemInformation(value)
        | Property::RequestResponseInformation(value)
        | Property::MaximumQos(value)
        | Property::RetainAvailable(value)
        | Property::WildcardSubscriptionAvailable(value)
        | Property::SubscriptionIdentifierAvailable(value)
        | Property::SharedSubscriptionAvailable(value) => sink.put(&[value]),
        Property::ServerKeepAlive(value)
        | Property::ReceiveMaximum(value)
        | Property::TopicAliasMaximum(value)
        | Property::TopicAlias(value) => sink.put(&value.to_be_bytes()),
        Property::MessageExpiryInterval(value)
        | Property::SessionExpiryInterval(value)
        | Property::WillDelayInterval(value)
        | Property::MaximumPacketSize(value) => sink.put(&value.to_be_bytes()),
        Property::SubscriptionIdentifier(value) => put_variable_byte_integer(sink, value),
        Property::ContentType(text)
        | Property::ResponseTopic(text)
        | Property::AssignedClientIdentifier(text)
        | Property::AuthenticationMethod(text)
        | Property::ResponseInformation(text)
        | Property::ServerReference(text)
        | Property::ReasonString(text) => put_string(sink, text)?,
        Property::CorrelationData(bytes) | Property::AuthenticationData(bytes) => put_binary(sink, bytes)?,
        Property::UserProperty(name, value) => {
            put_string(sink, name)?;
            put_string(sink, value)?;
        }
    }
    Ok(())
}
