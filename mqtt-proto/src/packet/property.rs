//! Properties of section 2.2.2: identifiers, typed values, and the list that packets carry.

/// A property's identifier, a Variable Byte Integer of one byte so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PropertyId {
    /// `0x01`: 0 for unspecified bytes, 1 for UTF-8 text.
    PayloadFormatIndicator = 0x01,
    /// `0x02`: Lifetime of the Application Message in seconds.
    MessageExpiryInterval = 0x02,
    /// `0x03`: A description of the payload, by agreement of the applications.
    ContentType = 0x03,
    /// `0x08`: Where an answer is to be published; a Topic Name.
    ResponseTopic = 0x08,
    /// `0x09`: Tells the requester which request an answer belongs to.
    CorrelationData = 0x09,
    /// `0x0B`: 1 to 268,435,455.
    SubscriptionIdentifier = 0x0B,
    /// `0x11`: Seconds the session outlives its connection; 0xFFFFFFFF for ever.
    SessionExpiryInterval = 0x11,
    /// `0x12`: The ClientID the Server chose.
    AssignedClientIdentifier = 0x12,
    /// `0x13`: Keep Alive in seconds that the Client must use.
    ServerKeepAlive = 0x13,
    /// `0x15`: Name of the enhanced authentication method.
    AuthenticationMethod = 0x15,
    /// `0x16`: Its data.
    AuthenticationData = 0x16,
    /// `0x17`: 0 or 1: whether Reason Strings and User Properties may accompany failures.
    RequestProblemInformation = 0x17,
    /// `0x18`: Seconds between the end of the connection and the Will Message.
    WillDelayInterval = 0x18,
    /// `0x19`: 0 or 1: whether Response Information is asked for.
    RequestResponseInformation = 0x19,
    /// `0x1A`: The basis for Response Topics.
    ResponseInformation = 0x1A,
    /// `0x1C`: Another Server to use.
    ServerReference = 0x1C,
    /// `0x1F`: A diagnosis for people.
    ReasonString = 0x1F,
    /// `0x21`: QoS 1 and 2 messages the sender of this property takes at once; not 0.
    ReceiveMaximum = 0x21,
    /// `0x22`: Highest Topic Alias the sender of this property accepts.
    TopicAliasMaximum = 0x22,
    /// `0x23`: Stands for a Topic Name on this connection; not 0.
    TopicAlias = 0x23,
    /// `0x24`: 0 or 1: the highest QoS the Server supports; 2 is said by absence.
    MaximumQos = 0x24,
    /// `0x25`: 0 or 1.
    RetainAvailable = 0x25,
    /// `0x26`: A name and a value, by agreement of the applications; may appear more than once.
    UserProperty = 0x26,
    /// `0x27`: Largest packet in bytes the sender of this property accepts; not 0.
    MaximumPacketSize = 0x27,
    /// `0x28`: 0 or 1.
    WildcardSubscriptionAvailable = 0x28,
    /// `0x29`: 0 or 1.
    SubscriptionIdentifierAvailable = 0x29,
    /// `0x2A`: 0 or 1.
    SharedSubscriptionAvailable = 0x2A,
}

impl PropertyId {
    /// The property with identifier `value`, `None` for one the standard does not define.
    pub const fn from_u32(value: u32) -> Option<PropertyId> {
        Some(match value {
            0x01 => PropertyId::PayloadFormatIndicator,
            0x02 => PropertyId::MessageExpiryInterval,
            0x03 => PropertyId::ContentType,
            0x08 => PropertyId::ResponseTopic,
            0x09 => PropertyId::CorrelationData,
            0x0B => PropertyId::SubscriptionIdentifier,
            0x11 => PropertyId::SessionExpiryInterval,
            0x12 => PropertyId::AssignedClientIdentifier,
            0x13 => PropertyId::ServerKeepAlive,
            0x15 => PropertyId::AuthenticationMethod,
            0x16 => PropertyId::AuthenticationData,
            0x17 => PropertyId::RequestProblemInformation,
            0x18 => PropertyId::WillDelayInterval,
            0x19 => PropertyId::RequestResponseInformation,
            0x1A => PropertyId::ResponseInformation,
            0x1C => PropertyId::ServerReference,
            0x1F => PropertyId::ReasonString,
            0x21 => PropertyId::ReceiveMaximum,
            0x22 => PropertyId::TopicAliasMaximum,
            0x23 => PropertyId::TopicAlias,
            0x24 => PropertyId::MaximumQos,
            0x25 => PropertyId::RetainAvailable,
            0x26 => PropertyId::UserProperty,
            0x27 => PropertyId::MaximumPacketSize,
            0x28 => PropertyId::WildcardSubscriptionAvailable,
            0x29 => PropertyId::SubscriptionIdentifierAvailable,
            0x2A => PropertyId::SharedSubscriptionAvailable,
            _ => return None,
        })
    }
}

/// A property with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Property<'a> {
    /// 0 for unspecified bytes, 1 for UTF-8 text.
    PayloadFormatIndicator(u8),
    /// Lifetime of the Application Message in seconds.
    MessageExpiryInterval(u32),
    /// A description of the payload, by agreement of the applications.
    ContentType(&'a str),
    /// Where an answer is to be published; a Topic Name.
    ResponseTopic(&'a str),
    /// Tells the requester which request an answer belongs to.
    CorrelationData(&'a [u8]),
    /// 1 to 268,435,455.
    SubscriptionIdentifier(u32),
    /// Seconds the session outlives its connection; 0xFFFFFFFF for ever.
    SessionExpiryInterval(u32),
    /// The ClientID the Server chose.
    AssignedClientIdentifier(&'a str),
    /// Keep Alive in seconds that the Client must use.
    ServerKeepAlive(u16),
    /// Name of the enhanced authentication method.
    AuthenticationMethod(&'a str),
    /// Its data.
    AuthenticationData(&'a [u8]),
    /// 0 or 1: whether Reason Strings and User Properties may accompany failures.
    RequestProblemInformation(u8),
    /// Seconds between the end of the connection and the Will Message.
    WillDelayInterval(u32),
    /// 0 or 1: whether Response Information is asked for.
    RequestResponseInformation(u8),
    /// The basis for Response Topics.
    ResponseInformation(&'a str),
    /// Another Server to use.
    ServerReference(&'a str),
    /// A diagnosis for people.
    ReasonString(&'a str),
    /// QoS 1 and 2 messages the sender of this property takes at once; not 0.
    ReceiveMaximum(u16),
    /// Highest Topic Alias the sender of this property accepts.
    TopicAliasMaximum(u16),
    /// Stands for a Topic Name on this connection; not 0.
    TopicAlias(u16),
    /// 0 or 1: the highest QoS the Server supports; 2 is said by absence.
    MaximumQos(u8),
    /// 0 or 1.
    RetainAvailable(u8),
    /// A name and a value, by agreement of the applications; may appear more than once.
    UserProperty(&'a str, &'a str),
    /// Largest packet in bytes the sender of this property accepts; not 0.
    MaximumPacketSize(u32),
    /// 0 or 1.
    WildcardSubscriptionAvailable(u8),
    /// 0 or 1.
    SubscriptionIdentifierAvailable(u8),
    /// 0 or 1.
    SharedSubscriptionAvailable(u8),
}

impl Property<'_> {
    /// The identifier of this property.
    pub const fn id(&self) -> PropertyId {
        match self {
            Property::PayloadFormatIndicator(..) => PropertyId::PayloadFormatIndicator,
            Property::MessageExpiryInterval(..) => PropertyId::MessageExpiryInterval,
            Property::ContentType(..) => PropertyId::ContentType,
            Property::ResponseTopic(..) => PropertyId::ResponseTopic,
            Property::CorrelationData(..) => PropertyId::CorrelationData,
            Property::SubscriptionIdentifier(..) => PropertyId::SubscriptionIdentifier,
            Property::SessionExpiryInterval(..) => PropertyId::SessionExpiryInterval,
            Property::AssignedClientIdentifier(..) => PropertyId::AssignedClientIdentifier,
            Property::ServerKeepAlive(..) => PropertyId::ServerKeepAlive,
            Property::AuthenticationMethod(..) => PropertyId::AuthenticationMethod,
            Property::AuthenticationData(..) => PropertyId::AuthenticationData,
            Property::RequestProblemInformation(..) => PropertyId::RequestProblemInformation,
            Property::WillDelayInterval(..) => PropertyId::WillDelayInterval,
            Property::RequestResponseInformation(..) => PropertyId::RequestResponseInformation,
            Property::ResponseInformation(..) => PropertyId::ResponseInformation,
            Property::ServerReference(..) => PropertyId::ServerReference,
            Property::ReasonString(..) => PropertyId::ReasonString,
            Property::ReceiveMaximum(..) => PropertyId::ReceiveMaximum,
            Property::TopicAliasMaximum(..) => PropertyId::TopicAliasMaximum,
            Property::TopicAlias(..) => PropertyId::TopicAlias,
            Property::MaximumQos(..) => PropertyId::MaximumQos,
            Property::RetainAvailable(..) => PropertyId::RetainAvailable,
            Property::UserProperty(..) => PropertyId::UserProperty,
            Property::MaximumPacketSize(..) => PropertyId::MaximumPacketSize,
            Property::WildcardSubscriptionAvailable(..) => PropertyId::WildcardSubscriptionAvailable,
            Property::SubscriptionIdentifierAvailable(..) => PropertyId::SubscriptionIdentifierAvailable,
            Property::SharedSubscriptionAvailable(..) => PropertyId::SharedSubscriptionAvailable,
        }
    }
}

/// The properties of a packet: bytes as received, followed by properties that the caller listed.
///
/// A decoded packet has only the former, validated; a packet to be encoded usually only the latter. A Server that
/// forwards an Application Message joins both: what the publisher sent and what this delivery adds.
#[derive(Clone, Copy, Default)]
pub struct Properties<'a> {
    wire: &'a [u8],
    list: &'a [Property<'a>],
}

impl<'a> Properties<'a> {
    /// No properties.
    pub const EMPTY: Properties<'static> = Properties { wire: &[], list: &[] };

    /// The listed properties.
    pub const fn new(list: &'a [Property<'a>]) -> Properties<'a> {
        Properties { wire: &[], list }
    }

    /// Encoded properties without their length. They are trusted: they come from [`Properties::wire`] of a decoded
    /// packet. Iteration ends at the first byte that is not a property.
    pub const fn from_wire(wire: &'a [u8]) -> Properties<'a> {
        Properties { wire, list: &[] }
    }

    /// The same encoded properties, then those of `list`.
    pub const fn with_list(self, list: &'a [Property<'a>]) -> Properties<'a> {
        Properties { wire: self.wire, list }
    }

    /// The part that is encoded already, without its length: all of it in a decoded packet.
    pub const fn wire(self) -> &'a [u8] {
        self.wire
    }

    /// The part that the caller listed; empty in a decoded packet.
    pub const fn list(self) -> &'a [Property<'a>] {
        self.list
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.wire.is_empty() && self.list.is_empty()
    }

    /// The properties in order.
    pub const fn iter(self) -> PropertyIter<'a> {
        PropertyIter { wire: self.wire, list: self.list }
    }

    /// 0 for unspecified bytes, 1 for UTF-8 text.
    pub fn payload_format_indicator(self) -> Option<u8> {
        self.iter().find_map(|property| match property {
            Property::PayloadFormatIndicator(value) => Some(value),
            _ => None,
        })
    }

    /// Lifetime of the Application Message in seconds.
    pub fn message_expiry_interval(self) -> Option<u32> {
        self.iter().find_map(|property| match property {
            Property::MessageExpiryInterval(value) => Some(value),
            _ => None,
        })
    }

    /// A description of the payload, by agreement of the applications.
    pub fn content_type(self) -> Option<&'a str> {
        self.iter().find_map(|property| match property {
            Property::ContentType(value) => Some(value),
            _ => None,
        })
    }

    /// Where an answer is to be published; a Topic Name.
    pub fn response_topic(self) -> Option<&'a str> {
        self.iter().find_map(|property| match property {
            Property::ResponseTopic(value) => Some(value),
            _ => None,
        })
    }

    /// Tells the requester which request an answer belongs to.
    pub fn correlation_data(self) -> Option<&'a [u8]> {
        self.iter().find_map(|property| match property {
            Property::CorrelationData(value) => Some(value),
            _ => None,
        })
    }

    /// Seconds the session outlives its connection; 0xFFFFFFFF for ever.
    pub fn session_expiry_interval(self) -> Option<u32> {
        self.iter().find_map(|property| match property {
            Property::SessionExpiryInterval(value) => Some(value),
            _ => None,
        })
    }

    /// The ClientID the Server chose.
    pub fn assigned_client_identifier(self) -> Option<&'a str> {
        self.iter().find_map(|property| match property {
            Property::AssignedClientIdentifier(value) => Some(value),
            _ => None,
        })
    }

    /// Keep Alive in seconds that the Client must use.
    pub fn server_keep_alive(self) -> Option<u16> {
        self.iter().find_map(|property| match property {
            Property::ServerKeepAlive(value) => Some(value),
            _ => None,
        })
    }

    /// Name of the enhanced authentication method.
    pub fn authentication_method(self) -> Option<&'a str> {
        self.iter().find_map(|property| match property {
            Property::AuthenticationMethod(value) => Some(value),
            _ => None,
        })
    }

    /// Its data.
    pub fn authentication_data(self) -> Option<&'a [u8]> {
        self.iter().find_map(|property| match property {
            Property::AuthenticationData(value) => Some(value),
            _ => None,
        })
    }

    /// 0 or 1: whether Reason Strings and User Properties may accompany failures.
    pub fn request_problem_information(self) -> Option<u8> {
        self.iter().find_map(|property| match property {
            Property::RequestProblemInformation(value) => Some(value),
            _ => None,
        })
    }

    /// Seconds between the end of the connection and the Will Message.
    pub fn will_delay_interval(self) -> Option<u32> {
        self.iter().find_map(|property| match property {
            Property::WillDelayInterval(value) => Some(value),
            _ => None,
        })
    }

    /// 0 or 1: whether Response Information is asked for.
    pub fn request_response_information(self) -> Option<u8> {
        self.iter().find_map(|property| match property {
            Property::RequestResponseInformation(value) => Some(value),
            _ => None,
        })
    }

    /// The basis for Response Topics.
    pub fn response_information(self) -> Option<&'a str> {
        self.iter().find_map(|property| match property {
            Property::ResponseInformation(value) => Some(value),
            _ => None,
        })
    }

    /// Another Server to use.
    pub fn server_reference(self) -> Option<&'a str> {
        self.iter().find_map(|property| match property {
            Property::ServerReference(value) => Some(value),
            _ => None,
        })
    }

    /// A diagnosis for people.
    pub fn reason_string(self) -> Option<&'a str> {
        self.iter().find_map(|property| match property {
            Property::ReasonString(value) => Some(value),
            _ => None,
        })
    }

    /// QoS 1 and 2 messages the sender of this property takes at once; not 0.
    pub fn receive_maximum(self) -> Option<u16> {
        self.iter().find_map(|property| match property {
            Property::ReceiveMaximum(value) => Some(value),
            _ => None,
        })
    }

    /// Highest Topic Alias the sender of this property accepts.
    pub fn topic_alias_maximum(self) -> Option<u16> {
        self.iter().find_map(|property| match property {
            Property::TopicAliasMaximum(value) => Some(value),
            _ => None,
        })
    }

    /// Stands for a Topic Name on this connection; not 0.
    pub fn topic_alias(self) -> Option<u16> {
        self.iter().find_map(|property| match property {
            Property::TopicAlias(value) => Some(value),
            _ => None,
        })
    }

    /// 0 or 1: the highest QoS the Server supports; 2 is said by absence.
    pub fn maximum_qos(self) -> Option<u8> {
        self.iter().find_map(|property| match property {
            Property::MaximumQos(value) => Some(value),
            _ => None,
        })
    }

    /// 0 or 1.
    pub fn retain_available(self) -> Option<u8> {
        self.iter().find_map(|property| match property {
            Property::RetainAvailable(value) => Some(value),
            _ => None,
        })
    }

    /// Largest packet in bytes the sender of this property accepts; not 0.
    pub fn maximum_packet_size(self) -> Option<u32> {
        self.iter().find_map(|property| match property {
            Property::MaximumPacketSize(value) => Some(value),
            _ => None,
        })
    }

    /// 0 or 1.
    pub fn wildcard_subscription_available(self) -> Option<u8> {
        self.iter().find_map(|property| match property {
            Property::WildcardSubscriptionAvailable(value) => Some(value),
            _ => None,
        })
    }

    /// 0 or 1.
    pub fn subscription_identifier_available(self) -> Option<u8> {
        self.iter().find_map(|property| match property {
            Property::SubscriptionIdentifierAvailable(value) => Some(value),
            _ => None,
        })
    }

    /// 0 or 1.
    pub fn shared_subscription_available(self) -> Option<u8> {
        self.iter().find_map(|property| match property {
            Property::SharedSubscriptionAvailable(value) => Some(value),
            _ => None,
        })
    }

    /// The Subscription Identifiers, in order.
    pub fn subscription_identifiers(self) -> impl Iterator<Item = u32> + Clone + 'a {
        self.iter().filter_map(|property| match property {
            Property::SubscriptionIdentifier(value) => Some(value),
            _ => None,
        })
    }

    /// The User Properties, in order [MQTT-3.1.3-10].
    pub fn user_properties(self) -> impl Iterator<Item = (&'a str, &'a str)> + Clone + 'a {
        self.iter().filter_map(|property| match property {
            Property::UserProperty(name, value) => Some((name, value)),
            _ => None,
        })
    }
}

impl PartialEq for Properties<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl core::fmt::Debug for Properties<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Iterates over [`Properties`].
#[derive(Clone)]
pub struct PropertyIter<'a> {
    wire: &'a [u8],
    list: &'a [Property<'a>],
}

impl<'a> Iterator for PropertyIter<'a> {
    type Item = Property<'a>;

    fn next(&mut self) -> Option<Property<'a>> {
        if !self.wire.is_empty() {
            let property = crate::codec::decode_property(&mut self.wire);
            if property.is_err() {
                self.wire = &[];
            }
            return property.ok();
        }
        let (first, rest) = self.list.split_first()?;
        self.list = rest;
        Some(*first)
    }
}
