//! Images dealt to another number of cores: nothing is lost, nothing comes twice.

use std::collections::BTreeSet;

use mqtt_broker::store::image::{Home, Image};
use mqtt_broker::store::record::Record;
use mqtt_proto::packet::SubscriptionOptions;
use mqtt_proto::types::{Qos, SharedFilter, TopicName};
use proptest::prelude::*;

use crate::history::{Raw, SEED, Turn, fold, history, id, message, raw, told};
use crate::model::lines;

/// Where something is at home among `cores`: by the digits in its name.
fn home(what: Home<'_>, cores: u16) -> u16 {
    let (Home::Session(text) | Home::Group(text)) = what else {
        let Home::Retained(topic) = what else { unreachable!("the other two are above") };
        return digits(topic.as_str()) % cores;
    };
    digits(text) % cores
}

fn digits(text: &str) -> u16 {
    text.bytes().filter(u8::is_ascii_digit).map(|digit| u16::from(digit - b'0')).sum()
}

/// The lines of all images together, but for what belongs to the cores themselves.
fn all(images: &[Image]) -> Vec<String> {
    let mut all: Vec<String> = images.iter().flat_map(|image| lines(image).split_off(1)).collect();
    all.retain(|line| !line.starts_with('('));
    all.extend(images.iter().flat_map(|image| image.groups()).flat_map(|(name, group)| {
        group.messages().map(move |message| format!("{name} {:?}", message.message.as_ref()))
    }));
    all.sort_unstable();
    all
}

fn deal(images: Vec<Image>, cores: u16) -> Vec<Image> {
    Image::deal(images, cores, SEED, home)
}

/// A history without messages between cores.
fn quiet(core: u16) -> impl Strategy<Value = Vec<Turn>> {
    history(core).prop_map(|mut turns| {
        turns.iter_mut().for_each(|turn| turn.retain(|(kind, _)| !matches!(kind, 22 | 24 | 26)));
        turns
    })
}

proptest! {
    #[test]
    fn dealing_loses_nothing_and_doubles_nothing(
        histories in (quiet(0), quiet(1), quiet(2)),
        cores in 1..6u16,
    ) {
        let images = || vec![fold(&histories.0), fold(&histories.1), fold(&histories.2)];
        let before = all(&images());
        let dealt = deal(images(), cores);
        prop_assert_eq!(dealt.len(), usize::from(cores));
        prop_assert_eq!(&all(&dealt), &before);
        for (core, image) in (0..cores).zip(&dealt) {
            prop_assert!(image.sessions().all(|s| home(Home::Session(s.client_id()), cores) == core));
            prop_assert!(image.groups().all(|(name, _)| home(Home::Group(name), cores) == core));
            let numbers = image.groups().flat_map(|(_, group)| group.messages().map(|message| message.number));
            let numbers: Vec<u64> = numbers.collect();
            let (count, distinct) = (numbers.len(), numbers.into_iter().collect::<BTreeSet<_>>());
            prop_assert!(distinct.len() == count && distinct.last().is_none_or(|&last| last <= image.last_number()));
            prop_assert!(
                image.retained().all(|m| home(Home::Retained(m.as_ref().topic), cores) == core)
            );
        }
        prop_assert_eq!(all(&deal(dealt, 1)), before);
    }

    /// Each pending message reaches each session of a core that has not handled it once, if a filter matches, and no
    /// other one.
    #[test]
    fn pending_messages_reach_those_whose_core_had_not_handled_them(
        subscribed in prop::collection::vec((0..9u16, 0..FILTERS.len(), 0..3u8, 0..3u32), 0..20),
        pending in prop::collection::vec((0..3u16, 0..TOPICS.len()), 0..6),
        handled in prop::collection::vec(0..6u64, 9),
        cores in 1..5u16,
    ) {
        let mut turns: Vec<Turn> = vec![Vec::new(); 3];
        for client in 0..9u16 {
            // The last ones end with their connections.
            let expiry_seconds = if client < 7 { 60 } else { 0 };
            let client_id = &*format!("c{client}");
            turns[usize::from(client % 3)]
                .push(raw(&Record::Opened { client_id, expiry_seconds, next_packet_id: id(1) }));
        }
        for &(client, filter, qos, identifier) in &subscribed {
            let options = SubscriptionOptions::new(Qos::from_bits(qos).expect("a QoS"));
            let (client_id, filter) = (&*format!("c{client}"), FILTERS[filter]);
            turns[usize::from(client % 3)].push(raw(&Record::Subscribed { client_id, filter, options, identifier }));
        }
        for (number, &(from, topic)) in (1..).zip(&pending) {
            turns[usize::from(from)].push(told(message(TOPICS[topic], &[number as u8], Qos::ExactlyOnce, None)));
            turns[usize::from(from)].push(raw(&Record::HandOn { number }));
        }
        for (at, &number) in handled.iter().enumerate() {
            turns[at % 3].push(raw(&Record::Handled { core: (at / 3) as u16, number }));
        }
        let images: Vec<Image> = turns.iter().map(|turn| fold(std::slice::from_ref(turn))).collect();
        let last = |image: &Image| (image.handled(0), image.handled(1), image.handled(2));
        let handled: Vec<_> = images.iter().map(last).collect();
        let lacks = |core: u16, from: u16, number: u64| {
            let (zero, one, two) = handled[usize::from(core)];
            core != from && [zero, one, two][usize::from(from)] < number
        };

        let mut expected = Vec::new();
        let mut by_core: Vec<(u64, (u16, usize))> = (1..).zip(pending.iter().copied()).collect();
        by_core.sort_by_key(|&(number, (from, _))| (from, number));
        for (number, (from, topic)) in by_core {
            let topic = TopicName::new(TOPICS[topic]).expect("a topic");
            let matches = |filter: &str| SharedFilter::new(filter).expect("a filter").filter.matches(topic);
            for client in 0..7u16 {
                // The last of equal filters counts.
                let own: std::collections::BTreeMap<&str, (u8, u32)> = subscribed
                    .iter()
                    .filter(|subscribed| subscribed.0 == client)
                    .map(|&(_, filter, qos, identifier)| (FILTERS[filter], (qos, identifier)))
                    .collect();
                let matching = own.iter().filter(|(filter, _)| !filter.starts_with("$share") && matches(filter));
                let matching: Vec<(u8, u32)> = matching.map(|(_, subscription)| *subscription).collect();
                let qos = matching.iter().map(|matching| matching.0).max().unwrap_or(0);
                if lacks(client % 3, from, number) && qos > 0 {
                    let mut identifiers: Vec<u32> =
                        matching.iter().map(|matching| matching.1).filter(|&one| one != 0).collect();
                    identifiers.sort_unstable();
                    expected.push(format!("c{client} {number} {qos} {identifiers:?}"));
                }
            }
            let groups: BTreeSet<&str> = subscribed
                .iter()
                .filter(|subscribed| subscribed.0 < 7)
                .map(|subscribed| FILTERS[subscribed.1])
                .filter(|filter| filter.starts_with("$share") && matches(filter))
                .collect();
            for group in groups {
                if lacks(home(Home::Group(group), 3), from, number) {
                    expected.push(format!("{group} {number}"));
                }
            }
        }

        let dealt = deal(images, cores);
        let number = |payload: &[u8]| payload[0];
        let mut found = Vec::new();
        for image in &dealt {
            prop_assert_eq!(image.pending().len(), 0);
            for session in image.sessions() {
                for delivery in session.waiting() {
                    found.push(format!(
                        "{} {} {} {:?}",
                        session.client_id(),
                        number(delivery.message.as_ref().payload),
                        delivery.qos.bits(),
                        delivery.identifiers()
                    ));
                }
            }
            for (name, group) in image.groups() {
                found.extend(group.messages().map(|m| format!("{name} {}", number(m.message.as_ref().payload))));
            }
        }
        // Stable: what one session or group gets keeps its order.
        let name = |line: &String| line.split(' ').next().map(str::to_owned);
        expected.sort_by_key(name);
        found.sort_by_key(name);
        prop_assert_eq!(found, expected);
    }
}

const FILTERS: [&str; 7] = ["a", "a/b", "+/b", "#", "a/#", "$share/g0/a/+", "$share/g1/#"];
const TOPICS: [&str; 4] = ["a", "a/b", "c/b", "$d"];

fn retained(topic: &str, payload: &[u8]) -> Vec<Raw> {
    let message =
        mqtt_broker::message::MessageRef { retain: true, ..message(topic, payload, Qos::ExactlyOnce, None) };
    vec![told(message)]
}

#[test]
fn a_pending_retained_message_is_set_where_it_was_not() {
    // `t1` and `t3` are at home on core 1 of 2, `t2` on core 0.
    let mut sender = Vec::new();
    for (number, (topic, payload)) in [("t1", "new"), ("t3", ""), ("t2", "own")].iter().enumerate() {
        sender.extend(retained(topic, payload.as_bytes()));
        sender.push(raw(&Record::HandOn { number: number as u64 + 1 }));
    }
    let mut keeper = Vec::new();
    for topic in ["t1", "t3"] {
        keeper.extend(retained(topic, b"old"));
        keeper.push(raw(&Record::Retained));
    }
    let dealt = |handled: u64| {
        let mut keeper = keeper.clone();
        keeper.push(raw(&Record::Handled { core: 0, number: handled }));
        let dealt = deal(vec![fold(&[sender.clone()]), fold(&[keeper])], 1);
        let payload = |topic: &str| {
            dealt[0]
                .find_retained(topic)
                .map(|message| String::from_utf8_lossy(message.as_ref().payload).into_owned())
        };
        (payload("t1"), payload("t3"), payload("t2"))
    };
    let (new, old) = (Some("new".to_owned()), Some("old".to_owned()));
    assert_eq!(dealt(0), (new.clone(), None, None));
    assert_eq!(dealt(1), (old.clone(), None, None));
    assert_eq!(dealt(2), (old.clone(), old, None));
}

#[test]
fn numbers_and_times_go_on_behind_those_of_all_cores() {
    let one = vec![told(message("a", b"", Qos::ExactlyOnce, None)), raw(&Record::HandOn { number: 40 })];
    let two = vec![raw(&Record::Time { at: 77 }), raw(&Record::Handled { core: 0, number: 40 })];
    let dealt = deal(vec![fold(&[one]), fold(&[two])], 3);
    assert!(dealt.iter().all(|image| (image.last_number(), image.last_time()) == (40, 77)));
    assert!(dealt.iter().all(|image| image.handled(0) == 0), "of the new cores nothing was handled");
}

/// A connection that the log knew and a start has ended is a session that is away, wherever it goes.
#[test]
fn a_session_is_away_as_long_as_before() {
    let turn = vec![
        raw(&Record::Opened { client_id: "c", expiry_seconds: 60, next_packet_id: id(9) }),
        raw(&Record::Started { at: 55 }),
        raw(&Record::Opened { client_id: "d", expiry_seconds: 60, next_packet_id: id(9) }),
    ];
    let dealt = deal(vec![fold(&[turn])], 1);
    let since = |client_id| dealt[0].find_session(client_id).map(|session| dealt[0].away_since(session));
    assert_eq!((since("c"), since("d")), (Some(Some(55)), Some(None)));
}
