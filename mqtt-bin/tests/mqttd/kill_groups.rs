//! A broker that is killed while messages wait in a shared group, and started again on another number of cores: they are all
//! there.

use nix::sys::signal::Signal;

use crate::client::{Client, Packet, Receiver};
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
