//! A store whose records outlive the broker: what a broker is started with after it was killed.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use mqtt_broker::config::{CoreId, Limits};
use mqtt_broker::ports::{Cold, Commit, Ports, Store, StoreStatus};
use mqtt_broker::shard::{Shard, SnapshotPosition};
use mqtt_broker::store::cold::{Chunk, Loaded, chunk_records, put_chunk, read_chunk};
use mqtt_broker::store::image::Image;
use mqtt_broker::store::record::Record;

use crate::cluster::Cluster;

const SEED: [u64; 4] = [1, 2, 3, 4];

/// One record as it is written: its kind and its body.
type Written = (u8, Vec<u8>);

/// The log of one core.
#[derive(Default)]
struct Log {
    /// A snapshot and up to where it stands for the log, each record with the number as of which it holds.
    snapshot: Vec<(u64, Written)>,
    from: u64,
    records: Vec<Written>,
    committed: usize,
    /// Records that somebody waits for.
    awaited: usize,
    /// Whether nothing is committed before it is asked for.
    is_late: bool,
    is_full: bool,
    /// And has no room for what is over.
    is_stuck: bool,
    cold: ColdFile,
}

impl Log {
    fn waiting_bytes(&self) -> usize {
        self.records[self.committed..].iter().map(|(_, body)| body.len()).sum()
    }
}

/// Chunks of one core, in a file that has the core's number; what was moved goes by the next number with the same remainder.
#[derive(Default)]
struct ColdFile {
    bytes: Vec<u8>,
    asked: VecDeque<Asked>,
    /// What nobody needs any more, and from which record on.
    released: Vec<(Chunk, u64)>,
    /// What is asked for fails.
    fails: bool,
    /// What cannot be read is given up.
    salvages: bool,
}

enum Asked {
    Park(u64, u32, Vec<u8>),
    Load(u64, Chunk),
    Move(u64, Chunk),
}

const KEY: [u64; 2] = [5, 6];

/// The logs of all cores. They outlive the broker.
#[derive(Clone)]
pub(crate) struct Disk {
    logs: Rc<RefCell<Vec<Log>>>,
    limits: Limits,
}

struct OfCore(usize, Rc<RefCell<Vec<Log>>>);

fn written(record: &Record<'_>) -> Written {
    let mut body = Vec::new();
    record.encode(&mut body);
    (record.kind(), body)
}

impl Store for OfCore {
    fn append(&mut self, record: &Record<'_>) -> Commit {
        self.append_later(record);
        let log = &mut self.1.borrow_mut()[self.0];
        log.awaited += 1;
        if log.is_late { Commit::At(log.records.len() as u64) } else { Commit::Now }
    }

    fn append_later(&mut self, record: &Record<'_>) {
        let log = &mut self.1.borrow_mut()[self.0];
        log.records.push(written(record));
        if !log.is_late {
            log.committed = log.records.len();
        }
    }

    fn waiting_bytes(&self) -> u64 {
        self.1.borrow()[self.0].waiting_bytes() as u64
    }

    fn has_room(&self, _: usize) -> bool {
        !self.1.borrow()[self.0].is_full
    }

    fn has_reserve(&self) -> bool {
        !self.1.borrow()[self.0].is_stuck
    }

    fn status(&self) -> StoreStatus {
        let mut status = StoreStatus::default();
        status.records = self.1.borrow()[self.0].records.len() as u64;
        // On each core another one, complete so many seconds behind the start.
        (status.snapshots, status.snapshot_at) = (1, 1_000 * self.0 as u64);
        status.snapshot_millis = 10 + self.0 as u64;
        status
    }

    fn cold(&mut self) -> Option<&mut dyn Cold> {
        Some(self)
    }
}

impl Cold for OfCore {
    fn park(&mut self, ticket: u64, messages: u32, records: Vec<u8>) {
        self.1.borrow_mut()[self.0].cold.asked.push_back(Asked::Park(ticket, messages, records));
    }

    fn load(&mut self, ticket: u64, chunk: Chunk) {
        self.1.borrow_mut()[self.0].cold.asked.push_back(Asked::Load(ticket, chunk));
    }

    fn relocate(&mut self, ticket: u64, chunk: Chunk) {
        self.1.borrow_mut()[self.0].cold.asked.push_back(Asked::Move(ticket, chunk));
    }

    fn release(&mut self, chunk: Chunk, commit: Commit) {
        let log = &mut self.1.borrow_mut()[self.0];
        let position = match commit {
            Commit::Now => log.records.len() as u64,
            Commit::At(position) => position,
        };
        log.cold.released.push((chunk, position));
    }
}

impl Disk {
    /// A broker of so many cores, and its disk, on which there is nothing.
    pub(crate) fn new(cores: u16, limits: Limits) -> (Cluster, Disk) {
        let logs = (0..cores).map(|_| Log::default()).collect();
        let disk = Disk { logs: Rc::new(RefCell::new(logs)), limits };
        (disk.cluster(), disk)
    }

    fn cluster(&self) -> Cluster {
        let (cores, logs) = (self.logs.borrow().len() as u16, self.logs.clone());
        Cluster::with(cores, self.limits.clone(), move |core: CoreId| Ports {
            store: Box::new(OfCore(core.index(), logs.clone())),
            ..Ports::allow_all()
        })
    }

    /// From now on nothing is committed before [`Disk::commit`].
    pub(crate) fn set_late(&self, is_late: bool) {
        self.logs.borrow_mut().iter_mut().for_each(|log| log.is_late = is_late);
    }

    /// Bytes of all records that are not committed.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.logs.borrow().iter().map(Log::waiting_bytes).sum()
    }

    /// Whether the disk of this core is full.
    pub(crate) fn set_core_full(&self, core: usize, is_full: bool) {
        self.logs.borrow_mut()[core].is_full = is_full;
    }

    /// Whether the disk is full.
    pub(crate) fn set_full(&self, is_full: bool) {
        self.logs.borrow_mut().iter_mut().for_each(|log| log.is_full = is_full);
    }

    /// Full, with nothing left for what is over.
    pub(crate) fn set_stuck(&self, is_stuck: bool) {
        self.set_full(is_stuck);
        self.logs.borrow_mut().iter_mut().for_each(|log| log.is_stuck = is_stuck);
    }

    /// Commits all that was appended.
    pub(crate) fn commit(&self, cluster: &mut Cluster) {
        let count = self.logs.borrow().len();
        (0..count).for_each(|core| self.commit_quietly(cluster, core));
        cluster.run();
    }

    /// Commits all that was appended on one core.
    pub(crate) fn commit_core(&self, cluster: &mut Cluster, core: usize) {
        self.commit_quietly(cluster, core);
        cluster.run();
    }

    /// As [`Disk::commit_core`], leaving what the shard then wants to be done.
    pub(crate) fn commit_quietly(&self, cluster: &mut Cluster, core: usize) {
        let position = {
            let log = &mut self.logs.borrow_mut()[core];
            log.committed = log.records.len();
            log.committed as u64
        };
        cluster.shards[core].store_committed(position, cluster.now);
    }

    /// Writes and reads the chunks that were asked for, and those that are asked for because of that.
    pub(crate) fn serve(&self, cluster: &mut Cluster) {
        while self.serve_one(cluster) {}
    }

    /// The first chunk that was asked for, if there is one.
    pub(crate) fn serve_one(&self, cluster: &mut Cluster) -> bool {
        let count = self.logs.borrow().len();
        let asked = (0..count).find_map(|core| {
            let cold = &mut self.logs.borrow_mut()[core].cold;
            cold.asked.pop_front().map(|asked| (core, asked))
        });
        let Some((core, asked)) = asked else { return false };
        match asked {
            Asked::Park(ticket, messages, records) => {
                let chunk = {
                    let ColdFile { bytes, fails, .. } = &mut self.logs.borrow_mut()[core].cold;
                    let place = (core as u64, bytes.len() as u64);
                    (!*fails).then(|| put_chunk(bytes, KEY, place, messages, &records))
                };
                cluster.shards[core].chunk_parked(ticket, chunk, cluster.now);
            }
            Asked::Load(ticket, chunk) => {
                let loaded = {
                    let logs = self.logs.borrow();
                    let cold = &logs[chunk.file as usize % count].cold;
                    let is_there = cold.released.iter().all(|(released, _)| *released != chunk);
                    let bytes = &cold.bytes[chunk.offset as usize..][..chunk.bytes as usize];
                    match cold {
                        ColdFile { fails: true, salvages: false, .. } => {
                            Loaded::Unreadable("it fails".to_owned())
                        }
                        ColdFile { fails: false, .. } if is_there => {
                            Loaded::Messages(read_chunk(bytes, KEY, chunk).expect("it was written"))
                        }
                        _ => Loaded::Lost,
                    }
                };
                cluster.shards[core].chunk_loaded(ticket, loaded, cluster.now);
            }
            Asked::Move(ticket, chunk) => {
                let copy = {
                    let cold = &mut self.logs.borrow_mut()[chunk.file as usize % count].cold;
                    let ColdFile { bytes, fails, .. } = cold;
                    let old = bytes[chunk.offset as usize..][..chunk.bytes as usize].to_vec();
                    let records = chunk_records(&old, KEY, chunk).expect("it was written");
                    let place = (chunk.file + count as u64, bytes.len() as u64);
                    (!*fails).then(|| put_chunk(bytes, KEY, place, chunk.messages, records))
                };
                cluster.shards[core].chunk_moved(ticket, copy, cluster.now);
            }
        }
        cluster.run();
        true
    }

    /// The shards are told to move what they have in the first file of each core.
    pub(crate) fn vacate(&self, cluster: &mut Cluster) {
        let files: Vec<u64> = (0..cluster.shards.len() as u64).collect();
        let now = cluster.now;
        cluster.shards.iter_mut().for_each(|shard| shard.vacate(&files, now));
    }

    /// Whether chunks can neither be written nor read.
    pub(crate) fn set_cold_fails(&self, fails: bool) {
        self.logs.borrow_mut().iter_mut().for_each(|log| log.cold.fails = fails);
    }

    /// From now on what cannot be read is given up.
    pub(crate) fn salvage(&self) {
        self.logs.borrow_mut().iter_mut().for_each(|log| log.cold.salvages = true);
    }

    /// How many chunks are to be written or read.
    pub(crate) fn asked(&self) -> usize {
        self.logs.borrow().iter().map(|log| log.cold.asked.len()).sum()
    }

    /// Bytes of the chunks that somebody needs.
    pub(crate) fn cold_bytes(&self) -> usize {
        let logs = self.logs.borrow();
        let released = logs.iter().flat_map(|log| &log.cold.released).map(|(chunk, _)| chunk.bytes as usize);
        let written: usize = logs.iter().map(|log| log.cold.bytes.len()).sum();
        written - released.sum::<usize>()
    }

    /// How many records somebody waits for.
    pub(crate) fn awaited(&self) -> usize {
        self.logs.borrow().iter().map(|log| log.awaited).sum()
    }

    /// How many records of this kind there are.
    pub(crate) fn count(&self, is_it: impl Fn(&Record<'_>) -> bool) -> usize {
        let logs = self.logs.borrow();
        let records = logs.iter().flat_map(|log| &log.records);
        records
            .filter(|(kind, body)| is_it(&Record::decode(*kind, body).expect("written by a shard")))
            .count()
    }

    /// How many records of this kind the last snapshots have.
    pub(crate) fn count_in_snapshots(&self, is_it: impl Fn(&Record<'_>) -> bool) -> usize {
        let logs = self.logs.borrow();
        let records = logs.iter().flat_map(|log| &log.snapshot);
        records
            .filter(|(_, (kind, body))| is_it(&Record::decode(*kind, body).expect("written by a shard")))
            .count()
    }

    /// The broker is killed, and another one started `millis` later. What is not committed is lost.
    pub(crate) fn restart(&self, cluster: Cluster, millis: u64) -> Cluster {
        let mut now = cluster.now;
        drop(cluster);
        for log in &mut *self.logs.borrow_mut() {
            log.cold.asked.clear();
            // A chunk whose end is not committed is still needed.
            let committed = log.committed as u64;
            log.cold.released.retain(|(_, position)| *position <= committed);
        }
        now.millis += millis;
        now.wall_millis += millis;
        let mut images: Vec<Image> = self.logs.borrow_mut().iter_mut().map(Log::read).collect();
        let start = Image::start_at(&images, now.wall_millis);
        for (core, image) in images.iter_mut().enumerate() {
            image.expire(start, |record| self.note(core, record));
        }
        Image::settle(&mut images, |core, record| self.note(core.into(), record));
        let mut cluster = self.cluster();
        // Monotonic time begins anew with each process.
        cluster.now.wall_millis = now.wall_millis;
        for (shard, image) in cluster.shards.iter_mut().zip(images) {
            shard.restore(image, cluster.now);
        }
        cluster.run();
        assert!(cluster.shards.iter().all(Shard::is_restored));
        cluster
    }

    fn note(&self, core: usize, record: &Record<'_>) {
        let log = &mut self.logs.borrow_mut()[core];
        log.records.push(written(record));
        log.committed = log.records.len();
    }

    /// Writes a snapshot of every core, in slices of so many bytes between which `meanwhile` is done; the log before it is
    /// forgotten.
    pub(crate) fn snapshot(
        &self,
        cluster: &mut Cluster,
        bytes: usize,
        mut meanwhile: impl FnMut(&mut Cluster),
    ) {
        for core in 0..cluster.shards.len() {
            let from = self.logs.borrow()[core].records.len() as u64;
            let (mut position, mut snapshot) = (SnapshotPosition::default(), Vec::new());
            loop {
                let as_of = self.logs.borrow()[core].records.len() as u64;
                let mut sink = |record: &Record<'_>| snapshot.push((as_of, written(record)));
                let done = cluster.shards[core].write_snapshot(&mut position, bytes, &mut sink);
                if done {
                    break;
                }
                meanwhile(cluster);
            }
            let log = &mut self.logs.borrow_mut()[core];
            (log.snapshot, log.from) = (snapshot, from);
        }
    }
}

impl Log {
    /// What the log adds up to, as far as it is committed.
    fn read(&mut self) -> Image {
        self.records.truncate(self.committed);
        let mut image = Image::new(SEED);
        for (as_of, (kind, body)) in &self.snapshot {
            let record = Record::decode(*kind, body).expect("written by a shard");
            image.apply_snapshot(*as_of, &record).expect("messages come first");
        }
        for (seq, (kind, body)) in (1..).zip(&self.records).skip(self.from as usize) {
            let record = Record::decode(*kind, body).expect("written by a shard");
            image.apply(seq, &record).expect("messages come first");
        }
        image
    }
}
