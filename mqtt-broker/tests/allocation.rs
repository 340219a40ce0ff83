//! In the steady state a message takes nothing from the allocator: not one that is passed on, not one that is kept until
//! its acknowledgement comes, not one that goes to many, not one that waits for a Client that is a little too slow.

use std::sync::Arc;

use mqtt_broker::config::{CoreId, Limits};
use mqtt_broker::ports::Ports;
use mqtt_broker::shard::{Action, ConnectionId, ConnectionInfo, Now, Shard, ShardConfig};

#[global_allocator]
static HEAP: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, usize::MAX);

const NOW: Now = Now { millis: 1, wall_millis: 1 };

/// Messages a batch, and batches until everything has the room that it needs.
const WINDOW: u16 = 64;
const WARM_UP: usize = 8;

/// One core with a publisher and its subscribers; their memory is all taken beforehand.
struct Broker {
    shard: Shard,
    publisher: ConnectionId,
    input: Vec<u8>,
    /// Acknowledgements on their way back to the shard.
    answers: Vec<(ConnectionId, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
    delivered: usize,
}

impl Broker {
    fn new(qos: u8, subscribers: usize, in_flight_max: u16) -> Broker {
        let mut limits = Limits::default();
        limits.in_flight_max = in_flight_max;
        limits.sys_interval_seconds = 0;
        let limits = Arc::new(limits);
        let config = ShardConfig { core: CoreId(0), cores: 1, limits, hash_key: [1, 2], seed: 3 };
        let mut shard = Shard::new(config, Ports::allow_all(), NOW);
        let publisher = connect(&mut shard, 'p');
        for number in 0..subscribers {
            let id = connect(&mut shard, char::from(b'!' + number as u8));
            shard.handle_input(id, &[0x82, 8, 0, 1, 0, 3, b'a', b'/', b'b', qos], NOW);
        }
        let mut input = Vec::new();
        for id in 1..=WINDOW {
            let [high, low] = id.to_be_bytes();
            let packet_id: &[u8] = if qos == 0 { &[] } else { &[high, low] };
            input.extend([0x30 | qos << 1, 5 + packet_id.len() as u8 + 64, 0, 3, b'a', b'/', b'b']);
            input.extend(packet_id);
            input.extend([7; 64]);
        }
        let answers = Vec::with_capacity(subscribers + 1);
        let spare = (0..=subscribers).map(|_| Vec::with_capacity(8 * usize::from(WINDOW))).collect();
        let mut broker = Broker { shard, publisher, input, answers, spare, delivered: 0 };
        broker.drain();
        broker.delivered = 0;
        broker
    }

    /// One batch, from its publication until all of it is acknowledged.
    fn publish(&mut self) {
        self.shard.handle_input(self.publisher, &self.input, NOW);
        self.drain();
    }

    fn drain(&mut self) {
        loop {
            while let Some(action) = self.shard.poll_action() {
                if let Action::Transmit { id, buffer } = action {
                    self.read(id, &buffer);
                    self.shard.transmit_done(id, buffer, NOW);
                }
            }
            let Some((id, answer)) = self.answers.pop() else { return };
            self.shard.handle_input(id, &answer, NOW);
            self.spare.push(answer);
        }
    }

    /// Counts and acknowledges what was delivered.
    fn read(&mut self, id: ConnectionId, mut bytes: &[u8]) {
        let mut answer = self.spare.pop().expect("one a Client");
        answer.clear();
        while let [first, len, rest @ ..] = bytes {
            let (body, rest) = rest.split_at(usize::from(*len));
            bytes = rest;
            match first >> 4 {
                3 => {
                    self.delivered += 1;
                    match first >> 1 & 3 {
                        0 => {}
                        1 => answer.extend([0x40, 2, body[5], body[6]]),
                        _ => answer.extend([0x50, 2, body[5], body[6]]),
                    }
                }
                5 => answer.extend([0x62, 2, body[0], body[1]]),
                6 => answer.extend([0x70, 2, body[0], body[1]]),
                _ => {}
            }
        }
        if answer.is_empty() {
            self.spare.push(answer);
        } else {
            self.answers.push((id, answer));
        }
    }
}

/// A 3.1.1 Client with Clean Session.
fn connect(shard: &mut Shard, client_id: char) -> ConnectionId {
    let id = shard.connection_opened(ConnectionInfo::default(), NOW).expect("there is room");
    let mut connect = *b"\x10\x0D\x00\x04MQTT\x04\x02\x00\x00\x00\x01?";
    connect[14] = client_id as u8;
    shard.handle_input(id, &connect, NOW);
    id
}

/// One test, so that no other allocates meanwhile.
#[test]
fn a_message_takes_nothing_from_the_allocator() {
    for (what, qos, subscribers, in_flight_max) in [
        ("pair at QoS 0", 0, 1, WINDOW),
        ("pair at QoS 1", 1, 1, WINDOW),
        ("pair at QoS 2", 2, 1, WINDOW),
        ("pair at QoS 1 with one waiting, then none", 1, 1, WINDOW - 1),
        ("pair at QoS 2 with nearly all waiting, then none", 2, 1, 1),
        ("fan-out at QoS 0", 0, 50, WINDOW),
        ("fan-out at QoS 1", 1, 50, WINDOW),
    ] {
        let mut broker = Broker::new(qos, subscribers, in_flight_max);
        (0..WARM_UP).for_each(|_| broker.publish());
        let rounds = [(); 5].map(|()| {
            let (before, delivered) = (HEAP.total_allocated(), broker.delivered);
            (0..100).for_each(|_| broker.publish());
            assert_eq!(
                broker.delivered - delivered,
                100 * usize::from(WINDOW) * subscribers,
                "{what}: every message is delivered"
            );
            HEAP.total_allocated() - before
        });
        // What messages take they take in each round; the test runner's other thread may take something in one.
        let allocated = rounds.into_iter().min();
        assert_eq!(allocated, Some(0), "{what}: bytes allocated in the best of {rounds:?}");
    }
}
