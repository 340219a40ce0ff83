//! Every record comes back from its bytes, and any bytes are a record or an error.

use mqtt_broker::message::MessageRef;
use mqtt_broker::store::cold::{Chunk, Place};
use mqtt_broker::store::record::{Identifiers, Record, RecordError, VERSION};
use mqtt_proto::codec::encode_property;
use mqtt_proto::packet::{Property, SubscriptionOptions};
use mqtt_proto::types::{PacketId, Qos, TopicName};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use crate::history::raw;

/// The highest kind of the first version.
const LAST: u8 = 31;

/// The kinds that there are.
pub(crate) fn kinds() -> impl Iterator<Item = u8> {
    (1..=LAST).filter(|&kind| kind != 27)
}

/// Values for the fields of any record.
#[derive(Clone, Debug)]
pub(crate) struct Fields {
    pub(crate) text: String,
    filter: String,
    group: String,
    topic: String,
    payload: Vec<u8>,
    properties: Vec<u8>,
    number: u64,
    other: u64,
    small: u32,
    option: Option<u32>,
    packet_id: PacketId,
    qos: Qos,
    flag: bool,
    identifiers: Vec<u32>,
}

fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0..64u32).prop_map(|(number, shift)| (number >> 1 >> shift).max(1))
}

/// At most one of each kind, but for User Properties.
fn properties() -> impl Strategy<Value = Vec<u8>> {
    let texts = prop::collection::vec(("[ -~é]{0,9}", "[a-z]{1,9}"), 6);
    (texts, prop::sample::subsequence(vec![0, 1, 2, 3, 4, 5], 0..6)).prop_map(|(texts, kinds)| {
        let mut wire = Vec::new();
        for kind in kinds {
            let (one, other) = &texts[kind];
            let property = match kind {
                0 => Property::PayloadFormatIndicator(1),
                1 => Property::ContentType(one),
                2 => Property::ResponseTopic(other),
                3 => Property::CorrelationData(one.as_bytes()),
                _ => Property::UserProperty(one, other),
            };
            encode_property(&property, &mut wire).expect("short");
        }
        wire
    })
}

pub(crate) fn fields() -> impl Strategy<Value = Fields> {
    let topic = "[a-z$é][a-z/é ]{0,20}";
    let filter = prop_oneof![topic, Just("$share/g/+/b/#".to_owned()), Just("#".to_owned())];
    let texts = (".{0,20}", filter, topic.prop_map(|text| format!("$share/name/{text}")), topic);
    let bytes = (prop::collection::vec(any::<u8>(), 0..40), properties());
    let numbers = (number(), number(), any::<u32>(), prop::option::of(any::<u32>()), 1..=u16::MAX);
    let rest = (0..3u8, any::<bool>(), prop::collection::vec(1..=268_435_455u32, 0..4));
    (texts, bytes, numbers, rest).prop_map(
        |(texts, (payload, properties), numbers, (qos, flag, identifiers))| {
            let (text, filter, group, topic) = texts;
            let (number, other, small, option, packet_id) = numbers;
            let packet_id = PacketId::new(packet_id).expect("not zero");
            let qos = Qos::from_bits(qos).expect("a QoS");
            Fields {
                text,
                filter,
                group,
                topic,
                payload,
                properties,
                number,
                other,
                small,
                option,
                packet_id,
                qos,
                flag,
                identifiers,
            }
        },
    )
}

pub(crate) fn record(kind: u8, fields: &Fields) -> Record<'_> {
    let Fields { number, other: at, small, packet_id, qos, flag, .. } = *fields;
    let (client_id, group, filter) = (&*fields.text, &*fields.group, &*fields.filter);
    let core = small as u16;
    match kind {
        1 => Record::Started { at },
        2 => Record::Time { at },
        3 => Record::Message {
            message: MessageRef {
                topic: TopicName::new(&fields.topic).expect("a topic"),
                properties: &fields.properties,
                payload: &fields.payload,
                qos,
                retain: flag,
                expires_at: fields.option.map(|_| at),
            },
            publisher: small,
            shared: fields.identifiers.len() > 1,
        },
        4 => Record::Again { number: small },
        5 => Record::Opened { client_id, expiry_seconds: small, next_packet_id: packet_id },
        6 => Record::Expiry { client_id, expiry_seconds: small },
        7 => Record::Closed { client_id, at },
        8 => Record::Ended { client_id },
        9 => {
            let options = SubscriptionOptions { no_local: flag, ..SubscriptionOptions::new(qos) };
            Record::Subscribed { client_id, filter, options, identifier: small % 268_435_456 }
        }
        10 => Record::Unsubscribed { client_id, filter },
        11 => Record::Enqueued {
            client_id,
            qos: qos.max(Qos::AtLeastOnce),
            retain: flag,
            identifiers: Identifiers::new(&fields.identifiers),
            packet_id: fields.option.map(|_| packet_id),
        },
        12 => Record::Sent { client_id, packet_id },
        13 => Record::Dropped { client_id, place: small },
        14 => Record::Acknowledged { client_id, packet_id },
        15 => Record::Released { client_id, packet_id },
        16 => Record::Received { client_id, packet_id },
        17 => Record::Completed { client_id, packet_id },
        18 => Record::Will { client_id, delay_seconds: small, expiry_seconds: fields.option },
        19 => Record::WillRemoved { client_id },
        20 => Record::Retained,
        21 => Record::RetainedRemoved { topic: &fields.topic },
        22 => Record::HandOn { number },
        23 => Record::HandedOn { number },
        24 => Record::Handled { core, number },
        25 => Record::GroupQueued { group, number },
        26 => Record::GroupBegun { core, number },
        28 => Record::GroupTaken { group, number },
        29 => {
            let (bytes, messages) = (small.max(33), (at as u32).max(1));
            Record::Parked { client_id, chunk: Chunk { file: number, offset: at, bytes, messages } }
        }
        30 => Record::Taken { client_id, count: small.max(1) },
        31 => Record::Moved {
            client_id,
            from: Place { file: number, offset: at },
            to: Place { file: at, offset: small.into() },
        },
        _ => panic!("a kind is missing here"),
    }
}

#[test]
fn kinds_that_there_are_not_are_told_from_newer_ones() {
    for kind in [0, 27] {
        let error = Record::decode(kind, &[]).expect_err("no such kind");
        assert_eq!(error, RecordError::NoSuchKind { kind });
    }
    for (kind, version) in [(32, 2), (63, 2), (64, 3), (255, 8)] {
        assert_eq!(Record::decode(kind, &[]).expect_err("newer"), RecordError::Newer { kind, version });
    }
    let error = Record::decode(40, &[]).expect_err("newer").to_string();
    assert_eq!(error, "a record of kind 40 needs version 2 of the record format, this is version 1");
    assert_eq!(VERSION, 1);
}

/// What stands on a disk stays what it means: the bytes of today, written down.
#[test]
fn the_bytes_of_a_record_stay_what_they_are() {
    let client_id = "c1";
    let packet_id = PacketId::new(300).expect("not zero");
    let message = MessageRef {
        topic: TopicName::new("a/b").expect("a topic"),
        properties: &[1, 1],
        payload: b"hi",
        qos: Qos::ExactlyOnce,
        retain: true,
        expires_at: Some(1000),
    };
    let cases: &[(Record<'_>, u8, &[u8])] = &[
        (Record::Started { at: 300 }, 1, b"\xAC\x02"),
        (Record::Time { at: 0 }, 2, b"\x00"),
        (
            Record::Message { message, publisher: 5, shared: true },
            3,
            b"\x7E\xE8\x07\x05\x03a/b\x02\x01\x01hi",
        ),
        (Record::Again { number: 2 }, 4, b"\x02"),
        (
            Record::Opened { client_id, expiry_seconds: u32::MAX, next_packet_id: packet_id },
            5,
            b"\x02c1\xFF\xFF\xFF\xFF\x0F\xAC\x02",
        ),
        (Record::Expiry { client_id, expiry_seconds: 60 }, 6, b"\x02c1\x3C"),
        (Record::Closed { client_id, at: 1 }, 7, b"\x02c1\x01"),
        (Record::Ended { client_id }, 8, b"\x02c1"),
        (
            Record::Subscribed {
                client_id,
                filter: "$share/g/+",
                options: SubscriptionOptions::new(Qos::AtLeastOnce),
                identifier: 9,
            },
            9,
            b"\x02c1\x0A$share/g/+\x01\x09",
        ),
        (Record::Unsubscribed { client_id, filter: "#" }, 10, b"\x02c1\x01#"),
        (
            Record::Enqueued {
                client_id,
                qos: Qos::AtLeastOnce,
                retain: true,
                identifiers: Identifiers::new(&[1, 128]),
                packet_id: Some(packet_id),
            },
            11,
            b"\x02c1\x0D\xAC\x02\x01\x80\x01",
        ),
        (Record::Sent { client_id, packet_id }, 12, b"\x02c1\xAC\x02"),
        (Record::Dropped { client_id, place: 3 }, 13, b"\x02c1\x03"),
        (Record::Acknowledged { client_id, packet_id }, 14, b"\x02c1\xAC\x02"),
        (Record::Released { client_id, packet_id }, 15, b"\x02c1\xAC\x02"),
        (Record::Received { client_id, packet_id }, 16, b"\x02c1\xAC\x02"),
        (Record::Completed { client_id, packet_id }, 17, b"\x02c1\xAC\x02"),
        (Record::Will { client_id, delay_seconds: 1, expiry_seconds: None }, 18, b"\x02c1\x01"),
        (Record::Will { client_id, delay_seconds: 1, expiry_seconds: Some(0) }, 18, b"\x02c1\x01\x00"),
        (Record::WillRemoved { client_id }, 19, b"\x02c1"),
        (Record::Retained, 20, b""),
        (Record::RetainedRemoved { topic: "a/b" }, 21, b"\x03a/b"),
        (Record::HandOn { number: 1 }, 22, b"\x01"),
        (Record::HandedOn { number: u64::MAX / 2 }, 23, b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F"),
        (Record::Handled { core: 3, number: 128 }, 24, b"\x03\x80\x01"),
        (Record::GroupQueued { group: "$share/g/a", number: 4 }, 25, b"\x0A$share/g/a\x04"),
        (Record::GroupBegun { core: 3, number: 128 }, 26, b"\x03\x80\x01"),
        (Record::GroupTaken { group: "$share/g/a", number: 4 }, 28, b"\x0A$share/g/a\x04"),
        (
            Record::Parked { client_id, chunk: Chunk { file: 3, offset: 128, bytes: 300, messages: 2 } },
            29,
            b"\x02c1\x03\x80\x01\xAC\x02\x02",
        ),
        (Record::Taken { client_id, count: 128 }, 30, b"\x02c1\x80\x01"),
        (
            Record::Moved {
                client_id,
                from: Place { file: 3, offset: 128 },
                to: Place { file: 300, offset: 0 },
            },
            31,
            b"\x02c1\x03\x80\x01\xAC\x02\x00",
        ),
    ];
    let known: std::collections::BTreeSet<u8> = cases.iter().map(|case| case.1).collect();
    assert!(known.into_iter().eq(kinds()), "each kind");
    for (record, kind, bytes) in cases {
        assert_eq!(raw(record), (*kind, bytes.to_vec()), "{record:?}");
    }
}

/// The table of kinds in the document.
#[test]
fn the_document_has_every_kind_under_its_name() {
    let document = include_str!("../../../docs/store-records.md");
    let fields = fields().new_tree(&mut Default::default()).expect("any fields").current();
    for kind in kinds() {
        let text = format!("{:?}", record(kind, &fields));
        let name = text.split(' ').next().expect("a name");
        assert!(document.contains(&format!("| {kind} | {name} | ")), "{kind} {name}");
    }
    assert!(!document.contains(&format!("| {} | ", LAST + 1)));
}

#[test]
fn fields_that_cannot_be_are_errors() {
    let field = |kind, field| Err(RecordError::Field { kind, field });
    let cases: &[(u8, &[u8], Result<(), RecordError>)] = &[
        (3, b"\x03\x01a", field(3, "byte of flags")),
        (3, b"\x80\x01a", field(3, "byte of flags")),
        (3, b"\x20\x00\x01a", field(3, "byte of flags")),
        (3, b"\x00\x02a#", field(3, "Topic Name")),
        (3, b"\x00\x00", field(3, "Topic Name")),
        // A property that is not forwarded, one that is cut, none where there should be some.
        (3, b"\x08\x01a\x05\x02\x00\x00\x00\x01", field(3, "list of properties")),
        (3, b"\x08\x01a\x03\x01\x01\x01", field(3, "list of properties")),
        (3, b"\x08\x01a\x00", field(3, "list of properties")),
        // The same one twice.
        (3, b"\x08\x01a\x04\x01\x01\x01\x01", field(3, "list of properties")),
        (5, b"\x01c\x80\x80\x80\x80\x10\x01", field(5, "Session Expiry Interval")),
        (5, b"\x01c\x00\x00", field(5, "Packet Identifier")),
        (8, b"\x01\xFF", field(8, "ClientID")),
        (9, b"\x01c\x02a#\x00\x00", field(9, "Topic Filter")),
        (9, b"\x01c\x01#\x03\x00", field(9, "Subscription Options byte")),
        (11, b"\x01c\x00", field(11, "byte of flags")),
        (11, b"\x01c\x11", field(11, "byte of flags")),
        (11, b"\x01c\x01\x00", field(11, "Subscription Identifier")),
        (12, b"\x01c\x80\x80\x04", field(12, "Packet Identifier")),
        (9, b"\x01c\x01#\x00\x80\x80\x80\x80\x01", field(9, "Subscription Identifier")),
        (23, b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", field(23, "number of a message")),
        (22, b"\x00", field(22, "number of a message")),
        (25, b"\x0A$share/g/a\x00", field(25, "number of a message")),
        (26, b"\x01\x00", field(26, "number of a message")),
        (26, b"\x80\x80\x04\x01", field(26, "core")),
        (24, b"\x80\x80\x04\x00", field(24, "core")),
        (25, b"\x01a\x00", field(25, "shared group")),
        (25, b"\x08$share/g\x00", field(25, "shared group")),
        (29, b"\x01c\x00\x00\x20\x01", field(29, "place in a file")),
        (29, b"\x01c\x00\x00\x21\x00", field(29, "number of messages")),
        (30, b"\x01c\x00", field(30, "number of messages")),
        (7, b"\x01c\x81\x00", field(7, "number")),
        (7, b"\x01c", Err(RecordError::Length { kind: 7 })),
        (7, b"\x01c\x05\x00", Err(RecordError::Length { kind: 7 })),
        (20, b"\x00", Err(RecordError::Length { kind: 20 })),
    ];
    for (kind, bytes, error) in cases {
        assert_eq!(Record::decode(*kind, bytes).map(|_| ()), *error, "kind {kind}: {bytes:?}");
    }
}

proptest! {
    #[test]
    fn a_record_comes_back_from_its_bytes(fields in fields()) {
        for kind in kinds() {
            let record = record(kind, &fields);
            let (written, bytes) = raw(&record);
            prop_assert_eq!(written, kind);
            let back = Record::decode(kind, &bytes).expect("just encoded");
            prop_assert_eq!(format!("{back:?}"), format!("{record:?}"));
            prop_assert_eq!(payload(&back), payload(&record));
            prop_assert_eq!(raw(&back), (kind, bytes));
        }
    }

    /// A record that ends early is one that says something else, or none.
    #[test]
    fn a_cut_record_is_never_the_same(fields in fields(), cut in any::<prop::sample::Index>()) {
        for kind in kinds() {
            let (_, bytes) = raw(&record(kind, &fields));
            if !bytes.is_empty()
                && let shorter = &bytes[..cut.index(bytes.len())]
                && let Ok(back) = Record::decode(kind, shorter)
            {
                prop_assert_eq!(raw(&back).1, shorter);
            }
        }
    }

    /// There is one way to write each record, so what is decoded is encoded to the same bytes.
    #[test]
    fn any_bytes_are_a_record_or_an_error(
        kind in 0..=LAST + 8,
        bytes in prop::collection::vec(prop_oneof![3 => 0..6u8, 1 => any::<u8>()], 0..24),
    ) {
        if let Ok(record) = Record::decode(kind, &bytes) {
            prop_assert_eq!(raw(&record), (kind, bytes));
        }
    }

    /// The same with bytes that are nearly right.
    #[test]
    fn a_damaged_record_is_a_record_or_an_error(
        fields in fields(),
        place in any::<prop::sample::Index>(),
        flip in 1..=255u8,
    ) {
        for kind in kinds() {
            let (_, mut bytes) = raw(&record(kind, &fields));
            if bytes.is_empty() {
                continue;
            }
            let place = place.index(bytes.len());
            bytes[place] ^= flip;
            if let Ok(record) = Record::decode(kind, &bytes) {
                prop_assert_eq!(raw(&record), (kind, bytes));
            }
        }
    }
}

fn payload<'a>(record: &Record<'a>) -> Option<&'a [u8]> {
    match record {
        Record::Message { message, .. } => Some(message.payload),
        _ => None,
    }
}
