//! Images against a model of plain lists.

use std::collections::{BTreeMap, BTreeSet};

use mqtt_broker::message::MessageRef;
use mqtt_broker::store::image::{Delivery, Image};
use mqtt_broker::store::record::{Identifiers, Record};
use proptest::prelude::*;

use crate::history::{decode, fold, history};

/// A message, and how it is delivered.
type Delivered = (String, u8, bool, Vec<u32>);

#[derive(Default)]
struct Session {
    expiry_seconds: u32,
    away_since: Option<u64>,
    next_packet_id: u16,
    subscriptions: BTreeMap<String, (u8, u32)>,
    /// Packet Identifier, and the message until PUBREC has come.
    under_way: Vec<(u16, Option<Delivered>)>,
    waiting: Vec<Delivered>,
    /// The chunks with parked messages: their file, and how many are left.
    parked: Vec<(u64, u32)>,
    received: Vec<u16>,
    will: Option<(String, u32, Option<u32>)>,
}

#[derive(Default)]
struct Model {
    sessions: BTreeMap<String, Session>,
    retained: BTreeMap<String, String>,
    groups: BTreeMap<(String, u64), String>,
    pending: BTreeMap<u64, (String, u32)>,
    handled: BTreeMap<u16, u64>,
    begun: Vec<(u16, u64)>,
    last_number: u64,
    last_time: u64,
    /// The message as it is, as it is retained, its topic, its publisher.
    last: (String, String, String, u32),
}

fn text(message: MessageRef<'_>) -> String {
    format!("{message:?}")
}

impl Model {
    fn apply(&mut self, record: &Record<'_>) {
        let last = self.last.clone();
        match *record {
            Record::Started { at } => {
                self.last_time = self.last_time.max(at);
                for session in self.sessions.values_mut() {
                    session.away_since = session.away_since.or(Some(at));
                }
            }
            Record::Time { at } => self.last_time = self.last_time.max(at),
            Record::Message { message, publisher, .. } => {
                let retained = text(MessageRef { retain: true, ..message });
                self.last = (text(message), retained, message.topic.to_string(), publisher);
            }
            Record::Opened { client_id, expiry_seconds, next_packet_id } => {
                let session = self.sessions.entry(client_id.to_owned()).or_default();
                session.expiry_seconds = expiry_seconds;
                session.next_packet_id = next_packet_id.get();
                session.away_since = None;
            }
            Record::Retained => drop(self.retained.insert(last.2, last.1)),
            Record::RetainedRemoved { topic } => drop(self.retained.remove(topic)),
            Record::HandOn { number } => {
                self.pending.insert(number, (last.0, last.3));
                self.last_number = self.last_number.max(number);
            }
            Record::HandedOn { number } => {
                self.pending.remove(&number);
                self.last_number = self.last_number.max(number);
            }
            Record::Handled { core, number } => {
                let known = self.handled.get(&core).copied().unwrap_or(0);
                self.handled.insert(core, known.max(number));
            }
            Record::GroupQueued { group, number } => {
                self.groups.insert((group.to_owned(), number), last.0);
                self.last_number = self.last_number.max(number);
            }
            Record::GroupBegun { core, number } => self.begun.push((core, number)),
            Record::GroupTaken { group, number } => {
                self.groups.remove(&(group.to_owned(), number));
            }
            Record::Closed { client_id, at } => {
                self.last_time = self.last_time.max(at);
                if let Some(session) = self.sessions.get_mut(client_id) {
                    session.away_since = Some(at);
                }
            }
            Record::Ended { client_id } => drop(self.sessions.remove(client_id)),
            _ => self.apply_to_session(record),
        }
    }

    fn apply_to_session(&mut self, record: &Record<'_>) {
        let (Record::Expiry { client_id, .. }
        | Record::Subscribed { client_id, .. }
        | Record::Unsubscribed { client_id, .. }
        | Record::Enqueued { client_id, .. }
        | Record::Sent { client_id, .. }
        | Record::Dropped { client_id, .. }
        | Record::Acknowledged { client_id, .. }
        | Record::Released { client_id, .. }
        | Record::Received { client_id, .. }
        | Record::Completed { client_id, .. }
        | Record::Will { client_id, .. }
        | Record::WillRemoved { client_id }
        | Record::Parked { client_id, .. }
        | Record::Taken { client_id, .. }
        | Record::Moved { client_id, .. }) = *record
        else {
            panic!("{record:?} is about no session");
        };
        let last = self.last.0.clone();
        let Some(session) = self.sessions.get_mut(client_id) else { return };
        let is_under_way = |session: &Session, id| session.under_way.iter().any(|(known, _)| *known == id);
        match *record {
            Record::Expiry { expiry_seconds, .. } => session.expiry_seconds = expiry_seconds,
            Record::Subscribed { filter, options, identifier, .. } => {
                session.subscriptions.insert(filter.to_owned(), (options.to_byte(), identifier));
            }
            Record::Unsubscribed { filter, .. } => drop(session.subscriptions.remove(filter)),
            Record::Enqueued { qos, retain, identifiers, packet_id, .. } => {
                let delivered = (last, qos.bits(), retain, identifiers.iter().collect());
                let Some(packet_id) = packet_id else { return session.waiting.push(delivered) };
                session.next_packet_id = packet_id.next().get();
                if !is_under_way(session, packet_id.get()) {
                    session.under_way.push((packet_id.get(), Some(delivered)));
                }
            }
            Record::Sent { packet_id, .. } => {
                session.next_packet_id = packet_id.next().get();
                if session.waiting.is_empty() {
                    return;
                }
                let delivered = session.waiting.remove(0);
                if !is_under_way(session, packet_id.get()) {
                    session.under_way.push((packet_id.get(), Some(delivered)));
                }
            }
            Record::Dropped { place, .. } => {
                if (place as usize) < session.waiting.len() {
                    session.waiting.remove(place as usize);
                }
            }
            Record::Acknowledged { packet_id, .. } => {
                session.under_way.retain(|(known, _)| *known != packet_id.get());
            }
            Record::Released { packet_id, .. } => {
                let id = packet_id.get();
                match session.under_way.iter_mut().find(|(known, _)| *known == id) {
                    // Of QoS 1 there is no PUBREC.
                    Some((_, Some((_, 1, ..)))) => {}
                    Some((_, message)) => *message = None,
                    None => session.under_way.push((id, None)),
                }
            }
            Record::Received { packet_id, .. } => {
                session.received.push(packet_id.get());
                session.received.sort_unstable();
                session.received.dedup();
            }
            Record::Completed { packet_id, .. } => session.received.retain(|&id| id != packet_id.get()),
            Record::Will { delay_seconds, expiry_seconds, .. } => {
                session.will = Some((last, delay_seconds, expiry_seconds));
            }
            Record::Parked { chunk, .. } => {
                session.parked.push((chunk.file, chunk.messages));
                let parked = session.waiting.len().min(chunk.messages as usize);
                session.waiting.drain(..parked);
            }
            Record::Taken { count, .. } => {
                let mut over = count;
                for (_, left) in &mut session.parked {
                    let taken = over.min(*left);
                    (*left, over) = (*left - taken, over - taken);
                }
                session.parked.retain(|(_, left)| *left > 0);
            }
            Record::Moved { from, to, .. } => {
                if let Some((file, _)) = session.parked.iter_mut().find(|(file, _)| *file == from.file) {
                    *file = to.file;
                }
            }
            _ => session.will = None,
        }
    }

    /// A line for each thing there is.
    fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("{} {}", self.last_number, self.last_time)];
        for (client_id, session) in &self.sessions {
            let Session { expiry_seconds, away_since, next_packet_id, subscriptions, .. } = session;
            let Session { under_way, waiting, parked, received, will, .. } = session;
            lines.push(format!(
                "{client_id} {expiry_seconds} {away_since:?} {next_packet_id} {subscriptions:?} \
                 {under_way:?} {parked:?} {waiting:?} {received:?} {will:?}"
            ));
        }
        lines.extend(self.retained.iter().map(|(topic, message)| format!("{topic} {message}")));
        lines.extend(self.groups.iter().map(|message| format!("{message:?}")));
        lines.extend(self.pending.iter().map(|pending| format!("{pending:?}")));
        lines.extend(self.handled.iter().filter(|handled| *handled.1 > 0).map(|line| format!("{line:?}")));
        // A snapshot and the log behind it may both tell one.
        let begun: BTreeSet<_> = self.begun.iter().collect();
        lines.extend(begun.into_iter().map(|begun| format!("({begun:?} begun)")));
        lines
    }
}

fn delivered(delivery: &Delivery) -> Delivered {
    let message = text(delivery.message.as_ref());
    (message, delivery.qos.bits(), delivery.retain, delivery.identifiers().to_vec())
}

fn parked(session: &mqtt_broker::store::image::Session) -> Vec<(u64, u32)> {
    let Some(parked) = session.parked() else { return Vec::new() };
    assert!(!parked.is_empty() && parked.messages() > 0);
    let mut chunks: Vec<_> = parked.chunks().map(|chunk| (chunk.file, chunk.messages)).collect();
    chunks[0].1 -= parked.taken();
    chunks
}

/// A line for each thing in an image, as the model writes them.
pub(crate) fn lines(image: &Image) -> Vec<String> {
    let mut model =
        Model { last_number: image.last_number(), last_time: image.last_time(), ..Model::default() };
    for session in image.sessions() {
        let subscriptions = session.subscriptions().iter();
        let under_way =
            session.under_way().map(|(id, _, delivery)| (id.get(), delivery.map(delivered))).collect();
        let will =
            session.will().map(|will| (text(will.message.as_ref()), will.delay_seconds, will.expiry_seconds));
        let known = Session {
            expiry_seconds: session.expiry_seconds(),
            away_since: image.away_since(session),
            next_packet_id: session.next_packet_id().get(),
            subscriptions: subscriptions
                .map(|(filter, known)| (filter.to_owned(), (known.options.to_byte(), known.identifier)))
                .collect(),
            under_way,
            waiting: session.waiting().map(delivered).collect(),
            parked: parked(session),
            received: session.received().iter().map(|id| id.get()).collect(),
            will,
        };
        assert!(model.sessions.insert(session.client_id().to_owned(), known).is_none());
        assert!(image.find_session(session.client_id()).is_some());
    }
    for message in image.retained() {
        let message = message.as_ref();
        model.retained.insert(message.topic.to_string(), text(message));
    }
    for (name, group) in image.groups() {
        assert!(group.messages().map(|message| message.number).is_sorted() && group.messages().len() > 0);
        for message in group.messages() {
            model.groups.insert((name.to_owned(), message.number), text(message.message.as_ref()));
        }
    }
    assert!(image.pending().map(|pending| pending.number).is_sorted());
    for pending in image.pending() {
        model.pending.insert(pending.number, (text(pending.message.as_ref()), pending.publisher));
    }
    model.handled = (0..4).map(|core| (core, image.handled(core))).collect();
    let begun = |core| image.begun(core).iter().map(move |&number| (core, number));
    model.begun = (0..4).flat_map(begun).collect();
    model.lines()
}

#[test]
fn a_record_that_keeps_a_message_needs_one() {
    let keepers = [
        Record::Retained,
        Record::HandOn { number: 1 },
        Record::GroupQueued { group: "$share/g/a", number: 1 },
        Record::Will { client_id: "c", delay_seconds: 0, expiry_seconds: None },
        Record::Enqueued {
            client_id: "c",
            qos: mqtt_proto::types::Qos::AtLeastOnce,
            retain: false,
            identifiers: Identifiers::EMPTY,
            packet_id: None,
        },
        Record::Again { number: 0 },
    ];
    for keeper in keepers {
        let mut image = Image::new(crate::history::SEED);
        assert_eq!(image.apply(7, &keeper).map_err(|missing| missing.seq), Err(7), "{keeper:?}");
        assert_eq!(image.apply_snapshot(8, &keeper).map_err(|missing| missing.seq), Err(8), "{keeper:?}");
    }
}

proptest! {
    #[test]
    fn an_image_is_what_the_model_says(turns in history(0)) {
        let mut model = Model::default();
        turns.iter().flatten().for_each(|record| model.apply(&decode(record)));
        prop_assert_eq!(lines(&fold(&turns)), model.lines());
    }
}
