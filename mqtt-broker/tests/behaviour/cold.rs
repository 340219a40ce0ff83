//! Queues of Clients that are away, kept outside memory: whatever is parked when, its messages come once and in order, and
//! are counted.

use mqtt_broker::config::{Limits, Overflow};
use mqtt_broker::shard::Stats;
use mqtt_broker::store::record::Record;
use mqtt_proto::packet::{Connect, Packet, Properties, Property, Publish};
use mqtt_proto::types::{Qos, ReasonCode, Version};

use crate::away::{gets, goes_away};
use crate::cluster::{ClientId, Cluster, connect, limits, publish};
use crate::disk::Disk;
use crate::seen::{ok, see, see_id};

/// Bytes of a payload: a chunk holds 64 such messages.
const PAYLOAD: usize = 1000;

const BYTES_MAX: u64 = 20_000;

/// A broker that parks all but 20 messages, with a publisher.
pub(crate) fn begin(cores: u16, change: impl FnOnce(&mut Limits)) -> (Cluster, Disk, ClientId) {
    let limits = limits(|limits| {
        limits.queue_memory_bytes_max = BYTES_MAX;
        change(limits);
    });
    let (mut cluster, disk) = Disk::new(cores, limits);
    let publisher = cluster.connect(0, Version::V5, "publisher");
    (cluster, disk, publisher)
}

pub(crate) fn payload(number: u8) -> Vec<u8> {
    vec![number; PAYLOAD]
}

/// Publishes these numbers to the topic `a`, and has done what is to be done with chunks.
pub(crate) fn publish_all(
    cluster: &mut Cluster,
    disk: &Disk,
    publisher: ClientId,
    numbers: std::ops::Range<u8>,
) {
    for number in numbers {
        assert_eq!(cluster.publish_1(publisher, "a", &payload(number)), ReasonCode::SUCCESS);
    }
    park(cluster, disk);
}

pub(crate) fn park(cluster: &mut Cluster, disk: &Disk) {
    cluster.look_at_stores();
    disk.serve(cluster);
}

pub(crate) fn parked(cluster: &Cluster) -> u64 {
    cluster.total(|stats| stats.messages_parked)
}

/// Its Client is back and what it asks for is read.
pub(crate) fn resume(cluster: &mut Cluster, disk: &Disk, name: &str) -> ClientId {
    let (client, present) = cluster.resume(0, Version::V5, name);
    assert!(present);
    disk.serve(cluster);
    client
}

/// Takes messages and acknowledges them, while chunks are read as they are asked for.
#[track_caller]
pub(crate) fn takes(cluster: &mut Cluster, disk: &Disk, client: ClientId, numbers: std::ops::Range<u8>) {
    for number in numbers {
        cluster.expect_message(client, "a", &payload(number));
        disk.serve(cluster);
    }
}

/// All was delivered or dropped, and nothing is left of it anywhere.
#[track_caller]
pub(crate) fn nothing_is_left(cluster: &Cluster, disk: &Disk) {
    let stats = |of: fn(&Stats) -> u64| cluster.total(of);
    assert_eq!((stats(|stats| stats.messages_kept), stats(|stats| stats.queue_bytes)), (0, 0));
    assert_eq!((parked(cluster), disk.cold_bytes()), (0, 0));
    let over = stats(|stats| stats.messages_delivered) + stats(Stats::dropped_total);
    assert_eq!(stats(|stats| stats.messages_matched), over);
}

#[test]
fn what_waits_for_clients_that_are_away_is_not_all_in_memory_and_comes_in_order() {
    for cores in [1, 2, 8] {
        let (mut cluster, disk, publisher) = begin(cores, |_| {});
        for name in ["one", "two", "three"] {
            goes_away(&mut cluster, name, "a");
        }
        publish_all(&mut cluster, &disk, publisher, 0..200);
        assert!(parked(&cluster) > 400, "{} of 600", parked(&cluster));
        assert!(cluster.total(|stats| stats.queue_bytes) <= u64::from(cores) * BYTES_MAX + 30_000);
        assert_eq!(cluster.total(|stats| stats.messages_kept), 600);
        for name in ["two", "one", "three"] {
            let client = resume(&mut cluster, &disk, name);
            takes(&mut cluster, &disk, client, 0..200);
            cluster.expect_nothing(client);
        }
        nothing_is_left(&cluster, &disk);
    }
}

#[test]
fn without_a_bound_or_beneath_it_nothing_is_parked() {
    for bytes_max in [0, 1 << 30] {
        let (mut cluster, disk, publisher) = begin(1, |limits| limits.queue_memory_bytes_max = bytes_max);
        goes_away(&mut cluster, "c", "a");
        publish_all(&mut cluster, &disk, publisher, 0..100);
        assert_eq!((parked(&cluster), disk.cold_bytes()), (0, 0));
    }
}

/// The bound is that of queues of Clients that are away: who is there is sent to from memory.
#[test]
fn the_queue_of_a_client_that_is_connected_is_not_parked() {
    let (mut cluster, disk, publisher) = begin(1, |_| {});
    let (slow, _) = cluster.resume(0, Version::V5, "slow");
    cluster.subscribe(slow, "a", Qos::AtLeastOnce);
    let window = [Property::ReceiveMaximum(1), Property::SessionExpiryInterval(3600)];
    let properties = Properties::new(&window);
    let (slow, _) =
        cluster.connect_with(0, Connect { clean_start: false, properties, ..connect(Version::V5, "slow") });
    publish_all(&mut cluster, &disk, publisher, 0..100);
    assert_eq!(parked(&cluster), 0);
    takes(&mut cluster, &disk, slow, 0..100);
    nothing_is_left(&cluster, &disk);
}

#[test]
fn what_is_parked_outlives_the_broker_with_and_without_a_snapshot() {
    for cores in [1, 2] {
        for snapshot in [false, true] {
            let (mut cluster, disk, publisher) = begin(cores, |_| {});
            goes_away(&mut cluster, "c", "a");
            publish_all(&mut cluster, &disk, publisher, 0..150);
            let there = parked(&cluster);
            assert!(there > 100);
            if snapshot {
                disk.snapshot(&mut cluster, 300, |_| {});
            }
            let mut cluster = disk.restart(cluster, 1000);
            assert_eq!((parked(&cluster), cluster.total(|stats| stats.messages_kept)), (there, 150));
            let publisher = cluster.connect(0, Version::V5, "publisher");
            publish_all(&mut cluster, &disk, publisher, 150..200);
            let client = resume(&mut cluster, &disk, "c");
            takes(&mut cluster, &disk, client, 0..120);
            // Of the last ones the acknowledgements are on the disk: the next start does not send them again.
            if snapshot {
                disk.snapshot(&mut cluster, 300, |_| {});
            }
            let mut cluster = disk.restart(cluster, 1000);
            let client = resume(&mut cluster, &disk, "c");
            // What was in flight when the broker was killed comes first, with DUP.
            takes(&mut cluster, &disk, client, 120..200);
            cluster.expect_nothing(client);
            let cluster = disk.restart(cluster, 1000);
            nothing_is_left(&cluster, &disk);
        }
    }
}

/// QoS 2 out of a chunk: what was sent under a Packet Identifier is sent again under it, and nothing comes twice.
#[test]
fn a_parked_qos_2_message_keeps_its_packet_identifier_over_a_restart() {
    let (mut cluster, disk, publisher) = begin(1, |_| {});
    let (client, _) = cluster.resume(0, Version::V5, "c");
    cluster.subscribe(client, "a", Qos::ExactlyOnce);
    cluster.cut(client);
    for number in 0..100 {
        cluster.publish_2(publisher, "a", &payload(number));
    }
    park(&mut cluster, &disk);
    assert!(parked(&cluster) > 60);
    let client = resume(&mut cluster, &disk, "c");
    let sent: Vec<_> = (0..10).map(|_| see(&mut cluster, client)).collect();
    let mut cluster = disk.restart(cluster, 1000);
    let client = resume(&mut cluster, &disk, "c");
    for first in &sent {
        let again = see(&mut cluster, client);
        assert_eq!((&again.packet_id, &again.payload, again.dup), (&first.packet_id, &first.payload, true));
        let id = again.packet_id.expect("QoS 2");
        cluster.send(client, &Packet::PubRec(ok(id)));
    }
    let others = cluster.total(|stats| stats.messages_kept);
    assert_eq!(others, 90, "ten are the Client's");
}

#[test]
fn a_client_that_returns_while_its_queue_is_written_gets_it_from_memory() {
    let (mut cluster, disk, publisher) = begin(1, |_| {});
    goes_away(&mut cluster, "c", "a");
    for number in 0..100 {
        cluster.publish_1(publisher, "a", &payload(number));
    }
    cluster.look_at_stores();
    let (client, _) = cluster.resume(0, Version::V5, "c");
    cluster.expect_message(client, "a", &payload(0));
    disk.serve(&mut cluster);
    assert_eq!(parked(&cluster), 0, "the chunk is void");
    takes(&mut cluster, &disk, client, 1..100);
    cluster.expect_nothing(client);
    nothing_is_left(&cluster, &disk);
    assert_eq!(disk.count(|record| matches!(record, Record::Parked { .. })), 0);
}

#[test]
fn a_client_that_leaves_before_its_chunk_is_read_gets_all_of_it_later() {
    let (mut cluster, disk, publisher) = begin(1, |_| {});
    goes_away(&mut cluster, "c", "a");
    publish_all(&mut cluster, &disk, publisher, 0..100);
    let (client, _) = cluster.resume(0, Version::V5, "c");
    cluster.cut(client);
    let (client, _) = cluster.resume(0, Version::V5, "c");
    disk.serve(&mut cluster);
    takes(&mut cluster, &disk, client, 0..100);
    cluster.expect_nothing(client);
    nothing_is_left(&cluster, &disk);
}

/// No more than a chunk of what is parked is in memory, and it goes when the Client does.
#[test]
fn a_client_that_takes_little_of_much_fills_no_memory() {
    let (mut cluster, disk, publisher) = begin(1, |limits| limits.in_flight_max = 10);
    goes_away(&mut cluster, "c", "a");
    publish_all(&mut cluster, &disk, publisher, 0..250);
    let before = cluster.total(|stats| stats.queue_bytes);
    let (there, bytes) = (parked(&cluster), disk.cold_bytes());
    for round in 0..3 {
        let client = resume(&mut cluster, &disk, "c");
        assert_eq!(cluster.pending(client), 10);
        let more = cluster.total(|stats| stats.queue_bytes) - before;
        assert!((10_000..100_000).contains(&more), "{more} bytes");
        takes(&mut cluster, &disk, client, round * 10..round * 10 + 10);
        // New ones come behind all of them.
        publish_all(&mut cluster, &disk, publisher, 250..251);
        cluster.cut(client);
        park(&mut cluster, &disk);
        assert!(cluster.total(|stats| stats.queue_bytes) <= before + 3 * 1100);
    }
    assert!(parked(&cluster) < there && disk.cold_bytes() <= bytes);
    // A part of a chunk is over: a start knows of which, from the log and from a snapshot.
    let mut cluster = disk.restart(cluster, 1000);
    disk.snapshot(&mut cluster, 300, |_| {});
    let mut cluster = disk.restart(cluster, 1000);
    let client = resume(&mut cluster, &disk, "c");
    takes(&mut cluster, &disk, client, 30..250);
    gets(&mut cluster, client, "a", vec![payload(250); 3]);
    nothing_is_left(&cluster, &disk);
}

#[test]
fn a_full_queue_counts_what_is_parked_and_drops_it_first() {
    for overflow in [Overflow::DropOldest, Overflow::DropNewest] {
        let (mut cluster, disk, publisher) = begin(1, |limits| {
            limits.queue_messages_max = 100;
            limits.queue_overflow = overflow;
        });
        goes_away(&mut cluster, "c", "a");
        publish_all(&mut cluster, &disk, publisher, 0..90);
        publish_all(&mut cluster, &disk, publisher, 90..130);
        assert_eq!(cluster.total(|stats| stats.dropped_queue_full), 30);
        assert_eq!(cluster.total(|stats| stats.messages_kept), 100);
        let mut cluster = disk.restart(cluster, 1000);
        let client = resume(&mut cluster, &disk, "c");
        let left = if overflow == Overflow::DropOldest { 30..130 } else { 0..100 };
        takes(&mut cluster, &disk, client, left);
        cluster.expect_nothing(client);
    }
}

/// While a chunk is read a full queue drops all that is in it.
#[test]
fn a_chunk_that_is_dropped_while_it_is_read_is_not_delivered() {
    let (mut cluster, disk, publisher) = begin(1, |limits| limits.queue_messages_max = 70);
    goes_away(&mut cluster, "c", "a");
    publish_all(&mut cluster, &disk, publisher, 0..70);
    assert!(parked(&cluster) >= 60);
    let (client, _) = cluster.resume(0, Version::V5, "c");
    for number in 70..140 {
        cluster.publish_1(publisher, "a", &payload(number));
    }
    disk.serve(&mut cluster);
    takes(&mut cluster, &disk, client, 70..140);
    cluster.expect_nothing(client);
    nothing_is_left(&cluster, &disk);
}

#[test]
fn the_end_of_a_session_frees_what_is_parked_for_it() {
    for ends in ["expiry", "clean start", "expiry after a restart"] {
        let (mut cluster, disk, publisher) = begin(1, |_| {});
        goes_away(&mut cluster, "c", "a");
        publish_all(&mut cluster, &disk, publisher, 0..100);
        match ends {
            "clean start" => drop(cluster.connect(0, Version::V5, "c")),
            "expiry" => cluster.advance(3_601_000),
            _ => {
                cluster = disk.restart(cluster, 1000);
                cluster.advance(3_601_000);
            }
        }
        assert_eq!(cluster.total(|stats| stats.dropped_session_ended), 100, "{ends}");
        nothing_is_left(&cluster, &disk);
    }
}

#[test]
fn what_expires_while_it_is_parked_is_not_delivered() {
    let (mut cluster, disk, publisher) = begin(1, |_| {});
    goes_away(&mut cluster, "c", "a");
    let expiry = [Property::MessageExpiryInterval(60)];
    for number in 0..100u8 {
        let payload = payload(number);
        let message = publish("a", &payload, Qos::AtLeastOnce, 77);
        let properties = if number % 2 == 0 { Properties::new(&expiry) } else { Properties::EMPTY };
        cluster.send(publisher, &Packet::Publish(Publish { properties, ..message }));
        cluster.expect(publisher, |packet| assert!(matches!(packet, Packet::PubAck(_))));
    }
    park(&mut cluster, &disk);
    assert!(parked(&cluster) > 60);
    cluster.advance(30_000);
    let mut cluster = disk.restart(cluster, 31_000);
    let client = resume(&mut cluster, &disk, "c");
    for number in (1..100).step_by(2) {
        takes(&mut cluster, &disk, client, number..number + 1);
    }
    cluster.expect_nothing(client);
    assert_eq!(parked(&cluster), 0);
    assert_eq!(disk.cold_bytes(), 0);
}

#[test]
fn where_no_chunk_can_be_written_all_stays_in_memory_until_one_can() {
    let (mut cluster, disk, publisher) = begin(1, |_| {});
    goes_away(&mut cluster, "c", "a");
    disk.set_cold_fails(true);
    publish_all(&mut cluster, &disk, publisher, 0..50);
    disk.set_cold_fails(false);
    publish_all(&mut cluster, &disk, publisher, 50..100);
    assert_eq!(parked(&cluster), 0, "not tried again so soon");
    cluster.advance(10_000);
    park(&mut cluster, &disk);
    assert!(parked(&cluster) > 60);
    let client = resume(&mut cluster, &disk, "c");
    takes(&mut cluster, &disk, client, 0..100);
    nothing_is_left(&cluster, &disk);
}

#[test]
fn a_chunk_that_is_given_up_is_counted_as_lost_and_what_is_behind_it_comes() {
    let (mut cluster, disk, publisher) = begin(1, |_| {});
    disk.salvage();
    goes_away(&mut cluster, "c", "a");
    publish_all(&mut cluster, &disk, publisher, 0..100);
    let (client, _) = cluster.resume(0, Version::V5, "c");
    disk.set_cold_fails(true);
    assert!(disk.serve_one(&mut cluster));
    disk.set_cold_fails(false);
    disk.serve(&mut cluster);
    let lost = cluster.total(|stats| stats.dropped_lost) as u8;
    assert!((40..100).contains(&lost), "{lost}");
    takes(&mut cluster, &disk, client, lost..100);
    cluster.expect_nothing(client);
    nothing_is_left(&cluster, &disk);
}

/// QoS 0 that waits stays in memory: no record could tell it.
#[test]
fn qos_0_among_what_is_parked_is_neither_lost_nor_parked() {
    let (mut cluster, disk, publisher) = begin(1, |limits| limits.queue_qos0_offline = true);
    goes_away(&mut cluster, "c", "#");
    for number in 0..100u8 {
        match number % 4 {
            0 => cluster.publish(publisher, "b", &payload(number)),
            _ => drop(cluster.publish_1(publisher, "a", &payload(number))),
        }
    }
    park(&mut cluster, &disk);
    assert!((1..=75).contains(&parked(&cluster)));
    let client = resume(&mut cluster, &disk, "c");
    let mut got = Vec::new();
    while cluster.pending(client) > 0 {
        got.push(cluster.take(client));
        disk.serve(&mut cluster);
    }
    for (topic, is_it) in [("a", 1), ("b", 0)] {
        let of_topic = got.iter().filter(|(of, _)| of == topic).map(|(_, payload)| payload[0]);
        assert!(of_topic.eq((0..100).filter(|number| u8::from(number % 4 > 0) == is_it)), "{topic}");
    }
    nothing_is_left(&cluster, &disk);
}

/// Chunks of a session that gets little at a time grow, so that there are few.
#[test]
fn many_small_messages_make_few_chunks() {
    let (mut cluster, disk, publisher) = begin(1, |limits| limits.queue_memory_bytes_max = 1);
    goes_away(&mut cluster, "c", "a");
    for number in 0..250u8 {
        cluster.publish_1(publisher, "a", &[number]);
        park(&mut cluster, &disk);
    }
    let chunks = disk.count(|record| matches!(record, Record::Parked { .. }));
    assert!((2..10).contains(&chunks), "{chunks}");
    let client = resume(&mut cluster, &disk, "c");
    assert!(see_id(&mut cluster, client).get() > 0);
}

/// What is in files that are to be emptied is copied, and the old chunks go once that is committed.
#[test]
fn chunks_that_are_moved_lose_nothing_over_a_restart() {
    for cores in [1, 2] {
        let (mut cluster, disk, publisher) = begin(cores, |_| {});
        let names = ["one", "two", "three"];
        names.iter().for_each(|name| goes_away(&mut cluster, name, "a"));
        publish_all(&mut cluster, &disk, publisher, 0..200);
        let client = resume(&mut cluster, &disk, "one");
        takes(&mut cluster, &disk, client, 0..80);
        cluster.cut(client);
        let (there, bytes) = (parked(&cluster), disk.cold_bytes());
        disk.vacate(&mut cluster);
        disk.serve(&mut cluster);
        let moved = disk.count(|record| matches!(record, Record::Moved { .. }));
        assert!(moved > 5, "{moved}");
        assert_eq!((parked(&cluster), disk.cold_bytes()), (there, bytes));
        for name in names {
            cluster = disk.restart(cluster, 1000);
            let client = resume(&mut cluster, &disk, name);
            takes(&mut cluster, &disk, client, if name == "one" { 80 } else { 0 }..200);
            cluster.expect_nothing(client);
        }
        nothing_is_left(&disk.restart(cluster, 1000), &disk);
    }
}

/// Whoever takes a message, leaves or ends while its chunk is copied has it once, or not at all.
#[test]
fn what_happens_while_a_chunk_is_copied_is_as_if_it_were_not() {
    for what in ["takes a chunk", "takes some", "ends", "copy fails"] {
        let (mut cluster, disk, publisher) = begin(1, |_| {});
        goes_away(&mut cluster, "c", "a");
        publish_all(&mut cluster, &disk, publisher, 0..100);
        let mut taken = 0;
        if what.starts_with("takes") {
            let client = resume(&mut cluster, &disk, "c");
            disk.vacate(&mut cluster);
            taken = if what == "takes a chunk" { 64 } else { 30 };
            (0..taken).for_each(|number| cluster.expect_message(client, "a", &payload(number)));
            cluster.cut(client);
        } else {
            disk.vacate(&mut cluster);
        }
        match what {
            "ends" => drop(cluster.connect(0, Version::V5, "c")),
            "copy fails" => {
                disk.set_cold_fails(true);
                assert!(disk.serve_one(&mut cluster));
                disk.set_cold_fails(false);
            }
            _ => {}
        }
        disk.serve(&mut cluster);
        let mut cluster = disk.restart(cluster, 1000);
        if what != "ends" {
            let client = resume(&mut cluster, &disk, "c");
            takes(&mut cluster, &disk, client, taken..100);
            cluster.expect_nothing(client);
        }
        nothing_is_left(&disk.restart(cluster, 1000), &disk);
    }
}

/// What of it is lost in a crash comes once more, out of its chunk: nobody waits for a write, but for one to give up the chunk.
#[test]
fn qos_1_out_of_a_chunk_waits_for_no_write() {
    let (mut cluster, disk, publisher) = begin(1, |limits| limits.in_flight_max = 10);
    goes_away(&mut cluster, "c", "a");
    publish_all(&mut cluster, &disk, publisher, 0..100);
    let client = resume(&mut cluster, &disk, "c");
    let before = disk.awaited();
    takes(&mut cluster, &disk, client, 0..50);
    assert_eq!(disk.awaited(), before);
    takes(&mut cluster, &disk, client, 50..70);
    assert_eq!(disk.awaited(), before + 1, "the chunk is over");
    disk.set_late(true);
    // None of this is committed.
    takes(&mut cluster, &disk, client, 70..90);
    disk.set_late(false);
    let mut cluster = disk.restart(cluster, 1000);
    let client = resume(&mut cluster, &disk, "c");
    takes(&mut cluster, &disk, client, 70..100);
    cluster.expect_nothing(client);
    nothing_is_left(&disk.restart(cluster, 1000), &disk);
}

/// Who has just left may be back soon.
#[test]
fn whose_client_left_last_is_parked_last() {
    let (mut cluster, disk, publisher) = begin(1, |_| {});
    let [late, early] = ["late", "early"].map(|name| {
        let (client, _) = cluster.resume(0, Version::V5, name);
        cluster.subscribe(client, name, Qos::AtLeastOnce);
        client
    });
    let publish = |cluster: &mut Cluster, topic: &str, count: u8| {
        for number in 0..count {
            cluster.publish_1(publisher, topic, &payload(number));
        }
        park(cluster, &disk);
    };
    let of = |name: &str| {
        disk.count(|record| matches!(record, Record::Parked { client_id, .. } if *client_id == name))
    };
    cluster.cut(early);
    publish(&mut cluster, "early", 30);
    assert_eq!((of("early"), of("late")), (1, 0), "there is nobody else");
    cluster.cut(late);
    publish(&mut cluster, "late", 15);
    publish(&mut cluster, "early", 15);
    assert_eq!((of("early"), of("late")), (2, 0));
    publish(&mut cluster, "late", 15);
    assert_eq!((of("early"), of("late")), (2, 1), "the hand has passed once");
}
