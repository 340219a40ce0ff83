//! Chunks that cannot be read and are not given up: the Client that they are for is refused, and gets all of it once they
//! can be read; nobody else notices.

use mqtt_broker::config::Overflow;
use mqtt_broker::shard::Stats;
use mqtt_broker::store::record::Record;
use mqtt_proto::packet::{Connect, Packet, Properties, Property, Will};
use mqtt_proto::types::{Qos, ReasonCode, TopicName, Version};

use crate::away::goes_away;
use crate::cluster::{ClientId, Cluster, connect};
use crate::cold::{begin, nothing_is_left, park, parked, payload, publish_all, resume, takes};
use crate::disk::Disk;
use crate::seen::see;

const REFUSED: ReasonCode = ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR;

/// Milliseconds after which what could not be read is read again.
const LOOK: u64 = 10_000;

fn unreadable(cluster: &Cluster) -> u64 {
    cluster.total(|stats| stats.sessions_unreadable)
}

/// A CONNECT that resumes the session `c`.
fn resuming(version: Version) -> Connect<'static> {
    const EXPIRY: [Property<'static>; 1] = [Property::SessionExpiryInterval(3600)];
    let properties = if version == Version::V5 { Properties::new(&EXPIRY) } else { Properties::EMPTY };
    Connect { clean_start: false, properties, ..connect(version, "c") }
}

/// A hundred messages wait for the Client `c`, of which the most in chunks that cannot be read.
fn damaged(cores: u16) -> (Cluster, Disk, ClientId) {
    let (mut cluster, disk, publisher) = begin(cores, |_| {});
    goes_away(&mut cluster, "c", "a");
    publish_all(&mut cluster, &disk, publisher, 0..100);
    assert!(parked(&cluster) > 60);
    disk.set_cold_fails(true);
    (cluster, disk, publisher)
}

/// The Client `c` returns and its connection is closed.
#[track_caller]
fn is_closed(cluster: &mut Cluster, disk: &Disk) {
    let client = resume(cluster, disk, "c");
    cluster.expect_disconnect(client, REFUSED);
    assert!(cluster.is_closed(client));
}

#[test]
fn only_the_client_of_an_unreadable_chunk_is_refused_and_it_gets_all_once_it_can_be_read() {
    for cores in [1, 2, 8] {
        let (mut cluster, disk, publisher) = begin(cores, |_| {});
        goes_away(&mut cluster, "c", "a");
        goes_away(&mut cluster, "other", "b");
        publish_all(&mut cluster, &disk, publisher, 0..100);
        let there = parked(&cluster);
        disk.set_cold_fails(true);
        is_closed(&mut cluster, &disk);
        for version in [Version::V5, Version::V3_1_1] {
            let reason = if version == Version::V5 { REFUSED } else { ReasonCode::SERVER_UNAVAILABLE };
            assert_eq!(cluster.connect_reason(0, resuming(version)), reason);
        }
        assert_eq!((unreadable(&cluster), cluster.total(|stats| stats.connects_refused)), (1, 2));
        assert_eq!(disk.asked(), 0, "not so soon again");
        let (other, present) = cluster.resume(0, Version::V5, "other");
        assert!(present && cluster.pending(other) == 0);
        cluster.publish_1(publisher, "b", b"to the other");
        cluster.expect_message(other, "b", b"to the other");
        assert_eq!(parked(&cluster), there);

        cluster.advance(LOOK);
        assert_eq!(cluster.connect_reason(0, resuming(Version::V5)), REFUSED);
        assert_eq!(cluster.connect_reason(0, resuming(Version::V5)), REFUSED);
        assert_eq!(disk.asked(), 1, "once, however many try");
        disk.serve(&mut cluster);
        disk.set_cold_fails(false);
        assert_eq!(cluster.connect_reason(0, resuming(Version::V5)), REFUSED);
        disk.serve(&mut cluster);
        assert_eq!(unreadable(&cluster), 1, "it was not looked at");
        cluster.advance(LOOK);
        assert_eq!(cluster.connect_reason(0, resuming(Version::V5)), REFUSED);
        disk.serve(&mut cluster);
        assert_eq!(unreadable(&cluster), 0);
        let client = resume(&mut cluster, &disk, "c");
        takes(&mut cluster, &disk, client, 0..100);
        cluster.expect_nothing(client);
        nothing_is_left(&cluster, &disk);
    }
}

#[test]
fn what_cannot_be_read_is_there_after_a_restart() {
    let (mut cluster, disk, _) = damaged(1);
    is_closed(&mut cluster, &disk);
    disk.snapshot(&mut cluster, 300, |_| {});
    let mut cluster = disk.restart(cluster, 1000);
    assert_eq!(unreadable(&cluster), 0, "nobody has tried");
    is_closed(&mut cluster, &disk);
    assert_eq!(disk.count(|record| matches!(record, Record::Taken { .. })), 0);
    disk.set_cold_fails(false);
    let mut cluster = disk.restart(cluster, 1000);
    let client = resume(&mut cluster, &disk, "c");
    takes(&mut cluster, &disk, client, 0..100);
    cluster.expect_nothing(client);
    nothing_is_left(&cluster, &disk);
}

/// It takes what is in the first chunk, and the second cannot be read.
#[test]
fn a_client_that_is_connected_loses_its_connection_when_what_comes_next_cannot_be_read() {
    let (mut cluster, disk, publisher) = begin(1, |limits| limits.in_flight_max = 10);
    goes_away(&mut cluster, "c", "a");
    publish_all(&mut cluster, &disk, publisher, 0..200);
    let client = resume(&mut cluster, &disk, "c");
    takes(&mut cluster, &disk, client, 0..30);
    disk.set_cold_fails(true);
    let mut taken = 30;
    while !cluster.is_closed(client) {
        takes(&mut cluster, &disk, client, taken..taken + 1);
        taken += 1;
    }
    let mut sent = 0;
    while cluster.pending(client) > 1 {
        assert_eq!(see(&mut cluster, client).payload, payload(taken + sent));
        sent += 1;
    }
    assert!(sent > 0 && (60..100).contains(&(taken + sent)), "{taken} and {sent} of the first chunk");
    cluster.expect_disconnect(client, REFUSED);
    assert_eq!(cluster.connect_reason(0, resuming(Version::V5)), REFUSED);
    disk.set_cold_fails(false);
    cluster.advance(LOOK);
    assert_eq!(cluster.connect_reason(0, resuming(Version::V5)), REFUSED);
    disk.serve(&mut cluster);
    let client = resume(&mut cluster, &disk, "c");
    takes(&mut cluster, &disk, client, taken..200);
    cluster.expect_nothing(client);
    nothing_is_left(&cluster, &disk);
}

/// Its CONNACK waits for the store: it is told by that, and the Will of a Client that was not let in is not published.
#[test]
fn who_waits_for_connack_is_refused_by_it() {
    for version in [Version::V5, Version::V3_1_1] {
        let (mut cluster, disk, publisher) = damaged(1);
        cluster.subscribe(publisher, "will", Qos::AtMostOnce);
        disk.set_late(true);
        let client = cluster.open(0, version);
        let topic = TopicName::new("will").expect("a topic");
        let will =
            Will { qos: Qos::AtMostOnce, retain: false, topic, properties: Properties::EMPTY, payload: b"" };
        cluster.send(client, &Packet::Connect(Connect { will: Some(will), ..resuming(version) }));
        disk.serve(&mut cluster);
        let reason = if version == Version::V5 { REFUSED } else { ReasonCode::SERVER_UNAVAILABLE };
        cluster.expect(client, |packet| match packet {
            Packet::ConnAck(connack) => {
                assert_eq!((connack.reason, connack.session_present), (reason, false))
            }
            other => panic!("{other:?}"),
        });
        assert!(cluster.is_closed(client));
        disk.set_late(false);
        disk.commit(&mut cluster);
        cluster.expect_nothing(publisher);
        assert_eq!((unreadable(&cluster), cluster.total(|stats| stats.connects_refused)), (1, 1));
        disk.set_cold_fails(false);
        let mut cluster = disk.restart(cluster, 1000);
        let client = resume(&mut cluster, &disk, "c");
        takes(&mut cluster, &disk, client, 0..100);
    }
}

/// Whoever ends the session gives up what waits for it.
#[test]
fn the_end_of_the_session_gives_up_what_cannot_be_read() {
    for ends in ["clean start", "expiry"] {
        let (mut cluster, disk, _) = damaged(1);
        is_closed(&mut cluster, &disk);
        match ends {
            "expiry" => cluster.advance(3_601_000),
            _ => drop(cluster.connect(0, Version::V5, "c")),
        }
        assert_eq!(unreadable(&cluster), 0, "{ends}");
        assert_eq!(cluster.total(|stats| stats.dropped_session_ended), 100, "{ends}");
        nothing_is_left(&cluster, &disk);
    }
}

/// What is dropped of a full queue is the oldest, whether it can be read or not; behind it the Client is let in.
#[test]
fn a_full_queue_drops_what_cannot_be_read() {
    let (mut cluster, disk, publisher) = begin(1, |limits| {
        limits.queue_messages_max = 100;
        limits.queue_overflow = Overflow::DropOldest;
    });
    goes_away(&mut cluster, "c", "a");
    publish_all(&mut cluster, &disk, publisher, 0..100);
    disk.set_cold_fails(true);
    is_closed(&mut cluster, &disk);
    for number in 100..190 {
        cluster.publish_1(publisher, "a", &payload(number));
    }
    disk.set_cold_fails(false);
    park(&mut cluster, &disk);
    assert_eq!(unreadable(&cluster), 0, "another chunk is the first");
    let client = resume(&mut cluster, &disk, "c");
    takes(&mut cluster, &disk, client, 90..190);
    cluster.expect_nothing(client);
    nothing_is_left(&cluster, &disk);
}

/// A chunk that cannot be copied stays where it is, and one that could after all is one that can be read.
#[test]
fn what_cannot_be_read_is_not_moved() {
    let (mut cluster, disk, _) = damaged(1);
    is_closed(&mut cluster, &disk);
    let bytes = disk.cold_bytes();
    disk.vacate(&mut cluster);
    disk.serve(&mut cluster);
    assert_eq!(disk.count(|record| matches!(record, Record::Moved { .. })), 0);
    assert_eq!((unreadable(&cluster), disk.cold_bytes()), (1, bytes));
    disk.set_cold_fails(false);
    disk.vacate(&mut cluster);
    disk.serve(&mut cluster);
    assert_eq!((unreadable(&cluster), disk.cold_bytes()), (0, bytes));
    let client = resume(&mut cluster, &disk, "c");
    takes(&mut cluster, &disk, client, 0..100);
    nothing_is_left(&cluster, &disk);
    let lost = |stats: &Stats| stats.dropped_lost;
    assert_eq!(cluster.total(lost), 0);
}

/// One chunk stays, and what is in others goes on.
#[test]
fn what_can_be_read_is_moved_all_the_same() {
    let (mut cluster, disk, publisher) = begin(1, |_| {});
    goes_away(&mut cluster, "c", "a");
    for _ in 0..4 {
        publish_all(&mut cluster, &disk, publisher, 0..100);
    }
    let chunks = disk.count(|record| matches!(record, Record::Parked { .. }));
    assert!(chunks > 4, "more than are copied at once: {chunks}");
    disk.vacate(&mut cluster);
    disk.set_cold_fails(true);
    assert!(disk.serve_one(&mut cluster));
    disk.set_cold_fails(false);
    disk.serve(&mut cluster);
    assert_eq!(disk.count(|record| matches!(record, Record::Moved { .. })), chunks - 1);
    let client = resume(&mut cluster, &disk, "c");
    (0..4).for_each(|_| takes(&mut cluster, &disk, client, 0..100));
    nothing_is_left(&cluster, &disk);
}

/// Who leaves before its chunk was read hears nothing of it.
#[test]
fn a_chunk_that_nobody_waits_for_any_more_refuses_nobody() {
    let (mut cluster, disk, _) = damaged(1);
    let (client, _) = cluster.resume(0, Version::V5, "c");
    cluster.cut(client);
    disk.serve(&mut cluster);
    assert_eq!(unreadable(&cluster), 0);
    disk.set_cold_fails(false);
    let client = resume(&mut cluster, &disk, "c");
    takes(&mut cluster, &disk, client, 0..100);
    nothing_is_left(&cluster, &disk);
}
