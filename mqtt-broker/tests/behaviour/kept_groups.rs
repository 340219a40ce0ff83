//! Messages of a shared group with a member that outlives its connection: what was acknowledged to their publisher reaches a
//! member whatever crashes, wherever members, owner and publisher are at home.

use mqtt_broker::config::Limits;
use mqtt_broker::store::record::Record;
use mqtt_proto::packet::{Connect, Packet, Properties, Property, Publish};
use mqtt_proto::types::{Qos, ReasonCode, Version};

use crate::away::{gets, goes_away, is_back};
use crate::cluster::{ClientId, Cluster, connect, limits, publish};
use crate::disk::Disk;
use crate::seen::{ok, packet_id, see};

const CORES: [u16; 3] = [1, 2, 8];
const GROUP: &str = "$share/g/a";

fn is_queued(record: &Record<'_>) -> bool {
    matches!(record, Record::GroupQueued { .. })
}

fn is_taken(record: &Record<'_>) -> bool {
    matches!(record, Record::GroupTaken { .. })
}

/// Connects with a session that is kept and joins the group.
fn joins(cluster: &mut Cluster, name: &str, qos: Qos) -> ClientId {
    let (client, _) = cluster.resume(0, Version::V5, name);
    cluster.subscribe(client, GROUP, qos);
    client
}

fn publish_all(cluster: &mut Cluster, qos: Qos, numbers: core::ops::Range<u8>) {
    let publisher = cluster.connect(0, Version::V5, "publisher");
    for n in numbers {
        let reason = match qos {
            Qos::ExactlyOnce => cluster.publish_2(publisher, "a", &[n]),
            _ => cluster.publish_1(publisher, "a", &[n]),
        };
        assert_eq!(reason, ReasonCode::SUCCESS);
    }
}

fn numbers(numbers: core::ops::Range<u8>) -> impl Iterator<Item = [u8; 1]> {
    numbers.map(|n| [n])
}

#[test]
fn what_waits_in_a_group_is_there_after_a_restart_in_order_and_once_it_is_acknowledged_gone() {
    for cores in CORES {
        for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let (mut cluster, disk) = Disk::new(cores, Limits::default());
            goes_away(&mut cluster, "one", GROUP);
            goes_away(&mut cluster, "two", GROUP);
            publish_all(&mut cluster, qos, 0..10);
            let mut cluster = disk.restart(cluster, 1000);
            assert_eq!(cluster.total(|stats| stats.messages_kept), 10);
            publish_all(&mut cluster, qos, 10..12);
            is_back(&mut cluster, "two", "a", numbers(0..12));
            assert_eq!(disk.count(is_taken), 12);
            assert_eq!(cluster.total(|stats| stats.messages_kept + stats.queue_bytes), 0);
            let mut cluster = disk.restart(cluster, 1000);
            is_back(&mut cluster, "one", "a", numbers(0..0));
            is_back(&mut cluster, "two", "a", numbers(0..0));
        }
    }
}

#[test]
fn a_publisher_hears_nothing_before_its_message_is_on_the_disk_of_the_groups_owner() {
    for cores in CORES {
        for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
            for online in [false, true] {
                let (mut cluster, disk) = Disk::new(cores, Limits::default());
                let member = joins(&mut cluster, "member", Qos::AtLeastOnce);
                if !online {
                    cluster.cut(member);
                }
                let publisher = cluster.connect(0, Version::V5, "publisher");
                disk.set_late(true);
                cluster.send(publisher, &Packet::Publish(publish("a", b"kept", qos, 1)));
                cluster.expect_nothing(publisher);
                disk.commit(&mut cluster);
                cluster.expect(publisher, |packet| {
                    assert!(matches!(packet, Packet::PubAck(_) | Packet::PubRec(_)), "{packet:?}");
                });
                cluster.send(publisher, &Packet::Publish(publish("a", b"lost", qos, 2)));
                cluster.expect_nothing(publisher);
                disk.set_late(false);
                let mut cluster = disk.restart(cluster, 10);
                is_back(&mut cluster, "member", "a", ["kept"]);
            }
        }
    }
}

#[test]
fn what_a_member_has_not_acknowledged_goes_to_another_after_a_restart() {
    for cores in CORES {
        let (mut cluster, disk) = Disk::new(cores, Limits::default());
        let first = joins(&mut cluster, "first", Qos::AtLeastOnce);
        goes_away(&mut cluster, "second", GROUP);
        publish_all(&mut cluster, Qos::AtLeastOnce, 0..6);
        let sent: Vec<_> = (0..6).map(|_| see(&mut cluster, first)).collect();
        for seen in [&sent[1], &sent[4]] {
            cluster.send(first, &Packet::PubAck(ok(seen.packet_id.expect("QoS 1"))));
        }
        assert_eq!((disk.count(is_queued), disk.count(is_taken)), (6, 2));
        let mut cluster = disk.restart(cluster, 10);
        is_back(&mut cluster, "second", "a", [[0], [2], [3], [5]]);
        is_back(&mut cluster, "first", "a", numbers(0..0));
    }
}

/// [MQTT-4.8.2-4]
#[test]
fn what_was_begun_at_qos_2_is_the_members_own_after_a_restart() {
    for cores in CORES {
        let (mut cluster, disk) = Disk::new(cores, Limits::default());
        let first = joins(&mut cluster, "first", Qos::ExactlyOnce);
        publish_all(&mut cluster, Qos::ExactlyOnce, 0..3);
        let sent: Vec<_> = (0..3).map(|_| see(&mut cluster, first)).collect();
        cluster.send(first, &Packet::PubRec(ok(sent[0].packet_id.expect("QoS 2"))));
        let mut cluster = disk.restart(cluster, 10);
        goes_away(&mut cluster, "second", GROUP);
        is_back(&mut cluster, "second", "a", numbers(0..0));
        let (first, _) = cluster.resume(0, Version::V5, "first");
        cluster.expect(first, |packet| assert_eq!(packet, &Packet::PubRel(ok(packet_id(1)))));
        for (n, before) in (1..3).zip(&sent[1..]) {
            let seen = see(&mut cluster, first);
            assert_eq!((seen.payload, seen.packet_id, seen.dup), (vec![n], before.packet_id, true));
        }
        cluster.expect_nothing(first);
    }
}

#[test]
fn a_group_without_a_session_that_is_kept_writes_nothing() {
    for cores in CORES {
        let (mut cluster, disk) = Disk::new(cores, Limits::default());
        let member = cluster.connect(0, Version::V5, "member");
        cluster.subscribe(member, GROUP, Qos::ExactlyOnce);
        publish_all(&mut cluster, Qos::ExactlyOnce, 0..3);
        publish_all(&mut cluster, Qos::AtLeastOnce, 3..6);
        assert_eq!(disk.count(|record| !matches!(record, Record::Time { .. })), 0);
        // Nor is QoS 0 written, nor what a member gets at QoS 0.
        let kept = joins(&mut cluster, "kept", Qos::AtMostOnce);
        let (before, publisher) = (disk.count(|_| true), cluster.connect(0, Version::V5, "publisher"));
        cluster.publish(publisher, "a", b"x");
        cluster.cut(member);
        while cluster.pending(kept) > 0 {
            cluster.take_frame(kept);
        }
        cluster.publish_1(publisher, "a", b"y");
        assert_eq!((disk.count(|_| true), cluster.pending(kept)), (before, 1));
    }
}

/// A Client says when it connects whether its session is kept.
#[test]
fn a_session_that_is_kept_no_longer_keeps_no_messages_in_its_groups() {
    for cores in CORES {
        let (mut cluster, disk) = Disk::new(cores, Limits::default());
        goes_away(&mut cluster, "member", GROUP);
        publish_all(&mut cluster, Qos::AtLeastOnce, 0..2);
        let connect = Connect { clean_start: false, ..connect(Version::V5, "member") };
        let (member, present) = cluster.connect_with(0, connect);
        assert!(present);
        gets(&mut cluster, member, "a", numbers(0..2));
        publish_all(&mut cluster, Qos::AtLeastOnce, 2..4);
        assert_eq!((disk.count(is_queued), disk.count(is_taken)), (2, 2));
    }
}

#[test]
fn what_is_dropped_or_expires_does_not_come_back() {
    for cores in CORES {
        let bound = limits(|limits| limits.group_queue_messages_max = 3);
        let (mut cluster, disk) = Disk::new(cores, bound);
        goes_away(&mut cluster, "member", GROUP);
        publish_all(&mut cluster, Qos::AtLeastOnce, 0..5);
        assert_eq!((disk.count(is_queued), disk.count(is_taken)), (5, 2));
        let publisher = cluster.connect(0, Version::V5, "publisher");
        let expiry = [Property::MessageExpiryInterval(10)];
        let properties = Properties::new(&expiry);
        let expires = Publish { properties, ..publish("a", b"expires", Qos::AtLeastOnce, 1) };
        cluster.send(publisher, &Packet::Publish(expires));
        let mut cluster = disk.restart(cluster, 5_000);
        assert_eq!(cluster.total(|stats| stats.messages_kept), 3);
        cluster.advance(4_000);
        let mut cluster = disk.restart(cluster, 0);
        cluster.advance(1_000);
        is_back(&mut cluster, "member", "a", numbers(3..5));
        assert_eq!(cluster.total(|stats| stats.dropped_expired), 1);
        assert_eq!(disk.count(is_taken), 6);
        let mut cluster = disk.restart(cluster, 10);
        is_back(&mut cluster, "member", "a", numbers(0..0));
    }
}

#[test]
fn the_messages_of_a_group_end_with_its_last_member() {
    for cores in CORES {
        let (mut cluster, disk) = Disk::new(cores, Limits::default());
        goes_away(&mut cluster, "member", GROUP);
        publish_all(&mut cluster, Qos::AtLeastOnce, 0..3);
        // A new session takes the place of the only member.
        let _ = cluster.connect(0, Version::V5, "member");
        assert_eq!(disk.count(is_taken), 3);
        let mut cluster = disk.restart(cluster, 10);
        assert_eq!(cluster.total(|stats| stats.messages_kept), 0);
        let member = joins(&mut cluster, "member", Qos::AtLeastOnce);
        cluster.expect_nothing(member);
    }
}

/// A crash may come between the end of the last member and that of what waits for it on another core.
#[test]
fn messages_of_a_group_whose_members_are_over_by_the_start_end_with_it() {
    for cores in CORES {
        let (mut cluster, disk) = Disk::new(cores, Limits::default());
        let expiry = [Property::SessionExpiryInterval(100)];
        let properties = Properties::new(&expiry);
        let (member, _) = cluster.connect_with(0, Connect { properties, ..connect(Version::V5, "member") });
        cluster.subscribe(member, GROUP, Qos::AtLeastOnce);
        cluster.cut(member);
        publish_all(&mut cluster, Qos::AtLeastOnce, 0..3);
        let mut cluster = disk.restart(cluster, 100_000);
        assert_eq!((cluster.total(|stats| stats.messages_kept), disk.count(is_taken)), (0, 3));
        let publisher = cluster.connect(0, Version::V5, "publisher");
        assert_eq!(cluster.publish_1(publisher, "a", b"x"), ReasonCode::NO_MATCHING_SUBSCRIBERS);
        let member = joins(&mut cluster, "member", Qos::AtLeastOnce);
        cluster.expect_nothing(member);
    }
}

/// What was started is completed [MQTT-3.10.4-3], by whoever left the group.
#[test]
fn what_was_started_stays_with_a_session_that_leaves_the_group() {
    for cores in CORES {
        for others in [false, true] {
            let (mut cluster, disk) = Disk::new(cores, Limits::default());
            let leaves = joins(&mut cluster, "leaves", Qos::AtLeastOnce);
            publish_all(&mut cluster, Qos::AtLeastOnce, 0..2);
            if others {
                goes_away(&mut cluster, "stays", GROUP);
            }
            let first = see(&mut cluster, leaves);
            let second = see(&mut cluster, leaves);
            assert_eq!(cluster.unsubscribe(leaves, GROUP), ReasonCode::SUCCESS);
            cluster.send(leaves, &Packet::PubAck(ok(first.packet_id.expect("QoS 1"))));
            let mut cluster = disk.restart(cluster, 10);
            let (leaves, _) = cluster.resume(0, Version::V5, "leaves");
            let again = see(&mut cluster, leaves);
            assert_eq!((again.packet_id, again.payload, again.dup), (second.packet_id, second.payload, true));
            cluster.expect_nothing(leaves);
            if others {
                is_back(&mut cluster, "stays", "a", numbers(0..0));
            }
        }
    }
}

#[test]
fn a_snapshot_in_slices_has_every_message_of_a_group_whoever_has_it() {
    for cores in CORES {
        for bytes in [1, 300, 1_000_000] {
            let (mut cluster, disk) = Disk::new(cores, Limits::default());
            let few = [Property::ReceiveMaximum(3), Property::SessionExpiryInterval(3600)];
            let properties = Properties::new(&few);
            let (member, _) =
                cluster.connect_with(0, Connect { properties, ..connect(Version::V5, "member") });
            cluster.subscribe(member, GROUP, Qos::AtLeastOnce);
            publish_all(&mut cluster, Qos::AtLeastOnce, 0..20);
            // With each slice a member is done with one, which lets another one go.
            let mut done = 0;
            disk.snapshot(&mut cluster, bytes, |cluster| {
                if done < 5 {
                    let seen = see(cluster, member);
                    cluster.send(member, &Packet::PubAck(ok(seen.packet_id.expect("QoS 1"))));
                    done += 1;
                }
            });
            publish_all(&mut cluster, Qos::AtLeastOnce, 20..22);
            for restart in 0..2 {
                cluster = disk.restart(cluster, 10);
                assert_eq!(cluster.total(|stats| stats.messages_kept), u64::from(22 - done), "{restart}");
                disk.snapshot(&mut cluster, bytes, |_| ());
            }
            is_back(&mut cluster, "member", "a", numbers(done..22));
            // What is published now is kept under new numbers, though the store knows of none that waits.
            cluster = disk.restart(cluster, 10);
            disk.snapshot(&mut cluster, bytes, |_| ());
            publish_all(&mut cluster, Qos::AtLeastOnce, 22..24);
            let (member, _) = cluster.resume(0, Version::V5, "member");
            gets(&mut cluster, member, "a", numbers(22..24));
        }
    }
}

#[test]
fn a_full_disk_refuses_what_a_group_would_keep_and_takes_what_empties_it() {
    for cores in CORES {
        let (mut cluster, disk) = Disk::new(cores, Limits::default());
        goes_away(&mut cluster, "member", GROUP);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        assert_eq!(cluster.publish_1(publisher, "a", b"before"), ReasonCode::SUCCESS);
        disk.set_full(true);
        cluster.look_at_stores();
        assert_eq!(cluster.publish_1(publisher, "a", b"refused"), ReasonCode::QUOTA_EXCEEDED);
        is_back(&mut cluster, "member", "a", ["before"]);
        assert_eq!(disk.count(is_taken), 1);
        disk.set_full(false);
        cluster.look_at_stores();
        assert_eq!(cluster.publish_1(publisher, "a", b"after"), ReasonCode::SUCCESS);
        let mut cluster = disk.restart(cluster, 10);
        is_back(&mut cluster, "member", "a", ["after"]);
    }
}
