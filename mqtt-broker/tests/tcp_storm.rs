//! Connections that come and go leave nothing behind. Alone in its process: it counts the open files.
#![cfg(feature = "runtime")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use mqtt_broker::Broker;
use socket2::SockRef;

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("proc").count()
}

fn connect(client_id: &str) -> Vec<u8> {
    let id = client_id.as_bytes();
    let mut bytes =
        vec![0x10, 13 + id.len() as u8, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0, 0, 0, id.len() as u8];
    bytes.extend_from_slice(id);
    bytes
}

#[test]
fn two_thousand_connections_come_and_go_without_a_leaked_file() {
    let broker = Broker::builder().listen("127.0.0.1:0").cores(2).start().expect("the broker starts");
    let address = broker.addresses()[0];
    let settle = || {
        while broker.stats().total.connections > 0 {
            std::thread::yield_now();
        }
    };
    let storm = |round: usize| {
        for batch in 0..20 {
            let clients: Vec<TcpStream> = (0..100)
                .map(|i| {
                    let mut client = TcpStream::connect(address).expect("accepted");
                    client.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
                    match i % 5 {
                        // Says nothing.
                        0 => {}
                        // Breaks off within CONNECT.
                        1 => client.write_all(&connect("half")[..7]).expect("sent"),
                        _ => {
                            let id = format!("{round} {batch} {i}");
                            client.write_all(&connect(&id)).expect("sent");
                            let mut connack = [0; 5];
                            client.read_exact(&mut connack).expect("CONNACK");
                            assert_eq!(connack[0], 0x20);
                        }
                    }
                    if i % 7 == 0 {
                        SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("linger");
                    }
                    client
                })
                .collect();
            drop(clients);
        }
        settle();
    };
    storm(0);
    let before = open_files();
    storm(1);
    storm(2);
    // The shard has forgotten them; the ring may still be closing the last ones.
    while open_files() > before {
        std::thread::yield_now();
    }
    let stats = broker.stats().total;
    assert!(stats.connections_opened >= 6000);
    assert_eq!((stats.connections, stats.sessions), (0, 0));
}
