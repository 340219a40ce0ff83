//! mqttd over disks that forget what was not synced, are full, break, or are not what they should be.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::client::{Client, Packet, Receiver};
use crate::power::Mode;
use crate::process::{DEADLINE, Mqttd};
use crate::store::{Data, check, fill};

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

#[test]
fn a_disk_that_cannot_be_written_past_the_page_cache_is_named_at_the_start() {
    let data = Data::on(Mode::NoDirect);
    let mqttd = data.start("1");
    assert!(mqttd.said.contains("cannot be written past the page cache"), "{}", mqttd.said);
    assert!(!Data::on(Mode::Honest).start("1").said.contains("cannot be written past"));
}

#[test]
fn a_directory_in_memory_serves_and_is_named_at_the_start() {
    let memory = Path::new("/dev/shm");
    let data = if memory.is_dir() { Data::below(memory) } else { Data::new() };
    let mqttd = data.start("2");
    let kind = fs::read_to_string("/proc/mounts").expect("Linux has it");
    let is_memory = memory.is_dir() && kind.lines().any(|line| line.contains(" /dev/shm tmpfs "));
    assert_eq!(mqttd.said.contains("the data directory is in memory (tmpfs)"), is_memory, "{}", mqttd.said);
    fill(&mqttd);
    mqttd.signal(Signal::SIGKILL);
    mqttd.wait();
    check(&data.start("2"));
}

#[test]
fn a_disk_that_takes_long_for_the_first_segment_is_named_and_served_over() {
    let data = Data::on(Mode::Honest);
    let disk = data.disk.as_ref().expect("it is its own");
    disk.set_slow(true);
    // It listens meanwhile.
    let mut mqttd = data.start("1");
    let mut clean = Client::connect_5(mqttd.address, "clean").expect("it listens");
    clean.publish("a", "passes by", 0, 0, false).expect("it reads");
    let line = mqttd.says("takes long to make the first file of the log");
    assert!(line.contains("core-0"), "{line}");
    disk.set_slow(false);
    mqttd.says("the first file of the log is there");
    let mut publisher = Client::connect(mqttd.address, "publisher").expect("it listens");
    publisher.retain("kept", "x", 7).expect("it reads");
    assert_eq!(publisher.receive().expect("it answers"), Packet::PubAck(7));
}

/// What a run up to a full store leaves.
struct Full {
    mqttd: Mqttd,
    publisher: Client,
    /// Connected as a 3.1.1 Client.
    old: Client,
    /// Payloads of what was acknowledged.
    acknowledged: Vec<String>,
}

/// Publishes to a Client that is away until that is refused.
fn publish_until_full(data: &Data) -> Full {
    let mqttd = data.start("1");
    let mut away = Client::connect(mqttd.address, "away").expect("it listens");
    away.subscribe("to/away", 1).expect("it answers");
    drop(away);
    let old = Client::connect(mqttd.address, "old").expect("it listens");
    let mut publisher = Client::connect_5(mqttd.address, "publisher").expect("it listens");
    let mut acknowledged = Vec::new();
    if let Some(disk) = &data.disk {
        disk.set_full(true);
    }
    loop {
        let payload = format!("{:0>100}", acknowledged.len());
        publisher.publish("to/away", &payload, 1, 7, false).expect("it reads");
        match publisher.receive().expect("it answers") {
            Packet::PubAck(7) => acknowledged.push(payload),
            refused => {
                assert_eq!(refused, Packet::Refused(7, 0x97));
                return Full { mqttd, publisher, old, acknowledged };
            }
        }
        assert!(acknowledged.len() < 10_000, "it is never full");
    }
}

/// Takes all that waits for a Client that was away.
fn drain(mqttd: &Mqttd, expected: &[String]) {
    let mut away = Client::connect(mqttd.address, "away").expect("it listens");
    assert!(away.session_present, "its session is gone");
    let mut receiver = Receiver::default();
    while receiver.taken.len() < expected.len() {
        let packet = away.receive().expect("it sends");
        receiver.handle(&mut away, packet).expect("it reads");
    }
    let taken: Vec<&String> = receiver.taken.iter().map(|(_, payload)| payload).collect();
    assert!(taken.iter().copied().eq(expected), "{taken:?}");
}

/// Publishes until that is acknowledged: whoever makes room is not done at once.
#[allow(clippy::disallowed_methods, reason = "a deadline for a real process is real time")]
fn publish_again(publisher: &mut Client) {
    let start = std::time::Instant::now();
    loop {
        publisher.publish("to/away", "again", 1, 8, false).expect("it reads");
        match publisher.receive().expect("it answers") {
            Packet::PubAck(8) => return,
            refused => assert_eq!(refused, Packet::Refused(8, 0x97)),
        }
        assert!(start.elapsed() < DEADLINE, "there is no room");
    }
}

/// Publishes for longer than it takes to try for room twice: none is taken while there is none.
#[allow(clippy::disallowed_methods, reason = "how often a real process tries is real time")]
fn stays_full(publisher: &mut Client) {
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_millis(2_500) {
        publisher.publish("to/away", "none", 1, 9, false).expect("it reads");
        assert_eq!(publisher.receive().expect("it answers"), Packet::Refused(9, 0x97));
    }
}

#[test]
fn a_full_disk_refuses_says_what_to_do_and_serves_again_once_there_is_room() {
    let data = Data::on(Mode::Honest);
    let Full { mut mqttd, mut publisher, mut old, acknowledged } = publish_until_full(&data);
    mqttd.says("Make room on this disk");
    stays_full(&mut publisher);
    // Before 5.0 nothing says no but the end of the connection.
    old.publish("to/away", "x", 1, 1, false).expect("it reads");
    old.receive().expect_err("no acknowledgement");
    drop(publisher);
    mqttd.signal(Signal::SIGKILL);
    mqttd.wait();
    // It starts while there is no room, however often, and gives out what it has: two pages a start are all that it takes.
    for signal in [Signal::SIGTERM, Signal::SIGKILL].repeat(4) {
        let mqttd = data.start("1");
        drop(Client::connect(mqttd.address, "away").expect("whose session is kept can come"));
        mqttd.signal(signal);
        mqttd.wait();
    }
    let mqttd = data.start("1");
    drain(&mqttd, &acknowledged);
    let mut publisher = Client::connect_5(mqttd.address, "publisher").expect("it listens");
    data.disk.as_ref().expect("it is its own").set_full(false);
    publish_again(&mut publisher);
    mqttd.signal(Signal::SIGKILL);
    mqttd.wait();
    drain(&data.start("1"), &["again".to_owned()]);
}

/// What docs/operating.md says that Clients see of a full disk.
#[test]
fn on_a_full_disk_subscriptions_are_refused_and_what_is_retained_is_true_or_gone() {
    let data = Data::on(Mode::Honest);
    let mqttd = data.start("1");
    let mut old = Client::connect(mqttd.address, "old").expect("it listens");
    old.subscribe("mine", 1).expect("it answers");
    for (topic, packet_id) in [("replaced", 5), ("refused", 6)] {
        old.retain(topic, "before", packet_id).expect("it reads");
        assert_eq!(old.receive().expect("it answers"), Packet::PubAck(packet_id));
    }
    drop(old);
    mqttd.signal(Signal::SIGTERM);
    mqttd.wait();
    let Full { mqttd, mut publisher, old, .. } = publish_until_full(&data);
    assert!(old.session_present);

    // A filter more, and one that it has at another QoS: each gets its answer, and the connection stays.
    let mut stream = old.stream().expect("a second descriptor");
    stream.write_all(b"\x82\x10\x00\x09\x00\x04more\x01\x00\x04mine\x00").expect("it reads");
    let mut suback = [0; 6];
    stream.read_exact(&mut suback).expect("it answers");
    assert_eq!(suback, *b"\x90\x04\x00\x09\x80\x80");
    // One can go.
    stream.write_all(b"\xa2\x08\x00\x0a\x00\x04mine").expect("it reads");
    let mut unsuback = [0; 4];
    stream.read_exact(&mut unsuback).expect("it answers");
    assert_eq!(unsuback, *b"\xb0\x02\x00\x0a");

    publisher
        .stream()
        .expect("a second descriptor")
        .write_all(b"\x31\x10\x00\x08replaced\x00after")
        .expect("it reads");
    for payload in ["after", ""] {
        publisher.retain("refused", payload, 8).expect("it reads");
        assert_eq!(publisher.receive().expect("it answers"), Packet::Refused(8, 0x97));
    }
    let mut look = Client::connect_5(mqttd.address, "look").expect("a session that is not kept");
    look.subscribe("+", 0).expect("it answers");
    let mut stream = publisher.stream().expect("a second descriptor");
    stream.write_all(b"\x30\x13\x00\x08replaced\x00the last").expect("it reads");
    let mut receiver = Receiver::default();
    while receiver.taken.last().is_none_or(|(_, payload)| !payload.ends_with("the last")) {
        let packet = look.receive().expect("it sends");
        receiver.handle(&mut look, packet).expect("it reads");
    }
    // Before the payloads are properties, of which there are none.
    let taken: Vec<_> = receiver.taken.iter().map(|(topic, payload)| (&**topic, &**payload)).collect();
    assert_eq!(taken, [("refused", "\0before"), ("replaced", "\0the last")]);
}

#[test]
fn another_number_of_cores_on_a_full_disk_is_refused_and_leaves_nothing_behind() {
    let data = Data::on(Mode::Honest);
    let mqttd = data.start("1");
    fill(&mqttd);
    mqttd.signal(Signal::SIGTERM);
    mqttd.wait();
    let disk = data.disk.as_ref().expect("it is its own");
    disk.set_full(true);
    let said = data.refusal("2");
    assert!(said.contains("No space left on device") && said.contains("Make room on this disk"), "{said}");
    let left = fs::read_dir(data.directory()).expect("it is there");
    let mut left: Vec<_> = left.map(|entry| entry.expect("listed").file_name()).collect();
    left.retain(|name| name.as_encoded_bytes().starts_with(b"layout-"));
    assert_eq!(left, ["layout-1"]);
    // On as many cores as before it starts.
    let mqttd = data.start("1");
    mqttd.signal(Signal::SIGTERM);
    mqttd.wait();
    disk.set_full(false);
    check(&data.start("2"));
}

#[test]
fn a_disk_that_breaks_is_the_end_and_all_that_was_acknowledged_is_there_when_it_is_mended() {
    let data = Data::on(Mode::Honest);
    let mqttd = data.start("1");
    let mut away = Client::connect(mqttd.address, "away").expect("it listens");
    away.subscribe("to/away", 1).expect("it answers");
    drop(away);
    let mut publisher = Client::connect(mqttd.address, "publisher").expect("it listens");
    data.disk.as_ref().expect("it is its own").set_broken(true);
    let mut acknowledged = Vec::new();
    loop {
        let payload = format!("{:0>100}", acknowledged.len());
        let answer = publisher.publish("to/away", &payload, 1, 7, false).and_then(|()| publisher.receive());
        let Ok(answer) = answer else { break };
        assert_eq!(answer, Packet::PubAck(7));
        acknowledged.push(payload);
    }
    let (code, log) = mqttd.wait();
    assert_eq!(code, Some(3), "{log}");
    assert!(log.contains("the store of core 0") && log.contains("Input/output error"), "{log}");
    data.disk.as_ref().expect("it is its own").set_broken(false);
    let mqttd = data.start("1");
    // The one that was under way was not acknowledged, and may be there or not.
    drain(&mqttd, &acknowledged);
}

#[test]
fn a_directory_that_cannot_be_used_is_said_with_the_remedy() {
    let said = Data::on(Mode::ReadOnly).refusal("1");
    assert!(
        said.contains("/data/lock: Read-only file system") && said.contains("Give a data directory"),
        "{said}"
    );
    let said = Data::on(Mode::Forbidden).refusal("1");
    assert!(said.contains("/data/lock: Permission denied") && said.contains("belongs to user"), "{said}");
    let data = Data::new();
    fs::write(data.directory(), "a file").expect("the temporary folder is writable");
    let said = data.refusal("1");
    let file = data.directory();
    assert!(said.contains(&format!("{} is a file: give a directory", file.display())), "{said}");
}

#[test]
fn a_directory_with_something_missing_or_damaged_is_refused_by_name() {
    let data = Data::new();
    let mqttd = data.start("1");
    fill(&mqttd);
    let mut publisher = Client::connect(mqttd.address, "publisher").expect("it listens");
    // More than one segment, and no snapshot yet.
    for number in 100..130 {
        publisher.retain(&format!("many/{number}"), "x", number).expect("it reads");
        assert_eq!(publisher.receive().expect("it answers"), Packet::PubAck(number));
    }
    mqttd.signal(Signal::SIGKILL);
    mqttd.wait();
    let aside = data.directory().join("aside");
    for (name, expected) in [
        ("META", ["META: the file is missing", "Put back a backup"]),
        ("layout-1/core-0/segment-00000000", ["core-0: ", "salvage"]),
    ] {
        let path = data.directory().join(name);
        fs::rename(&path, &aside).expect("it is there");
        let said = data.refusal("1");
        assert!(expected.iter().all(|text| said.contains(text)), "{said}");
        fs::rename(&aside, &path).expect("it is there");
    }
    let meta = data.directory().join("META");
    let text = fs::read_to_string(&meta).expect("it is there");
    fs::write(&meta, text.replace("cores 1", "cores 2")).expect("written");
    let said = data.refusal("1");
    assert!(said.contains("META: the file is damaged") && said.contains("Put back a backup"), "{said}");
    fs::write(&meta, text).expect("written");
    check(&data.start("1"));
}
