//! mqttd over disks that forget what was not synced, are full, or break.

use nix::sys::signal::Signal;

use crate::client::{Client, Packet};
use crate::power::Mode;
use crate::store::Data;

/// Messages that are acknowledged before power fails.
const COUNT: u16 = 40;

/// How many acknowledged messages a Client that was away does not get when power has failed meanwhile.
fn lost(mode: Mode) -> u16 {
    let data = Data::on(mode);
    let mqttd = data.start("1");
    let mut away = Client::connect(mqttd.address, "away").expect("it listens");
    away.subscribe("to/away", 1).expect("it answers");
    drop(away);
    let mut publisher = Client::connect(mqttd.address, "publisher").expect("it listens");
    for number in 1..=COUNT {
        publisher.publish("to/away", &number.to_string(), 1, number, false).expect("it reads");
        assert_eq!(publisher.receive().expect("it answers"), Packet::PubAck(number));
    }
    mqttd.signal(Signal::SIGKILL);
    mqttd.wait();
    let mqttd = data.start("1");
    let mut away = Client::connect(mqttd.address, "away").expect("it listens");
    if !away.session_present {
        return COUNT;
    }
    // The last one tells that no other comes.
    let mut publisher = Client::connect(mqttd.address, "publisher").expect("it listens");
    publisher.publish("to/away", "last", 1, 100, false).expect("it reads");
    let mut found = 0;
    loop {
        match away.receive().expect("it sends") {
            Packet::Publish { payload, .. } if payload == "last" => return COUNT - found,
            Packet::Publish { packet_id, .. } => {
                found += 1;
                away.acknowledge(0x40, packet_id).expect("it reads");
            }
            other => panic!("nobody asked for {other:?}"),
        }
    }
}

#[test]
fn what_was_acknowledged_survives_a_disk_that_forgets_what_was_not_synced() {
    assert_eq!(lost(Mode::Honest), 0);
    assert_eq!(lost(Mode::NoDirect), 0);
}

/// Shows that the tests above it can fail: the same disk, but what makes things durable is overlooked.
#[test]
fn a_disk_on_which_nothing_is_made_durable_loses_what_was_acknowledged() {
    assert_eq!(lost(Mode::NoDsync), COUNT, "the log is written through");
    assert_eq!(lost(Mode::NoFsync), COUNT, "files and their names are synced");
}
