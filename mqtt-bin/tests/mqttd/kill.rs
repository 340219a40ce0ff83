//! The broker is killed again and again while clients publish and receive: what it had acknowledged must come, QoS 2
//! exactly once, and in order.
//!
//! `MQTTD_KILL_ROUNDS=500 cargo test -p mqtt-bin --test mqttd kill::` kills it 500 times.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::client::{Client, Packet, Receiver};
use crate::process::DEADLINE;
use crate::store::Data;

/// Messages of a publisher that may be unacknowledged.
const WINDOW: usize = 16;

/// Acknowledgements that both publishers get before the broker is killed: `ACKNOWLEDGED_MIN` and some, by the round.
const ACKNOWLEDGED_MIN: u32 = 60;

/// How long the last messages may take. What has not come by then is lost.
const LAST: Duration = Duration::from_secs(10);

/// What the threads of a run tell each other.
#[derive(Default)]
struct State {
    /// Where the broker listens; nobody while it is not there.
    address: Option<SocketAddr>,
    /// Counts the brokers.
    epoch: u32,
    /// Acknowledged messages of the two publishers.
    acknowledged: [u32; 2],
    /// No message is begun any more.
    is_over: bool,
    /// Publishers whose messages are all acknowledged then.
    done: usize,
    /// What the subscriber that stays has got, and how to wake it.
    taken: usize,
    subscriber: Option<TcpStream>,
}

#[derive(Default)]
struct Run {
    state: Mutex<State>,
    changed: Condvar,
}

impl Run {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with it")
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    fn until(&self, what: &str, holds: impl FnMut(&State) -> bool) {
        assert!(self.is_met(holds, 4 * DEADLINE), "waited too long for {what}");
    }

    /// Whether it holds before so long has passed.
    fn is_met(&self, mut holds: impl FnMut(&State) -> bool, patience: Duration) -> bool {
        let state = self.state();
        let waited = self.changed.wait_timeout_while(state, patience, |state| !holds(state));
        !waited.expect("no thread panics with it").1.timed_out()
    }

    /// A connection to the broker of an epoch that `last` was not, with that epoch; `None` once all is over.
    fn connect(&self, client_id: &str, last: u32) -> Option<(Client, u32)> {
        let mut last = last;
        loop {
            self.until("the next broker", |state| {
                (state.address.is_some() && state.epoch != last) || state.done == 3
            });
            let (address, epoch) = {
                let state = self.state();
                if state.done == 3 {
                    return None;
                }
                (state.address.expect("it was there"), state.epoch)
            };
            match Client::connect(address, client_id) {
                Ok(client) => return Some((client, epoch)),
                Err(_) => last = epoch,
            }
        }
    }
}

/// What a publisher has under way: the number, which is the payload, and whether PUBREC has come.
struct Flight {
    number: u32,
    packet_id: u16,
    released: bool,
}

/// Publishes 0, 1, 2, ... until it is over and all is acknowledged. Answers how many.
fn publish(run: &Run, place: usize, qos: u8) -> u32 {
    let topic = format!("qos/{qos}");
    let mut next = 0;
    let mut flights: VecDeque<Flight> = VecDeque::new();
    let mut epoch = 0;
    loop {
        let (mut client, of) = run.connect(&format!("publisher-{qos}"), epoch).expect("it is not over yet");
        epoch = of;
        // All that is under way once more, in order [MQTT-4.4.0-1].
        let again = flights.iter().try_for_each(|flight| match flight.released {
            true => client.acknowledge(0x62, flight.packet_id),
            false => client.publish(&topic, &flight.number.to_string(), qos, flight.packet_id, true),
        });
        let go_on = || -> io::Result<()> {
            again?;
            loop {
                let is_over = run.state().is_over;
                while !is_over && flights.len() < WINDOW {
                    let packet_id = (next % 60_000) as u16 + 1;
                    flights.push_back(Flight { number: next, packet_id, released: false });
                    next += 1;
                    client.publish(&topic, &(next - 1).to_string(), qos, packet_id, false)?;
                }
                if flights.is_empty() {
                    return Ok(());
                }
                let (packet_id, is_done) = match client.receive()? {
                    Packet::PubAck(packet_id) | Packet::PubComp(packet_id) => (packet_id, true),
                    Packet::PubRec(packet_id) => (packet_id, false),
                    other => panic!("nobody asked for {other:?}"),
                };
                let found = flights.iter().position(|flight| flight.packet_id == packet_id);
                match found {
                    Some(found) if is_done => {
                        flights.remove(found);
                        run.change(|state| state.acknowledged[place] += 1);
                    }
                    Some(found) => {
                        flights[found].released = true;
                        client.acknowledge(0x62, packet_id)?;
                    }
                    None => panic!("{packet_id} is not under way"),
                }
            }
        };
        if go_on().is_ok() {
            run.change(|state| state.done += 1);
            return next;
        }
    }
}

/// Receives all the time, and comes back after each kill.
fn receive(run: &Run) -> Vec<(String, String)> {
    let mut receiver = Receiver::default();
    let mut distinct = BTreeSet::new();
    let mut epoch = 0;
    while let Some((mut client, of)) = run.connect("stays", epoch) {
        epoch = of;
        assert!(client.session_present, "the session is gone");
        let stream = client.stream().expect("a descriptor");
        run.change(|state| state.subscriber = Some(stream));
        let mut go_on = || -> io::Result<()> {
            loop {
                let packet = client.receive()?;
                receiver.handle(&mut client, packet)?;
                if let Some(last) = receiver.taken.last()
                    && distinct.insert(last.clone())
                {
                    run.change(|state| state.taken = distinct.len());
                }
            }
        };
        let _ended = go_on();
    }
    receiver.taken
}

/// Lost, duplicated and out of order, of what was published to `qos/1` or `qos/2`.
fn judge(who: &str, taken: &[(String, String)], qos: u8, published: u32) {
    let topic = format!("qos/{qos}");
    let of_topic = taken.iter().filter(|(found, _)| *found == topic);
    let numbers: Vec<u32> = of_topic.map(|(_, payload)| payload.parse().expect("a number")).collect();
    let mut seen = BTreeSet::new();
    let firsts: Vec<u32> = numbers.iter().copied().filter(|&number| seen.insert(number)).collect();
    let lost = (0..published).filter(|number| !seen.contains(number)).count();
    let twice = numbers.len() - firsts.len();
    let unordered = firsts.windows(2).filter(|pair| pair[0] > pair[1]).count();
    println!("{who}, QoS {qos}: {published} published, {lost} lost, {twice} twice, {unordered} out of order");
    assert_eq!((lost, unordered), (0, 0), "{who}, QoS {qos}");
    if qos == 2 {
        assert_eq!(twice, 0, "{who}: QoS 2 is exactly once");
    }
}

#[test]
fn what_was_acknowledged_survives_any_number_of_kills() {
    kill(&["1"]);
}

#[test]
fn what_was_acknowledged_survives_kills_on_several_cores_and_other_numbers_of_them() {
    kill(&["2", "2", "3", "2", "1"]);
}

/// Kills brokers with so many cores, in turn.
fn kill(cores: &[&str]) {
    let rounds = std::env::var("MQTTD_KILL_ROUNDS").map_or(10, |text| text.parse().expect("a number"));
    let data = Data::new();
    let first = data.start(cores[0]);
    for client_id in ["stays", "away"] {
        let mut client = Client::connect(first.address, client_id).expect("it listens");
        client.subscribe("qos/1", 2).expect("it answers");
        client.subscribe("qos/2", 2).expect("it answers");
    }
    let run = Run::default();
    let (published, taken, mqttd) = std::thread::scope(|scope| {
        let mut mqttd = first;
        let publishers = [scope.spawn(|| publish(&run, 0, 1)), scope.spawn(|| publish(&run, 1, 2))];
        let subscriber = scope.spawn(|| receive(&run));
        for round in 0..rounds {
            let before = run.state().acknowledged;
            run.change(|state| (state.address, state.epoch) = (Some(mqttd.address), round + 1));
            let wanted = ACKNOWLEDGED_MIN + round * 37 % 100;
            run.until("acknowledgements", |state| {
                (0..2).all(|place| state.acknowledged[place] >= before[place] + wanted)
            });
            run.change(|state| state.address = None);
            mqttd.signal(Signal::SIGKILL);
            mqttd.wait();
            mqttd = data.start(cores[(round as usize + 1) % cores.len()]);
        }
        run.change(|state| {
            (state.address, state.epoch, state.is_over) = (Some(mqttd.address), rounds + 1, true);
        });
        run.until("the last acknowledgements", |state| state.done == 2);
        let published = publishers.map(|publisher| publisher.join().expect("it has not panicked"));
        let all = (published[0] + published[1]) as usize;
        run.is_met(|state| state.taken >= all, LAST);
        run.change(|state| {
            state.done = 3;
            let stream = state.subscriber.take().expect("it is connected");
            stream.shutdown(Shutdown::Both).expect("it is connected");
        });
        (published, subscriber.join().expect("it has not panicked"), mqttd)
    });
    judge("the one that stays", &taken, 1, published[0]);
    judge("the one that stays", &taken, 2, published[1]);
    let mut away = Client::connect(mqttd.address, "away").expect("it listens");
    assert!(away.session_present, "the session is gone");
    away.stream().and_then(|stream| stream.set_read_timeout(Some(LAST))).expect("not zero");
    let (mut receiver, mut distinct) = (Receiver::default(), BTreeSet::new());
    // An end that comes too early is judged below.
    while distinct.len() < (published[0] + published[1]) as usize
        && let Ok(packet) = away.receive()
    {
        receiver.handle(&mut away, packet).expect("it reads");
        distinct.extend(receiver.taken.last().cloned());
    }
    judge("the one that was away", &receiver.taken, 1, published[0]);
    judge("the one that was away", &receiver.taken, 2, published[1]);
}
