//! A shared group whose owner is another core than its member's: whatever of it each core has on its disk, what was acknowledged
//! reaches a member, at QoS 2 one member once, also when that one leaves.

use mqtt_broker::config::{CoreId, Limits};
use mqtt_broker::shard::home_of;
use mqtt_broker::store::image::Home;
use mqtt_broker::store::record::Record;
use mqtt_proto::packet::{
    Connect, Filters, Packet, Properties, Property, Subscribe, Subscription, SubscriptionOptions,
    Subscriptions, Unsubscribe,
};
use mqtt_proto::types::{Qos, ReasonCode, Version};

use crate::away::is_back;
use crate::cluster::{ClientId, Cluster, connect, publish};
use crate::disk::Disk;
use crate::handing_on::{completes, has_pubrec, keeps, name_on};
use crate::seen::{ok, packet_id, see};

const PUBLISHER: usize = 0;
const OWNER: usize = 1;
const MEMBER: usize = 2;

/// The filter of a group whose owner is the core for that.
fn group() -> String {
    let mut groups = (0..).map(|n| format!("$share/g-{n}/a"));
    let owner = |group: &String| home_of([3, 5], 3, Home::Group(group));
    groups.find(|group| usize::from(owner(group)) == OWNER).expect("homes are spread")
}

struct Setting {
    cluster: Cluster,
    disk: Disk,
    group: String,
    /// The member that is connected, and its name.
    member: ClientId,
    name: String,
    publisher: ClientId,
    publishes_as: String,
}

/// A publisher, the group's owner and its member are on a core each. Another member, `second`, is away if there is one.
fn setting(qos: Qos, has_second: bool) -> Setting {
    let (mut cluster, disk) = Disk::new(3, Limits::default());
    let group = group();
    if has_second {
        let second = keeps(&mut cluster, "second");
        cluster.subscribe(second, &group, qos);
        cluster.cut(second);
    }
    let name = name_on(&mut cluster, MEMBER, "member");
    let member = keeps(&mut cluster, &name);
    cluster.subscribe(member, &group, qos);
    let publishes_as = name_on(&mut cluster, PUBLISHER, "publisher");
    let publisher = keeps(&mut cluster, &publishes_as);
    Setting { cluster, disk, group, member, name, publisher, publishes_as }
}

fn count(disk: &Disk) -> [usize; 3] {
    [
        disk.count(|record| matches!(record, Record::GroupQueued { .. })),
        disk.count(|record| matches!(record, Record::GroupBegun { .. })),
        disk.count(|record| matches!(record, Record::GroupTaken { .. })),
    ]
}

/// How often the Client, back again, gets the message `once`.
fn got(cluster: &mut Cluster, name: &str) -> usize {
    let client = keeps(cluster, name);
    let mut count = 0;
    while cluster.pending(client) > 0 {
        let seen = see(cluster, client);
        assert_eq!(seen.payload, b"once");
        let id = seen.packet_id.expect("QoS 2");
        cluster.send(client, &Packet::PubRec(ok(id)));
        cluster.expect(client, |packet| assert_eq!(packet, &Packet::PubRel(ok(id))));
        cluster.send(client, &Packet::PubComp(ok(id)));
        count += 1;
    }
    cluster.cut(client);
    count
}

#[test]
fn one_member_has_a_message_once_wherever_each_core_s_disk_has_got_to() {
    const STEPS: u32 = 5;
    let (mut to_first, mut to_second) = (0, 0);
    for (order, steps) in
        (0..3usize.pow(STEPS)).flat_map(|order| (0..=STEPS).map(move |steps| (order, steps)))
    {
        if order >= 3usize.pow(steps) {
            continue;
        }
        let Setting { mut cluster, disk, member, name, publisher, publishes_as, .. } =
            setting(Qos::ExactlyOnce, true);
        disk.set_late(true);
        let message = publish("a", b"once", Qos::ExactlyOnce, 9);
        cluster.send(publisher, &Packet::Publish(message));
        let (mut heard, mut seen) = (false, false);
        for step in 0..steps {
            disk.commit_core(&mut cluster, order / 3usize.pow(step) % 3);
            heard |= has_pubrec(&mut cluster, publisher);
            seen |= cluster.pending(member) > 0;
        }
        disk.set_late(false);
        let mut cluster = disk.restart(cluster, 10);
        completes(&mut cluster, &publishes_as, message, heard);
        // Who has not begun it is asked first.
        let (second, first) = (got(&mut cluster, "second"), got(&mut cluster, &name));
        assert_eq!(first + second, 1, "order {order}, {steps} steps");
        assert!(!seen || first == 1, "it was sent to the first");
        (to_first, to_second) = (to_first + first, to_second + second);
        // Another start finds nothing left to do.
        let mut cluster = disk.restart(cluster, 10);
        assert_eq!((got(&mut cluster, "second"), got(&mut cluster, &name)), (0, 0));
    }
    assert!(to_first > 10 && to_second > 10, "both were seen: {to_first}, {to_second}");
}

/// Publisher, owner and member write one after the other.
#[test]
fn a_message_goes_to_another_core_once_it_is_on_the_disk_of_the_groups_and_leaves_once_it_is_on_the_members()
{
    let Setting { mut cluster, disk, member, publisher, .. } = setting(Qos::ExactlyOnce, false);
    disk.set_late(true);
    cluster.send(publisher, &Packet::Publish(publish("a", b"x", Qos::ExactlyOnce, 9)));
    disk.commit_core(&mut cluster, PUBLISHER);
    assert_eq!(count(&disk), [1, 0, 0]);
    disk.commit_core(&mut cluster, MEMBER);
    disk.commit_core(&mut cluster, PUBLISHER);
    assert_eq!(count(&disk), [1, 0, 0]);
    disk.commit_core(&mut cluster, OWNER);
    assert_eq!(count(&disk), [1, 1, 0]);
    cluster.expect_nothing(member);
    disk.commit_core(&mut cluster, MEMBER);
    let id = see(&mut cluster, member).packet_id.expect("QoS 2");
    cluster.send(member, &Packet::PubRec(ok(id)));
    assert_eq!(count(&disk), [1, 1, 1]);
}

#[test]
fn a_snapshot_tells_what_was_begun_until_the_groups_core_has_done_with_it_on_its_disk() {
    for restarts in [false, true] {
        let Setting { mut cluster, disk, mut member, name, publisher, .. } = setting(Qos::ExactlyOnce, true);
        cluster.publish_2(publisher, "a", b"once");
        let id = see(&mut cluster, member).packet_id.expect("QoS 2");
        let begun =
            |disk: &Disk| disk.count_in_snapshots(|record| matches!(record, Record::GroupBegun { .. }));
        for bytes in [1, 1_000_000] {
            disk.snapshot(&mut cluster, bytes, |_| ());
            assert_eq!(begun(&disk), 1);
        }
        if restarts {
            // The logs are compared.
            cluster = disk.restart(cluster, 10);
            assert_eq!(count(&disk), [1, 1, 1]);
            member = keeps(&mut cluster, &name);
            assert!(see(&mut cluster, member).dup);
        } else {
            disk.set_late(true);
            cluster.send(member, &Packet::PubRec(ok(id)));
            disk.commit_core(&mut cluster, MEMBER);
            disk.snapshot(&mut cluster, 1, |_| ());
            assert_eq!(begun(&disk), 1);
            disk.set_late(false);
            disk.commit(&mut cluster);
        }
        disk.snapshot(&mut cluster, 1, |_| ());
        assert_eq!(begun(&disk), 0);
        let mut cluster = disk.restart(cluster, 10);
        is_back(&mut cluster, "second", "a", [[0]; 0]);
    }
}

/// What waits for its record to be on the owner's disk stays in order with what does not have to wait.
#[test]
fn messages_of_one_publisher_keep_their_order_on_their_way_to_a_member() {
    let Setting { mut cluster, disk, member, publisher, .. } = setting(Qos::ExactlyOnce, false);
    disk.set_late(true);
    for n in 1..=5 {
        cluster.send(publisher, &Packet::Publish(publish("a", &[n as u8], Qos::ExactlyOnce, n)));
        disk.commit_core(&mut cluster, [PUBLISHER, OWNER, MEMBER][usize::from(n) % 3]);
    }
    disk.set_late(false);
    for _ in 0..8 {
        disk.commit(&mut cluster);
    }
    (1..=5).for_each(|n| assert_eq!(see(&mut cluster, member).payload, [n]));
}

fn unsubscribes(cluster: &mut Cluster, client: ClientId, group: &str) {
    let list = [group];
    let (properties, filters) = (Properties::EMPTY, Filters::new(&list));
    cluster.send(client, &Packet::Unsubscribe(Unsubscribe { packet_id: packet_id(99), properties, filters }));
}

/// The owner has all on its disk, the member's core nothing: what the crash leaves of the session is a member that has begun
/// nothing.
#[test]
fn what_was_started_at_qos_1_for_a_session_that_leaves_is_there_wherever_each_disk_has_got_to() {
    for commits in [&[OWNER, PUBLISHER][..], &[MEMBER], &[MEMBER, OWNER], &[]] {
        let Setting { mut cluster, disk, group, member, name, publisher, .. } =
            setting(Qos::AtLeastOnce, true);
        cluster.publish_1(publisher, "a", b"kept");
        let id = see(&mut cluster, member).packet_id;
        disk.set_late(true);
        unsubscribes(&mut cluster, member, &group);
        for &core in commits {
            disk.commit_core(&mut cluster, core);
        }
        // The owner is done with it only behind the member's core.
        let is_told = commits.starts_with(&[MEMBER]);
        assert_eq!(count(&disk)[2], usize::from(is_told));
        disk.set_late(false);
        let mut cluster = disk.restart(cluster, 10);
        let member = keeps(&mut cluster, &name);
        let mut found = 0;
        while cluster.pending(member) > 0 {
            let seen = see(&mut cluster, member);
            assert_eq!((&seen.payload[..], seen.packet_id), (&b"kept"[..], id));
            found += 1;
        }
        cluster.cut(member);
        let second = keeps(&mut cluster, "second");
        found += cluster.pending(second);
        assert!(found >= 1, "{commits:?}");
        assert!(commits != [MEMBER, OWNER] || found == 1, "nobody else gets what is its own for good");
    }
}

#[test]
fn what_waits_for_the_last_member_is_there_until_its_leaving_is_on_the_disk() {
    for ends in [false, true] {
        for is_committed in [false, true] {
            let Setting { mut cluster, disk, group, member, name, publisher, .. } =
                setting(Qos::AtLeastOnce, false);
            cluster.cut(member);
            cluster.publish_1(publisher, "a", b"waits");
            disk.set_late(true);
            if ends {
                // A new session takes the place of the only member; its CONNACK waits for that.
                let new = cluster.open(0, Version::V5);
                cluster.send(new, &Packet::Connect(connect(Version::V5, &name)));
            } else {
                let client = cluster.open(0, Version::V5);
                let connect = Connect { clean_start: false, ..connect(Version::V5, &name) };
                cluster.send(client, &Packet::Connect(connect));
                unsubscribes(&mut cluster, client, &group);
            }
            if is_committed {
                disk.commit_core(&mut cluster, MEMBER);
            }
            assert_eq!(count(&disk)[2], usize::from(is_committed));
            disk.commit_core(&mut cluster, OWNER);
            disk.set_late(false);
            let mut cluster = disk.restart(cluster, 10);
            let kept: &[&str] = if is_committed { &[] } else { &["waits"] };
            is_back(&mut cluster, &name, "a", kept);
        }
    }
}

/// Its owner hears of the leaving late, and of the joining behind it.
#[test]
fn a_session_that_leaves_and_joins_again_is_a_member() {
    let Setting { mut cluster, disk, group, member, publisher, .. } = setting(Qos::AtLeastOnce, true);
    disk.set_late(true);
    unsubscribes(&mut cluster, member, &group);
    let between = publish("a", b"between", Qos::AtLeastOnce, 1);
    cluster.send(publisher, &Packet::Publish(between));
    let list = [Subscription { filter: &group, options: SubscriptionOptions::new(Qos::AtLeastOnce) }];
    let (properties, subscriptions) = (Properties::EMPTY, Subscriptions::new(&list));
    let subscribe = Subscribe { packet_id: packet_id(98), properties, subscriptions };
    cluster.send(member, &Packet::Subscribe(subscribe));
    // Meanwhile it gets nothing.
    cluster.expect_nothing(member);
    disk.set_late(false);
    (0..4).for_each(|_| disk.commit(&mut cluster));
    cluster.expect(member, |packet| assert!(matches!(packet, Packet::UnsubAck(_)), "{packet:?}"));
    cluster.expect(member, |packet| assert!(matches!(packet, Packet::SubAck(_)), "{packet:?}"));
    assert_eq!(see(&mut cluster, member).payload, b"between");
    cluster.send(publisher, &Packet::Publish(publish("a", b"behind", Qos::AtLeastOnce, 2)));
    assert_eq!(see(&mut cluster, member).payload, b"behind");
}

/// [MQTT-4.8.2-5]
#[test]
fn what_a_session_has_begun_when_it_ends_goes_to_nobody() {
    for commits in [&[MEMBER][..], &[MEMBER, OWNER]] {
        let Setting { mut cluster, disk, member, name, publisher, .. } = setting(Qos::ExactlyOnce, true);
        cluster.publish_2(publisher, "a", b"begun");
        see(&mut cluster, member);
        disk.set_late(true);
        cluster.cut(member);
        let new = cluster.open(0, Version::V5);
        cluster.send(new, &Packet::Connect(connect(Version::V5, &name)));
        for &core in commits {
            disk.commit_core(&mut cluster, core);
        }
        assert_eq!(count(&disk), [1, 1, 1]);
        disk.set_late(false);
        let mut cluster = disk.restart(cluster, 10);
        is_back(&mut cluster, "second", "a", [[0]; 0]);
        is_back(&mut cluster, &name, "a", [[0]; 0]);
    }
}

/// How many cores there are, and on which the member is at home: the group's owner is that one or another.
fn homes() -> impl Iterator<Item = (u16, usize)> {
    [1, 3].into_iter().flat_map(|cores| (0..usize::from(cores)).map(move |home| (cores, home)))
}

/// A member that ends with its connection has seen a QoS 2 message; another one is away.
fn begun_without_a_tomorrow(cores: u16, home: usize) -> (Cluster, Disk, ClientId) {
    let (mut cluster, disk) = Disk::new(cores, Limits::default());
    let group = "$share/g/a";
    let second = keeps(&mut cluster, "second");
    cluster.subscribe(second, group, Qos::ExactlyOnce);
    cluster.cut(second);
    let name = name_on(&mut cluster, home, "member");
    let member = cluster.connect(0, Version::V5, &name);
    cluster.subscribe(member, group, Qos::ExactlyOnce);
    let publisher = keeps(&mut cluster, "publisher");
    assert_eq!(cluster.publish_2(publisher, "a", b"once"), ReasonCode::SUCCESS);
    see(&mut cluster, member);
    assert_eq!(count(&disk), [1, 0, 0]);
    (cluster, disk, member)
}

/// One that ends with its connection writes nothing, but the group's owner does not keep what it had begun.
#[test]
fn what_a_session_without_a_tomorrow_has_begun_ends_with_it() {
    for (cores, home) in homes() {
        let (mut cluster, disk, member) = begun_without_a_tomorrow(cores, home);
        cluster.cut(member);
        assert_eq!(count(&disk), [1, 0, 1]);
        is_back(&mut cluster, "second", "a", [[0]; 0]);
        let mut cluster = disk.restart(cluster, 10);
        is_back(&mut cluster, "second", "a", [[0]; 0]);
    }
}

#[test]
fn what_a_session_without_a_tomorrow_has_begun_goes_to_another_member_after_a_crash() {
    for (cores, home) in homes() {
        let (cluster, disk, _) = begun_without_a_tomorrow(cores, home);
        let mut cluster = disk.restart(cluster, 10);
        assert_eq!(got(&mut cluster, "second"), 1, "{cores} cores, at home on {home}");
        let mut cluster = disk.restart(cluster, 10);
        assert_eq!(got(&mut cluster, "second"), 0);
    }
}

/// And what it has taken over is nobody else's.
#[test]
fn what_a_session_without_a_tomorrow_is_done_with_goes_to_nobody() {
    for (cores, home) in homes() {
        let (mut cluster, disk, member) = begun_without_a_tomorrow(cores, home);
        cluster.send(member, &Packet::PubRec(ok(packet_id(1))));
        assert_eq!(count(&disk), [1, 0, 1]);
        let mut cluster = disk.restart(cluster, 10);
        is_back(&mut cluster, "second", "a", [[0]; 0]);
    }
}

/// What another session says of the group waits for the disk, and what this one says behind that.
#[test]
fn a_member_that_comes_and_goes_within_a_commit_is_away_for_the_owner() {
    let Setting { mut cluster, disk, group, member, name, .. } = setting(Qos::AtLeastOnce, false);
    let leaves = name_on(&mut cluster, MEMBER, "leaves");
    let leaves = keeps(&mut cluster, &leaves);
    cluster.subscribe(leaves, &group, Qos::AtLeastOnce);
    let publisher = name_on(&mut cluster, OWNER, "publisher");
    let publisher = cluster.connect(0, Version::V5, &publisher);
    cluster.cut(member);
    disk.set_late(true);
    unsubscribes(&mut cluster, leaves, &group);
    let member = cluster.open(0, Version::V5);
    let expiry = [Property::SessionExpiryInterval(3600)];
    let again =
        Connect { clean_start: false, properties: Properties::new(&expiry), ..connect(Version::V5, &name) };
    cluster.send(member, &Packet::Connect(again));
    cluster.cut(member);
    disk.set_late(false);
    (0..4).for_each(|_| disk.commit(&mut cluster));
    cluster.submit(publisher, &Packet::Publish(publish("a", b"waits", Qos::AtLeastOnce, 1)));
    let sent = cluster.shards[OWNER].poll_envelopes(CoreId(MEMBER as u16));
    assert!(sent.is_none(), "it is not sent to one that is away");
}
