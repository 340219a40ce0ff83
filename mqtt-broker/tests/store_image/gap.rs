//! What salvage keeps of a session of which some records are gone: whatever they said, nothing that was read and waits is taken
//! away by what is told by its place, and what waits stays in order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mqtt_broker::store::cold::Chunk;
use mqtt_broker::store::image::{Delivery, Image, Session, SnapshotMessages};
use mqtt_broker::store::record::{Identifiers, Record};
use mqtt_proto::session::Phase;
use mqtt_proto::types::{PacketId, Qos};
use proptest::prelude::*;

use crate::history::{Raw, SEED, decode, id, message, raw, told};

const CLIENT: &str = "c";

/// What is done with the queue of the one session.
#[derive(Clone, Debug)]
enum Step {
    Enqueue,
    /// A message is sent at once.
    Publish,
    Send,
    Drop(prop::sample::Index),
    Park(u32),
    /// One is sent out of a chunk.
    Unpark,
    Acknowledge(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Enqueue),
        1 => Just(Step::Publish),
        3 => Just(Step::Send),
        1 => any::<prop::sample::Index>().prop_map(Step::Drop),
        2 => (1..4u32).prop_map(Step::Park),
        2 => Just(Step::Unpark),
        3 => any::<prop::sample::Index>().prop_map(Step::Acknowledge),
    ]
}

/// A session as it is, and the records that say so. Messages are numbered in the order in which they came.
#[derive(Default)]
struct Truth {
    records: Vec<Raw>,
    waiting: VecDeque<u32>,
    parked: VecDeque<(Chunk, VecDeque<u32>)>,
    under_way: BTreeMap<PacketId, u32>,
    /// The messages that were ever in each chunk.
    chunks: BTreeMap<u64, Vec<u32>>,
    count: u32,
}

impl Truth {
    fn tell(&mut self, record: &Record<'_>) {
        self.records.push(raw(record));
    }

    fn keep(&mut self, number: u32, packet_id: Option<PacketId>) {
        self.records.push(told(message("t", &number.to_le_bytes(), Qos::ExactlyOnce, None)));
        let (qos, identifiers) = (Qos::ExactlyOnce, Identifiers::EMPTY);
        self.tell(&Record::Enqueued { client_id: CLIENT, qos, retain: false, identifiers, packet_id });
    }

    fn new_message(&mut self) -> u32 {
        self.count += 1;
        self.count
    }

    /// A few only, so that they are used again.
    fn free_id(&self) -> Option<PacketId> {
        (1..5).map(id).find(|id| !self.under_way.contains_key(id))
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Enqueue => {
                let number = self.new_message();
                self.keep(number, None);
                self.waiting.push_back(number);
            }
            Step::Publish => {
                if let Some(packet_id) = self.free_id() {
                    let number = self.new_message();
                    self.keep(number, Some(packet_id));
                    self.under_way.insert(packet_id, number);
                }
            }
            Step::Send => {
                if let (true, Some(packet_id)) = (!self.waiting.is_empty(), self.free_id()) {
                    let number = self.waiting.pop_front().expect("one waits");
                    self.tell(&Record::Sent { client_id: CLIENT, packet_id });
                    self.under_way.insert(packet_id, number);
                }
            }
            Step::Drop(which) if !self.waiting.is_empty() => {
                let place = which.index(self.waiting.len());
                self.waiting.remove(place);
                self.tell(&Record::Dropped { client_id: CLIENT, place: place as u32 });
            }
            Step::Park(count) if self.waiting.len() >= *count as usize => {
                let all: VecDeque<u32> = self.waiting.drain(..*count as usize).collect();
                let file = self.chunks.len() as u64 + 1;
                let chunk = Chunk { file, offset: 0, bytes: 99, messages: *count };
                self.tell(&Record::Parked { client_id: CLIENT, chunk });
                self.chunks.insert(file, all.iter().copied().collect());
                self.parked.push_back((chunk, all));
            }
            Step::Unpark => {
                let Some(packet_id) = self.free_id() else { return };
                let Some((_, first)) = self.parked.front_mut() else { return };
                let number = first.pop_front().expect("no chunk is empty");
                if first.is_empty() {
                    self.parked.pop_front();
                }
                self.tell(&Record::Taken { client_id: CLIENT, count: 1 });
                self.keep(number, Some(packet_id));
                self.under_way.insert(packet_id, number);
            }
            Step::Acknowledge(which) if !self.under_way.is_empty() => {
                let packet_id = *self.under_way.keys().nth(which.index(self.under_way.len())).expect("there");
                self.under_way.remove(&packet_id);
                self.tell(&Record::Acknowledged { client_id: CLIENT, packet_id });
            }
            Step::Drop(_) | Step::Park(_) | Step::Acknowledge(_) => {}
        }
    }
}

fn open() -> Record<'static> {
    Record::Opened { client_id: CLIENT, expiry_seconds: u32::MAX, next_packet_id: PacketId::FIRST }
}

fn number(delivery: &Delivery) -> u32 {
    u32::from_le_bytes(delivery.message.as_ref().payload.try_into().expect("a number"))
}

/// The messages that `records` tell of in a way that makes a session have them: each with the places of the records that do it,
/// the last time.
fn sources(records: &[Raw]) -> BTreeMap<u32, [usize; 2]> {
    let (mut sources, mut last) = (BTreeMap::new(), None);
    for (place, told) in records.iter().enumerate() {
        match decode(told) {
            Record::Message { message, .. } => last = Some((place, message.payload.to_vec())),
            Record::Enqueued { .. } => {
                let (at, payload) = last.clone().expect("its message is before it");
                let number = u32::from_le_bytes(payload.try_into().expect("a number"));
                sources.insert(number, [at, place]);
            }
            _ => {}
        }
    }
    sources
}

/// The places of the chunks.
fn parkings(records: &[Raw]) -> BTreeMap<u64, usize> {
    let chunk = |(place, told): (usize, &Raw)| match decode(told) {
        Record::Parked { chunk, .. } => Some((chunk.file, place)),
        _ => None,
    };
    records.iter().enumerate().filter_map(chunk).collect()
}

/// The messages that `session` has, chunks as they are in truth.
fn has(session: &Session, truth: &Truth) -> BTreeSet<u32> {
    let mut all: BTreeSet<u32> = session.waiting().map(number).collect();
    all.extend(session.under_way().filter_map(|(_, _, delivery)| delivery.map(number)));
    let mut taken = session.parked().map_or(0, |parked| parked.taken() as usize);
    for chunk in session.parked().into_iter().flat_map(|parked| parked.chunks()) {
        all.extend(&truth.chunks[&chunk.file][std::mem::take(&mut taken)..]);
    }
    all
}

/// Whatever is left of what the session has in truth must be in `image`, which has not read the records of `gap`.
fn check(
    image: &Image,
    truth: &Truth,
    records: &[Raw],
    gap: std::ops::Range<usize>,
) -> Result<(), TestCaseError> {
    let session = image.find_session(CLIENT).expect("its beginning is there");
    let (sources, parkings, found) = (sources(records), parkings(records), has(session, truth));
    let is_read = |place: &usize| !gap.contains(place);
    let is_told = |number| sources.get(number).is_some_and(|places| places.iter().all(is_read));
    for number in truth.waiting.iter().chain(truth.under_way.values()).filter(|number| is_told(number)) {
        prop_assert!(found.contains(number), "message {} of {:?}", number, found);
    }
    for (chunk, messages) in &truth.parked {
        let is_parked = parkings.get(&chunk.file).is_some_and(is_read);
        for number in messages.iter().filter(|number| is_parked || is_told(number)) {
            prop_assert!(found.contains(number), "message {} of {:?}", number, found);
        }
    }
    let waiting: Vec<u32> = session.waiting().map(number).collect();
    prop_assert!(waiting.is_sorted(), "{:?}", waiting);
    Ok(())
}

proptest! {
    #[test]
    fn behind_a_gap_in_the_log_nothing_that_waits_is_lost(
        steps in prop::collection::vec(step(), 0..40),
        from in any::<prop::sample::Index>(),
        length in 0..8usize,
    ) {
        let mut truth = Truth::default();
        truth.tell(&open());
        steps.iter().for_each(|step| truth.step(step));
        let records = &truth.records;
        let from = 1 + from.index(records.len());
        let gap = from..from + length;
        let mut image = Image::new(SEED);
        for (place, told) in records.iter().enumerate().filter(|(place, _)| !gap.contains(place)) {
            if length > 0 && place == gap.end {
                image.skip();
            }
            let _without_its_message = image.apply(place as u64 + 1, &decode(told));
        }
        check(&image, &truth, records, gap)?;
    }

    #[test]
    fn behind_a_gap_in_a_snapshot_nothing_that_waits_is_lost(
        before in prop::collection::vec(step(), 0..20),
        after in prop::collection::vec(step(), 0..20),
        from in any::<prop::sample::Index>(),
        length in 1..8usize,
    ) {
        let mut truth = Truth::default();
        truth.tell(&open());
        before.iter().for_each(|step| truth.step(step));
        let mut image = Image::new(SEED);
        for (seq, told) in (1..).zip(&truth.records) {
            image.apply(seq, &decode(told)).expect("nothing is gone");
        }
        let as_of = truth.records.len() as u64;
        let mut records = Vec::new();
        let session = image.find_session(CLIENT).expect("it was opened");
        image.write_session(session, &mut SnapshotMessages::new(), |told| records.push(raw(told)));
        let snapshot = records.len();
        truth.records.clear();
        after.iter().for_each(|step| truth.step(step));
        records.append(&mut truth.records);

        let from = 1 + from.index(snapshot);
        let gap = from..(from + length).min(snapshot);
        let mut image = Image::new(SEED);
        for (place, told) in records.iter().enumerate().filter(|(place, _)| !gap.contains(place)) {
            if !gap.is_empty() && place == gap.end {
                image.skip();
            }
            let told = decode(told);
            let _without_its_message = match place < snapshot {
                true => image.apply_snapshot(as_of, &told),
                false => image.apply(as_of + (place - snapshot) as u64 + 1, &told),
            };
        }
        check(&image, &truth, &records, gap)?;
    }
}

/// Records about the session, the first with the number behind `seq`.
fn take(image: &mut Image, seq: &mut u64, records: &[Record<'_>]) {
    for record in records {
        *seq += 1;
        image.apply(*seq, record).expect("its message is there");
    }
}

fn waits(number: u32) -> [Raw; 2] {
    let mut truth = Truth::default();
    truth.keep(number, None);
    truth.records.try_into().expect("a message and its delivery")
}

#[test]
fn what_was_sent_behind_a_gap_waits_still_and_is_under_way() {
    let (mut image, mut seq) = (Image::new(SEED), 0);
    take(&mut image, &mut seq, &[open()]);
    // A message and its delivery are gone.
    seq += 2;
    image.skip();
    for told in [waits(2), waits(3)].as_flattened() {
        take(&mut image, &mut seq, &[decode(told)]);
    }
    let [one, two] = [id(1), id(2)];
    take(
        &mut image,
        &mut seq,
        &[
            Record::Sent { client_id: CLIENT, packet_id: one },
            Record::Acknowledged { client_id: CLIENT, packet_id: one },
            Record::Sent { client_id: CLIENT, packet_id: two },
        ],
    );
    let session = image.find_session(CLIENT).expect("it was opened");
    assert_eq!(
        session.waiting().map(number).collect::<Vec<_>>(),
        [2, 3],
        "each may be the one that was sent"
    );
    let under_way: Vec<_> = session.under_way().map(|(id, _, delivery)| (id, delivery.map(number))).collect();
    assert_eq!(under_way, [(two, Some(3))]);
    assert_eq!(session.next_packet_id(), id(3));
}

#[test]
fn what_was_released_behind_a_gap_is_so_whatever_stands_for_it() {
    let (mut image, mut seq) = (Image::new(SEED), 0);
    let (qos, retain, identifiers) = (Qos::AtLeastOnce, false, Identifiers::EMPTY);
    let at_least_once = Record::Enqueued { client_id: CLIENT, qos, retain, identifiers, packet_id: None };
    take(&mut image, &mut seq, &[open(), decode(&waits(1)[0]), at_least_once]);
    seq += 1;
    image.skip();
    let packet_id = id(1);
    let records =
        [Record::Sent { client_id: CLIENT, packet_id }, Record::Released { client_id: CLIENT, packet_id }];
    take(&mut image, &mut seq, &records);
    let session = image.find_session(CLIENT).expect("it was opened");
    let under_way: Vec<_> = session.under_way().map(|(id, phase, _)| (id, phase)).collect();
    assert_eq!((under_way, session.waiting().len()), (vec![(packet_id, Phase::AwaitPubComp)], 1));
}

#[test]
fn a_packet_identifier_that_may_have_become_free_in_a_gap_is_forgotten() {
    let (mut image, mut seq) = (Image::new(SEED), 0);
    let received = |number| Record::Received { client_id: CLIENT, packet_id: id(number) };
    take(&mut image, &mut seq, &[open(), received(1)]);
    // Completed may be gone: what comes under the same Packet Identifier next is another message.
    seq += 1;
    image.skip();
    take(&mut image, &mut seq, &[received(2)]);
    assert_eq!(image.find_session(CLIENT).expect("it was opened").received(), [id(2)]);
}

#[test]
fn a_session_that_a_snapshot_has_as_of_behind_the_gap_has_lost_nothing() {
    let mut image = Image::new(SEED);
    for told in [raw(&open())].iter().chain(&waits(1)) {
        image.apply_snapshot(5, &decode(told)).expect("its message is there");
    }
    let sent = |number| Record::Sent { client_id: CLIENT, packet_id: id(number) };
    take(&mut image, &mut 1, &[Record::Time { at: 7 }]);
    image.skip();
    // The records 3 to 5 are gone.
    take(&mut image, &mut 5, &[sent(1)]);
    let session = image.find_session(CLIENT).expect("it was told");
    assert_eq!((session.waiting().len(), session.under_way().count()), (0, 1));
    for told in waits(2) {
        take(&mut image, &mut 6, &[decode(&told)]);
    }
    // The record 9 is gone: now it may have.
    image.skip();
    take(&mut image, &mut 9, &[sent(2)]);
    let session = image.find_session(CLIENT).expect("it was told");
    assert_eq!((session.waiting().len(), session.under_way().count()), (1, 2));
}
