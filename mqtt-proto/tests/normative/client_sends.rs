//! The Client as a sender: sections 3.3, 4.3, 4.4, 4.6 and 4.9 of both standards.

use std::collections::BTreeSet;

use mqtt_proto::connection::RequestError;
use mqtt_proto::{
    EncodeError, PacketId, Properties, Property, PropertyId, Qos, Subscription, SubscriptionOptions, Version,
};

use crate::client::{Stage, everywhere, message, puback, pubcomp, publish_to, pubrec, pubrel, topics};

const BOTH: [Qos; 2] = [Qos::AtLeastOnce, Qos::ExactlyOnce];

/// [MQTT-4.3.1-1] [MQTT-3.3.1-2]
#[test]
fn a_qos_0_message_has_neither_dup_nor_identifier() {
    everywhere(|mut stage| {
        assert_eq!(stage.publishes(Qos::AtMostOnce, b"x"), None);
        assert_eq!(stage.sent(), stage.publish(0x30, None, b"x"));
    });
}

/// [MQTT-4.3.2-2] [MQTT-4.3.2-1 v3.1.1]
#[test]
fn a_qos_1_message_is_sent_with_its_identifier_and_without_dup() {
    everywhere(|mut stage| {
        assert_eq!(stage.publishes(Qos::AtLeastOnce, b"x"), Some(PacketId::FIRST));
        assert_eq!(stage.sent(), stage.publish(0x32, Some(1), b"x"));
    });
}

/// [MQTT-4.3.3-2] [MQTT-4.3.3-1 v3.1.1]
#[test]
fn a_qos_2_message_is_sent_with_its_identifier_and_without_dup() {
    everywhere(|mut stage| {
        assert_eq!(stage.publishes(Qos::ExactlyOnce, b"x"), Some(PacketId::FIRST));
        assert_eq!(stage.sent(), stage.publish(0x34, Some(1), b"x"));
    });
}

/// [MQTT-4.3.2-1] [MQTT-4.3.3-1]
#[test]
fn messages_under_way_have_different_identifiers() {
    everywhere(|mut stage| {
        let mut used = BTreeSet::new();
        for n in 0..50 {
            let id = stage.publishes(BOTH[n % 2], b"x").expect("QoS 1 or 2");
            assert!(used.insert(id), "{id} is in use");
        }
    });
}

/// [MQTT-3.3.1-1]
#[test]
fn a_message_that_is_sent_again_has_dup() {
    for (qos, first) in [(Qos::AtLeastOnce, 0x3A), (Qos::ExactlyOnce, 0x3C)] {
        everywhere(|mut stage| {
            stage.publishes(qos, b"x");
            for _ in 0..2 {
                stage.reconnects();
                assert_eq!(stage.sent(), stage.publish(first, Some(1), b"x"));
            }
        });
    }
}

/// [MQTT-4.4.0-1]: each under the identifier that it had.
#[test]
fn what_was_not_acknowledged_is_sent_again_with_its_identifier() {
    everywhere(|mut stage| {
        for payload in [b"1", b"2", b"3"] {
            stage.publishes(Qos::AtLeastOnce, payload);
        }
        stage.hears(&puback(2));
        stage.reconnects();
        let expected = [stage.publish(0x32, Some(1), b"1"), stage.publish(0x32, Some(3), b"3")].concat();
        assert_eq!(stage.sent_again(), expected);
    });
}

/// [MQTT-4.4.0-1]: at no other time.
#[test]
fn nothing_is_sent_again_while_the_connection_stands() {
    everywhere(|mut stage| {
        stage.publishes(Qos::AtLeastOnce, b"1");
        stage.publishes(Qos::ExactlyOnce, b"2");
        stage.sent();
        stage.client.handle_timeout(3_600_000).expect("nothing is owed");
        stage.publishes(Qos::AtMostOnce, b"3");
        assert_eq!(stage.sent(), stage.publish(0x30, None, b"3"));
    });
}

/// [MQTT-4.3.2-3]: until its PUBACK, whatever else comes.
#[test]
fn a_qos_1_message_is_unacknowledged_until_its_puback() {
    everywhere(|mut stage| {
        stage.publishes(Qos::AtLeastOnce, b"x");
        stage.hears(&[puback(2), pubcomp(1)].concat());
        stage.reconnects();
        assert_eq!(stage.sent_again(), stage.publish(0x32, Some(1), b"x"));
        stage.hears(&puback(1));
        stage.reconnects();
        assert_eq!(stage.sent_again(), b"");
    });
}

/// [MQTT-4.3.3-3]: until its PUBREC, whatever else comes.
#[test]
fn a_qos_2_message_is_unacknowledged_until_its_pubrec() {
    everywhere(|mut stage| {
        stage.publishes(Qos::ExactlyOnce, b"x");
        stage.hears(&[puback(1), pubcomp(1)].concat());
        stage.reconnects();
        assert_eq!(stage.sent_again(), stage.publish(0x34, Some(1), b"x"));
    });
}

/// [MQTT-4.3.3-4] [MQTT-4.3.3-1 v3.1.1]
#[test]
fn pubrec_is_answered_by_pubrel_with_its_identifier() {
    everywhere(|mut stage| {
        stage.publishes(Qos::AtLeastOnce, b"1");
        stage.publishes(Qos::ExactlyOnce, b"2");
        stage.sent();
        stage.hears(&pubrec(2));
        assert_eq!(stage.sent(), pubrel(2));
    });
}

/// [MQTT-4.3.3-5] [MQTT-4.3.3-6] [MQTT-4.4.0-1]: PUBREL is sent again, and its PUBLISH is not.
#[test]
fn after_pubrec_only_pubrel_is_sent_again_and_that_until_pubcomp() {
    everywhere(|mut stage| {
        stage.publishes(Qos::ExactlyOnce, b"x");
        stage.hears(&pubrec(1));
        for _ in 0..2 {
            stage.reconnects();
            assert_eq!(stage.sent_again(), pubrel(1));
        }
        stage.hears(&pubcomp(1));
        stage.reconnects();
        assert_eq!(stage.sent_again(), b"");
    });
}

/// [MQTT-4.4.0-2] [MQTT-4.3.3-4]
#[test]
fn a_message_that_was_refused_is_neither_released_nor_sent_again() {
    let mut stage = Stage::new(Version::V5);
    stage.publishes(Qos::AtLeastOnce, b"1");
    stage.publishes(Qos::ExactlyOnce, b"2");
    stage.sent();
    stage.hears(&[0x40, 3, 0, 1, 0x97, 0x50, 3, 0, 2, 0x97]);
    assert_eq!(stage.sent(), b"");
    stage.reconnects();
    assert_eq!(stage.sent_again(), b"");
}

/// [MQTT-4.6.0-1]
#[test]
fn messages_are_sent_again_in_their_first_order() {
    everywhere(|mut stage| {
        let mut expected = Vec::new();
        for n in 0..10 {
            stage.publishes(BOTH[usize::from(n) % 2], &[n]);
            expected.extend(stage.publish(
                if n % 2 == 0 { 0x32 } else { 0x34 },
                Some(u16::from(n) + 1),
                &[n],
            ));
        }
        stage.reconnects();
        assert_eq!(stage.sent_again(), expected);
    });
}

/// [MQTT-4.6.0-4]
#[test]
fn pubrels_leave_in_the_order_of_their_pubrecs() {
    everywhere(|mut stage| {
        for _ in 0..3 {
            stage.publishes(Qos::ExactlyOnce, b"x");
        }
        stage.sent();
        stage.hears(&[pubrec(2), pubrec(3), pubrec(1)].concat());
        assert_eq!(stage.sent(), [pubrel(2), pubrel(3), pubrel(1)].concat());
    });
}

/// A Client whose Server announced a Receive Maximum of 2, with as many messages under way.
fn spent(qos: Qos) -> Stage {
    let mut stage = Stage::unconnected(Version::V5);
    stage.connack = vec![0x21, 0, 2];
    stage.connects(false);
    stage.publishes(qos, b"1");
    stage.publishes(qos, b"2");
    stage.sent();
    stage
}

/// [MQTT-3.3.4-7] [MQTT-4.9.0-1] [MQTT-4.9.0-2]
#[test]
fn no_more_messages_are_unacknowledged_than_the_receive_maximum_says() {
    for qos in BOTH {
        let mut stage = spent(qos);
        for more in BOTH {
            let unsent = stage.client.publish(message(more, b"3"), 0).expect_err("the quota is spent");
            assert_eq!(unsent.reason, RequestError::WindowFull);
        }
        assert_eq!(stage.sent(), b"");
    }
}

/// Section 4.9: PUBACK, PUBCOMP and a PUBREC that refuses give one back; PUBREC alone does not.
#[test]
fn the_end_of_a_flow_and_nothing_else_gives_quota_back() {
    let mut stage = spent(Qos::AtLeastOnce);
    stage.hears(&puback(2));
    stage.publishes(Qos::AtLeastOnce, b"3");
    let mut stage = spent(Qos::ExactlyOnce);
    stage.hears(&pubrec(1));
    assert!(stage.client.publish(message(Qos::AtLeastOnce, b"3"), 0).is_err());
    stage.hears(&pubcomp(1));
    stage.publishes(Qos::AtLeastOnce, b"3");
    stage.hears(&[0x50, 3, 0, 2, 0x80]);
    stage.publishes(Qos::AtLeastOnce, b"4");
}

/// [MQTT-3.3.4-8] [MQTT-4.9.0-3]
#[test]
fn a_spent_quota_delays_no_other_packet() {
    let mut stage = spent(Qos::ExactlyOnce);
    stage.publishes(Qos::AtMostOnce, b"x");
    assert_eq!(stage.sent(), stage.publish(0x30, None, b"x"), "QoS 0 needs none");
    stage.hears(&pubrec(1));
    assert_eq!(stage.sent(), pubrel(1));
    let bytes = stage.publish(0x32, Some(9), b"x");
    assert_eq!(stage.hears(&bytes), [b"x"]);
    assert_eq!(stage.sent(), puback(9));
    let options = SubscriptionOptions::new(Qos::AtMostOnce);
    let wanted = [Subscription { filter: "b", options }];
    stage.client.subscribe(&wanted, Properties::EMPTY, 0).expect("a request needs no quota");
    stage.client.unsubscribe(&["b"], Properties::EMPTY, 0).expect("a request needs no quota");
    let bytes = stage.sent();
    assert_eq!((bytes[0], bytes[bytes.len() - 8]), (0x82, 0xA2));
}

/// [MQTT-3.3.2-9]
#[test]
fn no_topic_alias_above_the_servers_maximum_is_sent() {
    for maximum in [0, 1, 2] {
        let mut stage = Stage::unconnected(Version::V5);
        stage.connack = vec![0x22, 0, maximum];
        stage.connects(false);
        for n in 0..4 {
            publish_to(&mut stage, &format!("topic/{n}"));
        }
        let sent = topics(&stage.sent());
        assert_eq!(sent.len(), 4);
        assert!(sent.iter().all(|(_, alias)| alias.is_none_or(|alias| alias <= u16::from(maximum))));
        assert_eq!(sent.iter().any(|(_, alias)| alias.is_some()), maximum > 0);
    }
}

/// [MQTT-3.3.4-6]: a message that was received with one is not published with it.
#[test]
fn a_message_with_a_subscription_identifier_is_not_sent() {
    let mut stage = Stage::new(Version::V5);
    let list = [Property::SubscriptionIdentifier(1)];
    for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
        let message =
            message(qos, b"x").with_properties(Properties::new(&list)).expect("a Server may send it");
        let unsent = stage.client.publish(message, 0).expect_err("a Client may not");
        let error = EncodeError::PropertyNotAllowed(PropertyId::SubscriptionIdentifier);
        assert_eq!(unsent.reason, RequestError::Encode(error));
    }
    assert_eq!(stage.sent(), b"");
}

/// Section 3.3.2.3.4: on a new connection the topic is named once more.
#[test]
fn the_aliases_the_client_uses_end_with_their_connection() {
    let mut stage = Stage::unconnected(Version::V5);
    stage.connack = vec![0x22, 0, 5];
    for session_present in [false, true] {
        stage.connects(session_present);
        publish_to(&mut stage, "topic");
        publish_to(&mut stage, "topic");
        assert_eq!(topics(&stage.sent()), [(Some("topic".to_owned()), Some(1)), (None, Some(1))]);
    }
}
