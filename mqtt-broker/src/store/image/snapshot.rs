//! An image as records: what a snapshot consists of.
//!
//! A message that several sessions keep is written once. Sessions are written one by one, so that each can be as of
//! another record.

use std::collections::BTreeMap;

use super::{Delivery, Image, Session};
use crate::message::{Message, MessageRef};
use crate::router::{Retainable as _, topic_order};
use crate::store::cold::Parked;
use crate::store::record::{Identifiers, Record};

/// The messages of a snapshot that is being written, as far as they may come again.
#[derive(Debug, Default)]
pub struct SnapshotMessages {
    /// By where their bytes are, which stays so as long as they are kept here: their number.
    numbers: BTreeMap<usize, (u32, Message)>,
}

impl SnapshotMessages {
    /// No messages yet.
    pub fn new() -> SnapshotMessages {
        SnapshotMessages::default()
    }

    /// The record that tells `message`: in full the first time.
    pub fn record<'m>(&mut self, message: &'m Message) -> Record<'m> {
        if !message.is_shared() {
            return in_full(message.as_ref());
        }
        if let Some(&(number, _)) = self.numbers.get(&message.address()) {
            return Record::Again { number };
        }
        let number = self.numbers.len() as u32;
        self.numbers.insert(message.address(), (number, message.clone()));
        Record::Message { message: message.as_ref(), publisher: 0, shared: true }
    }
}

fn in_full(message: MessageRef<'_>) -> Record<'_> {
    Record::Message { message, publisher: 0, shared: false }
}

impl Image {
    /// Tells the whole image as the records of a snapshot, retained messages in the order in which they are kept by the
    /// shard that takes them up.
    pub fn write_snapshot(&self, mut tell: impl FnMut(&Record<'_>)) {
        let mut messages = SnapshotMessages::new();
        self.write_core(&mut tell);
        for (name, _) in self.groups() {
            self.write_group(name, &mut messages, &mut tell);
        }
        let mut retained: Vec<&Message> = self.retained.iter().collect();
        retained.sort_by(|one, other| topic_order(one.topic_bytes(), other.topic_bytes()));
        for message in retained {
            tell(&messages.record(message));
            tell(&Record::Retained);
        }
        for session in self.sessions() {
            self.write_session(session, &mut messages, &mut tell);
        }
    }

    /// What belongs to the core itself: the time, the starts, and the messages between it and other cores.
    pub fn write_core(&self, mut tell: impl FnMut(&Record<'_>)) {
        for at in self.all_starts() {
            tell(&Record::Started { at });
        }
        tell(&Record::Time { at: self.last_time });
        // None of this number is pending yet: it only says how far the numbers have got.
        tell(&Record::HandedOn { number: self.last_number });
        for (&core, &number) in &self.handled {
            tell(&Record::Handled { core, number });
        }
        for (&core, numbers) in &self.begun {
            numbers.iter().for_each(|&number| tell(&Record::GroupBegun { core, number }));
        }
        for pending in &self.pending {
            let (message, publisher) = (pending.message.as_ref(), pending.publisher);
            tell(&Record::Message { message, publisher, shared: false });
            tell(&Record::HandOn { number: pending.number });
        }
    }

    /// The messages of a shared group.
    pub fn write_group(
        &self,
        name: &str,
        messages: &mut SnapshotMessages,
        mut tell: impl FnMut(&Record<'_>),
    ) {
        for message in self.groups.0.get(name).into_iter().flat_map(|group| group.messages()) {
            let (group, number) = (name, message.number);
            tell(&messages.record(&message.message));
            tell(&Record::GroupQueued { group, number });
        }
    }

    /// A session with all it holds.
    pub fn write_session(
        &self,
        session: &Session,
        messages: &mut SnapshotMessages,
        mut tell: impl FnMut(&Record<'_>),
    ) {
        let (client_id, expiry_seconds) = (session.client_id(), session.expiry_seconds());
        tell(&Record::Opened { client_id, expiry_seconds, next_packet_id: session.next_packet_id() });
        if let Some(at) = self.away_since(session) {
            tell(&Record::Closed { client_id, at });
        }
        for (filter, subscription) in session.subscriptions().iter() {
            let (options, identifier) = (subscription.options, subscription.identifier);
            tell(&Record::Subscribed { client_id, filter, options, identifier });
        }
        for &packet_id in session.received() {
            tell(&Record::Received { client_id, packet_id });
        }
        for (packet_id, _, delivery) in session.under_way() {
            match delivery {
                Some(delivery) => {
                    tell(&messages.record(&delivery.message));
                    tell(&enqueued(client_id, delivery, Some(packet_id)));
                }
                None => tell(&Record::Released { client_id, packet_id }),
            }
        }
        write_parked(client_id, session.parked(), &mut tell);
        for delivery in session.waiting() {
            tell(&messages.record(&delivery.message));
            tell(&enqueued(client_id, delivery, None));
        }
        if let Some(will) = session.will() {
            tell(&messages.record(&will.message));
            let (delay_seconds, expiry_seconds) = (will.delay_seconds, will.expiry_seconds);
            tell(&Record::Will { client_id, delay_seconds, expiry_seconds });
        }
    }
}

/// The chunks of a session, before the messages that wait behind them.
pub(crate) fn write_parked(client_id: &str, parked: Option<&Parked>, mut tell: impl FnMut(&Record<'_>)) {
    let Some(parked) = parked else { return };
    for chunk in parked.chunks() {
        tell(&Record::Parked { client_id, chunk });
    }
    if parked.taken() > 0 {
        tell(&Record::Taken { client_id, count: parked.taken() });
    }
}

fn enqueued<'a>(
    client_id: &'a str,
    delivery: &'a Delivery,
    packet_id: Option<mqtt_proto::types::PacketId>,
) -> Record<'a> {
    let identifiers = Identifiers::new(delivery.identifiers());
    Record::Enqueued { client_id, qos: delivery.qos, retain: delivery.retain, identifiers, packet_id }
}
