//! What an idle Client costs: bytes on the heap of its core, measured, with one subscription.

use std::sync::Arc;

use mqtt_broker::config::{CoreId, Limits};
use mqtt_broker::ports::Ports;
use mqtt_broker::shard::{Action, ConnectionId, ConnectionInfo, Now, Shard, ShardConfig};

#[global_allocator]
static HEAP: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, usize::MAX);

/// Bytes a Client may cost beside what the kernel keeps for its socket.
const BYTES_MAX: usize = 340;

const CLIENTS: usize = 10_000;

fn shard() -> (Shard, Now) {
    let mut limits = Limits::default();
    limits.sys_interval_seconds = 0;
    let limits = Arc::new(limits);
    let config = ShardConfig { core: CoreId(0), cores: 1, limits, hash_key: [1, 2], seed: 3 };
    let now = Now { millis: 1, wall_millis: 1 };
    (Shard::new(config, Ports::allow_all(), now), now)
}

/// Connects every Client, in 3.1.1 with Clean Session and Keep Alive, and subscribes it to a topic of its own.
fn connect_all(shard: &mut Shard, now: Now) -> Vec<ConnectionId> {
    let mut ids = Vec::with_capacity(CLIENTS);
    for number in 0..CLIENTS {
        let id = shard.connection_opened(ConnectionInfo::default(), now).expect("there is room");
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
        drain(shard, now);
        ids.push(id);
    }
    assert_eq!(shard.stats().clients_connected, CLIENTS as u64);
    assert_eq!(shard.stats().subscriptions, CLIENTS as u64);
    ids
}

fn drain(shard: &mut Shard, now: Now) {
    loop {
        while let Some(action) = shard.poll_action() {
            if let Action::Transmit { id, buffer } = action {
                shard.transmit_done(id, buffer, now);
            }
        }
        if shard.poll_timeout().is_none_or(|at| at > now.millis) {
            return;
        }
        shard.handle_timeout(now);
    }
}

/// One test after the other in one: they share the heap they measure.
#[test]
fn an_idle_client_stays_small_and_one_that_left_costs_nothing() {
    let (mut shard, now) = shard();
    let before = HEAP.allocated();
    let mut left = Vec::new();
    for _ in 0..4 {
        let ids = connect_all(&mut shard, now);
        let each = (HEAP.allocated() - before) / CLIENTS;
        println!("{each} bytes a Client");
        assert!(each <= BYTES_MAX, "{each} bytes a Client");
        for id in ids {
            shard.connection_closed(id, now);
        }
        drain(&mut shard, now);
        left.push(HEAP.allocated());
    }
    println!("left after each round: {left:?}");
    // The test runner's own threads allocate a little meanwhile: less than a byte a Client, which no leak could be. What the
    // tables keep for the next Clients is there after the first round.
    let leaked = left[3].saturating_sub(left[0]);
    assert!(leaked < CLIENTS, "what left is not forgotten: {left:?}");
}
