//! A broker that is killed while messages wait in a shared group, or are on their way to its members, and started again on
//! another number of cores: they are all there, at QoS 2 once.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Condvar, Mutex};

use nix::sys::signal::Signal;

use crate::client::{Client, Packet, Receiver};
use crate::power::Mode;
use crate::process::DEADLINE;
use crate::store::Data;

/// More than one write, and more than a member takes at once.
const MESSAGES: u16 = 3_000;

const MEMBERS: [&str; 3] = ["one", "two", "three"];

#[test]
fn what_waits_in_a_shared_group_survives_kills_and_other_numbers_of_cores() {
    for cores in [["1", "3"], ["2", "1"]] {
        let data = Data::new();
        let mqttd = data.start(cores[0]);
        for client_id in MEMBERS {
            let mut member = Client::connect(mqttd.address, client_id).expect("it listens");
            member.subscribe("$share/workers/jobs/+", 1).expect("it answers");
        }
        let mut publisher = Client::connect(mqttd.address, "publisher").expect("it listens");
        for number in 1..=MESSAGES {
            publisher.publish("jobs/new", &number.to_string(), 1, number, false).expect("it reads");
        }
        for number in 1..=MESSAGES {
            assert_eq!(publisher.receive().expect("it answers"), Packet::PubAck(number));
        }
        mqttd.signal(Signal::SIGKILL);
        mqttd.wait();
        let mqttd = data.start(cores[1]);
        let mut member = Client::connect(mqttd.address, MEMBERS[1]).expect("it listens");
        assert!(member.session_present, "the session is gone");
        let mut receiver = Receiver::default();
        while receiver.taken.len() < usize::from(MESSAGES) {
            let packet = member.receive().expect("all that was acknowledged");
            receiver.handle(&mut member, packet).expect("it reads");
        }
        let numbers = receiver.taken.iter().map(|(_, payload)| payload.parse::<u16>().expect("a number"));
        assert!(numbers.eq(1..=MESSAGES), "each once, in order");
    }
}

/// Enough for some to live on another core than their group.
const WORKERS: usize = 6;

/// Messages that are published between two kills, and at a time.
const A_ROUND: u32 = 150;
const WINDOW: usize = 16;

/// Publishes numbers at QoS 2, and goes on with what was under way when its connection ended.
#[derive(Default)]
struct Publisher {
    next: u32,
    /// Numbers under way, each with its Packet Identifier and whether PUBREC has come.
    flights: VecDeque<(u32, u16, bool)>,
}

impl Publisher {
    /// Publishes what is below `until`, and returns when all is acknowledged.
    fn publish(&mut self, client: &mut Client, until: u32) -> io::Result<()> {
        for &(number, packet_id, is_released) in &self.flights {
            match is_released {
                true => client.acknowledge(0x62, packet_id)?,
                false => client.publish("jobs/new", &number.to_string(), 2, packet_id, true)?,
            }
        }
        loop {
            while self.next < until && self.flights.len() < WINDOW {
                let (number, packet_id) = (self.next, (self.next % 60_000) as u16 + 1);
                self.flights.push_back((number, packet_id, false));
                self.next += 1;
                client.publish("jobs/new", &number.to_string(), 2, packet_id, false)?;
            }
            if self.flights.is_empty() {
                return Ok(());
            }
            match client.receive()? {
                Packet::PubRec(packet_id) => {
                    for flight in self.flights.iter_mut().filter(|flight| flight.1 == packet_id) {
                        flight.2 = true;
                    }
                    client.acknowledge(0x62, packet_id)?;
                }
                Packet::PubComp(packet_id) => self.flights.retain(|flight| flight.1 != packet_id),
                other => panic!("nobody asked for {other:?}"),
            }
        }
    }
}

/// How many messages all workers have taken.
#[derive(Default)]
struct Count {
    taken: Mutex<u32>,
    changed: Condvar,
}

impl Count {
    fn until(&self, wanted: u32) {
        let taken = self.taken.lock().expect("no thread panics with it");
        let waited = self.changed.wait_timeout_while(taken, 4 * DEADLINE, |taken| *taken < wanted);
        let (taken, timeout) = waited.expect("no thread panics with it");
        assert!(!timeout.timed_out(), "{taken} of {wanted} were taken");
    }

    /// A worker takes what comes until its connection ends.
    fn take(&self, client: &mut Client, receiver: &mut Receiver) -> io::Result<()> {
        loop {
            let (before, packet) = (receiver.taken.len(), client.receive()?);
            receiver.handle(client, packet)?;
            *self.taken.lock().expect("no thread panics with it") += (receiver.taken.len() - before) as u32;
            self.changed.notify_all();
        }
    }
}

/// Nothing is left of what was not synced.
#[test]
fn a_qos_2_message_of_a_shared_group_comes_to_one_member_once_whenever_power_fails() {
    let rounds = std::env::var("MQTTD_KILL_ROUNDS").map_or(5, |text| text.parse().expect("a number"));
    let cores = ["3", "3", "2", "2", "3", "1"];
    let data = Data::on(Mode::NoDirect);
    let mqttd = data.start(cores[0]);
    let names: Vec<String> = (0..WORKERS).map(|nth| format!("worker-{nth}")).collect();
    for name in &names {
        let mut worker = Client::connect(mqttd.address, name).expect("it listens");
        worker.subscribe("$share/workers/jobs/+", 2).expect("it answers");
    }
    mqttd.signal(Signal::SIGKILL);
    mqttd.wait();
    let (mut publisher, count) = (Publisher::default(), Count::default());
    let mut receivers: Vec<Receiver> = names.iter().map(|_| Receiver::default()).collect();
    for round in 0..=rounds {
        let mqttd = data.start(cores[round as usize % cores.len()]);
        let before = *count.taken.lock().expect("no thread panics with it");
        let (until, is_last) = ((round + 1) * A_ROUND, round == rounds);
        std::thread::scope(|scope| {
            for (name, receiver) in names.iter().zip(&mut receivers) {
                let mut worker = Client::connect(mqttd.address, name).expect("it listens");
                assert!(worker.session_present, "the session is gone");
                let count = &count;
                scope.spawn(move || _ = count.take(&mut worker, receiver));
            }
            let mut client = Client::connect(mqttd.address, "publisher").expect("it listens");
            let publisher = &mut publisher;
            let publishing = scope.spawn(move || publisher.publish(&mut client, until));
            if is_last {
                publishing.join().expect("it has not panicked").expect("nobody kills the broker");
                count.until(until);
            } else {
                count.until((before + 20 + round * 37 % 100).min(until));
            }
            mqttd.signal(Signal::SIGKILL);
        });
        mqttd.wait();
    }
    let mut times: BTreeMap<u32, u32> = BTreeMap::new();
    for (_, payload) in receivers.iter().flat_map(|receiver| &receiver.taken) {
        *times.entry(payload.parse().expect("a number")).or_default() += 1;
    }
    let twice: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
    let lost: Vec<_> = (0..publisher.next).filter(|number| !times.contains_key(number)).collect();
    println!("{} published, {} lost, {} twice", publisher.next, lost.len(), twice.len());
    assert!(lost.is_empty() && twice.is_empty(), "without {lost:?}, twice {twice:?}");
}
