//! The broker as a library: Clients inside the process, several brokers, the handle.
#![cfg(feature = "runtime")]

use std::time::Duration;

use mqtt_broker::runtime::{ClientError, LocalClient, StoreConfig};
use mqtt_broker::{Broker, Handle, Limits};
use mqtt_proto::connection::Message;
use mqtt_proto::packet::{Connect, Properties, Property, SubscriptionOptions, Will};
use mqtt_proto::types::{Qos, ReasonCode, TopicName, Version};

const PATIENCE: Duration = Duration::from_secs(20);

fn broker(cores: usize) -> Handle {
    Broker::builder().cores(cores).start().expect("the broker starts")
}

fn message(topic: &str, qos: Qos, payload: &[u8]) -> Message {
    Message::new(TopicName::new(topic).expect("a Topic Name"), qos, payload)
}

fn subscribe(client: &mut LocalClient, filter: &str) {
    client.subscribe(filter, SubscriptionOptions::new(Qos::ExactlyOnce)).expect("subscribed");
}

#[test]
fn clients_inside_the_process_talk_at_every_qos_on_any_core() {
    for cores in [1, 2, 8] {
        let broker = broker(cores);
        assert!(broker.addresses().is_empty());
        let mut publisher = broker.client("publisher").expect("connected");
        let mut subscribers: Vec<LocalClient> =
            (0..9).map(|i| broker.client(&format!("subscriber {i}")).expect("connected")).collect();
        for subscriber in &mut subscribers {
            subscribe(subscriber, "t/#");
        }
        for i in 0..300u32 {
            let qos = Qos::from_bits((i % 3) as u8).expect("a QoS");
            publisher.publish(message("t/x", qos, &i.to_be_bytes())).expect("published");
        }
        for subscriber in &mut subscribers {
            for i in 0..300u32 {
                let received = subscriber.recv(PATIENCE).expect("connected").expect("a message");
                assert_eq!((received.topic.as_str(), &received.payload[..]), ("t/x", &i.to_be_bytes()[..]));
                assert_eq!(received.qos.bits(), (i % 3) as u8);
            }
            assert_eq!(subscriber.dropped(), 0);
        }
        let stats = broker.stats();
        assert_eq!((stats.cores.len(), stats.total.clients_connected), (cores, 10));
    }
}

#[test]
fn a_client_that_is_slow_to_receive_holds_up_nobody_and_loses_no_acknowledged_message() {
    let broker = broker(2);
    let mut slow = broker.client("slow").expect("connected");
    subscribe(&mut slow, "#");
    let mut publisher = broker.client("publisher").expect("connected");
    for i in 0..5000u32 {
        publisher.publish(message("a", Qos::AtLeastOnce, &i.to_be_bytes())).expect("published");
    }
    for i in 0..5000u32 {
        let received = slow.recv(PATIENCE).expect("connected").expect("a message");
        assert_eq!(received.payload, i.to_be_bytes());
    }
    assert_eq!(slow.recv(Duration::ZERO), Ok(None));
}

/// The client runs ahead of the broker until its queue is full, over and over: a lost wake-up would hang this test.
#[test]
fn a_client_that_is_ahead_of_the_broker_waits_and_goes_on() {
    let broker = broker(2);
    let mut publisher = broker.client("publisher").expect("connected");
    for _ in 0..100_000 {
        publisher.publish(message("nobody", Qos::AtMostOnce, b"listens")).expect("published");
    }
    publisher.publish(message("nobody", Qos::AtLeastOnce, b"listens")).expect("published");
    assert_eq!(broker.stats().total.messages_received, 100_001);
}

#[test]
fn a_large_message_passes_through_a_client_inside_the_process() {
    let broker = broker(2);
    let mut one = broker.client("one").expect("connected");
    subscribe(&mut one, "big");
    let payload: Vec<u8> = (0..6_000_000u32).map(|i| (i / 5) as u8).collect();
    one.publish(message("big", Qos::ExactlyOnce, &payload)).expect("published");
    let received = one.recv(PATIENCE).expect("connected").expect("the message");
    assert!(received.payload == payload);
}

#[test]
fn a_dropped_client_leaves_its_will_and_a_disconnected_one_does_not() {
    let broker = broker(2);
    let mut watcher = broker.client("watcher").expect("connected");
    subscribe(&mut watcher, "gone/+");
    let with_will = |client_id, topic| {
        let will = Will {
            topic: TopicName::new(topic).expect("a Topic Name"),
            payload: b"bye",
            qos: Qos::AtMostOnce,
            retain: false,
            properties: Properties::EMPTY,
        };
        let connect = Connect { will: Some(will), ..Connect::new(Version::V5, client_id) };
        broker.connect(&connect).expect("connected")
    };
    with_will("polite", "gone/polite").disconnect().expect("disconnected");
    drop(with_will("rude", "gone/rude"));
    let received = watcher.recv(PATIENCE).expect("connected").expect("a Will");
    assert_eq!(received.topic, "gone/rude");
}

#[test]
fn a_takeover_ends_the_first_client_with_its_reason() {
    let broker = broker(2);
    let mut first = broker.client("same").expect("connected");
    let mut second = broker.client("same").expect("connected");
    assert_eq!(first.recv(PATIENCE), Err(ClientError::Disconnected(ReasonCode::SESSION_TAKEN_OVER)));
    subscribe(&mut second, "x");
}

#[test]
fn a_persistent_session_keeps_messages_for_a_client_inside_the_process() {
    let broker = broker(2);
    let list = [Property::SessionExpiryInterval(600)];
    let connect = Connect {
        clean_start: false,
        properties: Properties::new(&list),
        ..Connect::new(Version::V5, "keeper")
    };
    let mut keeper = broker.connect(&connect).expect("connected");
    subscribe(&mut keeper, "kept");
    keeper.disconnect().expect("disconnected");
    let mut publisher = broker.client("publisher").expect("connected");
    publisher.publish(message("kept", Qos::AtLeastOnce, b"for later")).expect("published");
    let mut keeper = broker.connect(&connect).expect("connected again");
    assert_eq!(keeper.recv(PATIENCE).expect("connected").expect("a message").payload, b"for later");
}

#[test]
fn two_brokers_in_one_process_know_nothing_of_each_other() {
    let (one, two) = (broker(2), broker(1));
    let mut here = one.client("same id").expect("connected");
    let mut there = two.client("same id").expect("connected");
    subscribe(&mut here, "#");
    subscribe(&mut there, "#");
    here.publish(message("a", Qos::AtLeastOnce, b"here")).expect("published");
    there.publish(message("a", Qos::AtLeastOnce, b"there")).expect("published");
    assert_eq!(here.recv(PATIENCE).expect("connected").expect("a message").payload, b"here");
    assert_eq!(there.recv(PATIENCE).expect("connected").expect("a message").payload, b"there");
    one.shutdown();
    assert_eq!(one.wait(), Ok(()));
    there.publish(message("a", Qos::AtLeastOnce, b"still there")).expect("published");
    assert!(one.stats().cores.is_empty());
}

#[test]
fn a_broker_that_ends_ends_its_clients() {
    let broker = broker(2);
    let mut clients: Vec<LocalClient> =
        (0..8).map(|i| broker.client(&format!("client {i}")).expect("connected")).collect();
    broker.shutdown();
    broker.shutdown();
    assert_eq!(broker.wait(), Ok(()));
    assert_eq!(broker.wait(), Ok(()));
    for client in &mut clients {
        assert_eq!(client.recv(PATIENCE), Err(ClientError::Disconnected(ReasonCode::SERVER_SHUTTING_DOWN)));
        assert_eq!(client.recv(PATIENCE), Err(ClientError::Closed));
    }
    assert_eq!(broker.client("late").map(drop), Err(ClientError::Closed));
}

#[test]
fn dropping_the_last_handle_ends_the_broker() {
    let broker = broker(2);
    let clone = broker.clone();
    let mut client = broker.client("client").expect("connected");
    drop(broker);
    subscribe(&mut client, "x");
    drop(clone);
    assert_eq!(client.recv(PATIENCE), Err(ClientError::Disconnected(ReasonCode::SERVER_SHUTTING_DOWN)));
}

#[test]
fn limits_that_cannot_work_are_refused_before_anything_starts() {
    let mut limits = Limits::default();
    limits.receive_maximum = 0;
    let error = Broker::builder().limits(limits).start().expect_err("0 is out of range");
    assert!(error.to_string().contains("receive_maximum"), "{error}");

    let mut limits = Limits::default();
    limits.connections_max = u32::MAX;
    let error =
        Broker::builder().limits(limits).start().expect_err("no process has so many files").to_string();
    assert!(error.contains("4294967295 connections") && error.contains("LimitNOFILE="), "{error}");

    let broker = Broker::builder().cores(1).start().expect("the broker starts");
    assert!(broker.limits().connections_max > 100, "derived from the limit of open files");
    assert_eq!(broker.connections_before_tables(), None, "each of them can be one");
}

/// A directory of a test's own, removed when dropped.
struct Directory(std::path::PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_broker_with_a_store_goes_on_where_the_last_one_ended_in_the_same_process() {
    let path = std::env::temp_dir().join(format!("mqtt-embed-{}", std::process::id()));
    let directory = Directory(path);
    let start = |cores| {
        let mut store = StoreConfig::new(&directory.0);
        (store.segment_bytes, store.log_bytes_max) = (64 << 10, 1 << 20);
        Broker::builder().cores(cores).store(store).start()
    };
    for round in 0..4u32 {
        let broker = start(1 + round as usize % 3).expect("the broker starts");
        let used = start(1).expect_err("one at a time").to_string();
        assert!(used.contains("in use by another broker"), "{used}");
        let mut client = broker.client("client").expect("connected");
        subscribe(&mut client, "t/+");
        for topic in 0..round {
            let received = client.recv(PATIENCE).expect("connected").expect("a message");
            assert!(received.retain, "{topic}");
        }
        let mut publisher = broker.client("publisher").expect("connected");
        let retained = message(&format!("t/{round}"), Qos::ExactlyOnce, b"kept");
        publisher.publish(retained.retained()).expect("published");
        assert!(!client.recv(PATIENCE).expect("connected").expect("a message").retain);
        broker.shutdown();
        broker.wait().expect("a clean end");
    }
}
