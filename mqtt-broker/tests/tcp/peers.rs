//! Peers of every kind: slow, silent, rude, faulty.

use std::io::Write;
use std::net::Shutdown;
use std::time::Duration;

use mqtt_broker::Limits;
use socket2::SockRef;

use crate::client::{CONNACK, Client, DISCONNECT, PUBLISH, SUBACK, connect, publish, subscribe};
use crate::{broker, limits};

#[test]
fn a_client_may_send_one_byte_at_a_time() {
    let broker = broker(2, Limits::default());
    let mut client = Client::open(broker.addresses()[0]);
    for byte in connect("slow") {
        client.send(&[byte]);
    }
    assert_eq!(client.expect(CONNACK).body[1], 0);
    for byte in [subscribe("a"), publish("a", b"x")].concat() {
        client.send(&[byte]);
    }
    let mut kinds = [client.packet(), client.packet()].map(|packet| packet.expect("two packets").kind());
    kinds.sort_unstable();
    assert_eq!(kinds, [PUBLISH, SUBACK]);
}

#[test]
fn a_client_that_never_reads_disturbs_nobody() {
    let broker = broker(2, Limits::default());
    let address = broker.addresses()[0];
    let mut deaf = Client::connect(address, "deaf");
    deaf.send(&subscribe("a"));
    let mut reader = Client::connect(address, "reader");
    reader.subscribe("a");
    let mut publisher = Client::connect(address, "publisher");
    // 64 MiB: more than socket buffers and output_bytes_max together.
    let payload = vec![7; 256 * 1024];
    for i in 0..256u32 {
        publisher.send(&publish("a", &[&i.to_be_bytes()[..], &payload].concat()));
        assert_eq!(reader.message().1[..4], i.to_be_bytes());
    }
    let stats = broker.stats().total;
    assert!(stats.dropped_slow_consumer > 0, "QoS 0 for a Client that does not read is dropped and counted");
    assert_eq!(stats.clients_connected, 3);
}

#[test]
fn a_client_that_resets_is_forgotten_and_what_it_sent_before_counts() {
    let broker = broker(2, Limits::default());
    let address = broker.addresses()[0];
    let mut watcher = Client::connect(address, "watcher");
    watcher.subscribe("last/#");
    for i in 0..50 {
        let mut rude = Client::connect(address, &format!("rude {i}"));
        rude.send(&publish(&format!("last/{i}"), b"words"));
        rude.send(&publish("unfinished", &[0; 100])[..20]);
        assert_eq!(watcher.message().0, format!("last/{i}"));
        SockRef::from(&rude.stream).set_linger(Some(Duration::ZERO)).expect("linger");
    }
    while broker.stats().total.connections > 1 {
        std::thread::yield_now();
    }
}

/// The reason reaches a peer that keeps sending: closing with unread input would reset the connection and destroy it.
fn told_while_sending(first: Vec<u8>, reason: u8) {
    let limits = limits(|limits| limits.packet_bytes_max = 1024);
    let broker = broker(2, limits);
    for i in 0..8 {
        let mut client = Client::connect(broker.addresses()[0], &format!("faulty {i}"));
        let mut stream = client.stream.try_clone().expect("clone");
        let first = first.clone();
        let sender = std::thread::spawn(move || {
            stream.write_all(&first).expect("sent");
            for _ in 0..64 {
                stream.write_all(&[0; 65536]).expect("not reset while sending");
            }
            stream.shutdown(Shutdown::Write).expect("our end");
        });
        assert_eq!(client.expect(DISCONNECT).body[0], reason);
        assert_eq!(client.packet(), None);
        sender.join().expect("everything was taken");
    }
}

#[test]
fn a_peer_still_sending_is_told_that_its_packet_is_too_large() {
    told_while_sending(vec![0x30, 0xff, 0xff, 0xff, 0x01], 0x95);
}

#[test]
fn a_peer_still_sending_is_told_of_its_protocol_error() {
    told_while_sending(connect("faulty"), 0x82);
}

#[test]
fn a_silent_connection_is_closed_after_the_connect_timeout() {
    let broker = broker(2, limits(|limits| limits.connect_timeout_seconds = 1));
    let mut silent = Client::open(broker.addresses()[0]);
    let mut slow = Client::open(broker.addresses()[0]);
    slow.send(&connect("slow")[..5]);
    let mut quick = Client::connect(broker.addresses()[0], "quick");
    assert_eq!(silent.packet(), None);
    assert_eq!(slow.packet(), None);
    quick.subscribe("still here");
}

#[test]
fn one_connection_too_many_is_closed_and_room_is_used_again() {
    let broker = broker(1, limits(|limits| limits.connections_max = 3));
    let address = broker.addresses()[0];
    let mut clients: Vec<Client> = (0..3).map(|i| Client::connect(address, &format!("client {i}"))).collect();
    assert_eq!(Client::open(address).packet(), None);
    clients.pop();
    while broker.stats().total.connections > 2 {
        std::thread::yield_now();
    }
    Client::connect(address, "next");
}

#[test]
fn ipv6_is_served_too() {
    let broker = broker(2, Limits::default());
    for address in broker.addresses() {
        Client::connect(*address, "either").subscribe("x");
    }
    assert_eq!(broker.addresses().len(), 2, "both loopback addresses of this machine");
}
