//! In the steady state a QoS 2 message that goes to another core under a number takes nothing from the allocator but its
//! place in a batch: not while it waits for the store, not while it is kept for the other core, not there.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use mqtt_broker::config::{CoreId, Limits};
use mqtt_broker::ports::{Commit, Ports, Store};
use mqtt_broker::shard::{Action, ConnectionId, ConnectionInfo, Now, Shard, ShardConfig, home_of};
use mqtt_broker::store::image::Home;
use mqtt_broker::store::record::Record;

#[global_allocator]
static HEAP: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, usize::MAX);

const NOW: Now = Now { millis: 1, wall_millis: 1 };
const HASH_KEY: [u64; 2] = [1, 2];
/// Messages a batch, and batches until everything has the room that it needs.
const WINDOW: u16 = 64;
const WARM_UP: usize = 8;
/// Room for a message in a batch.
const ENVELOPE_BYTES: usize = 96;

/// Counts records, which are committed when the test says so.
#[derive(Clone, Default)]
struct Counted {
    records: Rc<Cell<u64>>,
    numbered: Rc<Cell<u64>>,
}

impl Store for Counted {
    fn append(&mut self, record: &Record<'_>) -> Commit {
        self.records.set(self.records.get() + 1);
        self.numbered.set(self.numbered.get() + u64::from(matches!(record, Record::HandOn { .. })));
        Commit::At(self.records.get())
    }
}

/// Two cores: a publisher at home on the first, a subscriber on the second, whose sessions stay.
struct Broker {
    shards: Vec<Shard>,
    stores: [Counted; 2],
    committed: [u64; 2],
    clients: [ConnectionId; 2],
    /// Acknowledgements on their way back to the shard, by core.
    answers: Vec<(usize, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
    delivered: usize,
}

impl Broker {
    fn new() -> Broker {
        let mut limits = Limits::default();
        limits.sys_interval_seconds = 0;
        let limits = Arc::new(limits);
        let stores = [Counted::default(), Counted::default()];
        let mut shards: Vec<Shard> = (0..2)
            .map(|core| {
                let store = Box::new(stores[usize::from(core)].clone());
                let config = ShardConfig {
                    core: CoreId(core),
                    cores: 2,
                    limits: Arc::clone(&limits),
                    hash_key: HASH_KEY,
                    seed: u64::from(core),
                };
                Shard::new(config, Ports { store, ..Ports::allow_all() }, NOW)
            })
            .collect();
        let clients = [0, 1].map(|core| connect(&mut shards[core], core as u16));
        let (answers, spare) = (Vec::with_capacity(4), (0..4).map(|_| Vec::with_capacity(1024)).collect());
        let mut broker = Broker { shards, stores, committed: [0; 2], clients, answers, spare, delivered: 0 };
        broker.drain();
        broker.shards[1].handle_input(broker.clients[1], b"\x82\x08\0\x01\0\x03a/b\x02", NOW);
        broker.drain();
        broker
    }

    /// All that moves comes to rest.
    fn drain(&mut self) {
        loop {
            let mut moved = false;
            for core in 0..2 {
                while let Some(action) = self.shards[core].poll_action() {
                    moved = true;
                    if let Action::Transmit { id, buffer } = action {
                        self.read(core, &buffer);
                        self.shards[core].transmit_done(id, buffer, NOW);
                    }
                }
                if let Some(batch) = self.shards[core].poll_envelopes(CoreId(1 - core as u16)) {
                    moved = true;
                    self.shards[1 - core].handle_envelopes(CoreId(core as u16), batch, NOW);
                }
                let records = self.stores[core].records.get();
                if std::mem::replace(&mut self.committed[core], records) < records {
                    moved = true;
                    self.shards[core].store_committed(records, NOW);
                }
            }
            if let Some((core, answer)) = self.answers.pop() {
                moved = true;
                self.shards[core].handle_input(self.clients[core], &answer, NOW);
                self.spare.push(answer);
            }
            if !moved {
                return;
            }
        }
    }

    /// Counts and acknowledges what a Client got.
    fn read(&mut self, core: usize, mut bytes: &[u8]) {
        let mut answer = self.spare.pop().expect("few are under way");
        answer.clear();
        while let [first, len, rest @ ..] = bytes {
            let (body, rest) = rest.split_at(usize::from(*len));
            bytes = rest;
            match first >> 4 {
                3 => {
                    self.delivered += 1;
                    answer.extend([0x50, 2, body[5], body[6]]);
                }
                5 => answer.extend([0x62, 2, body[0], body[1]]),
                6 => answer.extend([0x70, 2, body[0], body[1]]),
                _ => {}
            }
        }
        match answer.is_empty() {
            true => self.spare.push(answer),
            false => self.answers.push((core, answer)),
        }
    }
}

/// A 3.1.1 Client that is at home on this core and keeps its session.
fn connect(shard: &mut Shard, core: u16) -> ConnectionId {
    let id = shard.connection_opened(ConnectionInfo::default(), NOW).expect("there is room");
    let is_at_home = |name: &u8| home_of(HASH_KEY, 2, Home::Session(&char::from(*name).to_string())) == core;
    let mut connect = *b"\x10\x0D\x00\x04MQTT\x04\x00\x00\x00\x00\x01?";
    connect[14] = (b'a'..=b'z').find(is_at_home).expect("homes are spread");
    shard.handle_input(id, &connect, NOW);
    id
}

/// One test, so that no other allocates meanwhile.
#[test]
fn a_message_handed_on_takes_its_place_in_a_batch_and_nothing_else_from_the_allocator() {
    let mut broker = Broker::new();
    let mut input = Vec::new();
    for id in 1..=WINDOW {
        let [high, low] = id.to_be_bytes();
        input.extend([0x34, 7 + 64, 0, 3, b'a', b'/', b'b', high, low]);
        input.extend([7; 64]);
    }
    let mut publish = || {
        broker.shards[0].handle_input(broker.clients[0], &input, NOW);
        broker.drain();
    };
    (0..WARM_UP).for_each(|_| publish());
    let rounds = [(); 5].map(|()| {
        let before = HEAP.total_allocated();
        (0..100).for_each(|_| publish());
        HEAP.total_allocated() - before
    });
    let all = usize::from(WINDOW) * (WARM_UP + 500);
    assert_eq!((broker.delivered, broker.stores[0].numbered.get()), (all, all as u64));
    // A batch has a buffer, which goes over with it; a message of its own would take as much once more. The test runner's
    // other thread may take something in one round.
    let buffers = 100 * usize::from(WINDOW) * ENVELOPE_BYTES;
    let taken = rounds.into_iter().min().expect("there are some");
    assert!(taken <= buffers, "bytes allocated in the best of {rounds:?}, {buffers} for batches");
}
