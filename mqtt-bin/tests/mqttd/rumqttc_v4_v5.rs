//! rumqttc against mqttd: MQTT 3.1.1 and 5.0, the same behaviours in both dialects.
//!
//! A client is driven in the test's own thread: a wait polls it until the condition holds or the deadline passed.

use std::time::Duration;

use crate::process::{DEADLINE, Mqttd};

/// More than the largest message of the tests.
const PACKET_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The size that the issue of large messages is about.
const LARGE: usize = 4 * 1024 * 1024;

/// What differs between rumqttc's two clients is in the few lines that each `mod` gives this.
macro_rules! behaviours {
    () => {
        /// A client and what it has received.
        struct Peer {
            client: Client,
            connection: Connection,
            messages: Vec<Publish>,
            acknowledged: usize,
            subscribed: usize,
        }

        impl Peer {
            /// Polls until `condition` holds.
            fn wait(&mut self, what: &str, condition: impl Fn(&Peer) -> bool) {
                while !condition(self) {
                    match self.connection.recv_timeout(DEADLINE) {
                        Ok(Ok(Event::Incoming(packet))) => self.note(packet),
                        Ok(Ok(Event::Outgoing(_))) => {}
                        Ok(Err(error)) => panic!("{what}: {error}"),
                        Err(_) => panic!("{what}: nothing happened"),
                    }
                }
            }

            fn note(&mut self, packet: Packet) {
                match packet {
                    Packet::Publish(publish) => self.messages.push(publish),
                    Packet::PubAck(_) | Packet::PubComp(_) => self.acknowledged += 1,
                    Packet::SubAck(_) => self.subscribed += 1,
                    _ => {}
                }
            }

            fn subscribe(&mut self, filter: &str, qos: QoS) {
                let before = self.subscribed;
                self.client.subscribe(filter, qos).expect("its queue has room");
                self.wait("SUBACK", |peer| peer.subscribed > before);
            }

            fn publish(&mut self, topic: &str, qos: QoS, retain: bool, payload: Vec<u8>) {
                let before = self.acknowledged;
                self.client.publish(topic, qos, retain, payload).expect("its queue has room");
                if qos == QoS::AtMostOnce {
                    // Sent by the time that something behind it is answered.
                    self.subscribe("flush", QoS::AtMostOnce);
                } else {
                    self.wait("PUBACK or PUBCOMP", |peer| peer.acknowledged > before);
                }
            }

            fn received(&mut self, count: usize) -> Vec<Vec<u8>> {
                self.wait("messages", |peer| peer.messages.len() >= count);
                self.messages.iter().map(|message| message.payload.to_vec()).collect()
            }

            /// Passes a marker through the broker behind whatever it may have sent: exactly `count` came before.
            fn nothing_else(&mut self, count: usize) {
                self.subscribe("marker", QoS::AtLeastOnce);
                self.publish("marker", QoS::AtLeastOnce, false, Vec::new());
                self.wait("the marker", |peer| {
                    peer.messages.iter().any(|message| message.topic == *"marker")
                });
                assert_eq!(self.messages.len(), count + 1);
            }

            fn disconnect(mut self) {
                self.client.disconnect().expect("its queue has room");
                while let Ok(Ok(_)) = self.connection.recv_timeout(DEADLINE) {}
            }
        }

        #[test]
        fn delivers_at_the_lower_qos_of_publisher_and_subscriber() {
            let mqttd = Mqttd::start(&[]);
            let (mut publisher, mut subscriber) = (connect(&mqttd, "p"), connect(&mqttd, "s"));
            let all = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
            for (number, (published, granted)) in
                all.iter().flat_map(|p| all.iter().map(move |g| (*p, *g))).enumerate()
            {
                let topic = format!("qos/{number}");
                subscriber.subscribe(&topic, granted);
                publisher.publish(&topic, published, false, vec![number as u8]);
                subscriber.received(number + 1);
                let message = &subscriber.messages[number];
                assert_eq!(message.payload, vec![number as u8]);
                assert_eq!(message.qos as u8, (published as u8).min(granted as u8));
            }
        }

        #[test]
        fn retains_replaces_and_clears() {
            let mqttd = Mqttd::start(&[]);
            let mut publisher = connect(&mqttd, "p");
            publisher.publish("state", QoS::AtLeastOnce, true, b"first".to_vec());
            publisher.publish("state", QoS::ExactlyOnce, true, b"second".to_vec());
            let mut late = connect(&mqttd, "late");
            late.subscribe("state", QoS::AtLeastOnce);
            assert_eq!(late.received(1), [b"second"]);
            assert!(late.messages[0].retain);
            publisher.publish("state", QoS::AtLeastOnce, true, Vec::new());
            let mut later = connect(&mqttd, "later");
            later.subscribe("state", QoS::AtLeastOnce);
            later.nothing_else(0);
        }

        #[test]
        fn sends_the_will_after_an_abnormal_close_only() {
            let mqttd = Mqttd::start(&[]);
            let mut witness = connect(&mqttd, "witness");
            witness.subscribe("will", QoS::AtLeastOnce);
            connect_with(&mqttd, "polite", leave_will).disconnect();
            witness.nothing_else(0);
            // Its connection closes without a DISCONNECT.
            drop(connect_with(&mqttd, "mortal", leave_will));
            assert_eq!(witness.received(2)[1], b"gone");
        }

        #[test]
        fn queues_for_a_persistent_session() {
            let mqttd = Mqttd::start(&[]);
            let mut first = connect_with(&mqttd, "sleeper", keep_session);
            first.subscribe("offline", QoS::ExactlyOnce);
            first.disconnect();
            let mut publisher = connect(&mqttd, "p");
            for number in 0..20_u8 {
                publisher.publish("offline", QoS::AtLeastOnce, false, vec![number]);
            }
            let mut second = connect_with(&mqttd, "sleeper", keep_session);
            let expected: Vec<Vec<u8>> = (0..20).map(|number| vec![number]).collect();
            assert_eq!(second.received(20), expected);
        }

        #[test]
        fn a_taken_over_client_is_closed() {
            let mqttd = Mqttd::start(&[]);
            let mut old = connect(&mqttd, "twin");
            let mut new = connect(&mqttd, "twin");
            while let Ok(Ok(_)) = old.connection.recv_timeout(DEADLINE) {}
            new.nothing_else(0);
        }

        #[test]
        fn shares_a_subscription() {
            let mqttd = Mqttd::start(&[]);
            let (mut left, mut right) = (connect(&mqttd, "left"), connect(&mqttd, "right"));
            left.subscribe("$share/group/work", QoS::AtLeastOnce);
            right.subscribe("$share/group/work", QoS::AtLeastOnce);
            let mut publisher = connect(&mqttd, "p");
            for number in 0..20_u8 {
                publisher.publish("work", QoS::AtLeastOnce, false, vec![number]);
            }
            // In turns: half each.
            let mut got = left.received(10);
            got.extend(right.received(10));
            got.sort();
            assert_eq!(got, (0..20).map(|number| vec![number]).collect::<Vec<Vec<u8>>>());
        }

        #[test]
        fn carries_four_mebibytes() {
            let mqttd = Mqttd::start(&[]);
            let (mut publisher, mut subscriber) = (connect(&mqttd, "p"), connect(&mqttd, "s"));
            let payload: Vec<u8> = (0..LARGE).map(|index| (index % 251) as u8).collect();
            subscriber.subscribe("large", QoS::ExactlyOnce);
            publisher.publish("large", QoS::ExactlyOnce, false, payload.clone());
            assert!(subscriber.received(1)[0] == payload, "the payload arrives unaltered");
        }

        #[test]
        fn keeps_the_order_of_a_publisher() {
            let mqttd = Mqttd::start(&[]);
            let (mut publisher, mut subscriber) = (connect(&mqttd, "p"), connect(&mqttd, "s"));
            subscriber.subscribe("order", QoS::ExactlyOnce);
            let expected: Vec<Vec<u8>> = (0..200_u8).map(|number| vec![number]).collect();
            for payload in &expected {
                publisher.publish("order", QoS::ExactlyOnce, false, payload.clone());
            }
            assert_eq!(subscriber.received(expected.len()), expected);
        }

        fn leave_will(options: &mut MqttOptions) {
            options.set_last_will(last_will());
        }

        /// A connected client with a clean session.
        fn connect(mqttd: &Mqttd, client_id: &str) -> Peer {
            connect_with(mqttd, client_id, |_| {})
        }

        /// A connected client.
        fn connect_with(mqttd: &Mqttd, client_id: &str, set: impl FnOnce(&mut MqttOptions)) -> Peer {
            let mut options =
                MqttOptions::new(client_id, mqttd.address.ip().to_string(), mqttd.address.port());
            options.set_keep_alive(Duration::from_secs(60));
            limit_packets(&mut options);
            set(&mut options);
            let (client, connection) = Client::new(options, 100);
            let mut peer = Peer { client, connection, messages: Vec::new(), acknowledged: 0, subscribed: 0 };
            let first = peer.connection.recv_timeout(DEADLINE).expect("CONNACK").expect("CONNACK");
            assert!(matches!(first, Event::Incoming(Packet::ConnAck(_))), "{first:?}");
            peer
        }
    };
}

/// MQTT 3.1.1.
mod v4 {
    use rumqttc::{Client, Connection, Event, LastWill, MqttOptions, Packet, Publish, QoS};

    use super::*;

    behaviours!();

    fn limit_packets(options: &mut MqttOptions) {
        options.set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
    }

    fn keep_session(options: &mut MqttOptions) {
        options.set_clean_session(false);
    }

    fn last_will() -> LastWill {
        LastWill::new("will", "gone", QoS::AtLeastOnce, false)
    }
}

/// MQTT 5.0.
mod v5 {
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::{LastWill, Packet, Publish, PublishProperties};
    use rumqttc::v5::{Client, Connection, Event, MqttOptions};

    use super::*;

    behaviours!();

    fn limit_packets(options: &mut MqttOptions) {
        options.set_max_packet_size(Some(PACKET_BYTES_MAX as u32));
    }

    fn keep_session(options: &mut MqttOptions) {
        options.set_clean_start(false);
        options.set_session_expiry_interval(Some(300));
    }

    fn last_will() -> LastWill {
        LastWill::new("will", "gone", QoS::AtLeastOnce, false, None)
    }

    #[test]
    fn forwards_the_properties_of_a_message_unaltered() {
        let mqttd = Mqttd::start(&[]);
        let (publisher, mut subscriber) = (connect(&mqttd, "p"), connect(&mqttd, "s"));
        subscriber.subscribe("service", QoS::AtLeastOnce);
        let pairs = vec![("b".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())];
        let properties = PublishProperties {
            user_properties: pairs.clone(),
            content_type: Some("text/plain".to_owned()),
            response_topic: Some("replies".to_owned()),
            correlation_data: Some(vec![0, 255].into()),
            payload_format_indicator: Some(1),
            ..PublishProperties::default()
        };
        let sent =
            publisher.client.publish_with_properties("service", QoS::AtLeastOnce, false, "x", properties);
        sent.expect("its queue has room");
        let mut publisher = publisher;
        publisher.wait("PUBACK", |peer| peer.acknowledged > 0);
        subscriber.received(1);
        let got = subscriber.messages[0].properties.clone().expect("it has properties");
        assert_eq!(got.user_properties, pairs);
        assert_eq!(got.content_type.as_deref(), Some("text/plain"));
        assert_eq!(got.response_topic.as_deref(), Some("replies"));
        assert_eq!(got.correlation_data.as_deref(), Some(&[0, 255][..]));
        assert_eq!(got.payload_format_indicator, Some(1));
    }
}
