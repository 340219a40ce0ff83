//! A [`Sender`] against the rules of section 3.1.2.11 written plainly: arbitrary packets for peers with arbitrary limits.
//! The peer accepts whatever is sent, and reads what was meant.

#[expect(dead_code, reason = "packets are wanted here, not their bytes")]
mod support;

use mqtt_proto::connection::{PeerLimits, Receiver, Role, TooLarge};
use mqtt_proto::{
    Packet, PacketType, Properties, Property, Publish, Qos, Sender, TopicName, Version, decode, encode,
    encoded_len,
};
use proptest::prelude::*;
use support::ingredients;

/// The properties that explain things to people, where `packet` may lose them, and whether it keeps them for a peer that
/// did not ask for them [MQTT-3.1.2-29].
fn diagnostics<'p, 'a>(packet: &'p mut Packet<'a>) -> Option<(&'p mut Properties<'a>, bool)> {
    match packet {
        Packet::ConnAck(connack) => Some((&mut connack.properties, true)),
        Packet::Disconnect(disconnect) => Some((&mut disconnect.properties, true)),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            Some((&mut ack.properties, false))
        }
        Packet::SubAck(suback) => Some((&mut suback.properties, false)),
        Packet::UnsubAck(unsuback) => Some((&mut unsuback.properties, false)),
        Packet::Auth(auth) => Some((&mut auth.properties, false)),
        _ => None,
    }
}

/// `packet` as it is to be sent: the first of its forms that fits, or nothing.
fn expected(packet: &Packet<'_>, peer: &PeerLimits) -> Result<Vec<u8>, TooLarge> {
    let mut forms = vec![(true, true), (true, false), (false, false)];
    let mut copy = *packet;
    match diagnostics(&mut copy) {
        Some((_, unasked)) if !unasked && !peer.request_problem_information => forms = vec![(false, false)],
        Some(_) => {}
        None => forms.truncate(1),
    }
    for (reason, user) in forms {
        let mut form = *packet;
        let kept: Vec<Property<'_>>;
        if let Some((properties, _)) = diagnostics(&mut form) {
            kept = properties
                .iter()
                .filter(|property| match property {
                    Property::ReasonString(_) => reason,
                    Property::UserProperty(..) => user,
                    _ => true,
                })
                .collect();
            *properties = Properties::new(&kept);
        }
        let mut wire = Vec::new();
        encode(&form, peer.version, &mut wire).expect("a valid packet");
        if wire.len() <= peer.maximum_packet_size as usize {
            return Ok(wire);
        }
    }
    Err(TooLarge)
}

#[derive(Clone, Debug)]
struct Message {
    topic: u8,
    payload: usize,
    user_properties: usize,
}

fn message() -> impl Strategy<Value = Message> {
    (0u8..6, prop_oneof![0usize..20, 100usize..140], 0usize..5)
        .prop_map(|(topic, payload, user_properties)| Message { topic, payload, user_properties })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// [MQTT-3.1.2-24] [MQTT-3.1.2-29] [MQTT-3.4.2-2] [MQTT-3.4.2-3]
    #[test]
    fn diagnostics_give_way_to_the_peers_limits_and_nothing_else_does(
        ingredients in ingredients(),
        reason in prop::option::of("[a-z]{0,20}"),
        user in prop::option::of("[a-z]{0,20}"),
        cut in 0usize..60,
        request_problem_information in any::<bool>(),
    ) {
        ingredients.with_packet(|packet| {
            let (mut packet, own_type) = (*packet, packet.packet_type());
            let mut list: Vec<Property<'_>>;
            if ingredients.version == Version::V5 && let Some((properties, _)) = diagnostics(&mut packet) {
                list = properties.iter().filter(|it| !matches!(it, Property::ReasonString(_))).collect();
                list.extend(reason.as_deref().map(Property::ReasonString));
                list.extend(user.as_deref().map(|value| Property::UserProperty("key", value)));
                // AUTH says nothing but its type without its method.
                if own_type != PacketType::Auth || properties.authentication_method().is_some() {
                    *properties = Properties::new(&list);
                }
            }
            if matches!(packet, Packet::Publish(_)) {
                return Ok(());
            }
            let mut whole = Vec::new();
            encode(&packet, ingredients.version, &mut whole).expect("valid");
            let maximum_packet_size = whole.len().saturating_sub(cut).max(2) as u32;
            let peer = PeerLimits {
                maximum_packet_size,
                request_problem_information,
                ..PeerLimits::new(ingredients.version)
            };
            let mut out = vec![0x55];
            let sent = Sender::new(&peer, 9).encode(&packet, &mut out);
            prop_assert_eq!(sent.map(|()| out[1..].to_vec()), expected(&packet, &peer));
            prop_assert!(sent.is_ok() || out == [0x55]);
            Ok(())
        }).unwrap_or(Ok(()))?;
    }

    /// [MQTT-3.1.2-26] [MQTT-3.2.2-17]
    #[test]
    fn whatever_aliases_are_used_the_peer_reads_the_topic_that_was_meant(
        messages in prop::collection::vec(message(), 1..40),
        topic_alias_maximum in 0u16..5,
        ours in 0u16..5,
        maximum_packet_size in prop_oneof![Just(u32::MAX), 20u32..160],
    ) {
        let peer = PeerLimits { maximum_packet_size, topic_alias_maximum, ..PeerLimits::new(Version::V5) };
        let mut sender = Sender::new(&peer, ours);
        let mut receiver = Receiver::new(Role::Client, maximum_packet_size);
        receiver.set_version(Version::V5);
        receiver.set_topic_alias_maximum(topic_alias_maximum);
        prop_assert!(matches!(receiver.poll_packet(&mut &[0x20, 3, 0, 0, 0][..]), Ok(Some(_))));
        let mut highest = 0;
        for message in messages {
            let topic = "topic".repeat(usize::from(message.topic) + 1);
            let payload = vec![message.topic; message.payload];
            let properties = vec![Property::UserProperty("k", "v"); message.user_properties];
            let publish = Publish {
                dup: false,
                qos: Qos::AtMostOnce,
                retain: false,
                topic: TopicName::new(&topic).ok(),
                packet_id: None,
                properties: Properties::new(&properties),
                payload: &payload,
            };
            let plain = encoded_len(&Packet::Publish(publish), Version::V5).expect("valid");
            let mut out = Vec::new();
            if sender.encode_publish(&publish, &mut out).is_err() {
                prop_assert!(plain > maximum_packet_size as usize && out.is_empty());
                continue;
            }
            prop_assert!(out.len() <= maximum_packet_size as usize);
            prop_assert!(out.len() <= plain + 4, "an alias costs three bytes, and one more of Property Length");
            let Ok(Packet::Publish(wire)) = decode(Version::V5, &out) else { panic!("no PUBLISH") };
            highest = highest.max(wire.properties.topic_alias().unwrap_or(0));
            let Ok(Some(Packet::Publish(read))) = receiver.poll_packet(&mut &out[..]) else {
                panic!("the peer refuses it")
            };
            prop_assert_eq!(read.topic, publish.topic);
            prop_assert_eq!(read.payload, publish.payload);
            let others: Vec<_> =
                read.properties.iter().filter(|it| !matches!(it, Property::TopicAlias(_))).collect();
            prop_assert_eq!(others, properties);
        }
        prop_assert!(highest <= topic_alias_maximum.min(ours));
    }
}
