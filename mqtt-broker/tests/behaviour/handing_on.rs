//! QoS 2 from one core to another over a crash: whatever of it each core has on its disk, every session has the message once.

use mqtt_broker::config::Limits;
use mqtt_broker::store::record::Record;
use mqtt_proto::packet::{Connect, Packet, Properties, Property, Publish, Will};
use mqtt_proto::types::{Qos, ReasonCode, TopicName, Version};

use crate::away::is_back;
use crate::cluster::{ClientId, Cluster, connect, limits, publish};
use crate::disk::Disk;
use crate::seen::{ok, packet_id};

/// A session of this name subscribes at QoS 2 and is away; the core that it is at home on.
pub(crate) fn goes_away(cluster: &mut Cluster, name: &str, filter: &str) -> usize {
    let (client, _) = cluster.resume(0, Version::V5, name);
    cluster.subscribe(client, filter, Qos::ExactlyOnce);
    let core = cluster.core_of(client);
    cluster.cut(client);
    core
}

/// The name of a Client that is at home on this core.
pub(crate) fn name_on(cluster: &mut Cluster, core: usize, prefix: &str) -> String {
    let mut names = (0..).map(|n| format!("{prefix}-{n}"));
    let is_at_home = |name: &String| {
        let client = cluster.connect(0, Version::V5, name);
        let found = cluster.core_of(client) == core;
        cluster.cut(client);
        found
    };
    names.find(is_at_home).expect("homes are spread")
}

/// Away on each core one session that wants `a`, by the names of which this is the list.
fn one_away_on_each(cluster: &mut Cluster, cores: usize) -> Vec<String> {
    let names: Vec<_> = (0..cores).map(|core| name_on(cluster, core, "away")).collect();
    names.iter().for_each(|name| _ = goes_away(cluster, name, "a"));
    names
}

pub(crate) fn keeps(cluster: &mut Cluster, name: &str) -> ClientId {
    cluster.resume(0, Version::V5, name).0
}

fn count(disk: &Disk) -> [usize; 3] {
    [
        disk.count(|record| matches!(record, Record::HandOn { .. })),
        disk.count(|record| matches!(record, Record::Handled { .. })),
        disk.count(|record| matches!(record, Record::HandedOn { .. })),
    ]
}

/// Whether the next packet, if there is one, is a PUBREC.
pub(crate) fn has_pubrec(cluster: &mut Cluster, client: ClientId) -> bool {
    let found = cluster.look(client, |packet| assert!(matches!(packet, Packet::PubRec(_)), "{packet:?}"));
    found.is_some()
}

/// What its publisher sends again until it has PUBCOMP.
pub(crate) fn completes(cluster: &mut Cluster, name: &str, message: Publish<'_>, has_pubrec: bool) {
    let publisher = keeps(cluster, name);
    let id = message.packet_id.expect("QoS 2");
    if !has_pubrec {
        cluster.send(publisher, &Packet::Publish(Publish { dup: true, ..message }));
        cluster.expect(publisher, |packet| assert_eq!(packet, &Packet::PubRec(ok(id))));
    }
    cluster.send(publisher, &Packet::PubRel(ok(id)));
    cluster.expect(publisher, |packet| assert_eq!(packet, &Packet::PubComp(ok(id))));
}

#[test]
fn a_message_is_there_once_wherever_each_core_s_disk_has_got_to() {
    // Bits 2n and 2n + 1 of `order`: the core that commits n-th; the crash comes after `steps` of them.
    for (order, steps) in (0..256usize).flat_map(|order| (0..5).map(move |steps| (order, steps))) {
        if order >> (2 * steps) != 0 || (0..4).any(|n| order >> (2 * n) & 3 == 3) {
            continue;
        }
        let (mut cluster, disk) = Disk::new(3, Limits::default());
        let names = one_away_on_each(&mut cluster, 3);
        let publisher = name_on(&mut cluster, 0, "publisher");
        let client = keeps(&mut cluster, &publisher);
        disk.set_late(true);
        let message = publish("a", b"once", Qos::ExactlyOnce, 9);
        cluster.send(client, &Packet::Publish(message));
        let mut heard = false;
        for step in 0..steps {
            disk.commit_core(&mut cluster, order >> (2 * step) & 3);
            heard |= has_pubrec(&mut cluster, client);
        }
        disk.set_late(false);
        let mut cluster = disk.restart(cluster, 10);
        completes(&mut cluster, &publisher, message, heard);
        // Another start finds nothing left to do.
        let mut cluster = disk.restart(cluster, 10);
        assert_eq!(count(&disk)[0], count(&disk)[2]);
        for name in &names {
            is_back(&mut cluster, name, "a", ["once"]);
        }
    }
}

#[test]
fn a_message_is_handed_on_once_it_is_on_the_disk_here_and_pubrec_leaves_once_all_have_it() {
    let (mut cluster, disk) = Disk::new(2, Limits::default());
    let names = one_away_on_each(&mut cluster, 2);
    let publisher = name_on(&mut cluster, 0, "publisher");
    let client = keeps(&mut cluster, &publisher);
    disk.set_late(true);
    let message = publish("a", b"x", Qos::ExactlyOnce, 9);
    cluster.send(client, &Packet::Publish(message));
    assert_eq!(count(&disk), [1, 0, 0]);
    cluster.expect_nothing(client);
    disk.commit_core(&mut cluster, 1);
    assert_eq!(count(&disk), [1, 0, 0]);
    disk.commit_core(&mut cluster, 0);
    assert_eq!(count(&disk), [1, 1, 0]);
    disk.commit_core(&mut cluster, 0);
    assert_eq!(count(&disk), [1, 1, 0], "the other core has not committed it");
    // Sent again on another connection, it is answered as late.
    disk.set_late(false);
    let client = keeps(&mut cluster, &publisher);
    disk.set_late(true);
    cluster.send(client, &Packet::Publish(Publish { dup: true, ..message }));
    cluster.expect_nothing(client);
    disk.commit_core(&mut cluster, 1);
    assert!(has_pubrec(&mut cluster, client));
    assert_eq!(count(&disk), [1, 1, 1]);
    disk.set_late(false);
    let mut cluster = disk.restart(cluster, 10);
    names.iter().for_each(|name| is_back(&mut cluster, name, "a", ["x"]));
}

#[test]
fn what_comes_later_does_not_overtake_what_waits_for_the_store() {
    let (mut cluster, disk) = Disk::new(2, Limits::default());
    one_away_on_each(&mut cluster, 2);
    let name = name_on(&mut cluster, 1, "online");
    let online = cluster.connect(0, Version::V5, &name);
    cluster.subscribe(online, "#", Qos::ExactlyOnce);
    let publisher = name_on(&mut cluster, 0, "publisher");
    let client = keeps(&mut cluster, &publisher);
    let (other_name, near) = (name_on(&mut cluster, 0, "other"), name_on(&mut cluster, 0, "near"));
    let other = cluster.connect(0, Version::V5, &other_name);
    let near = cluster.connect(0, Version::V5, &near);
    cluster.subscribe(near, "near", Qos::AtMostOnce);
    disk.set_late(true);
    cluster.send(client, &Packet::Publish(publish("a", b"1", Qos::ExactlyOnce, 1)));
    cluster.send(client, &Packet::Publish(publish("a", b"2", Qos::ExactlyOnce, 2)));
    cluster.publish(client, "a", b"3");
    cluster.send(client, &Packet::Publish(publish("a", b"4", Qos::AtLeastOnce, 4)));
    // What others publish does not wait.
    cluster.publish(other, "a", b"0");
    cluster.expect_message(online, "a", b"0");
    cluster.expect_nothing(online);
    assert!(cluster.is_paused(client) && !cluster.is_paused(other));
    disk.commit_core(&mut cluster, 0);
    // Sent under QoS 2 to one whose session ends with its connection: nothing to wait for.
    for payload in ["1", "2", "3", "4"] {
        cluster.expect_message(online, "a", payload.as_bytes());
    }
    cluster.expect_nothing(online);
    assert!(!cluster.is_paused(client));
}

#[test]
fn what_stays_on_its_core_waits_for_nobody() {
    let (mut cluster, disk) = Disk::new(2, Limits::default());
    let far = name_on(&mut cluster, 1, "far");
    goes_away(&mut cluster, &far, "a");
    let near = name_on(&mut cluster, 0, "near");
    let near = cluster.connect(0, Version::V5, &near);
    cluster.subscribe(near, "near", Qos::AtMostOnce);
    let publisher = name_on(&mut cluster, 0, "publisher");
    let client = keeps(&mut cluster, &publisher);
    disk.set_late(true);
    cluster.send(client, &Packet::Publish(publish("a", b"1", Qos::ExactlyOnce, 1)));
    cluster.publish(client, "near", b"2");
    cluster.expect_message(near, "near", b"2");
    assert!(!cluster.is_paused(client));
}

#[test]
fn nothing_is_numbered_that_no_other_core_keeps_or_that_its_publisher_would_not_send_again() {
    let (mut cluster, disk) = Disk::new(2, Limits::default());
    let (near, far) = (name_on(&mut cluster, 0, "near"), name_on(&mut cluster, 1, "far"));
    goes_away(&mut cluster, &near, "#");
    let online = cluster.connect(0, Version::V5, &far);
    cluster.subscribe(online, "#", Qos::ExactlyOnce);
    let least = name_on(&mut cluster, 1, "least");
    let (least, _) = cluster.resume(0, Version::V5, &least);
    cluster.subscribe(least, "#", Qos::AtMostOnce);
    let (name, passing) = (name_on(&mut cluster, 0, "publisher"), name_on(&mut cluster, 0, "passing"));
    let publisher = keeps(&mut cluster, &name);
    assert_eq!(cluster.publish_2(publisher, "a", b"x"), ReasonCode::SUCCESS);
    assert_eq!(count(&disk), [0, 0, 0], "there is nobody there whose session outlives a crash");
    let away = name_on(&mut cluster, 1, "away");
    goes_away(&mut cluster, &away, "a");
    cluster.publish_1(publisher, "a", b"x");
    cluster.publish(publisher, "a", b"x");
    cluster.publish_2(publisher, "b", b"x");
    let passing = cluster.connect(0, Version::V5, &passing);
    cluster.publish_2(passing, "a", b"x");
    assert_eq!(count(&disk), [0, 0, 0]);
    cluster.publish_2(publisher, "a", b"x");
    assert_eq!(count(&disk), [1, 1, 1]);
}

#[test]
fn a_snapshot_has_what_is_on_its_way_and_what_was_taken() {
    for bytes in [1, 1_000_000] {
        let (mut cluster, disk) = Disk::new(2, Limits::default());
        let names = one_away_on_each(&mut cluster, 2);
        let publisher = name_on(&mut cluster, 0, "publisher");
        let client = keeps(&mut cluster, &publisher);
        assert_eq!(cluster.publish_2(client, "a", b"0"), ReasonCode::SUCCESS);
        disk.set_late(true);
        let expiry = [Property::MessageExpiryInterval(60)];
        let properties = Properties::new(&expiry);
        for (payload, id) in [(b"1", 1), (b"2", 2)] {
            let message = Publish { properties, ..publish("a", payload, Qos::ExactlyOnce, id) };
            cluster.send(client, &Packet::Publish(message));
        }
        disk.commit_core(&mut cluster, 0);
        // Both are on their way, then the other core takes them, and its disk has more than this one knows.
        disk.snapshot(&mut cluster, bytes, |_| ());
        cluster.lanes_stalled = true;
        disk.commit_core(&mut cluster, 1);
        disk.snapshot(&mut cluster, bytes, |_| ());
        assert_eq!(count(&disk)[2], 1);
        disk.set_late(false);
        let mut cluster = disk.restart(cluster, 10);
        // New numbers are higher than those of before.
        let client = keeps(&mut cluster, &publisher);
        for (payload, id) in [(b"1", 1), (b"2", 2)] {
            let message = Publish { dup: true, ..publish("a", payload, Qos::ExactlyOnce, id) };
            cluster.send(client, &Packet::Publish(message));
            cluster.expect(client, |packet| assert_eq!(packet, &Packet::PubRec(ok(packet_id(id)))));
        }
        assert_eq!(cluster.publish_2(client, "a", b"3"), ReasonCode::SUCCESS);
        names.iter().for_each(|name| is_back(&mut cluster, name, "a", ["0", "1", "2", "3"]));
    }
}

#[test]
fn a_will_is_neither_lost_nor_doubled_between_cores() {
    for (order, steps) in [(0, 0), (0, 1), (0b01, 1), (0b10, 2), (0b0010, 4), (0b0110, 4)] {
        let (mut cluster, disk) = Disk::new(2, Limits::default());
        let names = one_away_on_each(&mut cluster, 2);
        let name = name_on(&mut cluster, 0, "gone");
        let will = Will {
            topic: TopicName::new("a").expect("a topic"),
            payload: b"will",
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: Properties::EMPTY,
        };
        let expiry = [Property::SessionExpiryInterval(3600)];
        let properties = Properties::new(&expiry);
        let connect = Connect { will: Some(will), properties, ..connect(Version::V5, &name) };
        let (gone, _) = cluster.connect_with(0, connect);
        disk.set_late(true);
        cluster.cut(gone);
        for step in 0..steps {
            disk.commit_core(&mut cluster, order >> step & 1);
        }
        disk.set_late(false);
        let mut cluster = disk.restart(cluster, 10);
        // What was not published before the crash is published after a while.
        cluster.advance(30_000);
        names.iter().for_each(|name| is_back(&mut cluster, name, "a", ["will"]));
    }
}

#[test]
fn a_retained_message_that_waits_for_the_store_is_found_by_a_new_subscription() {
    for cores in [2, 3] {
        for to in 0..cores {
            let (mut cluster, disk) = Disk::new(cores, Limits::default());
            let publisher = name_on(&mut cluster, 0, "publisher");
            let client = keeps(&mut cluster, &publisher);
            let name = name_on(&mut cluster, usize::from(to), "late");
            let late = cluster.connect(0, Version::V5, &name);
            disk.set_late(true);
            let topics = ["a", "b", "c", "d", "e", "f"];
            for (id, topic) in (1..).zip(topics) {
                let message = Publish { retain: true, ..publish(topic, b"kept", Qos::ExactlyOnce, id) };
                cluster.send(client, &Packet::Publish(message));
            }
            let filter = mqtt_proto::packet::Subscription {
                filter: "#",
                options: mqtt_proto::packet::SubscriptionOptions::new(Qos::AtMostOnce),
            };
            let list = [filter];
            cluster.send(
                late,
                &Packet::Subscribe(mqtt_proto::packet::Subscribe {
                    packet_id: packet_id(1),
                    properties: Properties::EMPTY,
                    subscriptions: mqtt_proto::packet::Subscriptions::new(&list),
                }),
            );
            (0..4).for_each(|_| disk.commit(&mut cluster));
            cluster.expect(late, |packet| assert!(matches!(packet, Packet::SubAck(_)), "{packet:?}"));
            let mut found: Vec<String> = (0..topics.len()).map(|_| cluster.take(late).0).collect();
            found.sort_unstable();
            assert_eq!(found, topics, "{cores} cores, subscriber on {to}");
            cluster.expect_nothing(late);
        }
    }
}

#[test]
fn publishers_wait_while_too_much_is_kept_for_other_cores() {
    let limits = limits(|limits| limits.lane_bytes_max = 65_536);
    let (mut cluster, disk) = Disk::new(2, limits);
    let names = one_away_on_each(&mut cluster, 2);
    let publisher = name_on(&mut cluster, 0, "publisher");
    let client = keeps(&mut cluster, &publisher);
    disk.set_late(true);
    let payload = [7; 1000];
    for id in 1..=100 {
        cluster.send(client, &Packet::Publish(publish("a", &payload, Qos::ExactlyOnce, id)));
        // This core's disk is fast, the other one's has stopped.
        disk.commit_core(&mut cluster, 0);
    }
    assert!(cluster.is_paused(client));
    let [handed_on, ..] = count(&disk);
    assert!((50..70).contains(&handed_on), "{handed_on}");
    // QoS 0 goes by none of it, if its publisher is read.
    let other = cluster.connect(0, Version::V5, "other");
    cluster.publish(other, "a", b"passes");
    assert!(!cluster.is_paused(other));
    for _ in 0..8 {
        disk.commit(&mut cluster);
    }
    let answered = (0..100).filter(|_| has_pubrec(&mut cluster, client)).count();
    assert_eq!((answered, cluster.is_paused(client)), (100, false));
    disk.set_late(false);
    let mut cluster = disk.restart(cluster, 10);
    for name in &names {
        is_back(&mut cluster, name, "a", [payload; 100]);
    }
}

#[test]
fn a_qos_2_message_that_outlives_a_crash_waits_for_those_before_it_that_may_not() {
    let (mut cluster, disk) = Disk::new(2, Limits::default());
    let names = one_away_on_each(&mut cluster, 2);
    let publisher = name_on(&mut cluster, 0, "publisher");
    let client = keeps(&mut cluster, &publisher);
    disk.set_late(true);
    let (first, second) = (publish("a", b"1", Qos::AtLeastOnce, 1), publish("a", b"2", Qos::ExactlyOnce, 2));
    cluster.send(client, &Packet::Publish(first));
    cluster.send(client, &Packet::Publish(second));
    // The other core loses the first; the second is not on this one's disk either then.
    disk.commit_core(&mut cluster, 0);
    assert!(cluster.is_paused(client));
    disk.set_late(false);
    let mut cluster = disk.restart(cluster, 10);
    let client = keeps(&mut cluster, &publisher);
    cluster.send(client, &Packet::Publish(Publish { dup: true, ..first }));
    cluster.expect(client, |packet| assert!(matches!(packet, Packet::PubAck(_)), "{packet:?}"));
    completes(&mut cluster, &publisher, second, false);
    is_back(&mut cluster, &names[1], "a", ["1", "2"]);
    // The publisher's core had the first already, which at QoS 1 comes once more.
    is_back(&mut cluster, &names[0], "a", ["1", "1", "2"]);
}

#[test]
fn a_store_without_room_takes_nothing_that_is_to_be_handed_on() {
    let (mut cluster, disk) = Disk::new(2, Limits::default());
    let names = one_away_on_each(&mut cluster, 2);
    let far = name_on(&mut cluster, 1, "far");
    goes_away(&mut cluster, &far, "far");
    let publisher = name_on(&mut cluster, 0, "publisher");
    let client = keeps(&mut cluster, &publisher);
    disk.set_core_full(0, true);
    cluster.look_at_stores();
    assert_eq!(cluster.publish_2(client, "far", b"x"), ReasonCode::QUOTA_EXCEEDED);
    assert_eq!(cluster.publish_1(client, "far", b"y"), ReasonCode::SUCCESS, "kept on the other core alone");
    disk.set_core_full(0, false);
    cluster.look_at_stores();
    assert_eq!(cluster.publish_2(client, "far", b"z"), ReasonCode::SUCCESS);
    is_back(&mut cluster, &far, "far", ["y", "z"]);
    names.iter().for_each(|name| is_back(&mut cluster, name, "a", [""; 0]));
}
