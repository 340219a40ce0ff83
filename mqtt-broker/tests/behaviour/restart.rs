//! A broker that is killed and started again on what its store has: what was acknowledged is there, once and in order.

use mqtt_broker::config::{Limits, Overflow};
use mqtt_broker::store::record::Record;
use mqtt_proto::packet::{
    Ack, Connect, Disconnect, Packet, Properties, Property, Publish, SubscriptionOptions, Will,
};
use mqtt_proto::types::{Qos, ReasonCode, TopicName, Version};

use crate::away::{gets, goes_away, is_back};
use crate::cluster::{ClientId, Cluster, connect, limits, publish};
use crate::disk::Disk;
use crate::seen::{ok, packet_id, see};

const CORES: [u16; 3] = [1, 2, 8];

fn resume(cluster: &mut Cluster, name: &str) -> ClientId {
    let (client, present) = cluster.resume(0, Version::V5, name);
    assert!(present, "the session of {name} is there");
    client
}

/// Subscribes at QoS 2 and goes away.
fn goes(cluster: &mut Cluster, name: &str, filter: &str) {
    let (client, _) = cluster.resume(0, Version::V5, name);
    cluster.subscribe(client, filter, Qos::ExactlyOnce);
    cluster.cut(client);
}

#[test]
fn what_waits_is_there_after_a_restart_in_order_and_gone_once_it_is_acknowledged() {
    for cores in CORES {
        let (mut cluster, disk) = Disk::new(cores, Limits::default());
        for name in ["one", "two", "three"] {
            goes_away(&mut cluster, name, "a/+");
        }
        let publisher = cluster.connect(0, Version::V5, "publisher");
        for n in 0..6u8 {
            assert_eq!(cluster.publish_1(publisher, "a/b", &[n]), ReasonCode::SUCCESS);
            assert_eq!(cluster.publish_2(publisher, "a/b", &[n + 100]), ReasonCode::SUCCESS);
        }
        let all: Vec<[u8; 1]> = (0..6).flat_map(|n| [[n], [n + 100]]).collect();
        is_back(&mut cluster, "one", "a/b", &all);
        let mut cluster = disk.restart(cluster, 1000);
        assert_eq!(cluster.total(|stats| stats.messages_kept), 24);
        is_back(&mut cluster, "one", "a/b", [[0u8; 1]; 0]);
        is_back(&mut cluster, "two", "a/b", &all);
        let mut cluster = disk.restart(cluster, 1000);
        is_back(&mut cluster, "two", "a/b", [[0u8; 1]; 0]);
        is_back(&mut cluster, "three", "a/b", &all);
        assert_eq!(cluster.total(|stats| stats.messages_kept), 0);
        let stats = |of: fn(&mqtt_broker::shard::Stats) -> u64| cluster.total(of);
        assert_eq!(stats(|stats| stats.messages_matched), stats(|stats| stats.messages_delivered));
        assert_eq!(stats(|stats| stats.queue_bytes), 0);
    }
}

#[test]
fn what_is_in_flight_is_sent_again_with_dup_under_its_packet_identifier() {
    for cores in CORES {
        let (mut cluster, disk) = Disk::new(cores, Limits::default());
        let (client, _) = cluster.resume(0, Version::V5, "c");
        cluster.subscribe(client, "a", Qos::ExactlyOnce);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        for (nth, qos) in
            [Qos::AtLeastOnce, Qos::ExactlyOnce, Qos::AtLeastOnce, Qos::ExactlyOnce, Qos::ExactlyOnce]
                .into_iter()
                .enumerate()
        {
            let payload = [nth as u8];
            let message = publish("a", &payload, qos, nth as u16 + 1);
            cluster.send(publisher, &Packet::Publish(message));
        }
        let sent: Vec<_> = (0..5).map(|_| see(&mut cluster, client)).collect();
        assert!(sent.iter().all(|seen| !seen.dup));
        // The third is done with, of the fourth all but PUBCOMP, the fifth was refused.
        cluster.send(client, &Packet::PubAck(ok(packet_id(3))));
        cluster.send(client, &Packet::PubRec(ok(packet_id(4))));
        cluster.expect(client, |packet| assert!(matches!(packet, Packet::PubRel(_)), "{packet:?}"));
        let refused = Ack::new(packet_id(5), ReasonCode::UNSPECIFIED_ERROR);
        cluster.send(client, &Packet::PubRec(refused));
        for _ in 0..2 {
            cluster = disk.restart(cluster, 10);
            let client = resume(&mut cluster, "c");
            for (nth, before) in sent.iter().enumerate().take(2) {
                let seen = see(&mut cluster, client);
                assert!(seen.dup && seen.packet_id == before.packet_id && seen.qos == before.qos, "{nth}");
            }
            cluster.expect(client, |packet| assert_eq!(packet, &Packet::PubRel(ok(packet_id(4)))));
            cluster.expect_nothing(client);
        }
        // Identifiers go on behind those that were used.
        let client = resume(&mut cluster, "c");
        (0..3).for_each(|_| drop(cluster.take_frame(client)));
        let publisher = cluster.connect(0, Version::V5, "publisher");
        cluster.publish_1(publisher, "a", b"next");
        assert_eq!(see(&mut cluster, client).packet_id, Some(packet_id(6)));
    }
}

#[test]
fn nothing_is_acknowledged_before_it_is_on_the_disk() {
    for cores in CORES {
        for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let (mut cluster, disk) = Disk::new(cores, Limits::default());
            goes(&mut cluster, "c", "a");
            let publisher = cluster.connect(0, Version::V5, "publisher");
            disk.set_late(true);
            cluster.send(publisher, &Packet::Publish(publish("a", b"kept", qos, 1)));
            cluster.expect_nothing(publisher);
            disk.commit(&mut cluster);
            cluster
                .expect(publisher, |packet| assert!(matches!(packet, Packet::PubAck(_) | Packet::PubRec(_))));
            cluster.send(publisher, &Packet::Publish(publish("a", b"lost", qos, 2)));
            cluster.expect_nothing(publisher);
            disk.set_late(false);
            let mut cluster = disk.restart(cluster, 10);
            is_back(&mut cluster, "c", "a", ["kept"]);
        }
    }
}

#[test]
fn a_qos_2_message_leaves_with_an_identifier_that_is_on_the_disk() {
    for cores in CORES {
        let (mut cluster, disk) = Disk::new(cores, Limits::default());
        let (client, _) = cluster.resume(0, Version::V5, "c");
        cluster.subscribe(client, "a", Qos::ExactlyOnce);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        disk.set_late(true);
        // What came before it need not wait, nor what is QoS 1 itself.
        cluster.send(publisher, &Packet::Publish(publish("a", b"1", Qos::AtLeastOnce, 1)));
        cluster.send(publisher, &Packet::Publish(publish("a", b"2", Qos::ExactlyOnce, 2)));
        cluster.send(publisher, &Packet::Publish(publish("a", b"3", Qos::AtMostOnce, 3)));
        assert_eq!(see(&mut cluster, client).payload, b"1");
        cluster.expect_nothing(client);
        disk.commit(&mut cluster);
        let second = see(&mut cluster, client);
        assert_eq!((second.payload, second.packet_id), (b"2".to_vec(), Some(packet_id(2))));
        assert_eq!(see(&mut cluster, client).payload, b"3");
        // PUBREL waits as well: sent, the message may not be sent again.
        cluster.send(client, &Packet::PubRec(ok(packet_id(2))));
        cluster.expect_nothing(client);
        disk.commit(&mut cluster);
        cluster.expect(client, |packet| assert_eq!(packet, &Packet::PubRel(ok(packet_id(2)))));
        let mut cluster = disk.restart(cluster, 10);
        disk.set_late(false);
        disk.commit(&mut cluster);
        let client = resume(&mut cluster, "c");
        assert_eq!(see(&mut cluster, client).payload, b"1");
        cluster.expect(client, |packet| assert_eq!(packet, &Packet::PubRel(ok(packet_id(2)))));
        cluster.expect_nothing(client);
    }
}

#[test]
fn a_qos_2_message_that_its_publisher_sends_again_after_a_restart_is_not_delivered_again() {
    for cores in CORES {
        let (mut cluster, disk) = Disk::new(cores, Limits::default());
        goes(&mut cluster, "c", "a");
        let (publisher, _) = cluster.resume(0, Version::V5, "publisher");
        let message = Publish { dup: true, ..publish("a", b"once", Qos::ExactlyOnce, 9) };
        cluster.send(publisher, &Packet::Publish(message));
        let mut cluster = disk.restart(cluster, 10);
        let publisher = resume(&mut cluster, "publisher");
        cluster.send(publisher, &Packet::Publish(message));
        cluster.expect(publisher, |packet| assert_eq!(packet, &Packet::PubRec(ok(packet_id(9)))));
        // The identifier is free for another message only once that is on the disk.
        disk.set_late(true);
        cluster.send(publisher, &Packet::PubRel(ok(packet_id(9))));
        cluster.expect_nothing(publisher);
        disk.commit(&mut cluster);
        cluster.expect(publisher, |packet| assert_eq!(packet, &Packet::PubComp(ok(packet_id(9)))));
        disk.set_late(false);
        let mut cluster = disk.restart(cluster, 10);
        let publisher = resume(&mut cluster, "publisher");
        cluster.send(publisher, &Packet::Publish(publish("a", b"next", Qos::ExactlyOnce, 9)));
        is_back(&mut cluster, "c", "a", ["once", "next"]);
    }
}

#[test]
fn subscriptions_are_known_on_every_core_before_anybody_publishes() {
    for cores in CORES {
        let (mut cluster, disk) = Disk::new(cores, Limits::default());
        for n in 0..10 {
            let (client, _) = cluster.resume(0, Version::V5, &format!("c{n}"));
            let identifier = [Property::SubscriptionIdentifier(n + 1)];
            let options = SubscriptionOptions::new(Qos::AtLeastOnce);
            let filter = if n % 2 == 0 { "a/#" } else { "a/b" };
            cluster.subscribe_with(client, filter, options, Properties::new(&identifier));
            cluster.subscribe(client, "gone", Qos::AtLeastOnce);
            cluster.unsubscribe(client, "gone");
        }
        let mut cluster = disk.restart(cluster, 10);
        for core in 0..usize::from(cores) {
            let publisher = cluster.connect(core, Version::V5, "publisher");
            assert_eq!(cluster.publish_1(publisher, "a/b", b"x"), ReasonCode::SUCCESS);
            assert_eq!(cluster.publish_1(publisher, "gone", b"x"), ReasonCode::NO_MATCHING_SUBSCRIBERS);
        }
        for n in 0..10 {
            let client = resume(&mut cluster, &format!("c{n}"));
            for _ in 0..cores {
                cluster.expect(client, |packet| {
                    let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
                    assert_eq!(publish.properties.subscription_identifiers().next(), Some(n + 1));
                });
            }
            cluster.expect_nothing(client);
        }
    }
}

#[test]
fn a_member_of_a_shared_group_is_one_after_a_restart() {
    for cores in CORES {
        let (mut cluster, disk) = Disk::new(cores, Limits::default());
        let (client, _) = cluster.resume(0, Version::V5, "c");
        cluster.subscribe(client, "$share/g/a", Qos::AtLeastOnce);
        let mut cluster = disk.restart(cluster, 10);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        assert_eq!(cluster.publish_1(publisher, "a", b"waits"), ReasonCode::SUCCESS);
        let client = resume(&mut cluster, "c");
        gets(&mut cluster, client, "a", ["waits"]);
        assert_eq!(cluster.unsubscribe(client, "$share/g/a"), ReasonCode::SUCCESS);
        let mut cluster = disk.restart(cluster, 10);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        assert_eq!(cluster.publish_1(publisher, "a", b"x"), ReasonCode::NO_MATCHING_SUBSCRIBERS);
    }
}

#[test]
fn retained_messages_are_there_unless_they_were_removed_or_have_expired() {
    for cores in CORES {
        let (mut cluster, disk) = Disk::new(cores, Limits::default());
        let publisher = cluster.connect(0, Version::V5, "publisher");
        let expiry = [Property::MessageExpiryInterval(10)];
        for n in 0..16u8 {
            let (topic, qos) = (format!("r/{n:02}"), [Qos::AtMostOnce, Qos::AtLeastOnce][usize::from(n % 2)]);
            let properties = if n < 4 { Properties::new(&expiry) } else { Properties::EMPTY };
            let payload = [n];
            let message = Publish { retain: true, properties, ..publish(&topic, &payload, qos, 1) };
            cluster.send(publisher, &Packet::Publish(message));
            if n >= 12 {
                let empty = Publish { payload: b"", ..message };
                cluster.send(publisher, &Packet::Publish(empty));
            }
        }
        let see_all = |cluster: &mut Cluster| {
            let client = cluster.connect(0, Version::V5, "reader");
            cluster.subscribe(client, "r/#", Qos::AtLeastOnce);
            let mut found: Vec<u8> = Vec::new();
            while cluster.pending(client) > 0 {
                let (topic, payload) = cluster.take(client);
                assert_eq!(topic, format!("r/{:02}", payload[0]));
                found.extend(payload);
            }
            found.sort_unstable();
            found
        };
        let mut cluster = disk.restart(cluster, 5_000);
        assert!(see_all(&mut cluster).into_iter().eq(0..12));
        let mut cluster = disk.restart(cluster, 4_000);
        assert!(see_all(&mut cluster).into_iter().eq(0..12));
        cluster.advance(1_000);
        assert!(see_all(&mut cluster).into_iter().eq(4..12), "time goes on as it did");
        assert_eq!(cluster.total(|stats| stats.retained_messages), 8);
        let mut cluster = disk.restart(cluster, 1_000);
        assert!(see_all(&mut cluster).into_iter().eq(4..12));
    }
}

/// After a restart it is as expired as before: the record is no reason for a write.
#[test]
fn nobody_waits_for_the_record_of_a_retained_message_that_has_expired() {
    let (mut cluster, disk) = Disk::new(1, Limits::default());
    let publisher = cluster.connect(0, Version::V5, "publisher");
    let expiry = [Property::MessageExpiryInterval(10)];
    let properties = Properties::new(&expiry);
    let message = Publish { retain: true, properties, ..publish("a", b"x", Qos::AtMostOnce, 0) };
    cluster.send(publisher, &Packet::Publish(message));
    let removed = |disk: &Disk| disk.count(|record| matches!(record, Record::RetainedRemoved { .. }));
    let before = disk.awaited();
    assert_eq!(removed(&disk), 0);
    cluster.advance(11_000);
    assert_eq!((removed(&disk), disk.awaited()), (1, before));
}

/// Connects with a Will; the session is kept for `expiry` seconds.
fn with_will(cluster: &mut Cluster, name: &str, expiry: u32, delay: u32, clean_start: bool) -> ClientId {
    let (expiry, delay) = ([Property::SessionExpiryInterval(expiry)], [Property::WillDelayInterval(delay)]);
    let will = Will {
        qos: Qos::AtLeastOnce,
        retain: false,
        topic: TopicName::new("will").expect("a topic"),
        payload: name.as_bytes(),
        properties: Properties::new(&delay),
    };
    let properties = Properties::new(&expiry);
    let connect = Connect { will: Some(will), properties, clean_start, ..connect(Version::V5, name) };
    cluster.connect_with(0, connect).0
}

#[test]
fn a_will_is_published_30_seconds_after_a_restart_unless_its_client_is_back() {
    for cores in CORES {
        let (mut cluster, disk) = Disk::new(cores, Limits::default());
        goes_away(&mut cluster, "watcher", "will");
        for (name, expiry, delay) in
            [("clean", 0, 0), ("kept", 3600, 0), ("slow", 3600, 50), ("returns", 3600, 0)]
        {
            with_will(&mut cluster, name, expiry, delay, true);
        }
        with_will(&mut cluster, "clean and returns", 0, 0, true);
        let says_goodbye = with_will(&mut cluster, "says goodbye", 3600, 0, true);
        cluster.send(says_goodbye, &Packet::Disconnect(Disconnect::new(ReasonCode::NORMAL_DISCONNECTION)));
        let mut cluster = disk.restart(cluster, 100);
        let watcher = resume(&mut cluster, "watcher");
        cluster.advance(29_900);
        cluster.expect_nothing(watcher);
        resume(&mut cluster, "returns");
        let (_, present) = cluster.connect_with(0, connect(Version::V5, "clean and returns"));
        assert!(!present, "its session has ended");
        cluster.advance(200);
        let mut got = [cluster.take(watcher).1, cluster.take(watcher).1];
        got.sort_unstable();
        assert_eq!(got, [b"clean".to_vec(), b"kept".to_vec()]);
        cluster.advance(19_800);
        cluster.expect_nothing(watcher);
        cluster.advance(200);
        gets(&mut cluster, watcher, "will", ["slow"]);
        // They are published once, whatever comes.
        let mut cluster = disk.restart(cluster, 100);
        let watcher = resume(&mut cluster, "watcher");
        cluster.advance(120_000);
        cluster.expect_nothing(watcher);
        assert_eq!(cluster.total(|stats| stats.sessions), 5, "watcher, kept, slow, returns, says goodbye");
    }
}

/// A broker that is started again and again would otherwise never publish them.
#[test]
fn the_time_that_clients_have_to_come_back_does_not_begin_anew_with_each_start() {
    for (cores, takes_snapshot) in [(1, false), (2, true), (8, false), (2, false)] {
        let (mut cluster, disk) = Disk::new(cores, Limits::default());
        goes_away(&mut cluster, "watcher", "will");
        with_will(&mut cluster, "connected", 3600, 0, true);
        // Its time is over while nothing runs: it has until half a minute behind the first start too.
        let away = with_will(&mut cluster, "away", 3600, 5, true);
        cluster.cut(away);
        let mut cluster = disk.restart(cluster, 10_000);
        cluster.advance(12_000);
        if takes_snapshot {
            disk.snapshot(&mut cluster, 100, |_| ());
        }
        let mut cluster = disk.restart(cluster, 8_000);
        let watcher = resume(&mut cluster, "watcher");
        cluster.advance(9_900);
        cluster.expect_nothing(watcher);
        cluster.advance(200);
        let mut got = [cluster.take(watcher).1, cluster.take(watcher).1];
        got.sort_unstable();
        assert_eq!(got, [b"away".to_vec(), b"connected".to_vec()]);
    }
}

#[test]
fn a_will_whose_time_was_over_before_a_start_reaches_all_cores_behind_it() {
    for cores in CORES {
        let (mut cluster, disk) = Disk::new(cores, limits(|limits| limits.restart_grace_seconds = 0));
        for number in 0..4 {
            goes_away(&mut cluster, &format!("watcher {number}"), "will");
            with_will(&mut cluster, &format!("gone {number}"), 3600, 0, true);
        }
        let mut cluster = disk.restart(cluster, 10);
        cluster.advance(1);
        for number in 0..4 {
            let watcher = resume(&mut cluster, &format!("watcher {number}"));
            let mut got: Vec<Vec<u8>> = (0..4).map(|_| cluster.take(watcher).1).collect();
            got.sort_unstable();
            assert_eq!(got, ["gone 0", "gone 1", "gone 2", "gone 3"].map(|name| name.as_bytes().to_vec()));
        }
    }
}

#[test]
fn a_session_ends_by_the_time_that_its_client_was_away() {
    for cores in CORES {
        let (mut cluster, disk) = Disk::new(cores, Limits::default());
        goes_away(&mut cluster, "c", "a");
        cluster.advance(3_000_000);
        let mut cluster = disk.restart(cluster, 300_000);
        assert_eq!(cluster.total(|stats| stats.sessions), 1);
        cluster.advance(299_999);
        assert_eq!(cluster.total(|stats| stats.sessions), 1);
        cluster.advance(1);
        assert_eq!(cluster.total(|stats| stats.sessions), 0);
        goes_away(&mut cluster, "c", "a");
        // Its Client was there when the broker ended: it is away since the start.
        cluster.resume(0, Version::V5, "d");
        let mut cluster = disk.restart(cluster, 3_600_000);
        assert_eq!(cluster.total(|stats| stats.sessions), 1);
        resume(&mut cluster, "d");
        cluster.advance(3_600_000);
        let mut cluster = disk.restart(cluster, 0);
        resume(&mut cluster, "d");
    }
}

#[test]
fn a_snapshot_soon_behind_a_start_does_not_make_a_session_with_a_will_last_longer() {
    for cores in CORES {
        let (mut cluster, disk) = Disk::new(cores, Limits::default());
        with_will(&mut cluster, "c", 10, 2, true);
        let cluster = disk.restart(cluster, 0);
        // Its time is over, and it stays for the sake of its Will.
        let mut cluster = disk.restart(cluster, 15_000);
        disk.snapshot(&mut cluster, 1_000_000, |_| ());
        let mut cluster = disk.restart(cluster, 0);
        cluster.advance(14_999);
        assert_eq!(cluster.total(|stats| stats.sessions), 1);
        cluster.advance(1);
        assert_eq!(cluster.total(|stats| stats.sessions), 0);
    }
}

#[test]
fn a_message_has_no_more_time_left_behind_a_start_than_it_came_with() {
    for cores in CORES {
        let (mut cluster, disk) = Disk::new(cores, Limits::default());
        goes_away(&mut cluster, "c", "a");
        cluster.advance(500);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        let expiry = [Property::MessageExpiryInterval(100)];
        let message =
            Publish { properties: Properties::new(&expiry), ..publish("a", b"x", Qos::AtLeastOnce, 1) };
        cluster.send(publisher, &Packet::Publish(message));
        cluster.now.wall_millis -= 10_000;
        let mut cluster = disk.restart(cluster, 0);
        let client = resume(&mut cluster, "c");
        let left = cluster.expect(client, |packet| match packet {
            Packet::Publish(publish) => publish.properties.message_expiry_interval(),
            other => panic!("{other:?}"),
        });
        assert_eq!(left, Some(100));
    }
}

#[test]
fn what_a_full_queue_or_time_has_dropped_stays_dropped() {
    for overflow in [Overflow::DropOldest, Overflow::DropNewest] {
        let bounds = limits(|limits| {
            limits.queue_messages_max = 3;
            limits.queue_qos0_offline = true;
            limits.queue_overflow = overflow;
        });
        let (mut cluster, disk) = Disk::new(1, bounds);
        goes_away(&mut cluster, "c", "a");
        let publisher = cluster.connect(0, Version::V5, "publisher");
        // QoS 0 waits too, and is in no log: it may not count there.
        for n in 0..8u8 {
            match n % 2 {
                0 => cluster.publish(publisher, "a", &[n]),
                _ => drop(cluster.publish_1(publisher, "a", &[n])),
            }
        }
        let mut cluster = disk.restart(cluster, 10);
        let expected: &[[u8; 1]] = if overflow == Overflow::DropOldest { &[[5], [7]] } else { &[[1]] };
        is_back(&mut cluster, "c", "a", expected);
    }
    let (mut cluster, disk) = Disk::new(1, Limits::default());
    goes_away(&mut cluster, "c", "a");
    let publisher = cluster.connect(0, Version::V5, "publisher");
    let expiry = [Property::MessageExpiryInterval(2)];
    for (nth, properties) in [Properties::new(&expiry), Properties::EMPTY].into_iter().enumerate() {
        let payload = [nth as u8];
        let message = Publish { properties, ..publish("a", &payload, Qos::AtLeastOnce, 1) };
        cluster.send(publisher, &Packet::Publish(message));
    }
    cluster.advance(3_000);
    let client = resume(&mut cluster, "c");
    assert_eq!(see(&mut cluster, client).payload, [1]);
    let mut cluster = disk.restart(cluster, 10);
    let client = resume(&mut cluster, "c");
    let seen = see(&mut cluster, client);
    assert_eq!((seen.payload, seen.dup), (vec![1], true));
    cluster.expect_nothing(client);
}

#[test]
fn a_message_is_written_once_for_all_that_keep_it() {
    let (mut cluster, disk) = Disk::new(1, Limits::default());
    for n in 0..20 {
        goes_away(&mut cluster, &format!("c{n}"), "a");
    }
    let publisher = cluster.connect(0, Version::V5, "publisher");
    let message = Publish { retain: true, ..publish("a", b"x", Qos::AtLeastOnce, 1) };
    cluster.send(publisher, &Packet::Publish(message));
    assert_eq!(disk.count(|record| matches!(record, Record::Message { .. })), 1);
    assert_eq!(disk.count(|record| matches!(record, Record::Enqueued { .. })), 20);
    assert_eq!(disk.count(|record| matches!(record, Record::Retained)), 1);
}

#[test]
fn a_broker_begins_with_a_snapshot_made_while_it_went_on() {
    for cores in CORES {
        for bytes in [1, 500, 1_000_000] {
            let (mut cluster, disk) = Disk::new(cores, Limits::default());
            for n in 0..6 {
                goes(&mut cluster, &format!("c{n}"), "a/#");
            }
            let (member, _) = cluster.resume(0, Version::V5, "member");
            cluster.subscribe(member, "$share/g/s", Qos::AtLeastOnce);
            let (in_flight, _) = cluster.resume(0, Version::V5, "in flight");
            cluster.subscribe(in_flight, "a/#", Qos::ExactlyOnce);
            with_will(&mut cluster, "clean", 0, 0, true);
            let publisher = cluster.connect(0, Version::V5, "publisher");
            let mut published = Vec::new();
            let mut publish_one = |cluster: &mut Cluster| {
                let payload = [published.len() as u8];
                let topic = format!("a/{}", published.len() % 5);
                let message = Publish { retain: true, ..publish(&topic, &payload, Qos::ExactlyOnce, 7) };
                cluster.send(publisher, &Packet::Publish(message));
                cluster.send(publisher, &Packet::PubRel(ok(packet_id(7))));
                published.push(payload);
            };
            (0..10).for_each(|_| publish_one(&mut cluster));
            let mut slices = 0;
            disk.snapshot(&mut cluster, bytes, |cluster| {
                slices += 1;
                if slices < 100 {
                    publish_one(cluster);
                }
                if slices == 3 {
                    goes(cluster, "comes meanwhile", "a/#");
                    let (client, _) = cluster.resume(0, Version::V5, "c5");
                    cluster.send(
                        client,
                        &Packet::Disconnect(Disconnect {
                            reason: ReasonCode::NORMAL_DISCONNECTION,
                            properties: Properties::new(&[Property::SessionExpiryInterval(0)]),
                        }),
                    );
                }
            });
            publish_one(&mut cluster);
            let mut cluster = disk.restart(cluster, 10);
            for n in 0..5 {
                let client = resume(&mut cluster, &format!("c{n}"));
                let got: Vec<u8> = published.iter().map(|_| cluster.take(client).1[0]).collect();
                assert!(got.iter().copied().eq(published.iter().map(|payload| payload[0])), "{got:?}");
                cluster.expect_nothing(client);
            }
            let client = resume(&mut cluster, "in flight");
            let seen = see(&mut cluster, client);
            assert_eq!((seen.dup, seen.payload, seen.packet_id), (true, vec![0], Some(packet_id(1))));
            let reader = cluster.connect(0, Version::V5, "reader");
            cluster.subscribe(reader, "a/#", Qos::AtLeastOnce);
            assert_eq!(cluster.pending(reader), 5);
            let sessions = 5 + 1 + 1 + 1 + 1 + usize::from(slices > 2) + usize::from(slices < 3);
            assert_eq!(cluster.total(|stats| stats.sessions), sessions as u64);
            let publisher = cluster.connect(0, Version::V5, "publisher");
            assert_eq!(cluster.publish_1(publisher, "s", b"x"), ReasonCode::SUCCESS);
        }
    }
}

#[test]
fn a_full_store_refuses_what_would_need_it_and_goes_on_with_the_rest() {
    for cores in CORES {
        let (mut cluster, disk) = Disk::new(cores, Limits::default());
        goes_away(&mut cluster, "c", "a");
        let passing = cluster.connect(0, Version::V5, "passing");
        cluster.subscribe(passing, "b", Qos::AtLeastOnce);
        let (kept, _) = cluster.resume(0, Version::V5, "kept");
        let publisher = cluster.connect(0, Version::V5, "publisher");
        let old = cluster.connect(0, Version::V3_1_1, "old");
        cluster.publish_1(publisher, "a", b"before");
        disk.set_full(true);
        cluster.look_at_stores();
        assert_eq!(cluster.publish_1(publisher, "a", b"x"), ReasonCode::QUOTA_EXCEEDED);
        assert_eq!(cluster.publish_2(publisher, "a", b"x"), ReasonCode::QUOTA_EXCEEDED);
        let retained = Publish { retain: true, ..publish("r", b"x", Qos::AtLeastOnce, 1) };
        cluster.send(publisher, &Packet::Publish(retained));
        let refused = Packet::PubAck(Ack::new(packet_id(1), ReasonCode::QUOTA_EXCEEDED));
        cluster.expect(publisher, |packet| assert_eq!(packet, &refused));
        assert_eq!(cluster.publish_1(publisher, "b", b"goes"), ReasonCode::SUCCESS);
        gets(&mut cluster, passing, "b", ["goes"]);
        let options = SubscriptionOptions::new(Qos::AtLeastOnce);
        let reason = cluster.subscribe_with(kept, "new", options, Properties::EMPTY);
        assert_eq!(reason, ReasonCode::QUOTA_EXCEEDED);
        cluster.subscribe(passing, "new", Qos::AtLeastOnce);
        let expiry = [Property::SessionExpiryInterval(60)];
        let new = Connect { properties: Properties::new(&expiry), ..connect(Version::V5, "new") };
        assert_eq!(cluster.connect_reason(0, new), ReasonCode::QUOTA_EXCEEDED);
        // Before 5.0 nothing says no but the end of the connection.
        cluster.send(old, &Packet::Publish(publish("a", b"x", Qos::AtLeastOnce, 1)));
        cluster.expect_nothing(old);
        assert!(cluster.is_closed(old));
        // What is there can be fetched, and makes room.
        is_back(&mut cluster, "c", "a", ["before"]);
        disk.set_full(false);
        cluster.look_at_stores();
        assert_eq!(cluster.publish_1(publisher, "a", b"after"), ReasonCode::SUCCESS);
        let mut cluster = disk.restart(cluster, 10);
        is_back(&mut cluster, "c", "a", ["after"]);
        assert_eq!(cluster.total(|stats| stats.retained_messages), 0);
    }
}

/// Nothing could be said to it before somebody makes room.
#[test]
fn without_any_room_a_client_is_refused_though_its_session_is_there() {
    for cores in CORES {
        let (mut cluster, disk) = Disk::new(cores, Limits::default());
        goes_away(&mut cluster, "c", "a");
        let publisher = cluster.connect(0, Version::V5, "publisher");
        cluster.publish_1(publisher, "a", b"x");
        disk.set_stuck(true);
        cluster.look_at_stores();
        let expiry = [Property::SessionExpiryInterval(u32::MAX)];
        let back =
            Connect { properties: Properties::new(&expiry), clean_start: false, ..connect(Version::V5, "c") };
        assert_eq!(cluster.connect_reason(0, back), ReasonCode::QUOTA_EXCEEDED);
        cluster.connect(0, Version::V5, "passing");
        disk.set_stuck(false);
        cluster.look_at_stores();
        is_back(&mut cluster, "c", "a", ["x"]);
    }
}

/// What the broker says of itself is about one start of it.
#[test]
fn nothing_of_the_sys_tree_is_in_the_store() {
    for cores in CORES {
        let every_second = limits(|limits: &mut Limits| limits.sys_interval_seconds = 1);
        let (mut cluster, disk) = Disk::new(cores, every_second);
        cluster.advance(5_000);
        let asks = cluster.connect(0, Version::V5, "asks");
        cluster.subscribe(asks, "$SYS/broker/uptime", Qos::AtMostOnce);
        assert_eq!(cluster.take(asks).0, "$SYS/broker/uptime");
        // Full or not.
        disk.set_full(true);
        cluster.advance(1_000);
        assert_eq!(cluster.take(asks), ("$SYS/broker/uptime".to_owned(), b"6".to_vec()));
        disk.set_full(false);
        assert_eq!(disk.count(|record| matches!(record, Record::Message { .. } | Record::Retained)), 0);
        disk.snapshot(&mut cluster, 100, |_| ());
        let mut cluster = disk.restart(cluster, 0);
        assert_eq!(cluster.total(|stats| stats.retained_messages), 0);
        cluster.advance(1_000);
        let asks = cluster.connect(0, Version::V5, "asks");
        cluster.subscribe(asks, "$SYS/broker/uptime", Qos::AtMostOnce);
        assert_eq!(cluster.take(asks), ("$SYS/broker/uptime".to_owned(), b"1".to_vec()));
    }
}

/// Its PUBREC waits behind another answer when a snapshot is made: sent again, the message is refused again, and not taken for
/// one that was routed.
#[test]
fn a_qos_2_message_that_is_to_be_refused_has_not_come_for_a_snapshot() {
    for cores in CORES {
        let (mut cluster, disk) = Disk::new(cores, Limits::default());
        goes(&mut cluster, "c", "a");
        let (publisher, _) = cluster.resume(0, Version::V5, "publisher");
        disk.set_late(true);
        cluster.send(publisher, &Packet::Publish(publish("a", b"x", Qos::AtLeastOnce, 1)));
        cluster.send(publisher, &Packet::Publish(publish("$SYS/x", b"x", Qos::ExactlyOnce, 2)));
        cluster.expect_nothing(publisher);
        disk.snapshot(&mut cluster, 100, |_| ());
        disk.commit(&mut cluster);
        disk.set_late(false);
        let mut cluster = disk.restart(cluster, 10);
        let publisher = resume(&mut cluster, "publisher");
        let again = Publish { dup: true, ..publish("$SYS/x", b"x", Qos::ExactlyOnce, 2) };
        cluster.send(publisher, &Packet::Publish(again));
        let refused = Ack::new(packet_id(2), ReasonCode::NOT_AUTHORIZED);
        cluster.expect(publisher, |packet| assert_eq!(packet, &Packet::PubRec(refused)));
    }
}

/// A Client before 5.0 is told by the end of its connection. Sent again, the message is a new one.
#[test]
fn a_qos_2_message_that_a_full_store_has_refused_before_5_0_is_taken_when_it_comes_again() {
    for cores in CORES {
        let (mut cluster, disk) = Disk::new(cores, Limits::default());
        goes(&mut cluster, "c", "a");
        let (publisher, _) = cluster.resume(0, Version::V3_1_1, "publisher");
        disk.set_full(true);
        cluster.look_at_stores();
        cluster.send(publisher, &Packet::Publish(publish("a", b"x", Qos::ExactlyOnce, 1)));
        cluster.expect_nothing(publisher);
        assert!(cluster.is_closed(publisher));
        disk.set_full(false);
        cluster.look_at_stores();
        let (publisher, _) = cluster.resume(0, Version::V3_1_1, "publisher");
        let again = Publish { dup: true, ..publish("a", b"x", Qos::ExactlyOnce, 1) };
        cluster.send(publisher, &Packet::Publish(again));
        cluster.expect(publisher, |packet| assert_eq!(packet, &Packet::PubRec(ok(packet_id(1)))));
        is_back(&mut cluster, "c", "a", ["x"]);
    }
}

/// The core on which a Client publishes learns a little later that the store of another is full: what it takes until then is
/// kept there, as it is acknowledged.
#[test]
fn what_is_retained_is_kept_though_the_store_of_its_home_has_become_full() {
    for cores in CORES {
        let mut kept = 0;
        for n in 0..10 {
            let (mut cluster, disk) = Disk::new(cores, Limits::default());
            let publisher = cluster.connect(0, Version::V5, &format!("publisher-{n}"));
            disk.set_full(true);
            for shard in &mut cluster.shards[1..] {
                shard.store_committed(0, cluster.now);
            }
            let topic = format!("r/{n}");
            let retained = Publish { retain: true, ..publish(&topic, b"x", Qos::AtLeastOnce, 1) };
            cluster.send(publisher, &Packet::Publish(retained));
            let mut is_taken = false;
            cluster.expect(publisher, |packet| {
                is_taken = matches!(packet, Packet::PubAck(ack) if !ack.reason.is_error());
            });
            let cluster = disk.restart(cluster, 10);
            assert_eq!(cluster.total(|stats| stats.retained_messages), u64::from(is_taken));
            kept += u32::from(is_taken);
        }
        assert!(kept > 0, "one whose core does not know yet is taken");
    }
}
