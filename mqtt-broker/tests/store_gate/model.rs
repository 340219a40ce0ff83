//! A log on a disk in memory, with what was appended to it and what was acknowledged.

use std::rc::Rc;

use mqtt_broker::store::log::{
    Identity, Log, LogConfig, Purpose, ReadConfig, ReadError, Reader, Record, Recovered, Room, SEGMENT_STEP,
    Write,
};

use crate::disk::Disk;

pub(crate) const IDENTITY: Identity = Identity { store: *b"a store in tests", core: 1 };

/// Numbers that look random and are the same each time.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// The record with this number: what it says follows from the salt, which changes with each start.
pub(crate) fn record(number: u64, salt: u64) -> (u8, Vec<u8>) {
    let mut rng = Rng::new(number ^ (salt << 32));
    let length = match rng.below(1000) {
        0..=9 => 40_000 + rng.below(100_000),
        10..=79 => rng.below(9_000),
        80..=199 => rng.below(4),
        _ => rng.below(300),
    };
    let kind = rng.next() as u8;
    (kind, (0..length).map(|place| (kind as u64 + place * 7) as u8).collect())
}

/// What is known of the records, whatever the disk holds.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    /// Kind and body of each record, from the first.
    records: Rc<Vec<(u8, Vec<u8>)>>,
    /// The last records of the batches.
    ends: Vec<u64>,
    /// Records up to this one were acknowledged.
    pub(crate) acked: u64,
    /// The last record before the last commit.
    pub(crate) before: u64,
    /// The first record that is still needed.
    pub(crate) from: u64,
    /// The last record when the snapshot was made that stands for those before.
    pub(crate) reach: u64,
}

/// A log that runs.
pub(crate) struct Store {
    pub(crate) disk: Disk,
    pub(crate) log: Log,
    pub(crate) model: Model,
    /// Segment and offset of the last commit that was written, and of the one before it.
    pub(crate) places: [(u32, u64); 2],
    salt: u64,
}

pub(crate) fn config(segments_max: u32) -> LogConfig {
    LogConfig { identity: IDENTITY, segment_bytes: SEGMENT_STEP, segments_max }
}

impl Store {
    /// An empty one.
    pub(crate) fn new(segments_max: u32) -> Store {
        let model = Model { records: Rc::default(), ends: vec![0], acked: 0, before: 0, from: 1, reach: 0 };
        Store::start(Disk::default(), model, segments_max, 0)
    }

    /// Starts on what a crash has left. Reading may not be refused then.
    pub(crate) fn start(disk: Disk, mut model: Model, segments_max: u32, salt: u64) -> Store {
        let found = model.check(&disk).expect("a crash is no damage");
        let last = found.next - 1;
        Rc::make_mut(&mut model.records).truncate(last as usize);
        model.ends.retain(|&end| end <= last);
        (model.acked, model.before) = (last, last);
        Store { disk, log: Log::open(config(segments_max), found), model, places: [(0, 0); 2], salt }
    }

    /// Appends one batch, if there is room for it. Answers what there was.
    pub(crate) fn append(&mut self, records: u64, purpose: Purpose) -> Room {
        let first = self.log.next();
        let records = (first..first + records).map(|number| record(number, self.salt)).collect();
        self.append_these(records, purpose)
    }

    /// Appends these records as one batch, if there is room for it.
    pub(crate) fn append_these(&mut self, records: Vec<(u8, Vec<u8>)>, purpose: Purpose) -> Room {
        let bytes = records.iter().map(|(_, body)| body.len() + 6).sum();
        let room = self.log.room_for(bytes, purpose);
        if room == Room::Now {
            self.append_unasked(records);
        }
        room
    }

    /// Appends these records as one batch, whether there is room or not.
    pub(crate) fn append_unasked(&mut self, records: Vec<(u8, Vec<u8>)>) {
        for (kind, body) in records {
            self.log.append(kind, |out| out.extend_from_slice(&body));
            Rc::make_mut(&mut self.model.records).push((kind, body));
        }
        self.log.boundary();
        self.model.ends.push(self.log.next() - 1);
    }

    /// A turn: batches are appended, and segments made.
    pub(crate) fn turn(&mut self, rng: &mut Rng) {
        for _ in 0..rng.below(4) + 1 {
            if self.append(rng.below(5) + 1, Purpose::Keep) == Room::Soon {
                self.make();
            }
        }
        self.make();
    }

    /// Makes all segments that are asked for.
    pub(crate) fn make(&mut self) {
        while let Some(segment) = self.log.poll_make() {
            self.disk.make(segment);
            self.log.made(true);
        }
    }

    /// A write is done as it should be.
    pub(crate) fn land(&mut self, write: Write) {
        self.disk.file(write.segment).write(write.offset, &write.pages, |_| true);
        let bytes = write.pages.len();
        if write.offset > 0 {
            self.places = [(write.segment, write.offset), self.places[0]];
        }
        let before = self.model.acked;
        self.model.acked = self.log.written(write, bytes).expect("the disk has all of it");
        if self.model.acked != before {
            self.model.before = before;
        }
        assert_eq!(self.model.acked, self.log.committed());
    }

    /// Writes until nothing waits.
    pub(crate) fn flush(&mut self) {
        while let Some(write) = self.log.poll_write() {
            self.land(write);
        }
    }

    /// A snapshot stands for the records up to `up_to`.
    pub(crate) fn release(&mut self, up_to: u64) {
        if up_to < self.model.from {
            return;
        }
        self.log.release(up_to);
        (self.model.from, self.model.reach) = (up_to + 1, self.model.acked);
    }
}

impl Model {
    pub(crate) fn config(&self, salvage: bool) -> ReadConfig {
        ReadConfig { identity: IDENTITY, from: self.from, reach: self.reach, salvage }
    }

    /// Reads the log: what it gives must be all that was acknowledged, and beyond that whole batches.
    pub(crate) fn check(&self, disk: &Disk) -> Result<Recovered, ReadError> {
        self.check_up_to(disk, self.acked)
    }

    /// The same if it need not go further than `acked`.
    pub(crate) fn check_up_to(&self, disk: &Disk, acked: u64) -> Result<Recovered, ReadError> {
        let mut reader = Reader::open(disk, self.config(false))?;
        let mut next = self.from;
        while let Some(record) = reader.next_record()? {
            assert_eq!(record.number, next, "in order, each once");
            assert!(self.says(&record), "record {next} says something else");
            next += 1;
        }
        let found = reader.finish()?;
        assert!(found.damage.is_empty());
        assert_eq!((found.records, found.next), (next - self.from, next));
        assert!(next > acked, "acknowledged up to {acked}, read up to {}", next - 1);
        assert!(
            self.ends.binary_search(&(next - 1)).is_ok(),
            "batches come whole, and {} ends none",
            next - 1
        );
        Ok(found)
    }

    /// Whether it is the record that was appended.
    pub(crate) fn says(&self, record: &Record<'_>) -> bool {
        let (kind, body) = &self.records[record.number as usize - 1];
        (record.kind, record.body) == (*kind, body)
    }
}
