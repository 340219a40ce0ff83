//! A snapshot that is written piece by piece while the log goes on, and what is read back from it and the log.

use std::collections::BTreeSet;

use mqtt_broker::message::MessageRef;
use mqtt_broker::router::Retainable as _;
use mqtt_broker::store::image::{Image, SnapshotMessages};
use mqtt_broker::store::record::{Identifiers, Record};
use mqtt_proto::types::{Qos, TopicName};
use proptest::prelude::*;

use crate::history::{Raw, SEED, Turn, apply, decode, fold, history, id, message, raw, told, turn};
use crate::model::lines;

/// What is written at one moment.
#[derive(Clone, Debug)]
enum Piece {
    Core,
    Group(prop::sample::Index),
    Session(prop::sample::Index),
    Retained,
}

/// A snapshot under way: records, each with the number of the log's record as of which it holds.
#[derive(Default)]
struct Snapshot {
    records: Vec<(u64, Raw)>,
    messages: SnapshotMessages,
    /// Sessions that it has.
    sessions: BTreeSet<String>,
}

impl Snapshot {
    fn write(&mut self, image: &Image, as_of: u64, piece: &Piece) {
        match piece {
            Piece::Core => self.tell(as_of, |_, tell| image.write_core(tell)),
            Piece::Group(index) if image.groups().len() > 0 => {
                let (name, _) = image.groups().nth(index.index(image.groups().len())).expect("in range");
                self.tell(as_of, |messages, tell| image.write_group(name, messages, tell));
            }
            Piece::Session(index) if image.session_count() > 0 => {
                let session = image.sessions().nth(index.index(image.session_count())).expect("in range");
                self.sessions.insert(session.client_id().to_owned());
                self.tell(as_of, |messages, tell| image.write_session(session, messages, tell));
            }
            Piece::Group(_) | Piece::Session(_) => {}
            Piece::Retained => self.tell(as_of, |messages, tell| {
                for message in image.retained() {
                    tell(&messages.record(message));
                    tell(&Record::Retained);
                }
            }),
        }
    }

    /// Writes what is not in it yet.
    fn finish(&mut self, image: &Image, as_of: u64) {
        self.write(image, as_of, &Piece::Core);
        self.write(image, as_of, &Piece::Retained);
        for (name, _) in image.groups() {
            self.tell(as_of, |messages, tell| image.write_group(name, messages, tell));
        }
        for session in image.sessions() {
            if self.sessions.insert(session.client_id().to_owned()) {
                self.tell(as_of, |messages, tell| image.write_session(session, messages, tell));
            }
        }
    }

    fn tell(&mut self, as_of: u64, write: impl FnOnce(&mut SnapshotMessages, &mut dyn FnMut(&Record<'_>))) {
        let Snapshot { records, messages, .. } = self;
        write(messages, &mut |record| records.push((as_of, raw(record))));
    }

    fn read(&self) -> Image {
        let mut image = Image::new(SEED);
        for (as_of, record) in &self.records {
            image.apply_snapshot(*as_of, &decode(record)).expect("messages come before who keeps them");
        }
        image
    }
}

fn whole(image: &Image) -> Image {
    let mut read = Image::new(SEED);
    image.write_snapshot(|record| read.apply_snapshot(9, &decode(&raw(record))).expect("a whole snapshot"));
    read
}

#[test]
fn behind_a_gap_nothing_is_taken_for_another_message() {
    let message = |topic: &'static str, shared| {
        let topic = TopicName::new(topic).expect("a topic");
        let (qos, retain, expires_at) = (Qos::AtLeastOnce, false, None);
        let message = MessageRef { topic, properties: &[], payload: b"", qos, retain, expires_at };
        Record::Message { message, publisher: 0, shared }
    };
    let mut image = Image::new(SEED);
    let mut take = |record: &Record<'_>| image.apply_snapshot(1, record).is_ok();
    assert!(take(&message("first", true)) && take(&Record::Retained));
    image.skip();
    let mut take = |record: &Record<'_>| image.apply_snapshot(1, record).is_ok();
    assert!(!take(&Record::HandOn { number: 1 }), "its message is in the gap");
    // How many shared messages are in the gap is not known, so neither is the number of this one.
    assert!(take(&message("second", true)) && take(&Record::Retained));
    assert!(!take(&Record::Again { number: 1 }) && !take(&Record::HandOn { number: 2 }));
    assert!(take(&Record::Again { number: 0 }) && take(&Record::HandOn { number: 3 }));
    let pending: Vec<_> = image.pending().map(|pending| (pending.number, pending.message.topic())).collect();
    assert_eq!(pending, [(3, "first")]);
    assert_eq!(image.retained().map(|message| message.topic()).collect::<Vec<_>>(), ["first", "second"]);
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let piece = prop_oneof![
        1 => Just(Piece::Core),
        1 => Just(Piece::Retained),
        2 => any::<prop::sample::Index>().prop_map(Piece::Group),
        4 => any::<prop::sample::Index>().prop_map(Piece::Session),
    ];
    prop::collection::vec(piece, 0..3)
}

proptest! {
    #[test]
    fn a_whole_snapshot_is_the_image(turns in history(0)) {
        let image = fold(&turns);
        prop_assert_eq!(lines(&whole(&image)), lines(&image));
    }

    /// The log before the snapshot, what happens while it is written, and what follows.
    #[test]
    fn a_snapshot_and_the_rest_of_the_log_are_the_whole_log(
        before in history(0),
        meanwhile in prop::collection::vec((turn(0), pieces()), 0..60),
        after in history(0),
    ) {
        let (mut image, mut seq) = (fold(&before), before.iter().flatten().count() as u64);
        let (begun, mut snapshot) = (seq, Snapshot::default());
        for (turn, pieces) in &meanwhile {
            pieces.iter().for_each(|piece| snapshot.write(&image, seq, piece));
            apply(&mut image, &mut seq, turn);
        }
        snapshot.finish(&image, seq);
        after.iter().for_each(|turn| apply(&mut image, &mut seq, turn));

        let (mut read, mut seq) = (snapshot.read(), begun);
        let rest: Vec<&Turn> = meanwhile.iter().map(|(turn, _)| turn).chain(&after).collect();
        rest.into_iter().for_each(|turn| apply(&mut read, &mut seq, turn));
        prop_assert_eq!(lines(&read), lines(&image));
    }
}

/// Ten sessions have the same message: it is in the snapshot once, and in memory too.
#[test]
fn a_message_that_many_keep_is_told_once() {
    let mut turn: Turn = Vec::new();
    for number in 0..10 {
        let client_id = &*format!("c{number}");
        turn.push(raw(&Record::Opened { client_id, expiry_seconds: 60, next_packet_id: id(1) }));
    }
    turn.push(told(message("a", &[7; 1000], Qos::AtLeastOnce, None)));
    for number in 0..10 {
        turn.push(raw(&Record::Enqueued {
            client_id: &format!("c{number}"),
            qos: Qos::AtLeastOnce,
            retain: false,
            identifiers: Identifiers::EMPTY,
            packet_id: None,
        }));
    }
    let image = fold(&[turn]);
    let (mut bytes, mut messages) = (0, 0);
    image.write_snapshot(|record| {
        bytes += raw(record).1.len();
        messages += usize::from(matches!(record, Record::Message { .. }));
    });
    assert_eq!(messages, 1);
    assert!(bytes < 1400, "{bytes}");
    let read = whole(&image);
    assert_eq!(lines(&read), lines(&image));
    let payloads: BTreeSet<*const u8> = read
        .sessions()
        .flat_map(|session| session.waiting())
        .map(|delivery| delivery.message.as_ref().payload.as_ptr())
        .collect();
    assert_eq!(payloads.len(), 1);
}

/// What a session's snapshot cannot tell by its messages alone.
#[test]
fn packet_identifiers_go_on_after_a_snapshot() {
    let client_id = "c";
    let enqueued = |number| Record::Enqueued {
        client_id,
        qos: Qos::ExactlyOnce,
        retain: false,
        identifiers: Identifiers::EMPTY,
        packet_id: Some(id(number)),
    };
    let turn = vec![
        raw(&Record::Opened { client_id, expiry_seconds: 60, next_packet_id: id(1) }),
        told(message("a", b"", Qos::ExactlyOnce, None)),
        raw(&enqueued(1)),
        raw(&enqueued(2)),
        raw(&enqueued(3)),
        raw(&Record::Released { client_id, packet_id: id(2) }),
        raw(&Record::Acknowledged { client_id, packet_id: id(3) }),
    ];
    let read = whole(&fold(&[turn]));
    let session = read.find_session(client_id).expect("it was opened");
    assert_eq!(session.next_packet_id(), id(4));
    let under_way: Vec<_> =
        session.under_way().map(|(id, _, message)| (id.get(), message.is_some())).collect();
    assert_eq!(under_way, [(1, true), (2, false)]);
}

/// Whoever goes on with an image gets all of it, retained messages in the order in which they were told.
#[test]
fn an_image_taken_apart_is_whole() {
    let opened = |client_id| raw(&Record::Opened { client_id, expiry_seconds: 60, next_packet_id: id(1) });
    let mut turn = vec![opened("gone"), raw(&Record::Started { at: 5 }), opened("here")];
    for topic in ["z", "a", "m"] {
        turn.push(told(message(topic, b"x", Qos::ExactlyOnce, None)));
        turn.push(raw(&Record::Retained));
    }
    turn.push(raw(&Record::HandOn { number: 7 }));
    turn.push(raw(&Record::GroupQueued { group: "$share/g/m", number: 9 }));
    turn.push(raw(&Record::Handled { core: 2, number: 3 }));
    let parts = fold(&[turn]).into_parts();
    let sessions = parts.sessions.iter().map(|session| (session.client_id(), session.away_since()));
    assert!(sessions.eq([("gone", Some(5)), ("here", None)]));
    let topics = parts.retained.iter().map(|message| message.as_ref().topic.as_str());
    assert!(topics.eq(["z", "a", "m"]) && parts.retained.iter().all(|message| message.as_ref().retain));
    let group = parts.groups.get("$share/g/m").expect("a message waits");
    assert!(group.messages().map(|message| message.number).eq([9]));
    assert!(parts.pending.iter().map(|pending| (pending.number, pending.publisher)).eq([(7, 7)]));
    assert!(parts.handled.into_iter().eq([(2, 3)]));
    assert_eq!(parts.last_number, 9);
}

/// A shard keeps them in this order, and takes a million up in a fraction of the time if they come in it.
#[test]
fn a_whole_snapshot_tells_retained_messages_in_the_order_of_their_topics() {
    let topics = ["b", "a/c", "a-c", "a", "a/b", "$SYS/x"];
    let turn =
        topics.map(|topic| [told(message(topic, b"", Qos::AtLeastOnce, None)), raw(&Record::Retained)]);
    let image = fold(&[turn.concat()]);
    let mut order = Vec::new();
    image.write_snapshot(|record| {
        if let Record::Message { message, .. } = record {
            order.push(message.topic.as_str().to_owned());
        }
    });
    assert_eq!(order, ["$SYS/x", "a", "a/b", "a/c", "a-c", "b"]);
}
