//! Random histories of one core: records as bytes, in turns that belong together.

use mqtt_broker::message::MessageRef;
use mqtt_broker::store::cold::{Chunk, Place};
use mqtt_broker::store::image::Image;
use mqtt_broker::store::record::{Identifiers, Record};
use mqtt_proto::packet::SubscriptionOptions;
use mqtt_proto::types::{PacketId, Qos, TopicName};
use proptest::prelude::*;

pub(crate) const SEED: [u64; 4] = [1, 2, 3, 4];

/// A record's kind and bytes.
pub(crate) type Raw = (u8, Vec<u8>);

/// Records that a shard appends in one call: none of them leans on a message of another turn.
pub(crate) type Turn = Vec<Raw>;

pub(crate) fn raw(record: &Record<'_>) -> Raw {
    let mut bytes = Vec::new();
    record.encode(&mut bytes);
    (record.kind(), bytes)
}

pub(crate) fn decode((kind, bytes): &Raw) -> Record<'_> {
    Record::decode(*kind, bytes).expect("it was encoded")
}

/// Applies records to an image; the first has the number behind `seq`.
pub(crate) fn apply(image: &mut Image, seq: &mut u64, records: &[Raw]) {
    for record in records {
        *seq += 1;
        image.apply(*seq, &decode(record)).expect("its message is in its turn");
    }
}

pub(crate) fn fold(turns: &[Turn]) -> Image {
    let (mut image, mut seq) = (Image::new(SEED), 0);
    turns.iter().for_each(|turn| apply(&mut image, &mut seq, turn));
    image
}

pub(crate) fn message<'a>(
    topic: &'a str,
    payload: &'a [u8],
    qos: Qos,
    expires_at: Option<u64>,
) -> MessageRef<'a> {
    let topic = TopicName::new(topic).expect("a topic");
    MessageRef { topic, properties: &[], payload, qos, retain: false, expires_at }
}

pub(crate) fn told(message: MessageRef<'_>) -> Raw {
    raw(&Record::Message { message, publisher: 7, shared: false })
}

pub(crate) fn id(number: u16) -> PacketId {
    PacketId::new(number).expect("not zero")
}

fn qos() -> impl Strategy<Value = Qos> {
    prop::sample::select(vec![Qos::AtLeastOnce, Qos::ExactlyOnce])
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    (1..5u16).prop_map(id)
}

/// One of few names, with what makes it the only core's that has it.
fn named(core: u16, kind: &'static str, count: u32) -> impl Strategy<Value = String> {
    (0..count).prop_map(move |number| format!("{kind}{core}-{number}"))
}

fn group(core: u16) -> impl Strategy<Value = String> {
    named(core, "g", 2).prop_map(|name| format!("$share/{name}/a/+"))
}

/// A message alone: the records behind it keep it.
fn any_message(core: u16) -> impl Strategy<Value = Raw> {
    let expires_at = prop::option::weighted(0.3, 0..2000u64);
    (named(core, "t", 3), any::<u8>(), qos(), expires_at, any::<bool>()).prop_map(
        |(topic, payload, qos, expires_at, retain)| {
            told(MessageRef { retain, ..message(&topic, &[payload], qos, expires_at) })
        },
    )
}

/// What keeps the message before it.
fn keeper(core: u16) -> impl Strategy<Value = Raw> {
    let client = || named(core, "c", 4);
    let identifiers = prop::collection::vec(1..9u32, 0..3);
    let enqueued = (client(), qos(), any::<bool>(), identifiers, prop::option::of(packet_id()));
    prop_oneof![
        6 => enqueued.prop_map(|(client_id, qos, retain, identifiers, packet_id)| raw(&Record::Enqueued {
            client_id: &client_id,
            qos,
            retain,
            identifiers: Identifiers::new(&identifiers),
            packet_id,
        })),
        1 => (client(), 0..99u32, prop::option::of(0..99u32)).prop_map(
            |(client_id, delay_seconds, expiry_seconds)| raw(&Record::Will {
                client_id: &client_id,
                delay_seconds,
                expiry_seconds
            })
        ),
        2 => Just(raw(&Record::Retained)),
        2 => (1..9u64).prop_map(|number| raw(&Record::HandOn { number })),
        3 => (group(core), 1..9u64)
            .prop_map(|(group, number)| raw(&Record::GroupQueued { group: &group, number })),
    ]
}

/// A record that keeps no message.
fn change(core: u16) -> impl Strategy<Value = Raw> {
    let client = move || named(core, "c", 4);
    let with_id = move |make: fn(&str, PacketId) -> Raw| {
        (client(), packet_id()).prop_map(move |(client_id, packet_id)| make(&client_id, packet_id))
    };
    let expiry = || prop::sample::select(vec![0, 1, 60, u32::MAX]);
    let filter = || prop::sample::select(vec!["a", "a/b", "+/b", "#", "$share/g/a/+"]);
    prop_oneof![
        6 => (client(), expiry(), packet_id()).prop_map(|(client_id, expiry_seconds, next_packet_id)| {
            raw(&Record::Opened { client_id: &client_id, expiry_seconds, next_packet_id })
        }),
        1 => (client(), expiry()).prop_map(|(client_id, expiry_seconds)| {
            raw(&Record::Expiry { client_id: &client_id, expiry_seconds })
        }),
        3 => (client(), 0..2000u64)
            .prop_map(|(client_id, at)| raw(&Record::Closed { client_id: &client_id, at })),
        1 => client().prop_map(|client_id| raw(&Record::Ended { client_id: &client_id })),
        3 => (client(), filter(), 0..0x30u8, 0..3u32).prop_map(|(client_id, filter, options, identifier)| {
            let options = SubscriptionOptions::from_byte(options).unwrap_or_default();
            raw(&Record::Subscribed { client_id: &client_id, filter, options, identifier })
        }),
        1 => (client(), filter()).prop_map(|(client_id, filter)| {
            raw(&Record::Unsubscribed { client_id: &client_id, filter })
        }),
        3 => with_id(|client_id, packet_id| raw(&Record::Sent { client_id, packet_id })),
        1 => (client(), 0..3u32)
            .prop_map(|(client_id, place)| raw(&Record::Dropped { client_id: &client_id, place })),
        3 => with_id(|client_id, packet_id| raw(&Record::Acknowledged { client_id, packet_id })),
        2 => with_id(|client_id, packet_id| raw(&Record::Released { client_id, packet_id })),
        2 => with_id(|client_id, packet_id| raw(&Record::Received { client_id, packet_id })),
        2 => with_id(|client_id, packet_id| raw(&Record::Completed { client_id, packet_id })),
        1 => client().prop_map(|client_id| raw(&Record::WillRemoved { client_id: &client_id })),
        1 => named(core, "t", 3).prop_map(|topic| raw(&Record::RetainedRemoved { topic: &topic })),
        1 => (1..9u64).prop_map(|number| raw(&Record::HandedOn { number })),
        1 => (0..4u16, 0..9u64).prop_map(|(core, number)| raw(&Record::Handled { core, number })),
        2 => (0..4u16, 1..9u64).prop_map(|(core, number)| raw(&Record::GroupBegun { core, number })),
        2 => (group(core), 1..9u64)
            .prop_map(|(group, number)| raw(&Record::GroupTaken { group: &group, number })),
        1 => (0..2000u64).prop_map(|at| raw(&Record::Time { at })),
        2 => (client(), 1..5u32, 0..9u64).prop_map(|(client_id, messages, file)| {
            let chunk = Chunk { file, offset: 7, bytes: 100, messages };
            raw(&Record::Parked { client_id: &client_id, chunk })
        }),
        3 => (client(), 1..4u32)
            .prop_map(|(client_id, count)| raw(&Record::Taken { client_id: &client_id, count })),
        1 => (client(), 0..9u64, 0..9u64).prop_map(|(client_id, from, to)| {
            let [from, to] = [from, to].map(|file| Place { file, offset: 7 });
            raw(&Record::Moved { client_id: &client_id, from, to })
        }),
    ]
}

/// A turn of a core: its own names and numbers are no other core's.
pub(crate) fn turn(core: u16) -> impl Strategy<Value = Turn> {
    let kept = (any_message(core), prop::collection::vec(keeper(core), 0..4));
    prop_oneof![
        2 => kept.prop_map(|(message, mut keepers)| {
            keepers.insert(0, message);
            keepers
        }),
        3 => prop::collection::vec(change(core), 1..3),
    ]
}

/// Turns of a core, and starts of its broker.
pub(crate) fn history(core: u16) -> impl Strategy<Value = Vec<Turn>> {
    let start = (0..2000u64).prop_map(|at| vec![raw(&Record::Started { at })]);
    prop::collection::vec(prop_oneof![40 => turn(core), 1 => start], 0..150)
}
