//! The bytes of envelopes: as they are appended to a batch, and as they are read out of it in place.
//!
//! They never leave the process, so there is no version and no length around an envelope.

use mqtt_proto::packet::SubscriptionOptions;
use mqtt_proto::types::{Qos, TopicFilter, TopicName, Version};

use super::{Batch, Envelope, GroupRef, Load, Numbers, OfGroup, SessionRef};
use crate::message::{Message, MessageRef};

/// Messages of more bytes are shared by reference; up to here a copy is cheaper than two touches of a shared count.
const LARGE: usize = 2048;

const PUBLISH: u8 = 0;
const INTEREST: u8 = 1;
const BARRIER: u8 = 2;
const BARRIER_DONE: u8 = 3;
const GATHER: u8 = 4;
const SLICE: u8 = 5;
const RETAINED: u8 = 6;
const GROUP_JOIN: u8 = 7;
const GROUP_JOINED: u8 = 8;
const GROUP_LEAVE: u8 = 9;
const GROUP_ONLINE: u8 = 10;
const GROUP_CREDIT: u8 = 11;
const GROUP_DELIVER: u8 = 12;
const GROUP_RETURN: u8 = 13;
const LOAD: u8 = 14;
const STATS: u8 = 15;
const RUN: u8 = 16;
const HAND_ON: u8 = 17;
const RESTORED: u8 = 18;
const KEPT: u8 = 19;
const GROUP_DONE: u8 = 20;

/// Flags of an encoded message, beside its QoS and RETAIN.
const EXPIRES: u8 = 1 << 3;
const BY_REFERENCE: u8 = 1 << 4;

/// Appends to a batch.
pub(in super::super) struct Writer<'b> {
    pub(in super::super) bytes: &'b mut Vec<u8>,
    pub(in super::super) large: &'b mut Vec<Message>,
}

impl Writer<'_> {
    /// Appends `envelope`. `owned` is its message where that is owned already; a large one is made if it is not.
    pub(in super::super) fn write(&mut self, envelope: &Envelope<'_>, owned: &mut Option<Message>) {
        match *envelope {
            Envelope::Publish { message, deliver, retain, publisher } => {
                let flags = deliver as u8 | (retain as u8) << 1;
                let [a, b, c, d] = publisher.to_le_bytes();
                self.bytes.extend_from_slice(&[PUBLISH, flags, a, b, c, d]);
                self.message(&message, owned);
            }
            Envelope::HandOn { number, message, deliver, retain, publisher } => {
                self.u8(HAND_ON);
                self.u64(number);
                self.u8(deliver as u8 | (retain as u8) << 1);
                self.u32(publisher);
                self.message(&message, owned);
            }
            Envelope::Restored => self.u8(RESTORED),
            Envelope::Kept { filter } => {
                self.u8(KEPT);
                self.str(filter.as_str());
            }
            Envelope::Run { batch, version, publisher } => {
                self.u8(RUN);
                self.u8(version.has_properties() as u8);
                self.u32(publisher);
                self.u32(batch.count);
                self.u32(batch.longest);
                self.u32(batch.bytes.len() as u32);
                self.bytes.extend_from_slice(batch.bytes);
            }
            Envelope::Interest { filter, add } => {
                self.u8(INTEREST);
                self.u8(add as u8);
                self.str(filter.as_str());
            }
            Envelope::Barrier { token } => {
                self.u8(BARRIER);
                self.u64(token);
            }
            Envelope::BarrierDone { token, sent } => {
                self.u8(BARRIER_DONE);
                self.u64(token);
                self.numbers(sent);
            }
            Envelope::Gather { token, filter, after, until } => {
                self.u8(GATHER);
                self.u64(token);
                self.str(filter.as_str());
                self.str(after);
                self.numbers(until);
            }
            Envelope::Slice { token, count, position, done } => {
                self.u8(SLICE);
                self.u64(token);
                self.u32(count);
                self.str(position);
                self.u8(done as u8);
            }
            Envelope::Retained { message } => {
                self.u8(RETAINED);
                self.message(&message, owned);
            }
            Envelope::GroupJoin { token, share, filter, member, options, identifier, credit, persistent } => {
                self.u8(GROUP_JOIN);
                self.u64(token);
                self.str(share);
                self.str(filter.as_str());
                self.session(member);
                self.u8(options.to_byte());
                self.u32(identifier);
                self.u16(credit);
                self.u8(persistent as u8);
            }
            Envelope::GroupJoined { token, group } => {
                self.u8(GROUP_JOINED);
                self.u64(token);
                self.group(group);
            }
            Envelope::GroupLeave { group, member } => {
                self.u8(GROUP_LEAVE);
                self.group(group);
                self.session(member);
            }
            Envelope::GroupOnline { group, member, credit, persistent } => {
                self.u8(GROUP_ONLINE);
                self.group(group);
                self.session(member);
                self.u16(credit);
                self.u8(persistent as u8);
            }
            Envelope::GroupCredit { message, member } => {
                self.u8(GROUP_CREDIT);
                self.of_group(message);
                self.session(member);
            }
            Envelope::GroupDone { message, member } => {
                self.u8(GROUP_DONE);
                self.of_group(message);
                self.session(member);
            }
            Envelope::GroupDeliver { of, member, qos, retain, identifier, message } => {
                self.u8(GROUP_DELIVER);
                self.of_group(of);
                self.session(member);
                self.u8(qos.bits() | (retain as u8) << 2);
                self.u32(identifier);
                self.message(&message, owned);
            }
            Envelope::GroupReturn { of, message } => {
                self.u8(GROUP_RETURN);
                self.of_group(of);
                self.message(&message, owned);
            }
            Envelope::Load { load } => {
                self.u8(LOAD);
                for number in [
                    load.connections,
                    load.sessions,
                    load.retained_messages,
                    load.retained_bytes,
                    load.queued_bytes,
                    load.storage_full,
                ] {
                    self.u64(number);
                }
            }
            Envelope::Stats { counters } => {
                self.u8(STATS);
                self.numbers(counters);
            }
        }
    }

    fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    fn str(&mut self, text: &str) {
        self.u16(text.len() as u16);
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn numbers(&mut self, numbers: Numbers<'_>) {
        self.u16(numbers.len() as u16);
        for number in numbers.iter() {
            self.u64(number);
        }
    }

    fn group(&mut self, group: GroupRef) {
        self.u16(group.owner);
        self.u32(group.index);
        self.u32(group.generation);
    }

    fn of_group(&mut self, of: OfGroup) {
        self.group(of.group);
        // Numbers take 63 bits.
        self.u64(of.number << 1 | u64::from(of.is_kept));
    }

    fn session(&mut self, session: SessionRef) {
        self.u16(session.core);
        self.u32(session.index);
        self.u32(session.generation);
    }

    fn message(&mut self, message: &MessageRef<'_>, owned: &mut Option<Message>) {
        let len = message.len();
        let flags = message.qos.bits() | (message.retain as u8) << 2;
        if len > LARGE {
            self.u8(flags | BY_REFERENCE);
            // QoS and RETAIN may differ from those it was made with.
            let message = owned.get_or_insert_with(|| message.to_message()).with(message.qos, message.retain);
            self.large.push(message);
            return;
        }
        let topic = message.topic.as_bytes();
        let flags = if message.expires_at.is_some() { flags | EXPIRES } else { flags };
        let [a, b] = (topic.len() as u16).to_le_bytes();
        let [c, d] = (message.properties.len() as u16).to_le_bytes();
        let [e, f] = (message.payload.len() as u16).to_le_bytes();
        // Room for all of it at once.
        self.bytes.reserve(7 + size_of::<u64>() + len);
        self.bytes.extend_from_slice(&[flags, a, b, c, d, e, f]);
        if let Some(at) = message.expires_at {
            self.u64(at);
        }
        self.bytes.extend_from_slice(topic);
        if !message.properties.is_empty() {
            self.bytes.extend_from_slice(message.properties);
        }
        self.bytes.extend_from_slice(message.payload);
    }
}

/// Reads the envelopes of a batch. A batch comes from this process: what cannot be read is our bug.
#[derive(Clone)]
pub(in super::super) struct Envelopes<'a> {
    rest: &'a [u8],
    large: core::slice::Iter<'a, Message>,
}

impl<'a> Iterator for Envelopes<'a> {
    /// The envelope, and its message where that travels by reference.
    type Item = (Envelope<'a>, Option<&'a Message>);

    #[inline]
    fn next(&mut self) -> Option<(Envelope<'a>, Option<&'a Message>)> {
        let (&kind, rest) = self.rest.split_first()?;
        self.rest = rest;
        // An envelope is large and this one frequent: read where it is looked at, it is never moved.
        if kind != PUBLISH {
            return Some(self.other(kind));
        }
        let [flags, a, b, c, d] = self.array();
        let publisher = u32::from_le_bytes([a, b, c, d]);
        let mut owned = None;
        let message = self.message(&mut owned);
        Some((
            Envelope::Publish { message, deliver: flags & 1 != 0, retain: flags & 2 != 0, publisher },
            owned,
        ))
    }
}

impl<'a> Envelopes<'a> {
    /// The envelopes in `bytes`, with the messages that they name in `large`.
    pub(in super::super) fn new(bytes: &'a [u8], large: &'a [Message]) -> Self {
        Self { rest: bytes, large: large.iter() }
    }

    /// The rest of an envelope of a kind other than [`PUBLISH`].
    fn other(&mut self, kind: u8) -> (Envelope<'a>, Option<&'a Message>) {
        let mut owned = None;
        let envelope = match kind {
            HAND_ON => {
                let (number, flags, publisher) = (self.u64(), self.u8(), self.u32());
                let message = self.message(&mut owned);
                let (deliver, retain) = (flags & 1 != 0, flags & 2 != 0);
                Envelope::HandOn { number, message, deliver, retain, publisher }
            }
            RESTORED => Envelope::Restored,
            KEPT => Envelope::Kept { filter: self.filter() },
            INTEREST => {
                let add = self.bool();
                Envelope::Interest { filter: self.filter(), add }
            }
            BARRIER => Envelope::Barrier { token: self.u64() },
            BARRIER_DONE => Envelope::BarrierDone { token: self.u64(), sent: self.numbers() },
            GATHER => Envelope::Gather {
                token: self.u64(),
                filter: self.filter(),
                after: self.str(),
                until: self.numbers(),
            },
            SLICE => Envelope::Slice {
                token: self.u64(),
                count: self.u32(),
                position: self.str(),
                done: self.bool(),
            },
            RETAINED => Envelope::Retained { message: self.message(&mut owned) },
            GROUP_JOIN => Envelope::GroupJoin {
                token: self.u64(),
                share: self.str(),
                filter: self.filter(),
                member: self.session(),
                options: SubscriptionOptions::from_byte(self.u8()).expect("written from options"),
                identifier: self.u32(),
                credit: self.u16(),
                persistent: self.bool(),
            },
            GROUP_JOINED => Envelope::GroupJoined { token: self.u64(), group: self.group() },
            GROUP_LEAVE => Envelope::GroupLeave { group: self.group(), member: self.session() },
            GROUP_ONLINE => Envelope::GroupOnline {
                group: self.group(),
                member: self.session(),
                credit: self.u16(),
                persistent: self.bool(),
            },
            GROUP_CREDIT => Envelope::GroupCredit { message: self.of_group(), member: self.session() },
            GROUP_DONE => Envelope::GroupDone { message: self.of_group(), member: self.session() },
            GROUP_DELIVER => {
                let (of, member, flags) = (self.of_group(), self.session(), self.u8());
                let identifier = self.u32();
                let qos = Qos::from_bits(flags & 3).expect("written from a QoS");
                let retain = flags & 4 != 0;
                let message = self.message(&mut owned);
                Envelope::GroupDeliver { of, member, qos, retain, identifier, message }
            }
            GROUP_RETURN => Envelope::GroupReturn { of: self.of_group(), message: self.message(&mut owned) },
            LOAD => Envelope::Load {
                load: Load {
                    connections: self.u64(),
                    sessions: self.u64(),
                    retained_messages: self.u64(),
                    retained_bytes: self.u64(),
                    queued_bytes: self.u64(),
                    storage_full: self.u64(),
                },
            },
            RUN => {
                // PUBLISH is the same in the versions before.
                let version = if self.bool() { Version::V5 } else { Version::V3_1_1 };
                let (publisher, count, longest) = (self.u32(), self.u32(), self.u32());
                let len = self.u32() as usize;
                Envelope::Run { batch: Batch { bytes: self.take(len), count, longest }, version, publisher }
            }
            STATS => Envelope::Stats { counters: self.numbers() },
            other => unreachable!("no envelope has type {other}"),
        };
        (envelope, owned)
    }

    #[inline]
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        taken
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.rest.split_first_chunk().expect("an envelope is whole");
        self.rest = rest;
        *taken
    }

    fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    fn bool(&mut self) -> bool {
        self.u8() != 0
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    fn str(&mut self) -> &'a str {
        let len = self.u16() as usize;
        core::str::from_utf8(self.take(len)).expect("written from a string")
    }

    fn filter(&mut self) -> TopicFilter<'a> {
        TopicFilter::new(self.str()).expect("written from a Topic Filter")
    }

    fn numbers(&mut self) -> Numbers<'a> {
        let len = self.u16() as usize;
        Numbers::Encoded(self.take(len * 8))
    }

    fn group(&mut self) -> GroupRef {
        GroupRef { owner: self.u16(), index: self.u32(), generation: self.u32() }
    }

    fn of_group(&mut self) -> OfGroup {
        let (group, number) = (self.group(), self.u64());
        OfGroup { group, number: number >> 1, is_kept: number & 1 != 0 }
    }

    fn session(&mut self) -> SessionRef {
        SessionRef { core: self.u16(), index: self.u32(), generation: self.u32() }
    }

    #[inline(always)]
    fn message(&mut self, owned: &mut Option<&'a Message>) -> MessageRef<'a> {
        let flags = self.u8();
        if flags & BY_REFERENCE != 0 {
            *owned = self.large.next();
            return owned.expect("as many as the batch refers to").as_ref();
        }
        let [a, b, c, d, e, f] = self.array();
        let [topic, properties, payload] = [[a, b], [c, d], [e, f]].map(|len| u16::from_le_bytes(len).into());
        let expires_at = (flags & EXPIRES != 0).then(|| self.u64());
        MessageRef {
            // The sending core made it of what its Client sent.
            topic: TopicName::from_trusted(self.take(topic)),
            properties: self.take(properties),
            payload: self.take(payload),
            qos: Qos::from_bits(flags & 3).expect("written from a QoS"),
            retain: flags & 1 << 2 != 0,
            expires_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(payload: &[u8]) -> MessageRef<'_> {
        MessageRef {
            topic: TopicName::new("a/b").expect("a topic"),
            properties: &[1, 0],
            payload,
            qos: Qos::ExactlyOnce,
            retain: true,
            expires_at: Some(99),
        }
    }

    #[test]
    fn every_envelope_comes_out_as_it_went_in() {
        let big = vec![7; LARGE];
        let group = GroupRef { owner: 3, index: 4, generation: 5 };
        let of = OfGroup { group, number: u64::MAX / 2, is_kept: true };
        let member = SessionRef { core: 6, index: 7, generation: 8 };
        let filter = TopicFilter::new("a/+").expect("a filter");
        let options = SubscriptionOptions { no_local: true, ..SubscriptionOptions::new(Qos::AtLeastOnce) };
        let load = Load {
            connections: 1,
            sessions: 2,
            retained_messages: 3,
            retained_bytes: 4,
            queued_bytes: 5,
            storage_full: 1,
        };
        let numbers = Numbers::List(&[1, u64::MAX]);
        let all = [
            Envelope::Publish { message: message(b"x"), deliver: true, retain: false, publisher: 7 },
            Envelope::Publish { message: message(&big), deliver: false, retain: true, publisher: 0 },
            Envelope::Run {
                batch: Batch { bytes: b"0123", count: 2, longest: 3 },
                version: Version::V5,
                publisher: 7,
            },
            Envelope::HandOn {
                number: 1 << 40,
                message: message(&big),
                deliver: true,
                retain: false,
                publisher: 8,
            },
            Envelope::HandOn {
                number: 1,
                message: message(b"y"),
                deliver: false,
                retain: true,
                publisher: 0,
            },
            Envelope::Restored,
            Envelope::Kept { filter },
            Envelope::Interest { filter, add: true },
            Envelope::Barrier { token: 1 },
            Envelope::BarrierDone { token: 1, sent: numbers },
            Envelope::Gather { token: 2, filter, after: "a/b", until: numbers },
            Envelope::Slice { token: 2, count: 1, position: "a/c", done: true },
            Envelope::Retained { message: message(b"") },
            Envelope::GroupJoin {
                token: 3,
                share: "g",
                filter,
                member,
                options,
                identifier: 9,
                credit: 10,
                persistent: true,
            },
            Envelope::GroupJoined { token: 3, group },
            Envelope::GroupLeave { group, member },
            Envelope::GroupOnline { group, member, credit: 11, persistent: true },
            Envelope::GroupCredit { message: of, member },
            Envelope::GroupDone { message: OfGroup { is_kept: false, ..of }, member },
            Envelope::GroupDeliver {
                of,
                member,
                qos: Qos::AtLeastOnce,
                retain: true,
                identifier: 12,
                message: message(&big),
            },
            Envelope::GroupReturn { of, message: message(b"y") },
            Envelope::Load { load },
            Envelope::Stats { counters: numbers },
        ];
        let combinations = (0..32u8).map(|bits| {
            let message = MessageRef {
                qos: [Qos::AtMostOnce, Qos::AtLeastOnce][usize::from(bits & 1)],
                retain: bits & 2 != 0,
                expires_at: (bits & 4 != 0).then_some(5),
                ..message(b"z")
            };
            Envelope::Publish { message, deliver: bits & 8 != 0, retain: bits & 16 != 0, publisher: 9 }
        });
        let others = [
            Envelope::Interest { filter, add: false },
            Envelope::Slice { token: 2, count: 0, position: "", done: false },
            Envelope::GroupOnline { group, member, credit: 0, persistent: false },
            Envelope::GroupDeliver {
                of,
                member,
                qos: Qos::ExactlyOnce,
                retain: false,
                identifier: 0,
                message: message(b"w"),
            },
        ];
        let all: Vec<Envelope<'_>> = all.into_iter().chain(combinations).chain(others).collect();
        let mut batch = super::super::EnvelopeBatch::default();
        for envelope in &all {
            Writer { bytes: &mut batch.bytes, large: &mut batch.large }.write(envelope, &mut None);
        }
        assert_eq!(batch.large.len(), 3);
        assert_eq!(batch.cost(), batch.bytes.len() + 3 * message(&big).to_message().cost());
        let read: Vec<_> = batch.envelopes().map(|(envelope, _)| format!("{envelope:?}")).collect();
        let written: Vec<_> = all.iter().map(|envelope| format!("{envelope:?}")).collect();
        assert_eq!(read, written);
    }
}
