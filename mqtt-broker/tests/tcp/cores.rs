//! One, two and eight cores: connections meet wherever they were accepted.

use mqtt_broker::Limits;

use crate::client::{
    CONNACK, Client, PUBACK, PUBLISH, Packet, SUBACK, connect, publish, publish_qos1, subscribe,
    subscribe_qos1,
};
use crate::{broker, limits};

#[test]
fn a_message_reaches_every_subscriber_on_every_core() {
    for cores in [1, 2, 8] {
        let broker = broker(cores, Limits::default());
        let address = broker.addresses()[0];
        let mut subscribers: Vec<Client> = (0..24)
            .map(|i| {
                let mut client = Client::connect(address, &format!("subscriber {i}"));
                client.subscribe("a/+");
                client
            })
            .collect();
        let mut publisher = Client::connect(address, "publisher");
        for round in 0..20u8 {
            publisher.send(&publish("a/b", &[round; 40]));
        }
        for subscriber in &mut subscribers {
            for round in 0..20u8 {
                assert_eq!(subscriber.message(), ("a/b".to_owned(), vec![round; 40]));
            }
        }
        let stats = broker.stats();
        assert_eq!(stats.cores.len(), cores);
        assert_eq!(stats.total.clients_connected, 25);
        assert_eq!(stats.total.messages_received, 20);
    }
}

/// Everything in one write: the hand-off to the home core takes the packets behind CONNECT along, in order.
#[test]
fn packets_behind_connect_survive_the_hand_off() {
    for cores in [2, 8] {
        let broker = broker(cores, Limits::default());
        for i in 0..64 {
            let mut client = Client::open(broker.addresses()[i % 2]);
            let mut all = connect(&format!("pipelining {i}"));
            all.extend(subscribe(&format!("own/{i}")));
            for id in 1..=50 {
                all.extend(publish_qos1(&format!("own/{i}"), id, &id.to_be_bytes()));
            }
            client.send(&all);
            assert_eq!(client.expect(CONNACK).body[1], 0);
            let (mut acknowledged, mut delivered) = (Vec::new(), Vec::new());
            let mut subscribed = 0;
            while acknowledged.len() + delivered.len() + subscribed < 101 {
                let Packet { first, body } = client.packet().expect("the connection stays");
                match first & 0xf0 {
                    // A message may come before SUBACK does.
                    SUBACK => subscribed += 1,
                    PUBACK => acknowledged.push(u16::from_be_bytes([body[0], body[1]])),
                    _ => delivered.push(u16::from_be_bytes([body[body.len() - 2], body[body.len() - 1]])),
                }
            }
            let expected: Vec<u16> = (1..=50).collect();
            assert_eq!((acknowledged, delivered), (expected.clone(), expected));
        }
    }
}

/// Bytes that arrive at any moment of the hand-off: split at every place.
#[test]
fn a_connect_split_anywhere_is_one_connect() {
    let broker = broker(2, Limits::default());
    let mut all = connect("split");
    all.extend(subscribe("s"));
    all.extend(publish("s", b"hello"));
    for at in 1..all.len() {
        let mut client = Client::open(broker.addresses()[0]);
        client.send(&all[..at]);
        client.send(&all[at..]);
        assert_eq!(client.expect(CONNACK).body[1], 0, "split at {at}");
        // The message may come before SUBACK does.
        let mut kinds = [client.packet(), client.packet()].map(|packet| packet.expect("two packets").kind());
        kinds.sort_unstable();
        assert_eq!(kinds, [PUBLISH, SUBACK]);
    }
}

/// The lane between the cores holds far less than is under way: reading pauses and resumes, and nothing is lost.
#[test]
fn back_pressure_between_cores_keeps_every_message_and_their_order() {
    let limits = limits(|limits| limits.lane_bytes_max = 65_536);
    let broker = broker(2, limits);
    let address = broker.addresses()[0];
    // Of several subscribers and publishers some are at home on different cores.
    let mut subscribers: Vec<Client> = (0..4)
        .map(|i| {
            let mut client = Client::connect(address, &format!("subscriber {i}"));
            client.send(&subscribe_qos1("flood/+"));
            assert_eq!(client.expect(SUBACK).body.last(), Some(&1));
            client
        })
        .collect();
    const MESSAGES: u16 = 500;
    let publishers: Vec<_> = (0..4u8)
        .map(|i| {
            std::thread::spawn(move || {
                let mut client = Client::connect(address, &format!("publisher {i}"));
                for id in 1..=MESSAGES {
                    let payload = [&[i][..], &id.to_be_bytes(), &[0; 8000]].concat();
                    client.send(&publish_qos1(&format!("flood/{i}"), id, &payload));
                }
                for id in 1..=MESSAGES {
                    assert_eq!(client.expect(PUBACK).body[..2], id.to_be_bytes());
                }
            })
        })
        .collect();
    for subscriber in &mut subscribers {
        let mut next = [1u16; 4];
        for _ in 0..4 * MESSAGES {
            let body = subscriber.expect(PUBLISH).body;
            // Topic, Packet Identifier, no properties.
            let topic = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
            let (id, payload) = (&body[topic..topic + 2], &body[topic + 3..]);
            let from = usize::from(payload[0]);
            assert_eq!(u16::from_be_bytes([payload[1], payload[2]]), next[from], "from publisher {from}");
            next[from] += 1;
            subscriber.send(&[PUBACK, 2, id[0], id[1]]);
        }
    }
    for publisher in publishers {
        publisher.join().expect("every message acknowledged");
    }
}
