//! A connection on its way to the core of its session: what comes meanwhile, what comes too late, and whose is whose.

use std::sync::Arc;

use mqtt_broker::config::CoreId;
use mqtt_broker::ports::Ports;
use mqtt_broker::shard::{Action, ConnectionId, ConnectionInfo, Handed, Now, Shard, ShardConfig};
use mqtt_proto::codec::{self, Framer};
use mqtt_proto::packet::{Packet, Publish};
use mqtt_proto::types::{Qos, Version};

use crate::cluster::{connect, limits, publish};

const NOW: Now = Now { millis: 1_000_000, wall_millis: 1_700_000_000_000 };

/// Two cores whose actions the test takes itself, so that something can happen between them.
struct Cores {
    shards: [Shard; 2],
    /// What the connection that is looked at was sent.
    sent: Vec<u8>,
    /// It has left its core and not arrived.
    moving: Option<(CoreId, Box<Handed>)>,
    closed: bool,
}

impl Cores {
    fn new() -> Cores {
        let limits = limits(|limits| limits.sys_interval_seconds = 0);
        let shard = |core| {
            let limits = Arc::new(limits.clone());
            let config =
                ShardConfig { core: CoreId(core), cores: 2, limits, hash_key: [3, 5], seed: core.into() };
            Shard::new(config, Ports::allow_all(), NOW)
        };
        Cores { shards: [shard(0), shard(1)], sent: Vec::new(), moving: None, closed: false }
    }

    fn open(&mut self) -> (usize, ConnectionId) {
        (self.sent, self.closed) = (Vec::new(), false);
        (0, self.shards[0].connection_opened(ConnectionInfo::default(), NOW).expect("there is room"))
    }

    /// Gives bytes to the connection at `place`, or sends them after it, as the runtime does.
    fn give(&mut self, place: (usize, ConnectionId), bytes: &[u8]) {
        match &mut self.moving {
            Some((_, handed)) => handed.push_input(bytes),
            None => self.shards[place.0].handle_input(place.1, bytes, NOW),
        }
        self.act(place);
    }

    fn act(&mut self, (core, wanted): (usize, ConnectionId)) {
        while let Some(action) = self.shards[core].poll_action() {
            match action {
                Action::Transmit { id, buffer } if id == wanted => {
                    self.sent.extend_from_slice(&buffer);
                    self.shards[core].transmit_done(id, buffer, NOW);
                }
                Action::Close { id, last, .. } if id == wanted => {
                    self.sent.extend_from_slice(&last);
                    self.closed = true;
                }
                Action::Handoff { id, to, handed } if id == wanted => self.moving = Some((to, handed)),
                Action::Established { id } if id == wanted => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// It arrives, if it has left.
    fn arrive(&mut self, place: (usize, ConnectionId)) -> (usize, ConnectionId) {
        let Some((to, handed)) = self.moving.take() else { return place };
        let id = self.shards[to.index()].connection_arrived(handed, NOW).expect("there is room");
        self.act((to.index(), id));
        (to.index(), id)
    }

    /// The packets that were sent, as short words.
    fn answers(&self) -> Vec<String> {
        let (mut framer, mut rest, mut answers) = (Framer::default(), &self.sent[..], Vec::new());
        while let Some(frame) = framer.next_frame(&mut rest, u32::MAX).expect("the broker sends packets") {
            answers.push(match codec::decode(Version::V5, frame).expect("the broker sends packets") {
                Packet::ConnAck(_) => "connack".to_owned(),
                Packet::PubAck(ack) => format!("puback {}", ack.packet_id.get()),
                Packet::PingResp => "pingresp".to_owned(),
                other => panic!("{other:?}"),
            });
        }
        answers
    }

    fn total(&self, counter: impl Fn(&mqtt_broker::shard::Stats) -> u64) -> u64 {
        self.shards.iter().map(|shard| counter(shard.stats())).sum()
    }
}

fn encoded(packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode(packet, Version::V5, &mut bytes).expect("a packet of a test");
    bytes
}

/// A ClientID whose session is at home on core 1.
fn name_of_core_1() -> String {
    let at_home_on_1 = |name: &String| {
        let mut cores = Cores::new();
        let place = cores.open();
        cores.give(place, &encoded(&Packet::Connect(connect(Version::V5, name))));
        cores.moving.is_some()
    };
    (0..64).map(|n| format!("c{n}")).find(at_home_on_1).expect("half of all names")
}

#[test]
fn the_input_of_a_connection_that_moves_may_be_cut_anywhere() {
    let name = name_of_core_1();
    let mut stream = encoded(&Packet::Connect(connect(Version::V5, &name)));
    for id in [1, 2] {
        stream.extend(encoded(&Packet::Publish(publish("a", b"xy", Qos::AtLeastOnce, id))));
    }
    stream.extend(encoded(&Packet::PingReq));
    stream.extend(encoded(&Packet::Publish(Publish { dup: true, ..publish("b", b"", Qos::AtLeastOnce, 3) })));
    let mut cores = Cores::new();
    for first in 0..=stream.len() {
        for second in first..=stream.len() {
            let place = cores.open();
            let received = cores.total(|stats| stats.packets_received);
            cores.give(place, &stream[..first]);
            // The runtime finds these while it cancels what it has armed: they come in pieces of any size.
            let (one, other) = stream[first..second].split_at((second - first) / 3);
            cores.give(place, one);
            cores.give(place, other);
            let place = cores.arrive(place);
            cores.give(place, &stream[second..]);
            let place = cores.arrive(place);
            let expected = ["connack", "puback 1", "puback 2", "pingresp", "puback 3"];
            assert_eq!(cores.answers(), expected, "cut at {first} and {second}");
            assert_eq!((place.0, cores.closed), (1, false));
            assert_eq!(cores.total(|stats| stats.packets_received), received + 5);
            cores.shards[1].connection_closed(place.1, NOW);
        }
    }
    assert_eq!(cores.total(|stats| stats.connections + stats.sessions), 0);
}

#[test]
fn a_connection_that_ends_on_its_way_leaves_nothing_on_either_core() {
    let name = name_of_core_1();
    let mut cores = Cores::new();
    let bytes = encoded(&Packet::Connect(connect(Version::V5, &name)));
    let lost = cores.open();
    cores.give(lost, &bytes);
    assert!(cores.moving.take().is_some());
    // Its first core has let go of it: nothing that is said about it there counts.
    cores.shards[0].connection_closed(lost.1, NOW);
    cores.shards[0].handle_input(lost.1, &bytes, NOW);
    cores.act(lost);
    assert_eq!(cores.total(|stats| stats.connections + stats.sessions + stats.clients_connected), 0);
    let place = cores.open();
    cores.give(place, &bytes);
    let arrived = cores.arrive(place);
    cores.shards[1].connection_closed(arrived.1, NOW);
    assert_eq!(cores.total(|stats| stats.connections + stats.sessions + stats.clients_connected), 0);
    assert_eq!(cores.total(|stats| stats.connections_opened), 2);
}

#[test]
fn a_used_index_is_given_to_a_new_connection_that_nothing_late_can_touch() {
    let mut cores = Cores::new();
    let old = cores.open().1;
    // Its end is asked for, and not yet heard of.
    cores.shards[0].handle_input(old, &encoded(&Packet::PingReq), NOW);
    let new = cores.shards[0].connection_opened(ConnectionInfo::default(), NOW).expect("there is room");
    assert_eq!((new.index, new.generation), (old.index, old.generation + 1));
    let home = (0..64)
        .map(|n| format!("c{n}"))
        .find(|name| {
            let mut cores = Cores::new();
            let place = cores.open();
            cores.give(place, &encoded(&Packet::Connect(connect(Version::V5, name))));
            cores.moving.is_none()
        })
        .expect("half of all names");
    cores.shards[0].handle_input(new, &encoded(&Packet::Connect(connect(Version::V5, &home))), NOW);
    cores.shards[0].handle_input(old, &encoded(&Packet::PingReq), NOW);
    cores.shards[0].transmit_done(old, vec![0; 9], NOW);
    cores.shards[0].connection_closed(old, NOW);
    let actions: Vec<Action> = std::iter::from_fn(|| cores.shards[0].poll_action()).collect();
    let [Action::Close { id: closed, .. }, Action::Established { id }, Action::Transmit { id: to, .. }] =
        actions[..]
    else {
        panic!("{actions:?}")
    };
    assert_eq!((closed, id, to), (old, new, new));
    // A send is under way: the buffer of the old connection does not count for it.
    cores.shards[0].transmit_done(old, vec![0; 9], NOW);
    cores.shards[0].handle_input(new, &encoded(&Packet::PingReq), NOW);
    assert!(cores.shards[0].poll_action().is_none(), "one send at a time");
    cores.shards[0].transmit_done(new, vec![0; 9], NOW);
    let Some(Action::Transmit { id, buffer }) = cores.shards[0].poll_action() else { panic!("the PINGRESP") };
    assert_eq!((id, buffer), (new, vec![0xD0, 0]));
    assert_eq!(cores.shards[0].connections(), 1);
}
