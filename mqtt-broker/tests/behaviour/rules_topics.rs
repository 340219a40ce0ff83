//! Topic Names and Topic Filters as the broker matches them: section 4.7. And request and response: section 4.10.

use mqtt_proto::packet::{Connect, Packet, Properties, Property, Publish, SubscriptionOptions};
use mqtt_proto::types::{Qos, ReasonCode, Version};

use crate::cluster::{ClientId, Cluster, connect, publish};

const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

/// Two Clients, on two cores if need be.
fn pair(version: Version) -> (Cluster, ClientId, ClientId) {
    let mut cluster = Cluster::new(2);
    let subscriber = cluster.connect(0, version, "subscriber");
    let publisher = cluster.connect(0, version, "publisher");
    (cluster, subscriber, publisher)
}

/// Fails unless a subscription to `filter` gets these topics and none of the others, live and retained.
#[track_caller]
fn filter_gets(filter: &str, topics: &[&str], others: &[&str]) {
    for version in VERSIONS {
        let (mut cluster, subscriber, publisher) = pair(version);
        cluster.subscribe(subscriber, filter, Qos::AtMostOnce);
        for topic in topics {
            cluster.publish(publisher, topic, b"x");
            cluster.expect_message(subscriber, topic, b"x");
        }
        for topic in others {
            cluster.publish(publisher, topic, b"x");
            cluster.expect_nothing(subscriber);
        }
        let retain = |topic| Publish { retain: true, ..publish(topic, b"x", Qos::AtMostOnce, 0) };
        for topic in others.iter().chain(topics) {
            cluster.send(publisher, &Packet::Publish(retain(topic)));
        }
        let late = cluster.connect(0, version, "late");
        cluster.subscribe(late, filter, Qos::AtMostOnce);
        let mut got: Vec<_> = (0..cluster.pending(late)).map(|_| cluster.take(late).0).collect();
        got.sort_unstable();
        let mut expected = topics.to_vec();
        expected.sort_unstable();
        assert_eq!(got, expected, "retained, for {filter}");
    }
}

/// [MQTT-4.7.0-1] [MQTT-4.7.1-1 v3.1.1]
#[test]
fn a_publish_to_a_wildcard_is_refused() {
    for version in VERSIONS {
        for topic in [&b"a/#"[..], b"a/+", b"+/b", b"a+b"] {
            let (mut cluster, subscriber, client) = pair(version);
            cluster.subscribe(subscriber, "#", Qos::AtMostOnce);
            let mut bytes = vec![0x30, if version == Version::V5 { 6 } else { 5 }, 0, 3];
            bytes.extend(topic);
            if version == Version::V5 {
                bytes.push(0);
            }
            cluster.send_bytes(client, &bytes);
            if version == Version::V5 {
                cluster.expect_disconnect(client, ReasonCode::TOPIC_NAME_INVALID);
            }
            assert!(cluster.is_closed(client));
            cluster.expect_nothing(subscriber);
        }
    }
}

/// The code of SUBACK for `filter`.
#[track_caller]
fn code_for(version: Version, filter: &str) -> ReasonCode {
    let (mut cluster, client, _) = pair(version);
    cluster.subscribe_with(client, filter, SubscriptionOptions::default(), Properties::EMPTY)
}

fn invalid(version: Version) -> ReasonCode {
    ReasonCode(if version == Version::V5 { 0x8F } else { 0x80 })
}

/// [MQTT-4.7.1-1] [MQTT-4.7.1-2 v3.1.1]
#[test]
fn a_multi_level_wildcard_in_the_wrong_place_is_refused() {
    for version in VERSIONS {
        for filter in ["a#", "a/#/b", "#/a", "$share/g/a#"] {
            assert_eq!(code_for(version, filter), invalid(version), "{filter}");
        }
        assert_eq!(code_for(version, "a/#"), ReasonCode::SUCCESS);
    }
}

/// [MQTT-4.7.1-2] [MQTT-4.7.1-3 v3.1.1]
#[test]
fn a_single_level_wildcard_that_shares_its_level_is_refused() {
    for version in VERSIONS {
        for filter in ["a+", "+a/b", "a/b+/c", "$share/g/a+"] {
            assert_eq!(code_for(version, filter), invalid(version), "{filter}");
        }
        assert_eq!(code_for(version, "+/a/+"), ReasonCode::SUCCESS);
    }
}

/// [MQTT-4.7.2-1]
#[test]
fn a_leading_wildcard_leaves_dollar_topics_out() {
    for filter in ["#", "+/x", "+/#"] {
        filter_gets(filter, &["a/x"], &["$a/x"]);
    }
    filter_gets("$a/#", &["$a/x", "$a"], &["a/x", "b"]);
    filter_gets("$a/+", &["$a/x"], &["a/x"]);
    filter_gets("b/#", &["b/$a"], &[]);
}

/// [MQTT-4.7.3-1]
#[test]
fn an_empty_name_or_filter_is_refused() {
    for version in VERSIONS {
        assert_eq!(code_for(version, ""), invalid(version));
        assert_eq!(code_for(version, "/"), ReasonCode::SUCCESS);
        let (mut cluster, client, _) = pair(version);
        let bytes: &[u8] = if version == Version::V5 { &[0x30, 3, 0, 0, 0] } else { &[0x30, 2, 0, 0] };
        cluster.send_bytes(client, bytes);
        assert!(cluster.is_closed(client));
    }
}

/// [MQTT-4.7.3-2]
#[test]
fn a_null_character_in_a_filter_ends_the_connection() {
    for version in VERSIONS {
        let (mut cluster, client, _) = pair(version);
        let bytes: &[u8] = match version {
            Version::V5 => &[0x82, 8, 0, 1, 0, 0, 2, b'a', 0, 0],
            _ => &[0x82, 7, 0, 1, 0, 2, b'a', 0, 0],
        };
        cluster.send_bytes(client, bytes);
        assert!(cluster.is_closed(client));
    }
}

/// [MQTT-4.7.3-4]
#[test]
fn names_are_taken_as_they_are_written() {
    filter_gets("Acc/ä", &["Acc/ä"], &["acc/ä", "Acc/Ä", "Acc/a\u{308}", "Acc//ä", "Acc/ä/", " Acc/ä"]);
    filter_gets("\u{FEFF}a", &["\u{FEFF}a"], &["a"]);
}

/// Section 4.7.1.2.
#[test]
fn the_multi_level_wildcard_covers_its_parent_and_all_below() {
    filter_gets(
        "sport/tennis/#",
        &["sport/tennis", "sport/tennis/", "sport/tennis/player1", "sport/tennis/player1/ranking"],
        &["sport", "sport/tenni", "sport/tennis1", "a/sport/tennis"],
    );
}

/// Section 4.7.1.3.
#[test]
fn the_single_level_wildcard_covers_one_level() {
    filter_gets("sport/+/x", &["sport/a/x", "sport//x"], &["sport/x", "sport/a/b/x", "sport/a"]);
    filter_gets("+", &["finance"], &["/finance", "finance/"]);
    filter_gets("sport/+", &["sport/", "sport/a"], &["sport", "sport/a/"]);
}

/// Section 4.7.3.
#[test]
fn a_separator_makes_a_level_of_nothing() {
    filter_gets("/finance", &["/finance"], &["finance", "//finance", "/finance/"]);
    filter_gets("+/+", &["/finance", "/", "a/b"], &["finance", "//"]);
}

/// Section 4.10: the answer goes to the Response Topic, with the Correlation Data of the request.
#[test]
fn a_request_brings_its_response_topic_and_correlation_data() {
    for cores in [1, 2] {
        let mut cluster = Cluster::new(cores);
        let requester = cluster.connect(0, Version::V5, "requester");
        let responder = cluster.connect(0, Version::V5, "responder");
        cluster.subscribe(requester, "answers/1", Qos::AtMostOnce);
        cluster.subscribe(responder, "question", Qos::AtMostOnce);
        let list = [Property::ResponseTopic("answers/1"), Property::CorrelationData(b"\0\xFF7")];
        let properties = Properties::new(&list);
        let question = Publish { properties, ..publish("question", b"?", Qos::AtMostOnce, 0) };
        cluster.send(requester, &Packet::Publish(question));
        let (topic, data) = cluster.expect(responder, |packet| match packet {
            Packet::Publish(publish) => {
                let properties = publish.properties;
                let topic = properties.response_topic().expect("forwarded").to_owned();
                (topic, properties.correlation_data().expect("forwarded").to_vec())
            }
            other => panic!("{other:?}"),
        });
        let list = [Property::CorrelationData(&data)];
        let properties = Properties::new(&list);
        let answer = Publish { properties, ..publish(&topic, b"!", Qos::AtMostOnce, 0) };
        cluster.send(responder, &Packet::Publish(answer));
        cluster.expect(requester, |packet| match packet {
            Packet::Publish(publish) => {
                assert_eq!(publish.properties.correlation_data(), Some(&b"\0\xFF7"[..]));
            }
            other => panic!("{other:?}"),
        });
    }
}

/// Section 4.10.1: the broker has no Response Information to give, whether it is asked for or not.
#[test]
fn response_information_is_not_sent() {
    for asked in [0, 1] {
        let mut cluster = Cluster::new(1);
        let client = cluster.open(0, Version::V5);
        let list = [Property::RequestResponseInformation(asked)];
        let properties = Properties::new(&list);
        cluster.send(client, &Packet::Connect(Connect { properties, ..connect(Version::V5, "c") }));
        cluster.expect(client, |packet| match packet {
            Packet::ConnAck(connack) => assert_eq!(connack.properties.response_information(), None),
            other => panic!("{other:?}"),
        });
    }
}
