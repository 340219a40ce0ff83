//! A broker of some cores and its Clients, whose own memory is all taken beforehand.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use mqtt_broker::config::{CoreId, Limits};
use mqtt_broker::ports::{Commit, Ports, Store};
use mqtt_broker::shard::{Action, ConnectionId, ConnectionInfo, Now, Shard, ShardConfig, home_of};
use mqtt_broker::store::image::Home;
use mqtt_broker::store::record::Record;

const NOW: Now = Now { millis: 1, wall_millis: 1 };
pub(crate) const HASH_KEY: [u64; 2] = [1, 2];

/// Messages a batch of a publisher.
pub(crate) const WINDOW: u16 = 64;

/// Counts records, which are committed when the broker comes to it.
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

/// A Client, by its core.
#[derive(Clone, Copy)]
pub(crate) struct Client(usize, ConnectionId);

pub(crate) struct Broker {
    shards: Vec<Shard>,
    /// By core, if there are stores.
    stores: Vec<Counted>,
    committed: Vec<u64>,
    /// Acknowledgements on their way back to the shard.
    answers: Vec<(Client, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
    next_name: u8,
    /// PUBLISH packets that Clients got.
    pub(crate) delivered: usize,
}

impl Broker {
    /// `clients`: how many there will be at most.
    pub(crate) fn new(cores: u16, has_store: bool, clients: usize, in_flight_max: u16) -> Broker {
        let mut limits = Limits::default();
        limits.in_flight_max = in_flight_max;
        limits.sys_interval_seconds = 0;
        let limits = Arc::new(limits);
        let stores = vec![(); usize::from(if has_store { cores } else { 0 })];
        let stores: Vec<Counted> = stores.into_iter().map(|()| Counted::default()).collect();
        let shard = |core: u16| {
            let (limits, seed) = (Arc::clone(&limits), u64::from(core));
            let config = ShardConfig { core: CoreId(core), cores, limits, hash_key: HASH_KEY, seed };
            let ports = Ports::allow_all();
            let ports = match stores.get(usize::from(core)) {
                Some(store) => Ports { store: Box::new(store.clone()), ..ports },
                None => ports,
            };
            Shard::new(config, ports, NOW)
        };
        Broker {
            shards: (0..cores).map(shard).collect(),
            committed: vec![0; stores.len()],
            stores,
            answers: Vec::with_capacity(4 * clients),
            spare: (0..4 * clients).map(|_| Vec::with_capacity(8 * usize::from(WINDOW))).collect(),
            next_name: b'!',
            delivered: 0,
        }
    }

    /// A 3.1.1 Client at home on this core, whose session stays or not.
    pub(crate) fn connect(&mut self, core: u16, stays: bool) -> Client {
        let cores = self.shards.len() as u16;
        loop {
            let name = self.next_name;
            self.next_name += 1;
            assert!(name < 0x7F, "no name is left");
            if home_of(HASH_KEY, cores, Home::Session(&char::from(name).to_string())) == core {
                let shard = &mut self.shards[usize::from(core)];
                let id = shard.connection_opened(ConnectionInfo::default(), NOW).expect("there is room");
                let clean = if stays { 0 } else { 2 };
                let connect = [&b"\x10\x0D\x00\x04MQTT\x04"[..], &[clean, 0, 0, 0, 1, name]].concat();
                shard.handle_input(id, &connect, NOW);
                self.drain();
                return Client(usize::from(core), id);
            }
        }
    }

    pub(crate) fn subscribe(&mut self, client: Client, filter: &str, qos: u8) {
        let len = filter.len() as u8;
        let subscribe = [&[0x82, len + 5, 0, 1, 0, len], filter.as_bytes(), &[qos]].concat();
        self.handle(client, &subscribe);
        self.drain();
    }

    /// The Client's packets are handled, until all that comes of them is acknowledged.
    pub(crate) fn publish(&mut self, client: Client, packets: &[u8]) {
        self.handle(client, packets);
        self.drain();
    }

    /// Messages that were given a number for other cores.
    pub(crate) fn numbered(&self) -> u64 {
        self.stores.iter().map(|store| store.numbered.get()).sum()
    }

    fn handle(&mut self, Client(core, id): Client, packets: &[u8]) {
        self.shards[core].handle_input(id, packets, NOW);
    }

    /// All that moves comes to rest.
    fn drain(&mut self) {
        let mut moved = true;
        while std::mem::take(&mut moved) {
            for core in 0..self.shards.len() {
                while let Some(action) = self.shards[core].poll_action() {
                    moved = true;
                    if let Action::Transmit { id, buffer } = action {
                        self.read(Client(core, id), &buffer);
                        self.shards[core].transmit_done(id, buffer, NOW);
                    }
                }
                for to in 0..self.shards.len() {
                    let Some(batch) = self.shards[core].poll_envelopes(CoreId(to as u16)) else { continue };
                    moved = true;
                    self.shards[to].handle_envelopes(CoreId(core as u16), batch, NOW);
                }
                let Some(store) = self.stores.get(core) else { continue };
                let records = store.records.get();
                if std::mem::replace(&mut self.committed[core], records) < records {
                    moved = true;
                    self.shards[core].store_committed(records, NOW);
                }
            }
            if let Some((client, answer)) = self.answers.pop() {
                moved = true;
                self.handle(client, &answer);
                self.spare.push(answer);
            }
        }
    }

    /// Counts what a Client got, and acknowledges it.
    fn read(&mut self, client: Client, mut bytes: &[u8]) {
        let mut answer = self.spare.pop().expect("few are under way");
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
        match answer.is_empty() {
            true => self.spare.push(answer),
            false => self.answers.push((client, answer)),
        }
    }
}

/// A batch of PUBLISH packets to the topic `a/b`, each with 64 bytes.
pub(crate) fn batch(qos: u8) -> Vec<u8> {
    let mut packets = Vec::new();
    for id in 1..=WINDOW {
        let [high, low] = id.to_be_bytes();
        let packet_id: &[u8] = if qos == 0 { &[] } else { &[high, low] };
        packets.extend([0x30 | qos << 1, 5 + packet_id.len() as u8 + 64, 0, 3, b'a', b'/', b'b']);
        packets.extend(packet_id);
        packets.extend([7; 64]);
    }
    packets
}
