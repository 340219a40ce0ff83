//! One core's log on its way to the disk, and the snapshots that keep it short.
//!
//! At the end of a turn what the shard has appended is written, unless a write is under way: then the next write takes it.
//! Records that nobody waits for are no reason for a write of their own until some time has passed. When a write is over the
//! shard is told up to where all is durable, and lets go of the acknowledgements that waited for it.
//!
//! A snapshot is made in slices between turns, while the log goes on. It counts once the log is durable up to the last
//! record that any of it was made of; then the segments before it are used again.
//!
//! Invariant: after a write that failed nothing is written and nothing acknowledged any more: the broker ends.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use tracing::{debug, error, info, warn};

use super::cold::{Asks, ColdPort};
use super::files::CoreFiles;
use super::first::First;
use super::keeper::{Done, Job, Jobs};
use super::pace::Pace;
use super::port::LogStore;
use super::recover::Restored;
use crate::config::CoreId;
use crate::ports::StoreStatus;
use crate::ring::{Ring, monotonic_millis};
use crate::runtime::shared::BrokerError;
use crate::shard::{Shard, SnapshotPosition};
use crate::store::image::Image;
use crate::store::log::{Buffer, Identity, Log, SnapshotWriter, Write};

/// How long no segment is asked for after one could not be made.
const RETRY_MILLIS: u64 = 1_000;

/// No other snapshot is begun for so long after one could not be written.
const SNAPSHOT_RETRY_MILLIS: u64 = 60_000;

/// On a full disk, where a snapshot may be the way to more room, for so many times as long as it took: trying keeps the
/// disk busy for a twentieth of the time. A disk without any room says so at once.
const SNAPSHOT_RETRY_FULL: u64 = 20;

/// Segments of a log of which a snapshot would set none free, or one.
const LIVE_FEW: usize = 2;

/// Below it a log is not worth a snapshot; above it is always. Less where a log may not have twice as much.
const LOG_SMALL: u64 = 64 << 20;
const LOG_LARGE: u64 = 1 << 30;

/// Bytes of records that a turn appends to a snapshot.
const SLICE: usize = 64 << 10;

/// Bytes of a snapshot that wait for the thread that writes them.
const WAITING_MAX: usize = 2 << 20;

/// Milliseconds of a turn beyond which the core is too busy for a slice; but it waits so many turns at most.
const BUSY_MILLIS: u64 = 1;
const BUSY_TURNS_MAX: u32 = 64;

/// The log of a core as the core drives it.
pub(in crate::runtime) struct Disk {
    core: CoreId,
    identity: Identity,
    files: CoreFiles,
    jobs: Jobs,
    log: Rc<RefCell<Log>>,
    /// What the shard wants done with chunks.
    cold: Rc<RefCell<Asks>>,
    /// The last record that somebody waits for.
    awaited: Rc<Cell<u64>>,
    pace: Pace,
    first: First,
    /// The segment that is written to, and the next one.
    open: VecDeque<(u32, Arc<File>)>,
    /// The one that is being opened.
    opening: Option<u32>,
    /// A segment that could not be opened, and why.
    closed: Option<(u32, io::Error)>,
    /// A write that waits for its segment to be open.
    held: Option<Write>,
    /// Where the write under way goes.
    under_way: Option<(u32, u64)>,
    /// A segment could not be made: when it is tried again.
    retry_at: Option<u64>,
    /// That was said.
    is_full: bool,
    /// There may be more room than when the shard looked last.
    may_have_room: bool,
    snapshot: Option<Snapshot>,
    /// What there is to say of those that were made.
    snapshots: Rc<Cell<StoreStatus>>,
    /// Bytes of the last one.
    last_bytes: u64,
    /// When the next one may begin.
    snapshot_from: u64,
    /// Bytes that the log may take.
    log_bytes_max: u64,
}

/// A snapshot that is being made.
struct Snapshot {
    writer: SnapshotWriter,
    position: SnapshotPosition,
    /// The first record of the log that it does not stand for.
    from: u64,
    /// The last record that something in it was made of.
    reach: u64,
    stage: Stage,
    /// A write is with the thread.
    is_writing: bool,
    /// Turns in which the core was too busy.
    skipped: u32,
    began: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Telling,
    /// All was told; it waits for its last writes, and for the log.
    Told,
    Publishing,
}

impl Disk {
    /// Goes on with what was restored. The image is for the shard.
    pub(in crate::runtime) fn new(core: CoreId, restored: Restored, jobs: Jobs) -> (Disk, Image) {
        let Restored { image, log, over, files, identity, snapshot_bytes, log_bytes_max } = restored;
        let cold = Asks::begin(over, log.next() - 1);
        let disk = Disk {
            core,
            identity,
            files,
            jobs,
            log: Rc::new(RefCell::new(log)),
            cold: Rc::new(RefCell::new(cold)),
            awaited: Rc::default(),
            pace: Pace::default(),
            first: First::default(),
            open: VecDeque::new(),
            opening: None,
            closed: None,
            held: None,
            under_way: None,
            retry_at: None,
            is_full: false,
            may_have_room: false,
            snapshot: None,
            snapshots: Rc::default(),
            last_bytes: snapshot_bytes,
            snapshot_from: 0,
            log_bytes_max,
        };
        (disk, image)
    }

    /// The port for the shard.
    pub(in crate::runtime) fn store(&self) -> LogStore {
        LogStore {
            log: Rc::clone(&self.log),
            awaited: Rc::clone(&self.awaited),
            snapshots: Rc::clone(&self.snapshots),
            cold: ColdPort(Rc::clone(&self.cold)),
        }
    }

    /// When [`Disk::turn`] is due, in monotonic milliseconds.
    pub(in crate::runtime) fn poll_timeout(&self) -> Option<u64> {
        let slice = self.snapshot.as_ref().is_some_and(Snapshot::wants_slice).then(monotonic_millis);
        let write = self.pace.poll_timeout().filter(|_| !self.is_writing());
        [self.retry_at, slice, write, self.first.poll_timeout()].into_iter().flatten().min()
    }

    /// The write under way is over. Answers up to which record all is durable.
    ///
    /// # Errors
    /// Not all of it is on the disk, so the broker cannot go on.
    pub(in crate::runtime) fn written(
        &mut self,
        pages: Buffer,
        result: io::Result<usize>,
    ) -> Result<u64, BrokerError> {
        let (segment, offset) = self.under_way.take().expect("a write was under way");
        let (bytes, why) = match result {
            Ok(bytes) => (bytes, format!("{bytes} of {} bytes were written", pages.len())),
            Err(error) => (0, error.to_string()),
        };
        let written = self.log.borrow_mut().written(Write { segment, offset, pages }, bytes);
        written.map_err(|failed| self.broken(format!("{failed}: {why}")))
    }

    /// The thread of the store has done something.
    pub(in crate::runtime) fn handle_done(&mut self, done: Done, now: u64) {
        match done {
            Done::Made(result) => self.made(result, now),
            Done::Opened(segment, result) => {
                self.opening = None;
                match result {
                    Ok(file) => self.open.push_back((segment, Arc::new(file))),
                    Err(error) => self.closed = Some((segment, error)),
                }
            }
            Done::Wrote(write, result) => {
                let Some(snapshot) = &mut self.snapshot else { return };
                snapshot.is_writing = false;
                let bytes = if result.is_ok() { write.pages.len() } else { 0 };
                if snapshot.writer.written(write, bytes).is_err() {
                    self.give_up(result.err(), now);
                }
            }
            Done::Published(Ok(bytes)) => {
                let Some(snapshot) = self.snapshot.take() else { return };
                self.log.borrow_mut().release(snapshot.from - 1);
                self.may_have_room = true;
                self.last_bytes = bytes;
                let millis = now.saturating_sub(snapshot.began);
                let mut told = self.snapshots.get();
                told.snapshots += 1;
                (told.snapshot_at, told.snapshot_millis) = (now, millis);
                self.snapshots.set(told);
                debug!(core = %self.core, bytes, millis, "snapshot");
            }
            Done::Published(Err(error)) => self.give_up(Some(error), now),
            // That is for the shard.
            Done::Cold(_) => {}
        }
    }

    /// Up to where all is durable, if the shard is to look whether there is more room: what it says then has to leave in the
    /// same turn.
    pub(in crate::runtime) fn take_room(&mut self) -> Option<u64> {
        std::mem::take(&mut self.may_have_room).then(|| self.log.borrow().committed())
    }

    /// Does what is to be done at the end of a turn that `began` at that monotonic time: the next write, the next segment, a slice of a
    /// snapshot.
    ///
    /// # Errors
    /// A segment cannot be opened, so the broker cannot go on.
    pub(in crate::runtime) fn turn(
        &mut self,
        ring: &mut Ring,
        shard: &mut Shard,
        began: u64,
    ) -> Result<(), BrokerError> {
        self.check_opened()?;
        if !self.first.is_there() {
            let is_there = self.log.borrow().files().0 > 0;
            self.first.look(is_there, began, self.core, &self.files.folder);
        }
        let tries_again = self.retry_at.is_some_and(|at| at <= began);
        if tries_again {
            self.retry_at = None;
            self.log.borrow_mut().try_again();
        }
        let committed = self.log.borrow().committed();
        for job in self.cold.borrow_mut().take(committed) {
            self.jobs.ask(self.core, Job::Cold(job));
        }
        self.proceed_snapshot(shard, began);
        if self.is_to_be_written(began) {
            self.write(ring)?;
        }
        if self.is_stuck() {
            self.make_way(began);
        }
        let is_asked = self.keep_segments();
        if tries_again && !is_asked {
            // A snapshot has made room meanwhile.
            self.has_room_again();
        }
        Ok(())
    }

    /// [`Disk::turn`] of a core that is about to end and has no shard to ask any more.
    ///
    /// # Errors
    /// As there.
    pub(in crate::runtime) fn turn_to_end(&mut self, ring: &mut Ring) -> Result<(), BrokerError> {
        self.check_opened()?;
        self.write(ring)?;
        self.keep_segments();
        Ok(())
    }

    /// Nothing is appended any more: the log gets the mark of a clean end.
    pub(in crate::runtime) fn end(&mut self) {
        self.log.borrow_mut().end();
    }

    /// Whether all is written, with the mark of a clean end.
    pub(in crate::runtime) fn is_ended(&self) -> bool {
        !self.is_writing() && self.log.borrow().is_ended()
    }

    /// Whether what waits cannot be written, as there is no room for it.
    pub(in crate::runtime) fn is_stuck(&self) -> bool {
        !self.is_writing() && self.retry_at.is_some()
    }

    fn is_writing(&self) -> bool {
        self.under_way.is_some() || self.held.is_some()
    }

    /// Whether somebody waits for what was appended, or it has waited long enough.
    fn is_to_be_written(&mut self, now: u64) -> bool {
        // What a later turn appends may be committed apart from it: a chain needs room for all of it, and is there at its end.
        self.log.borrow_mut().boundary();
        if self.under_way.is_some() {
            return false;
        }
        if self.held.is_some() {
            return true;
        }
        let log = self.log.borrow();
        let snapshot = self.snapshot.as_ref().filter(|snapshot| snapshot.stage != Stage::Telling);
        let awaited = self.awaited.get().max(snapshot.map_or(0, |snapshot| snapshot.reach));
        self.pace.writes(awaited, log.committed(), log.next() - 1, now)
    }

    fn check_opened(&mut self) -> Result<(), BrokerError> {
        let Some((segment, error)) = self.closed.take() else { return Ok(()) };
        Err(self.broken(format!("cannot open {}: {error}", self.files.segment(segment).display())))
    }

    fn write(&mut self, ring: &mut Ring) -> Result<(), BrokerError> {
        if self.under_way.is_some() {
            return Ok(());
        }
        let write = self.held.take().or_else(|| self.log.borrow_mut().poll_write());
        // A header takes none of what waits.
        if write.as_ref().is_none_or(|write| write.offset > 0) {
            self.pace.wrote();
        }
        let Some(write) = write else { return Ok(()) };
        let Some(place) = self.open.iter().position(|&(number, _)| number == write.segment) else {
            self.open(write.segment);
            self.held = Some(write);
            return Ok(());
        };
        self.open.drain(..place);
        let file = Arc::clone(&self.open[0].1);
        let Write { segment, offset, pages } = write;
        self.under_way = Some((segment, offset));
        ring.write(file, offset, pages);
        Ok(())
    }

    /// Has the segments made, opened and removed that the log asks for. Answers whether one is to be made.
    fn keep_segments(&mut self) -> bool {
        let (make, wanted) = {
            let mut log = self.log.borrow_mut();
            while let Some(segment) = log.poll_remove() {
                self.jobs.ask(self.core, Job::Remove(segment));
            }
            (log.poll_make(), [log.current_segment(), log.next_segment()])
        };
        if let Some(segment) = make {
            self.jobs.ask(self.core, Job::Make(segment));
        }
        for segment in wanted.into_iter().flatten() {
            if self.open.iter().all(|&(number, _)| number != segment) {
                self.open(segment);
            }
        }
        make.is_some()
    }

    /// Has a segment opened: that may take the file system a while.
    fn open(&mut self, segment: u32) {
        if self.opening.is_none() {
            self.opening = Some(segment);
            self.jobs.ask(self.core, Job::Open(segment));
        }
    }

    fn broken(&self, message: String) -> BrokerError {
        BrokerError::Store { core: self.core, message: format!("{}: {message}", self.files.folder.display()) }
    }

    fn made(&mut self, result: io::Result<()>, now: u64) {
        self.log.borrow_mut().made(result.is_ok());
        // Who waits for this segment goes on, or is refused.
        self.may_have_room = true;
        match result {
            Ok(()) => self.has_room_again(),
            Err(error) => {
                self.retry_at = Some(now + RETRY_MILLIS);
                if !std::mem::replace(&mut self.is_full, true) {
                    let todo = match error.kind() {
                        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "Make room on this disk",
                        _ => "Look after this disk: it has room, and does not take it",
                    };
                    error!(
                        core = %self.core,
                        folder = %self.files.folder.display(),
                        %error,
                        "the store gets no more room: what would have to be kept is refused once the reserve is reached. \
                         {todo}"
                    );
                }
            }
        }
    }

    fn has_room_again(&mut self) {
        if std::mem::take(&mut self.is_full) {
            info!(core = %self.core, "there is room again for the store");
        }
    }

    /// Begins a snapshot if the log has grown enough, or goes on with the one that was begun.
    fn proceed_snapshot(&mut self, shard: &mut Shard, began: u64) {
        let Some(snapshot) = &mut self.snapshot else {
            if self.is_due(began) {
                self.begin(began);
            }
            return;
        };
        if snapshot.wants_slice() {
            let is_busy = monotonic_millis().saturating_sub(began) > BUSY_MILLIS;
            if is_busy && snapshot.skipped < BUSY_TURNS_MAX {
                snapshot.skipped += 1;
            } else {
                snapshot.skipped = 0;
                snapshot.tell(shard, self.log.borrow().next() - 1);
            }
        }
        if !snapshot.is_writing
            && let Some(write) = snapshot.writer.poll_write()
        {
            snapshot.is_writing = true;
            self.jobs.ask(self.core, Job::Write(snapshot.from, write));
        }
        let is_durable = self.log.borrow().committed() >= snapshot.reach;
        if snapshot.stage == Stage::Told && snapshot.writer.is_complete() && is_durable {
            snapshot.stage = Stage::Publishing;
            self.jobs.ask(self.core, Job::Publish(snapshot.from));
        }
    }

    fn is_due(&self, now: u64) -> bool {
        let log = self.log.borrow();
        let live: u64 = log.live().map(|live| u64::from(live.segment.bytes)).sum();
        let half = self.log_bytes_max / 2;
        let is_long =
            live >= LOG_SMALL.min(half) && (live > 2 * self.last_bytes || live >= LOG_LARGE.min(half));
        // On a full disk a snapshot is the way to more room, if what it is made of has become little.
        (is_long || self.is_full && log.live().len() > LIVE_FEW) && now >= self.snapshot_from
    }

    fn begin(&mut self, began: u64) {
        let from = self.log.borrow().next();
        self.snapshot = Some(Snapshot {
            writer: SnapshotWriter::new(self.identity, from),
            position: SnapshotPosition::default(),
            from,
            reach: 0,
            stage: Stage::Telling,
            is_writing: false,
            skipped: 0,
            began,
        });
    }

    /// A snapshot that is complete waits for records that cannot be written, as there is no room for another segment: it may
    /// be what takes that room.
    fn make_way(&mut self, now: u64) {
        let committed = self.log.borrow().committed();
        let waits = |snapshot: &mut Snapshot| {
            snapshot.stage == Stage::Told && snapshot.writer.is_complete() && committed < snapshot.reach
        };
        if let Some(snapshot) = self.snapshot.take_if(waits) {
            self.jobs.ask(self.core, Job::GiveUp(snapshot.from));
            self.snapshot_from = now + SNAPSHOT_RETRY_FULL * RETRY_MILLIS;
            debug!(core = %self.core, "a snapshot makes way for the log");
        }
    }

    /// A snapshot could not be written: the log goes on without it, and another one is begun when it has grown again.
    fn give_up(&mut self, error: Option<io::Error>, now: u64) {
        let took = self.snapshot.take().map_or(0, |snapshot| now.saturating_sub(snapshot.began));
        let pause = SNAPSHOT_RETRY_FULL * took.max(RETRY_MILLIS / SNAPSHOT_RETRY_FULL);
        self.snapshot_from = now + if self.is_full { pause } else { SNAPSHOT_RETRY_MILLIS };
        let error = error.map(|error| error.to_string()).unwrap_or_default();
        if self.is_full {
            // That there is no room was said.
            return debug!(core = %self.core, error, "no room for a snapshot");
        }
        warn!(core = %self.core, folder = %self.files.folder.display(), error, "a snapshot could not be written");
    }
}

impl Snapshot {
    fn wants_slice(&self) -> bool {
        self.stage == Stage::Telling && self.writer.waiting() < WAITING_MAX
    }

    /// A slice of what there is now, to which the log has led with its record `as_of`.
    fn tell(&mut self, shard: &mut Shard, as_of: u64) {
        self.reach = as_of;
        let writer = &mut self.writer;
        let is_over = shard.write_snapshot(&mut self.position, SLICE, &mut |record| {
            writer.append(as_of, record.kind(), |out| record.encode(out));
        });
        if is_over {
            self.stage = Stage::Told;
            writer.finish();
        }
    }
}
