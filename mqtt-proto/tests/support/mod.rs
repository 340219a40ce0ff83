//! Arbitrary packets of each version, as bytes that live long enough to borrow from.

use mqtt_proto::{
    Ack, Auth, ConnAck, Connect, Disconnect, Filters, Packet, PacketId, Properties, Property, PropertyId,
    Publish, Qos, ReasonCode, Reasons, RetainHandling, SubAck, Subscribe, Subscription, SubscriptionOptions,
    Subscriptions, TopicName, UnsubAck, Unsubscribe, Version, Will, encode,
};
use proptest::prelude::*;

/// A property that owns its text.
#[derive(Clone, Debug)]
pub(crate) struct OwnedProperty {
    id: PropertyId,
    number: u32,
    text: String,
    value: String,
    bytes: Vec<u8>,
}

impl OwnedProperty {
    fn borrow(&self) -> Property<'_> {
        let flag = (self.number & 1) as u8;
        let text = self.text.as_str();
        match self.id {
            PropertyId::PayloadFormatIndicator => Property::PayloadFormatIndicator(flag),
            PropertyId::MessageExpiryInterval => Property::MessageExpiryInterval(self.number),
            PropertyId::ContentType => Property::ContentType(text),
            PropertyId::ResponseTopic => Property::ResponseTopic(topic(text).map_or("t", TopicName::as_str)),
            PropertyId::CorrelationData => Property::CorrelationData(&self.bytes),
            PropertyId::SubscriptionIdentifier => {
                Property::SubscriptionIdentifier((self.number & 0x0FFF_FFFF).max(1))
            }
            PropertyId::SessionExpiryInterval => Property::SessionExpiryInterval(self.number),
            PropertyId::AssignedClientIdentifier => Property::AssignedClientIdentifier(text),
            PropertyId::ServerKeepAlive => Property::ServerKeepAlive(self.number as u16),
            PropertyId::AuthenticationMethod => Property::AuthenticationMethod(text),
            PropertyId::AuthenticationData => Property::AuthenticationData(&self.bytes),
            PropertyId::RequestProblemInformation => Property::RequestProblemInformation(flag),
            PropertyId::WillDelayInterval => Property::WillDelayInterval(self.number),
            PropertyId::RequestResponseInformation => Property::RequestResponseInformation(flag),
            PropertyId::ResponseInformation => Property::ResponseInformation(text),
            PropertyId::ServerReference => Property::ServerReference(text),
            PropertyId::ReasonString => Property::ReasonString(text),
            PropertyId::ReceiveMaximum => Property::ReceiveMaximum((self.number as u16).max(1)),
            PropertyId::TopicAliasMaximum => Property::TopicAliasMaximum(self.number as u16),
            PropertyId::TopicAlias => Property::TopicAlias((self.number as u16).max(1)),
            PropertyId::MaximumQos => Property::MaximumQos(flag),
            PropertyId::RetainAvailable => Property::RetainAvailable(flag),
            PropertyId::UserProperty => Property::UserProperty(text, &self.value),
            PropertyId::MaximumPacketSize => Property::MaximumPacketSize(self.number.max(1)),
            PropertyId::WildcardSubscriptionAvailable => Property::WildcardSubscriptionAvailable(flag),
            PropertyId::SubscriptionIdentifierAvailable => Property::SubscriptionIdentifierAvailable(flag),
            PropertyId::SharedSubscriptionAvailable => Property::SharedSubscriptionAvailable(flag),
        }
    }
}

fn topic(text: &str) -> Option<TopicName<'_>> {
    TopicName::new(text).ok()
}

/// Ingredients of any packet; [`Ingredients::with_packet`] takes from them what a packet needs.
#[derive(Clone, Debug)]
pub(crate) struct Ingredients {
    pub version: Version,
    packet_type: u8,
    flags: [bool; 4],
    qos: u8,
    packet_id: u16,
    reason: usize,
    properties: Vec<OwnedProperty>,
    will_properties: Vec<OwnedProperty>,
    texts: Vec<String>,
    options: Vec<(u8, bool, bool, u8)>,
    codes: Vec<usize>,
    payload: Vec<u8>,
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => "[a-z/$+#]{0,12}",
        4 => "[^\\x00]{0,20}",
        1 => "[a-zé🦀]{60,200}",
    ]
}

prop_compose! {
    fn property()(id in 1u32..0x2B, number in any::<u32>(), text in text(), value in text(),
        bytes in prop::collection::vec(any::<u8>(), 0..20)) -> Option<OwnedProperty> {
        Some(OwnedProperty { id: PropertyId::from_u32(id)?, number, text, value, bytes })
    }
}

fn properties() -> impl Strategy<Value = Vec<OwnedProperty>> {
    prop::collection::vec(property(), 0..10).prop_map(|list| list.into_iter().flatten().collect())
}

prop_compose! {
    pub(crate) fn ingredients()(
        version in prop::sample::select(vec![Version::V3_1, Version::V3_1_1, Version::V5]),
        packet_type in 1u8..=15, flags in any::<[bool; 4]>(), qos in 0u8..3, packet_id in 1u16..,
        reason in any::<usize>(), properties in properties(), will_properties in properties(),
        texts in prop::collection::vec(text(), 4..12),
        options in prop::collection::vec((0u8..3, any::<bool>(), any::<bool>(), 0u8..3), 12),
        codes in prop::collection::vec(any::<usize>(), 1..12),
        payload in prop_oneof![
            9 => prop::collection::vec(any::<u8>(), 0..300),
            1 => prop::collection::vec(any::<u8>(), 16_300..16_500),
        ],
    ) -> Ingredients {
        Ingredients {
            version, packet_type, flags, qos, packet_id, reason, properties, will_properties, texts, options,
            codes, payload,
        }
    }
}

use PropertyId as Id;

const MESSAGE: &[PropertyId] = &[
    Id::PayloadFormatIndicator,
    Id::MessageExpiryInterval,
    Id::ContentType,
    Id::ResponseTopic,
    Id::CorrelationData,
    Id::UserProperty,
];

/// Table 2-4 again, column by column.
fn allowed(packet_type: u8, id: PropertyId) -> bool {
    match packet_type {
        1 => matches!(
            id,
            Id::SessionExpiryInterval
                | Id::AuthenticationMethod
                | Id::AuthenticationData
                | Id::RequestProblemInformation
                | Id::RequestResponseInformation
                | Id::ReceiveMaximum
                | Id::TopicAliasMaximum
                | Id::UserProperty
                | Id::MaximumPacketSize
        ),
        2 => {
            !MESSAGE[..5].contains(&id)
                && !matches!(
                    id,
                    Id::SubscriptionIdentifier
                        | Id::RequestProblemInformation
                        | Id::RequestResponseInformation
                        | Id::WillDelayInterval
                        | Id::TopicAlias
                )
        }
        3 => MESSAGE.contains(&id) || matches!(id, Id::SubscriptionIdentifier | Id::TopicAlias),
        4..=7 | 9 | 11 => matches!(id, Id::ReasonString | Id::UserProperty),
        8 => matches!(id, Id::SubscriptionIdentifier | Id::UserProperty),
        10 => id == Id::UserProperty,
        14 => matches!(
            id,
            Id::SessionExpiryInterval | Id::ServerReference | Id::ReasonString | Id::UserProperty
        ),
        15 => matches!(
            id,
            Id::AuthenticationMethod | Id::AuthenticationData | Id::ReasonString | Id::UserProperty
        ),
        _ => false,
    }
}

fn pick(
    list: &[OwnedProperty],
    repeatable: &[PropertyId],
    allowed: impl Fn(Id) -> bool,
) -> Vec<OwnedProperty> {
    let mut picked: Vec<OwnedProperty> = Vec::new();
    for property in list.iter().filter(|property| allowed(property.id)) {
        if repeatable.contains(&property.id) || picked.iter().all(|earlier| earlier.id != property.id) {
            picked.push(property.clone());
        }
    }
    picked
}

fn one_of(codes: &[u8], index: usize) -> ReasonCode {
    ReasonCode(codes[index % codes.len()])
}

impl Ingredients {
    fn qos(&self) -> Qos {
        Qos::from_bits(self.qos).expect("0 to 2")
    }

    fn reason(&self, codes: &[u8]) -> ReasonCode {
        one_of(codes, self.reason)
    }

    /// Calls `use_packet` with a valid packet of [`Ingredients::version`]. `None` if the version has no such packet.
    pub(crate) fn with_packet<R>(&self, use_packet: impl FnOnce(&Packet<'_>) -> R) -> Option<R> {
        let v5 = self.version == Version::V5;
        let repeatable: &[_] = match self.packet_type {
            3 => &[Id::UserProperty, Id::SubscriptionIdentifier],
            _ => &[Id::UserProperty],
        };
        let mut own = pick(&self.properties, repeatable, |id| v5 && allowed(self.packet_type, id));
        let has_method = own.iter().any(|property| property.id == Id::AuthenticationMethod);
        if self.packet_type == 1 && !has_method {
            own.retain(|property| property.id != Id::AuthenticationData);
        }
        let own: Vec<_> = own.iter().map(OwnedProperty::borrow).collect();
        let properties = Properties::new(&own);
        let packet_id = PacketId::new(self.packet_id).expect("not 0");
        let ack = |codes: &[u8]| {
            let reason = if v5 { self.reason(codes) } else { ReasonCode::SUCCESS };
            Ack { packet_id, reason, properties }
        };
        const PUBACK: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
        const PUBREL: &[u8] = &[0x00, 0x92];
        Some(match self.packet_type {
            1 => return Some(self.with_connect(properties, use_packet)),
            2 => {
                let codes: &[u8] = if v5 {
                    &[0x00, 0x80, 0x8A, 0x8C, 0x9D, 0x9F]
                } else {
                    &[0, 0x84, 0x85, 0x86, 0x87, 0x88]
                };
                let reason = self.reason(codes);
                let session_present = self.flags[0] && !reason.is_error() && self.version != Version::V3_1;
                use_packet(&Packet::ConnAck(ConnAck { session_present, reason, properties }))
            }
            3 => {
                let (qos, has_alias) = (self.qos(), properties.topic_alias().is_some());
                use_packet(&Packet::Publish(Publish {
                    dup: self.flags[0] && qos != Qos::AtMostOnce,
                    qos,
                    retain: self.flags[1],
                    topic: if has_alias && self.flags[2] {
                        None
                    } else {
                        topic(&self.texts[0]).or(topic("t"))
                    },
                    packet_id: (qos != Qos::AtMostOnce).then_some(packet_id),
                    properties,
                    payload: &self.payload,
                }))
            }
            4 => use_packet(&Packet::PubAck(ack(PUBACK))),
            5 => use_packet(&Packet::PubRec(ack(PUBACK))),
            6 => use_packet(&Packet::PubRel(ack(PUBREL))),
            7 => use_packet(&Packet::PubComp(ack(PUBREL))),
            8 => {
                let subscriptions = self.texts.iter().zip(&self.options).map(|entry| {
                    let (filter, &(qos, no_local, retain_as_published, retain_handling)) = entry;
                    let mut options = SubscriptionOptions::new(Qos::from_bits(qos).expect("0 to 2"));
                    if v5 {
                        options.no_local = no_local && !filter.starts_with("$share/");
                        options.retain_as_published = retain_as_published;
                        options.retain_handling =
                            [RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DoNotSend]
                                [usize::from(retain_handling)];
                    }
                    Subscription { filter, options }
                });
                let subscriptions: Vec<_> = subscriptions.collect();
                let subscriptions = Subscriptions::new(&subscriptions);
                use_packet(&Packet::Subscribe(Subscribe { packet_id, properties, subscriptions }))
            }
            9 => {
                let codes: &[u8] = if v5 { &[0, 1, 2, 0x80, 0x8F, 0x9E, 0xA2] } else { &[0, 1, 2, 0x80] };
                let codes: Vec<u8> = self.codes.iter().map(|&index| one_of(codes, index).0).collect();
                use_packet(&Packet::SubAck(SubAck { packet_id, properties, reasons: Reasons(&codes) }))
            }
            10 => {
                let filters: Vec<&str> = self.texts.iter().map(String::as_str).collect();
                let filters = Filters::new(&filters);
                use_packet(&Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters }))
            }
            11 => {
                let codes = self.codes.iter().map(|&index| one_of(&[0, 0x11, 0x80, 0x91], index).0);
                let codes: Vec<u8> = codes.filter(|_| v5).collect();
                use_packet(&Packet::UnsubAck(UnsubAck { packet_id, properties, reasons: Reasons(&codes) }))
            }
            12 => use_packet(&Packet::PingReq),
            13 => use_packet(&Packet::PingResp),
            14 => {
                let reason =
                    if v5 { self.reason(&[0x00, 0x04, 0x80, 0x8E, 0xA2]) } else { ReasonCode::SUCCESS };
                use_packet(&Packet::Disconnect(Disconnect { reason, properties }))
            }
            _ if !v5 => return None,
            _ if has_method => {
                use_packet(&Packet::Auth(Auth { reason: self.reason(&[0x00, 0x18, 0x19]), properties }))
            }
            _ => {
                use_packet(&Packet::Auth(Auth { reason: ReasonCode::SUCCESS, properties: Properties::EMPTY }))
            }
        })
    }

    fn with_connect<R>(&self, properties: Properties<'_>, use_packet: impl FnOnce(&Packet<'_>) -> R) -> R {
        let v5 = self.version == Version::V5;
        let will_properties = pick(&self.will_properties, &[Id::UserProperty], |id| {
            v5 && (MESSAGE.contains(&id) || id == Id::WillDelayInterval)
        });
        let will_properties: Vec<_> = will_properties.iter().map(OwnedProperty::borrow).collect();
        let will = Will {
            topic: topic(&self.texts[1]).or(topic("t")).expect("a topic"),
            payload: &self.payload,
            qos: self.qos(),
            retain: self.flags[0],
            properties: Properties::new(&will_properties),
        };
        use_packet(&Packet::Connect(Connect {
            version: self.version,
            clean_start: self.flags[1],
            keep_alive: self.packet_id,
            client_id: &self.texts[0],
            properties,
            will: self.flags[2].then_some(will),
            user_name: (self.flags[3] || !v5).then_some(self.texts[2].as_str()),
            password: self.flags[0].then_some(self.texts[3].as_bytes()),
        }))
    }

    /// The packet's bytes, `None` if the version has no such packet.
    pub(crate) fn encoded(&self) -> Option<Vec<u8>> {
        self.with_packet(|packet| {
            let mut out = Vec::new();
            encode(packet, self.version, &mut out).expect("a valid packet");
            out
        })
    }
}
