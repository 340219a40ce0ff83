//! The records of one core: those that are written, a write under way, and a snapshot. What one call of the shard appends
//! outlives a crash whole or not at all.

use std::cell::RefCell;
use std::rc::Rc;

use mqtt_broker::ports::{Commit, Store};
use mqtt_broker::shard::{Shard, SnapshotPosition};
use mqtt_broker::store::image::Image;
use mqtt_broker::store::record::Record;

use crate::engine::random::Random;

pub(super) const SEED: [u64; 4] = [5, 6, 7, 8];

/// Kind and body.
type Written = (u8, Vec<u8>);

/// A snapshot, each record with the last one of the log that it is made of.
#[derive(Default)]
struct Snapshot {
    records: Vec<(u64, Written)>,
    /// Records of the log before it was begun.
    from: usize,
}

struct Making {
    snapshot: Snapshot,
    position: SnapshotPosition,
    reach: usize,
    is_done: bool,
}

#[derive(Default)]
pub(super) struct Log {
    records: Vec<Written>,
    /// Where calls of the shard ended, as far as it is not written.
    boundaries: Vec<usize>,
    committed: usize,
    /// Where the write under way ends.
    writing: Option<usize>,
    snapshot: Snapshot,
    making: Option<Making>,
}

/// The disk of one core.
#[derive(Clone, Default)]
pub(super) struct Disk(Rc<RefCell<Log>>);

impl Store for Disk {
    fn append(&mut self, record: &Record<'_>) -> Commit {
        self.note(record);
        Commit::At(self.0.borrow().records.len() as u64)
    }
}

fn written(record: &Record<'_>) -> Written {
    let mut body = Vec::new();
    record.encode(&mut body);
    (record.kind(), body)
}

fn read((kind, body): &Written) -> Record<'_> {
    Record::decode(*kind, body).expect("written by a shard")
}

impl Disk {
    /// One that begins with this image.
    pub(super) fn of(image: &Image) -> Disk {
        let disk = Disk::default();
        image.write_snapshot(|record| disk.0.borrow_mut().snapshot.records.push((0, written(record))));
        disk
    }

    pub(super) fn note(&self, record: &Record<'_>) {
        self.0.borrow_mut().records.push(written(record));
    }

    /// A call of the shard is over: a write begins if none is under way.
    pub(super) fn go_on(&self) {
        let log = &mut *self.0.borrow_mut();
        let end = log.records.len();
        if log.boundaries.last().is_none_or(|&last| last < end) {
            log.boundaries.push(end);
        }
        if log.writing.is_none() && end > log.committed {
            log.writing = Some(end);
        }
    }

    /// The write under way is done; up to where all is committed.
    pub(super) fn written(&self) -> Option<u64> {
        let log = &mut *self.0.borrow_mut();
        log.committed = log.writing.take()?;
        let committed = log.committed;
        log.boundaries.retain(|&boundary| boundary > committed);
        Some(committed as u64)
    }

    /// A slice of a snapshot is told, or the snapshot takes its place.
    pub(super) fn snapshot(&self, shard: &mut Shard, random: &mut Random) {
        let log = &mut *self.0.borrow_mut();
        let end = log.records.len();
        let making = log.making.get_or_insert_with(|| Making {
            snapshot: Snapshot { records: Vec::new(), from: end },
            position: SnapshotPosition::default(),
            reach: 0,
            is_done: false,
        });
        if !making.is_done {
            making.reach = end;
            let records = &mut making.snapshot.records;
            let mut sink = |record: &Record<'_>| records.push((end as u64, written(record)));
            let bytes = random.pick(&[1, 100, 1_000_000]);
            making.is_done = shard.write_snapshot(&mut making.position, bytes, &mut sink);
        } else if log.committed >= making.reach
            && let Some(making) = log.making.take()
        {
            log.snapshot = making.snapshot;
        }
    }

    /// Power fails. Of the write under way any calls from its beginning on have landed.
    pub(super) fn crash(&self, random: &mut Random) {
        let log = &mut *self.0.borrow_mut();
        if let Some(end) = log.writing.take() {
            let landed: Vec<usize> = log.boundaries.iter().copied().filter(|&at| at <= end).collect();
            let calls = random.index(landed.len() + 1);
            log.committed = landed[..calls].last().copied().unwrap_or(log.committed);
        }
        log.records.truncate(log.committed);
        log.boundaries.clear();
        log.making = None;
    }

    /// What it adds up to.
    pub(super) fn read(&self) -> Image {
        let log = &*self.0.borrow();
        let mut image = Image::new(SEED);
        for (as_of, record) in &log.snapshot.records {
            image.apply_snapshot(*as_of, &read(record)).expect("messages come first");
        }
        for (seq, record) in (1..).zip(&log.records).skip(log.snapshot.from) {
            image.apply(seq, &read(record)).expect("messages come first");
        }
        image
    }
}
