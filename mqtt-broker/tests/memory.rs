//! What an idle Client costs: bytes on the heap of its core, measured, with one subscription.

use std::sync::Arc;

use mqtt_broker::config::{CoreId, Limits};
use mqtt_broker::ports::Ports;
use mqtt_broker::shard::{Action, ConnectionInfo, Now, Shard, ShardConfig};

#[global_allocator]
static HEAP: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, usize::MAX);

/// Bytes a Client may cost beside what the kernel keeps for its socket.
const BYTES_MAX: usize = 1024;

#[test]
fn an_idle_client_with_a_subscription_stays_small() {
    const CLIENTS: usize = 10_000;
    let mut limits = Limits::default();
    limits.sys_interval_seconds = 0;
    let config =
        ShardConfig { core: CoreId(0), cores: 1, limits: Arc::new(limits), hash_key: [1, 2], seed: 3 };
    let now = Now { millis: 1, wall_millis: 1 };
    let mut shard = Shard::new(config, Ports::allow_all(), now);
    let before = HEAP.allocated();
    for number in 0..CLIENTS {
        let id = shard.connection_opened(ConnectionInfo::default(), now).expect("there is room");
        // CONNECT of 3.1.1, Clean Session, Keep Alive 60, and SUBSCRIBE to a topic of its own.
        let client_id = format!("client-{number:06}");
        let mut packets = vec![0x10, 12 + client_id.len() as u8, 0, 4];
        packets.extend_from_slice(b"MQTT\x04\x02\x00\x3C\x00");
        packets.push(client_id.len() as u8);
        packets.extend_from_slice(client_id.as_bytes());
        let topic = format!("idle/{number:06}");
        packets.extend_from_slice(&[0x82, 5 + topic.len() as u8, 0, 1, 0, topic.len() as u8]);
        packets.extend_from_slice(topic.as_bytes());
        packets.push(0);
        shard.handle_input(id, &packets, now);
        loop {
            while let Some(action) = shard.poll_action() {
                if let Action::Transmit { id, buffer } = action {
                    shard.transmit_done(id, buffer, now);
                }
            }
            if shard.poll_timeout().is_none_or(|at| at > now.millis) {
                break;
            }
            shard.handle_timeout(now);
        }
    }
    assert_eq!(shard.stats().clients_connected, CLIENTS as u64);
    assert_eq!(shard.stats().subscriptions, CLIENTS as u64);
    let each = (HEAP.allocated() - before) / CLIENTS;
    println!("{each} bytes a Client");
    assert!(each <= BYTES_MAX, "{each} bytes a Client");
}
