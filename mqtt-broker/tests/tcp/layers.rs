//! A byte layer between TCP and MQTT, over real sockets: the seam that TLS and WebSocket use.

use std::io::{Read, Write};
use std::sync::Arc;

use mqtt_broker::Broker;
use mqtt_broker::transport::{Layer, LayerError, LayerFactory, Progress};

use crate::client::{CONNACK, Client, DISCONNECT, connect, publish, publish_qos1, subscribe, subscribe_qos1};

const KEY: u8 = 0x5a;

/// Everything XOR [`KEY`], after the peer has said `HI` and was answered `YO`. `!` instead of `HI` ends the layer,
/// anything else breaks it. Its own end is a byte 0.
#[derive(Default)]
struct Toy {
    greeting: Vec<u8>,
}

impl Layer for Toy {
    fn handle_input(
        &mut self,
        wire: &[u8],
        plain: &mut Vec<u8>,
        reply: &mut Vec<u8>,
    ) -> Result<Progress, LayerError> {
        for byte in wire {
            if self.greeting.len() == 2 {
                plain.push(byte ^ KEY);
                continue;
            }
            self.greeting.push(*byte);
            match &self.greeting[..] {
                b"HI" => reply.extend_from_slice(b"YO"),
                b"!" => return Ok(Progress::Ended),
                [b'H'] => {}
                _ => {
                    reply.extend_from_slice(b"??");
                    return Err(LayerError { reason: "no greeting".to_owned() });
                }
            }
        }
        Ok(Progress::Open)
    }

    fn encode(&mut self, plain: &[u8], wire: &mut Vec<u8>) {
        wire.extend(plain.iter().map(|byte| byte ^ KEY));
    }

    fn close(&mut self, wire: &mut Vec<u8>) {
        wire.push(0);
    }
}

fn toys() -> LayerFactory {
    Arc::new(|info| {
        assert!(info.peer.is_some() && info.local.is_some());
        Box::new(Toy::default())
    })
}

fn hidden(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| byte ^ KEY).collect()
}

#[test]
fn mqtt_runs_through_a_layer_beside_a_plain_listener() {
    for cores in [1, 2, 8] {
        let broker = Broker::builder()
            .listen("127.0.0.1:0")
            .listen_with("127.0.0.1:0", toys())
            .cores(cores)
            .start()
            .expect("the broker starts");
        let [plain, layered] = broker.addresses() else { panic!("two listeners") };
        let mut watcher = Client::connect(*plain, "watcher");
        watcher.subscribe("#");
        for i in 0..24 {
            let mut client = Client::open(*layered);
            let mut wire = b"HI".to_vec();
            wire.extend(hidden(&connect(&format!("layered {i}"))));
            wire.extend(hidden(&subscribe(&format!("none/{i}"))));
            wire.extend(hidden(&publish("through", &[i])));
            // A fault, so that the broker has the last word.
            wire.extend(hidden(&[0x00]));
            if i % 2 == 0 {
                client.send(&wire);
            } else {
                wire.iter().for_each(|byte| client.send(&[*byte]));
            }
            let mut all = Vec::new();
            client.stream.read_to_end(&mut all).expect("an orderly end");
            assert_eq!(all[..2], *b"YO");
            let end = all.len() - 1;
            assert_eq!(all[end], 0, "the layer's own end comes last");
            let said = hidden(&all[2..end]);
            assert_eq!(said[0], CONNACK);
            assert_eq!(said[said.len() - 3], DISCONNECT, "{said:02x?}");
            assert_eq!(watcher.message(), ("through".to_owned(), vec![i]));
        }
    }
}

#[test]
fn much_data_passes_through_a_layer_in_order() {
    let broker =
        Broker::builder().listen_with("127.0.0.1:0", toys()).cores(2).start().expect("the broker starts");
    let mut stream = Client::open(broker.addresses()[0]).stream;
    stream.write_all(b"HI").expect("sent");
    stream.write_all(&hidden(&[connect("bulk"), subscribe_qos1("bulk")].concat())).expect("sent");
    let mut sending = stream.try_clone().expect("clone");
    let sender = std::thread::spawn(move || {
        for id in 1..=400u16 {
            let payload = vec![id as u8; 10_000];
            sending.write_all(&hidden(&publish_qos1("bulk", id, &payload))).expect("sent");
        }
    });
    // 400 messages come back, each with its payload, and 400 PUBACKs.
    let mut payload_bytes = 0;
    let mut acks = 0;
    let mut input = Vec::new();
    let mut greeted = false;
    while acks < 400 || payload_bytes < 4_000_000 {
        let mut bytes = [0; 65536];
        let len = stream.read(&mut bytes).expect("more");
        assert!(len > 0, "the connection stays");
        let mut wire = &bytes[..len];
        if !greeted {
            assert_eq!(wire[..2], *b"YO");
            wire = &wire[2..];
            greeted = true;
        }
        input.extend(hidden(wire));
        while let Some((packet, len)) = crate::client::cut(&input) {
            input.drain(..len);
            match packet.kind() {
                0x30 => {
                    let expected = (payload_bytes / 10_000 + 1) as u8;
                    let payload = &packet.body[packet.body.len() - 10_000..];
                    assert!(payload.iter().all(|byte| *byte == expected));
                    payload_bytes += 10_000;
                }
                0x40 => acks += 1,
                _ => {}
            }
        }
    }
    sender.join().expect("the sender");
}

#[test]
fn a_layer_that_ends_or_fails_closes_its_connection_with_its_last_words() {
    let broker =
        Broker::builder().listen_with("127.0.0.1:0", toys()).cores(2).start().expect("the broker starts");
    for (greeting, answer) in [("!", &[0][..]), ("NO", &b"??\0"[..])] {
        let mut stream = Client::open(broker.addresses()[0]).stream;
        stream.write_all(greeting.as_bytes()).expect("sent");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("an orderly end");
        assert_eq!(all, answer);
    }
    while broker.stats().total.connections > 0 {
        std::thread::yield_now();
    }
}
