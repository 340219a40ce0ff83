//! The Client as a receiver: sections 3.3, 4.3, 4.5 and 4.6 of both standards.

use mqtt_proto::connection::{Event, ProtocolError};
use mqtt_proto::{PacketId, Property, ReasonCode, TopicName, Version};

use crate::VERSIONS;
use crate::client::{Stage, everywhere, puback, pubcomp, pubrec, pubrel};

/// [MQTT-3.3.4-1] [MQTT-4.5.0-2] [MQTT-4.3.2-4] [MQTT-4.3.2-2 v3.1.1]
#[test]
fn a_qos_1_message_is_answered_by_puback_with_its_identifier() {
    everywhere(|mut stage| {
        let ids = [7, 65_535];
        let bytes = ids.map(|id| stage.publish(0x32, Some(id), b"x")).concat();
        assert_eq!(stage.hears(&bytes), [b"x", b"x"]);
        assert_eq!(stage.sent(), [0x40, 2, 0, 7, 0x40, 2, 0xFF, 0xFF]);
    });
}

/// [MQTT-3.3.4-1] [MQTT-4.5.0-2] [MQTT-4.3.3-8]
#[test]
fn a_qos_2_message_is_answered_by_pubrec_with_its_identifier() {
    everywhere(|mut stage| {
        let ids = [7, 65_535];
        let bytes = ids.map(|id| stage.publish(0x34, Some(id), b"x")).concat();
        assert_eq!(stage.hears(&bytes), [b"x", b"x"]);
        assert_eq!(stage.sent(), [0x50, 2, 0, 7, 0x50, 2, 0xFF, 0xFF]);
    });
}

/// [MQTT-3.3.4-1]: QoS 0 asks for no answer.
#[test]
fn a_qos_0_message_is_not_answered() {
    everywhere(|mut stage| {
        let bytes = stage.publish(0x30, None, b"x");
        assert_eq!(stage.hears(&bytes), [b"x"]);
        assert_eq!(stage.sent(), b"");
    });
}

/// [MQTT-4.3.2-5]
#[test]
fn after_puback_the_same_identifier_is_a_new_message() {
    everywhere(|mut stage| {
        for first in [0x32, 0x3A] {
            let bytes = stage.publish(first, Some(7), b"x");
            assert_eq!(stage.hears(&bytes), [b"x"]);
            assert_eq!(stage.sent(), puback(7));
        }
    });
}

/// [MQTT-4.3.3-10] [MQTT-4.3.3-2 v3.1.1]: on this connection and on the next.
#[test]
fn before_pubrel_the_same_identifier_is_the_same_message() {
    everywhere(|mut stage| {
        let (first, again) = (stage.publish(0x34, Some(7), b"x"), stage.publish(0x3C, Some(7), b"x"));
        assert_eq!(stage.hears(&first), [b"x"]);
        assert_eq!(stage.hears(&again), [b""; 0]);
        assert_eq!(stage.sent(), [pubrec(7), pubrec(7)].concat());
        stage.reconnects();
        assert_eq!(stage.hears(&again), [b""; 0]);
        assert_eq!(stage.sent(), pubrec(7));
    });
}

/// [MQTT-4.3.3-11] [MQTT-4.3.3-2 v3.1.1]: whether it releases anything or not.
#[test]
fn pubrel_is_answered_by_pubcomp_with_its_identifier() {
    everywhere(|mut stage| {
        let bytes = stage.publish(0x34, Some(7), b"x");
        stage.hears(&bytes);
        stage.sent();
        stage.hears(&pubrel(7));
        assert_eq!(stage.sent(), pubcomp(7));
        stage.hears(&pubrel(9));
        let told: &[u8] =
            if stage.version == Version::V5 { &[0x70, 3, 0, 9, 0x92] } else { &[0x70, 2, 0, 9] };
        assert_eq!(stage.sent(), told);
    });
}

/// [MQTT-4.3.3-12]
#[test]
fn after_pubcomp_the_same_identifier_is_a_new_message() {
    everywhere(|mut stage| {
        let bytes = stage.publish(0x34, Some(7), b"x");
        for _ in 0..2 {
            assert_eq!(stage.hears(&bytes), [b"x"]);
            stage.hears(&pubrel(7));
        }
    });
}

/// [MQTT-4.3.3-9]: the application refused it.
#[test]
fn after_a_pubrec_with_an_error_the_same_identifier_is_a_new_message() {
    let mut stage = Stage::unconnected(Version::V5);
    stage.manual = true;
    stage.connects(false);
    let bytes = stage.publish(0x34, Some(7), b"x");
    let id = PacketId::new(7).expect("not 0");
    for _ in 0..2 {
        assert_eq!(stage.hears(&bytes), [b"x"]);
        stage.client.acknowledge(id, ReasonCode::QUOTA_EXCEEDED, 0).expect("it waits");
        assert_eq!(stage.sent(), [0x50, 3, 0, 7, 0x97]);
    }
}

/// Messages 1, 2 and 3 of this QoS come, and the application acknowledges the last one first: what is sent then.
fn acknowledged_backwards(version: Version, first: u8) -> Vec<u8> {
    let mut stage = Stage::unconnected(version);
    stage.manual = true;
    stage.connects(false);
    let bytes = [1, 2, 3].map(|id| stage.publish(first, Some(id), b"x")).concat();
    stage.hears(&bytes);
    for id in [3, 2, 1] {
        assert_eq!(stage.sent(), b"", "not before the first");
        let id = PacketId::new(id).expect("not 0");
        stage.client.acknowledge(id, ReasonCode::SUCCESS, 0).expect("it waits");
    }
    stage.sent()
}

/// [MQTT-4.6.0-2]
#[test]
fn pubacks_leave_in_the_order_of_their_publishes() {
    for version in VERSIONS {
        assert_eq!(acknowledged_backwards(version, 0x32), [puback(1), puback(2), puback(3)].concat());
    }
}

/// [MQTT-4.6.0-3]
#[test]
fn pubrecs_leave_in_the_order_of_their_publishes() {
    for version in VERSIONS {
        assert_eq!(acknowledged_backwards(version, 0x34), [pubrec(1), pubrec(2), pubrec(3)].concat());
    }
}

/// [MQTT-3.3.4-9]: a Server's rule; one that breaks it is left.
#[test]
fn a_server_that_sends_more_than_the_receive_maximum_is_left() {
    let mut stage = Stage::unconnected(Version::V5);
    stage.manual = true;
    stage.connect = vec![Property::ReceiveMaximum(2)];
    stage.connects(false);
    let bytes = [1, 2].map(|id| stage.publish(0x32, Some(id), b"x")).concat();
    stage.hears(&bytes);
    let third = stage.publish(0x34, Some(3), b"x");
    let error = stage.client.poll_event(&mut &third[..], 0);
    assert_eq!(error, Err(ProtocolError::ReceiveMaximumExceeded { limit: 2 }));
    assert_eq!(stage.sent(), [0xE0, 1, 0x93]);
}

/// [MQTT-3.3.2-10]
#[test]
fn every_topic_alias_up_to_the_clients_maximum_is_accepted() {
    let mut stage = Stage::unconnected(Version::V5);
    stage.connect = vec![Property::TopicAliasMaximum(3)];
    stage.connects(false);
    for alias in 1..=3 {
        assert_eq!(stage.hears(&[0x30, 8, 0, 1, b'a', 3, 0x23, 0, alias, b'x']), [b"x"]);
    }
    for alias in 1..=3 {
        let mut input = &[0x30, 7, 0, 0, 3, 0x23, 0, alias, b'x'][..];
        let event = stage.client.poll_event(&mut input, 0);
        let Ok(Some(Event::Message(publish))) = event else { panic!("{event:?}") };
        assert_eq!(publish.topic.map(TopicName::as_str), Some("a"));
    }
}

/// [MQTT-3.3.2-7]
#[test]
fn a_topic_alias_ends_with_its_connection() {
    let mut stage = Stage::unconnected(Version::V5);
    stage.connect = vec![Property::TopicAliasMaximum(3)];
    stage.connects(false);
    stage.hears(&[0x30, 7, 0, 1, b'a', 3, 0x23, 0, 2]);
    stage.reconnects();
    let unknown = stage.client.poll_event(&mut &[0x30, 6, 0, 0, 3, 0x23, 0, 2][..], 0);
    assert_eq!(unknown, Err(ProtocolError::TopicAliasUnknown(2)));
}
