//! The broker's cores, their disks, publishers and members, and the row of events that a seed makes of them.

use mqtt_broker::config::Limits;
use mqtt_broker::router::Strategy;
use mqtt_broker::shard::Now;
use mqtt_proto::packet::{Packet, Publish};
use mqtt_proto::types::{Qos, Version};

use super::client::Client;
use super::judge::Judge;
use crate::engine::cluster::{Check, Cluster, Drive, Peer, Rest, begin, start, violation};
use crate::engine::random::Random;

const GROUPS: [&str; 3] = ["$share/g/p/#", "$share/h/p/#", "$share/g/p/0"];
const PUBLISHERS: usize = 2;
/// There is room for all.
const SEGMENTS_MAX: u32 = 10_000;

pub(super) struct World {
    cluster: Cluster,
    /// First the publishers, then the members. The first of these is in all groups and kept for ever.
    clients: Vec<Client>,
    /// With which QoS members subscribe.
    granted: Qos,
    /// Whether members leave groups, and whether they end their sessions.
    leave: bool,
    end: bool,
    /// The core whose writes take longer than those of others.
    slow: Option<usize>,
    judge: Judge,
}

impl Drive for World {
    fn cluster(&mut self) -> &mut Cluster {
        &mut self.cluster
    }

    fn clients(&self) -> usize {
        self.clients.len()
    }

    fn name(&self, nth: usize) -> (&str, Version) {
        (&self.clients[nth].name, Version::V5)
    }

    fn peer(&mut self, nth: usize) -> &mut Peer {
        &mut self.clients[nth].peer
    }

    fn connect(&mut self, nth: usize) {
        let client = &mut self.clients[nth];
        if self.end && nth > PUBLISHERS && client.has_session && client.is_kept {
            client.begins_anew |= self.cluster.random.once_in(8);
        }
        if client.begins_anew && (self.leave || self.granted == Qos::ExactlyOnce) {
            self.judge.may_end(&client.groups, self.cluster.limits.in_flight_max);
        }
        self.cluster.say(|| format!("{} connects, anew: {}", client.name, client.begins_anew));
        self.open(nth);
        self.clients[nth].open();
    }

    fn take(&mut self, nth: usize, packet: &Packet<'_>) -> Check {
        let client = &mut self.clients[nth];
        match *packet {
            Packet::ConnAck(connack) => return self.take_connack(nth, connack.session_present),
            Packet::PubAck(ref ack) | Packet::PubRec(ref ack) => {
                if let Some(message) = client.peer.acknowledged(packet.packet_type(), ack) {
                    self.judge.messages[message].is_acknowledged = true;
                }
            }
            Packet::PubRel(ref ack) | Packet::PubComp(ref ack) => {
                client.peer.completed(packet.packet_type(), ack.packet_id);
            }
            Packet::SubAck(suback) => {
                let Some(at) = client.asked.iter().position(|(id, _)| *id == suback.packet_id) else {
                    return Ok(());
                };
                let (_, group) = client.asked.remove(at);
                client.groups.insert(group, true);
                self.judge.is_founded[group] |= nth == PUBLISHERS;
            }
            Packet::UnsubAck(unsuback) => client.leaving.retain(|id| *id != unsuback.packet_id),
            Packet::Publish(publish) => return self.take_publish(nth, &publish),
            _ => {}
        }
        Ok(())
    }

    fn ask_for_all(&mut self, nth: usize) {
        self.clients[nth].subscribe(&GROUPS, self.granted);
    }
}

impl World {
    pub(super) fn new(seed: u64, prints: bool) -> World {
        let mut random = Random::new(seed, &[10]);
        let mut limits = Limits::default();
        limits.sys_interval_seconds = 0;
        limits.session_expiry_max_seconds = u32::MAX;
        limits.in_flight_max = random.pick(&[1, 2, 100]);
        limits.output_bytes_max = random.pick(&[1024, 1 << 20]);
        limits.shared_strategy = random.pick(&Strategy::ALL);
        let cores = random.pick(&[1, 1, 2, 3]);
        let granted = random.pick(&[Qos::AtLeastOnce, Qos::ExactlyOnce]);
        let members = 1 + random.index(4);
        let (leave, end) = (random.percent(50), random.percent(30));
        let slow = random.percent(60).then(|| random.index(usize::from(cores)));
        let mut clients: Vec<_> = (0..PUBLISHERS)
            .map(|nth| Client::new(format!("from-{nth}"), true, limits.in_flight_max))
            .collect();
        for nth in 0..members {
            // What was begun at QoS 2 for a session that ends goes to nobody [MQTT-4.8.2-5].
            let is_kept = nth == 0 || granted == Qos::ExactlyOnce || random.percent(60);
            let mut member = Client::new(format!("member-{nth}"), is_kept, limits.in_flight_max);
            let groups = (0..GROUPS.len()).filter(|_| nth == 0 || random.percent(60));
            member.groups = groups.map(|group| (group, false)).collect();
            clients.push(member);
        }
        let mut judge = Judge::new(&GROUPS);
        // The standard orders nothing for groups [MQTT-4.6.0-6]. What one core has for one member it orders nevertheless.
        judge.is_ordered = members == 1 && cores == 1;
        // What was started at QoS 1 is the session's own once that has left the group.
        judge.own_from = if leave { Qos::AtLeastOnce } else { Qos::ExactlyOnce };
        let cluster = Cluster::new(random, limits, SEGMENTS_MAX, prints);
        let mut world = World { cluster, clients, granted, leave, end, slow, judge };
        begin(&mut world, cores);
        world
    }

    pub(super) fn run(mut self) -> Check<u64> {
        for _ in 0..2 + self.cluster.random.below(3) {
            // Much can be under way where crashes are rare.
            let crash_once_in = self.cluster.random.pick(&[300, 300, 1_500]);
            for _ in 0..self.cluster.random.below(5 * crash_once_in) {
                self.event()?;
                if self.cluster.random.once_in(crash_once_in) {
                    self.crash()?;
                }
            }
            self.rest(Rest::All)?;
            self.judge.check(&self.clients)?;
            self.judge.settle();
            if self.cluster.random.once_in(2) {
                self.crash()?;
            }
        }
        self.rest(Rest::All)?;
        self.judge.check(&self.clients)?;
        Ok(self.cluster.crashes)
    }

    /// One thing that may happen now happens.
    fn event(&mut self) -> Check {
        let client = self.cluster.random.index(self.clients.len());
        let bytes = self.cluster.random.pick(&[1, 10, 100_000]);
        match self.cluster.random.below(14) {
            0 | 1 => {
                let lane = self.cluster.random.index(self.cluster.lanes.len());
                self.deliver(lane);
            }
            2 => {
                let core = self.cluster.random.index(self.cluster.disks.len());
                if self.slow != Some(core) || self.cluster.random.once_in(12) {
                    self.written(core);
                }
            }
            3..=5 => drop(self.feed(client, bytes)),
            6..=8 => drop(self.read(client, bytes)?),
            9 | 10 => self.act_for(client),
            11 => self.pass(1),
            12 => {
                let core = self.cluster.random.index(self.cluster.disks.len());
                self.snapshot(core);
            }
            _ => _ = self.arrive(),
        }
        Ok(())
    }

    /// A Client does something of its own accord.
    fn act_for(&mut self, nth: usize) {
        if self.clients[nth].peer.link.is_none() {
            return self.connect(nth);
        }
        if self.cluster.random.once_in(12) {
            return self.cut(nth);
        }
        if nth >= PUBLISHERS {
            let (client, random) = (&mut self.clients[nth], &mut self.cluster.random);
            if self.leave && nth > PUBLISHERS && random.once_in(2) {
                return client.unsubscribe(&GROUPS, random);
            }
            return client.subscribe(&GROUPS, self.granted);
        }
        let qos = self.cluster.random.pick(&[Qos::AtLeastOnce, Qos::ExactlyOnce]);
        let client = &mut self.clients[nth];
        let Some(id) = Some(()).filter(|()| client.peer.is_ready()).and_then(|()| client.free_id()) else {
            return;
        };
        let message = self.judge.publish(format!("p/{nth}"), qos);
        self.cluster.say(|| format!("{} publishes {message} at {qos:?}", client.name));
        client.peer.publish(id, message, self.judge.messages[message].to_send());
    }

    /// Power fails, and the broker starts on what is left, on as many cores or on others.
    fn crash(&mut self) -> Check {
        let remains = self.cluster.kill(|_| ())?;
        self.clients.iter_mut().for_each(|client| client.peer.link = None);
        let Cluster { random, now, .. } = &mut self.cluster;
        *now = Now { millis: 1_000, wall_millis: now.wall_millis + random.below(5_000) };
        let old = remains.images.len() as u16;
        let cores = if random.once_in(3) { random.pick(&[1, 2, 3]) } else { old };
        self.cluster.say(|| format!("** crash, {old} cores, then {cores}"));
        if cores != old {
            self.judge.is_ordered = false;
        }
        start(self, cores, remains);
        Ok(())
    }

    fn cut(&mut self, nth: usize) {
        let client = &self.clients[nth];
        if client.begins_anew && client.peer.link.as_ref().is_some_and(|link| link.id.is_none()) {
            // A CONNECT that arrives late would end the session of a later one.
            return;
        }
        self.cluster.say(|| format!("{} is cut", client.name));
        if let Some(link) = self.clients[nth].peer.link.take()
            && let Some(id) = link.id
        {
            self.call(link.core, |shard, now| shard.connection_closed(id, now));
        }
    }

    fn take_connack(&mut self, nth: usize, session_present: bool) -> Check {
        let client = &mut self.clients[nth];
        if client.is_kept && client.has_session && session_present == client.begins_anew {
            return violation("session", format!("that of {} is there: {session_present}", client.name));
        }
        if client.begins_anew {
            client.has_begun_anew();
        }
        client.has_session = true;
        if let Some(link) = &mut client.peer.link {
            link.is_accepted = true;
        }
        client.peer.resend(|message| self.judge.messages[message].to_send());
        Ok(())
    }

    fn take_publish(&mut self, nth: usize, publish: &Publish<'_>) -> Check {
        let group = publish.properties.subscription_identifiers().next().expect("each group has one");
        let client = &mut self.clients[nth];
        match client.peer.take(&client.name, publish)? {
            Some(message) => self.judge.take(group as usize - 1, message, publish.qos),
            None => Ok(()),
        }
    }
}
