//! What an idle Client with one subscription costs, a session whose Client is away, a message that waits for it, and a
//! retained message: bytes on the heap of their core, measured.

use std::sync::Arc;

use mqtt_broker::config::{CoreId, Limits};
use mqtt_broker::ports::Ports;
use mqtt_broker::shard::{Action, ConnectionId, ConnectionInfo, Now, Shard, ShardConfig};

#[global_allocator]
static HEAP: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, usize::MAX);

/// Bytes a Client may cost beside what the kernel keeps for its socket.
const BYTES_MAX: usize = 340;

const CLIENTS: usize = 10_000;

/// Bytes that a session may cost whose Client is away, with a ClientID of 16 bytes and the timer of its expiry.
const AWAY_MAX: usize = 100;

/// Sessions: so many that the index of ClientIDs has just grown and is as empty as it gets, and so many that it is full.
const AWAY: [usize; 2] = [14_400, 28_600];

/// Bytes that a message may cost which is kept, of 64 bytes and with a topic of 14.
const QUEUED_MAX: usize = 150;
const RETAINED_MAX: usize = 150;

const MESSAGES: usize = 20_000;

fn shard() -> (Shard, Now) {
    let mut limits = Limits::default();
    limits.sys_interval_seconds = 0;
    let limits = Arc::new(limits);
    let config = ShardConfig { core: CoreId(0), cores: 1, limits, hash_key: [1, 2], seed: 3 };
    let now = Now { millis: 1, wall_millis: 1 };
    (Shard::new(config, Ports::allow_all(), now), now)
}

/// Connects every Client and subscribes it to a topic of its own.
fn connect_all(shard: &mut Shard, now: Now) -> Vec<ConnectionId> {
    let mut ids = Vec::with_capacity(CLIENTS);
    for number in 0..CLIENTS {
        let id = shard.connection_opened(ConnectionInfo::default(), now).expect("there is room");
        let mut packets = connect(&format!("client-{number:06}"), true);
        packets.extend(subscribe(&format!("idle/{number:06}"), 0));
        shard.handle_input(id, &packets, now);
        drain(shard, now);
        ids.push(id);
    }
    assert_eq!(shard.stats().clients_connected, CLIENTS as u64);
    assert_eq!(shard.stats().subscriptions, CLIENTS as u64);
    ids
}

/// Opens sessions that outlive their connections by an hour, and closes these; what each session takes.
fn leave(sessions: usize) -> usize {
    let (mut shard, now) = shard();
    let mut before = 0;
    for number in 0..=sessions {
        let id = shard.connection_opened(ConnectionInfo::default(), now).expect("there is room");
        shard.handle_input(id, &connect_v5(&format!("sensor-{number:09}"), 3600), now);
        drain(&mut shard, now);
        shard.connection_closed(id, now);
        if number == 0 {
            // The tables of connections have what they need after the first.
            before = HEAP.allocated();
        }
    }
    let stats = shard.stats();
    assert_eq!((stats.sessions as usize, stats.clients_connected), (sessions + 1, 0));
    let each = (HEAP.allocated() - before).div_ceil(sessions);
    let end = Now { millis: now.millis + 3_600_000, wall_millis: 1 };
    while shard.poll_timeout().is_some_and(|at| at <= end.millis) {
        shard.handle_timeout(end);
    }
    assert_eq!(shard.stats().sessions, 0, "each had a timer");
    each
}

/// In 5.0, with a Session Expiry Interval.
fn connect_v5(client_id: &str, expiry_seconds: u32) -> Vec<u8> {
    let mut packet = vec![0x10, 18 + client_id.len() as u8, 0, 4];
    packet.extend_from_slice(b"MQTT\x05\x02\x00\x3C\x05\x11");
    packet.extend_from_slice(&expiry_seconds.to_be_bytes());
    packet.extend_from_slice(&[0, client_id.len() as u8]);
    packet.extend_from_slice(client_id.as_bytes());
    packet
}

/// In 3.1.1, with a Keep Alive of a minute.
fn connect(client_id: &str, clean_session: bool) -> Vec<u8> {
    let mut packet = vec![0x10, 12 + client_id.len() as u8, 0, 4];
    packet.extend_from_slice(b"MQTT\x04");
    packet.extend_from_slice(&[u8::from(clean_session) << 1, 0, 0x3C, 0, client_id.len() as u8]);
    packet.extend_from_slice(client_id.as_bytes());
    packet
}

fn subscribe(filter: &str, qos: u8) -> Vec<u8> {
    let mut packet = vec![0x82, 5 + filter.len() as u8, 0, 1, 0, filter.len() as u8];
    packet.extend_from_slice(filter.as_bytes());
    packet.push(qos);
    packet
}

/// PUBLISH of 64 bytes at QoS 1.
fn publish(topic: &str, retain: bool) -> Vec<u8> {
    let mut packet = vec![0x32 | u8::from(retain), 4 + topic.len() as u8 + 64, 0, topic.len() as u8];
    packet.extend_from_slice(topic.as_bytes());
    packet.extend_from_slice(&[0, 1]);
    packet.extend_from_slice(&[7; 64]);
    packet
}

/// Publishes messages to a session whose Client is away, or retained ones, and says what each took.
fn keep(topic: impl Fn(usize) -> String, retain: bool) -> usize {
    let (mut shard, now) = shard();
    let mut clients = ["away", "here"].map(|client_id| {
        let id = shard.connection_opened(ConnectionInfo::default(), now).expect("there is room");
        shard.handle_input(id, &connect(client_id, false), now);
        id
    });
    let [away, here] = &mut clients;
    shard.handle_input(*away, &subscribe("away/#", 1), now);
    shard.connection_closed(*away, now);
    // Tables and buffers have what they need after the first.
    shard.handle_input(*here, &publish(&topic(0), retain), now);
    drain(&mut shard, now);
    let before = HEAP.allocated();
    for number in 1..=MESSAGES {
        shard.handle_input(*here, &publish(&topic(number), retain), now);
        drain(&mut shard, now);
    }
    let kept = if retain { shard.stats().retained_messages } else { shard.stats().messages_kept };
    assert_eq!(kept as usize, 1 + MESSAGES);
    (HEAP.allocated() - before) / MESSAGES
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
fn clients_and_messages_stay_small_and_who_left_costs_nothing() {
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

    for sessions in AWAY {
        let each = leave(sessions);
        println!("{each} bytes a session whose Client is away, with {sessions} of them");
        assert!(each <= AWAY_MAX, "{each} bytes a session whose Client is away");
    }

    let queued = keep(|_| "away/queue/123".to_owned(), false);
    let retained = keep(|number| format!("retained/{number:05}"), true);
    println!("{queued} bytes a queued message, {retained} bytes a retained one");
    assert!(queued <= QUEUED_MAX, "{queued} bytes a queued message");
    assert!(retained <= RETAINED_MAX, "{retained} bytes a retained message");
}
