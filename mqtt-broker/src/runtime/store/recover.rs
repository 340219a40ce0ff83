//! The start: a data directory to what each core goes on with.
//!
//! Each core's snapshot and log are read by a thread of their own. What the disk may not have yet of what was read is
//! synced before anybody goes on behind it. Then time takes its share, what was under way between the cores is settled,
//! and each core gets its image, its log, and the records that tell of all that.
//!
//! Invariant: the cores get what they had acknowledged, or the broker does not start; unless it is to be salvaged, and then
//! what is gone is said.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use tracing::{info, warn};

use super::cold_files::ColdFiles;
use super::directory::Directory;
use super::files::{self, CoreFiles};
use super::layout;
use super::{OnDamage, StoreConfig, StoreError, cold_losses};
use crate::runtime::clock;
use crate::store::cold::Chunk;
use crate::store::image::{Image, MissingMessage};
use crate::store::log::{
    self, Fault, Identity, Log, LogConfig, ReadConfig, ReadError, Reader, Recovered, SnapshotReader,
    Source as _,
};
use crate::store::record::{Record, RecordError};

/// How often a start that takes long says how far it is.
const PROGRESS: Duration = Duration::from_secs(3);

/// Records after which the count that all cores share is looked at: it is one cache line.
const COUNTED: u64 = 1024;

/// A store that was read.
pub(in crate::runtime) struct Stored {
    pub(in crate::runtime) directory: Directory,
    /// What each core goes on with.
    pub(in crate::runtime) cores: Vec<Restored>,
    pub(in crate::runtime) cold: ColdFiles,
}

/// What a core goes on with.
pub(in crate::runtime) struct Restored {
    pub(in crate::runtime) image: Image,
    pub(super) log: Log,
    /// Chunks of sessions whose time is over, which go once the log has said so.
    pub(super) over: Vec<Chunk>,
    pub(super) files: CoreFiles,
    pub(super) identity: Identity,
    pub(super) snapshot_bytes: u64,
    pub(super) log_bytes_max: u64,
}

/// What was read of a core.
pub(super) struct Found {
    pub(super) image: Image,
    pub(super) log: Recovered,
    pub(super) snapshot_bytes: u64,
    /// What is wrong, in words; nothing unless it was to be salvaged.
    pub(super) damage: Vec<String>,
}

/// Opens the store for `cores` cores and reads it; `seed` keys the hashes of the images.
///
/// # Errors
/// The directory cannot be used, or something is damaged.
pub(in crate::runtime) fn open(
    config: &StoreConfig,
    cores: u16,
    seed: [u64; 4],
) -> Result<Stored, StoreError> {
    config.check()?;
    let mut directory = Directory::open(&config.directory, cores)?;
    for core in 0..directory.meta.cores {
        let files = directory.core(core);
        files.wait_for_writes().map_err(StoreError::system("open the segments of", &files.folder))?;
    }
    let salvage = config.on_damage == OnDamage::Salvage;
    let records = AtomicU64::new(0);
    let mut found = read(&directory, seed, salvage, &records)?;
    if salvage {
        let images = found.iter_mut().map(|found| &mut found.image);
        let lost = cold_losses::give_up_missing(directory.path(), images)?;
        // The files are those of all cores.
        found[0].damage.extend(lost);
    }
    let is_damaged = found.iter().any(|found| !found.damage.is_empty());
    if is_damaged || directory.meta.cores != cores {
        layout::go_over(&mut directory, found, cores, seed)?;
        // What was written is what counts from now on: so it is read as any start would read it.
        found = read(&directory, seed, false, &records)?;
        directory.tidy()?;
    }
    let disk_bytes = files::disk_bytes(directory.path())
        .map_err(StoreError::system("ask the size of the disk of", directory.path()))?;
    let segment_bytes = config.segment_bytes_on(disk_bytes);
    let mut images = Vec::new();
    let mut logs = Vec::new();
    for (core, found) in (0..).zip(found) {
        let identity = directory.identity(core);
        let segments_max = config.segments_max(segment_bytes);
        let log = Log::open(LogConfig { identity, segment_bytes, segments_max }, found.log);
        images.push(found.image);
        logs.push((log, found.snapshot_bytes));
    }
    let cold = ColdFiles::open(directory.path(), directory.hash_key(), &images, salvage)?;
    let over = go_on(&mut images, &mut logs);
    let mut restored = Vec::new();
    for (core, ((image, (log, snapshot_bytes)), over)) in (0..).zip(images.into_iter().zip(logs).zip(over)) {
        let (files, identity) = (directory.core(core), directory.identity(core));
        let log_bytes_max = config.log_bytes_max;
        restored.push(Restored { image, log, over, files, identity, snapshot_bytes, log_bytes_max });
    }
    let sessions: usize = restored.iter().map(|core| core.image.session_count()).sum();
    let retained: usize = restored.iter().map(|core| core.image.retained().len()).sum();
    info!(
        directory = %directory.path().display(),
        sessions,
        retained,
        direct = directory.direct,
        segment_bytes,
        "the store is open{}",
        if directory.direct { "" } else { "; its file system cannot be written past the page cache, which takes longer" }
    );
    if let Some(kind) = files::in_memory(directory.path()) {
        warn!(
            directory = %directory.path().display(),
            "the data directory is in memory ({kind}): it outlives the broker, and not this machine's next start"
        );
    }
    Ok(Stored { directory, cores: restored, cold })
}

/// What the time between takes away, and what is settled between the cores: the first records that each log goes on with.
/// Answers the chunks of each core that are not needed any more.
fn go_on(images: &mut [Image], logs: &mut [(Log, u64)]) -> Vec<Vec<Chunk>> {
    let now = Image::start_at(images, clock::now().wall_millis);
    let mut over = Vec::new();
    for (image, (log, _)) in images.iter_mut().zip(logs.iter_mut()) {
        let mut gone: BTreeSet<Chunk> = image.chunks().collect();
        image.expire(now, |record| append(log, record));
        image.chunks().for_each(|chunk| _ = gone.remove(&chunk));
        over.push(gone.into_iter().collect());
    }
    Image::settle(images, |core, record| append(&mut logs[usize::from(core)].0, record));
    for (log, _) in logs {
        log.boundary();
    }
    over
}

fn append(log: &mut Log, record: &Record<'_>) {
    log.append(record.kind(), |out| record.encode(out));
}

/// Reads all cores of the layout that counts; `records` counts what was read.
pub(super) fn read(
    directory: &Directory,
    seed: [u64; 4],
    salvage: bool,
    records: &AtomicU64,
) -> Result<Vec<Found>, StoreError> {
    let cores = directory.meta.cores;
    std::thread::scope(|scope| {
        let (done, all_done) = channel::<()>();
        let threads: Vec<_> = (0..cores)
            .map(|core| {
                let (files, identity) = (directory.core(core), directory.identity(core));
                let done = done.clone();
                scope.spawn(move || {
                    let found = read_core(&files, identity, seed, salvage, records);
                    drop(done);
                    found
                })
            })
            .collect();
        drop(done);
        // Nothing is sent: it ends when the last thread has.
        while all_done.recv_timeout(PROGRESS) == Err(RecvTimeoutError::Timeout) {
            info!(records = records.load(Ordering::Relaxed), "reading the store");
        }
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// Reads the snapshot and the log of a core.
fn read_core(
    files: &CoreFiles,
    identity: Identity,
    seed: [u64; 4],
    salvage: bool,
    records: &AtomicU64,
) -> Result<Found, StoreError> {
    let folder = &files.folder;
    let failed = |error| StoreError::unread(folder, error);
    let mut reading = Reading {
        image: Image::new(seed),
        files,
        salvage,
        records,
        uncounted: 0,
        damage: Vec::new(),
        untaken: 0,
    };
    let start = reading.read_snapshots(identity)?;
    let config = ReadConfig { identity, from: start.from, reach: start.reach, salvage };
    let mut reader = Reader::open(files, config).map_err(failed)?;
    let mut next = start.from;
    while let Some(record) = reader.next_record().map_err(failed)? {
        if record.number > next {
            reading.image.skip();
        }
        next = record.number + 1;
        reading.take(&record, Image::apply)?;
    }
    reading.count();
    reading.note_untaken();
    let log = reader.finish().map_err(failed)?;
    if let Some(torn) = log.torn {
        warn!(
            file = %files.segment(torn.segment).display(),
            offset = torn.offset,
            bytes = torn.bytes,
            "the log ends in what was being written when the last process ended, and was not acknowledged: dropped"
        );
    }
    let sync = || {
        for live in &log.live {
            File::open(files.segment(live.segment.number))?.sync_data()?;
        }
        io::Result::Ok(())
    };
    sync().map_err(StoreError::system("sync", folder))?;
    for damage in &log.damage {
        reading.note(folder, damage);
    }
    let Reading { image, damage, .. } = reading;
    Ok(Found { image, log, snapshot_bytes: start.bytes, damage })
}

/// Where the log is to be read from.
struct Start {
    from: u64,
    reach: u64,
    /// Bytes of the snapshot before it.
    bytes: u64,
}

/// The reading of one core.
struct Reading<'a> {
    image: Image,
    files: &'a CoreFiles,
    salvage: bool,
    /// Counts the records of all cores.
    records: &'a AtomicU64,
    uncounted: u64,
    damage: Vec<String>,
    /// Records that could not be taken.
    untaken: u64,
}

impl Reading<'_> {
    /// Reads the newest snapshot.
    fn read_snapshots(&mut self, identity: Identity) -> Result<Start, StoreError> {
        let folder = &self.files.folder;
        for from in self.files.snapshots().map_err(StoreError::system("list", folder))? {
            let path = self.files.snapshot(from);
            let file = self.files.open_snapshot(from).map_err(StoreError::system("open", &path))?;
            let bytes = file.len().map_err(StoreError::system("read", &path))?;
            let failed = |error| StoreError::unread(&path, error);
            let mut reader = match SnapshotReader::open(file, identity, self.salvage) {
                Ok(reader) => reader,
                Err(ReadError::Damage(damage)) if self.salvage => {
                    self.note(&path, &damage);
                    if damage.fault != Fault::Header {
                        continue;
                    }
                    let file = self.files.open_snapshot(from).map_err(StoreError::system("open", &path))?;
                    SnapshotReader::behind_header(file, identity, from).map_err(failed)?
                }
                Err(error) => return Err(failed(error)),
            };
            while let Some(record) = reader.next_record().map_err(failed)? {
                self.take(&record, Image::apply_snapshot)?;
            }
            if !reader.damage().is_empty() {
                // What is gone may have no record behind it.
                self.image.skip();
            }
            reader.damage().iter().for_each(|damage| self.note(&path, damage));
            let (read, total) = reader.records();
            if let Some(total) = total.filter(|&total| total > read) {
                let gone = total - read;
                self.note(
                    &path,
                    &format_args!("{gone} of the {total} records in it are gone, {read} are kept"),
                );
            }
            return Ok(Start { from: reader.header().from, reach: reader.reach(), bytes });
        }
        Ok(Start { from: 1, reach: 0, bytes: 0 })
    }

    /// Has the image take a record.
    fn take(
        &mut self,
        record: &log::Record<'_>,
        apply: impl FnOnce(&mut Image, u64, &Record<'_>) -> Result<(), MissingMessage>,
    ) -> Result<(), StoreError> {
        self.uncounted += 1;
        if self.uncounted == COUNTED {
            self.count();
        }
        if record.is_behind_gap {
            self.image.skip();
        }
        let number = record.number;
        let taken = match Record::decode(record.kind, record.body) {
            Ok(told) => apply(&mut self.image, number, &told).map_err(|error| error.to_string()),
            Err(error @ RecordError::Newer { .. }) => {
                let what = format!("record {number}: {error}");
                return Err(StoreError::Newer { path: self.files.folder.clone(), what });
            }
            Err(error) => {
                // What it says is gone: if it was a message, the next record is not about the one before.
                self.image.skip();
                Err(error.to_string())
            }
        };
        let Err(what) = taken else { return Ok(()) };
        if !self.salvage {
            return Err(StoreError::Record { folder: self.files.folder.clone(), number, what });
        }
        self.untaken += 1;
        if self.untaken == 1 {
            let files = self.files;
            self.note(&files.folder, &format_args!("record {number}: {what}"));
        }
        Ok(())
    }

    /// Where one record cannot be taken, others that lean on the same cannot either: they are counted.
    fn note_untaken(&mut self) {
        let others = self.untaken.saturating_sub(1);
        if others > 0 {
            let files = self.files;
            self.note(&files.folder, &format_args!("{others} other records that could not be taken either"));
        }
    }

    fn count(&mut self) {
        self.records.fetch_add(std::mem::take(&mut self.uncounted), Ordering::Relaxed);
    }

    /// Something is gone.
    fn note(&mut self, path: &Path, what: &dyn fmt::Display) {
        self.damage.push(format!("{}: {what}", path.display()));
    }
}
