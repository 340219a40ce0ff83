//! The thread that does for all cores what takes time: it makes, opens and removes segments, and writes snapshots and chunks
//! to their files.
//!
//! A core asks for one segment at a time to be made, and for one to be opened, has one write of a snapshot under way, has
//! chunks written while there are too many messages in its memory, and one chunk at a time read for a Client; so what waits
//! here is bounded. What a shortage that passes keeps from being opened or read is tried again. Chunks are moved from one file to another only while nothing else is to be done. Answers come as commands. The thread has the directory, so that the lock is given up once it ends, which
//! is when all cores have.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use ahash::RandomState;
use tracing::warn;

use super::again::{Again, is_passing};
use super::cold::{ColdDone, ColdJob};
use super::cold_files::ColdFiles;
use super::directory::Directory;
use super::files;
use crate::config::CoreId;
use crate::ring::monotonic_millis;
use crate::runtime::shared::{BrokerError, Command, Shared};
use crate::store::cold::{Chunk, Loaded};
use crate::store::log::{Segment, SnapshotWrite};

/// What a core wants done.
pub(super) enum Job {
    /// A segment.
    Make(Segment),
    /// The file of a segment, to be written to.
    Open(u32),
    /// A segment is not used any more.
    Remove(Segment),
    /// A write to the snapshot that begins with this record.
    Write(u64, SnapshotWrite),
    /// That snapshot is complete: it gets its name, and all others are removed.
    Publish(u64),
    /// That snapshot is not wanted any more.
    GiveUp(u64),
    /// Something with chunks.
    Cold(ColdJob),
}

/// What was done.
pub(in crate::runtime) enum Done {
    /// Whether the segment was made.
    Made(io::Result<()>),
    /// A segment's file.
    Opened(u32, io::Result<File>),
    /// The write, and whether it was done.
    Wrote(SnapshotWrite, io::Result<()>),
    /// Bytes of the snapshot that was published.
    Published(io::Result<u64>),
    /// What was asked for with chunks.
    Cold(ColdDone),
}

/// Where cores put what they want done; the thread ends once the last of these is dropped.
#[derive(Clone)]
pub(in crate::runtime) struct Jobs(Sender<(CoreId, Job)>);

impl Jobs {
    /// Asks for something. A keeper that has ended failed, and the broker with it.
    pub(super) fn ask(&self, core: CoreId, job: Job) {
        let _ = self.0.send((core, job));
    }
}

/// Starts the thread.
///
/// # Errors
/// The system has no more threads.
pub(in crate::runtime) fn spawn(
    directory: Directory,
    cold: ColdFiles,
    shared: Arc<Shared>,
) -> io::Result<(Jobs, JoinHandle<()>)> {
    let (sender, jobs) = channel();
    let keep = move || {
        let ended = catch_unwind(AssertUnwindSafe(|| Keeper::new(&directory, cold, &shared).run(&jobs)));
        if ended.is_err() {
            let message = "the thread that makes its files panicked".to_owned();
            shared.fail(Some(BrokerError::Store { core: CoreId(0), message }));
        }
    };
    let thread = std::thread::Builder::new().name("mqtt-store".to_owned()).spawn(keep)?;
    Ok((Jobs(sender), thread))
}

struct Keeper<'a> {
    directory: &'a Directory,
    cold: ColdFiles,
    shared: &'a Shared,
    /// The snapshots that are being written.
    snapshots: HashMap<CoreId, File, RandomState>,
    /// What is done when there is nothing else to be done: one batch of chunks a core at most.
    later: VecDeque<(CoreId, ColdJob)>,
    again: Again<(CoreId, Job)>,
}

impl<'a> Keeper<'a> {
    fn new(directory: &'a Directory, cold: ColdFiles, shared: &'a Shared) -> Keeper<'a> {
        // The keys are cores of ours: nobody aims at them.
        let hasher = RandomState::with_seeds(0, 0, 0, 0);
        let snapshots = HashMap::with_hasher(hasher);
        Keeper { directory, cold, shared, snapshots, later: VecDeque::new(), again: Again::default() }
    }

    fn run(mut self, jobs: &Receiver<(CoreId, Job)>) {
        self.tell_sparse();
        while let Some((core, job)) = self.next(jobs) {
            let files = self.directory.core(core.0);
            let done = match job {
                Job::Make(segment) => match files.make_segment(segment, self.directory.direct) {
                    Err(error) if is_passing(&error) => {
                        self.again.put((core, Job::Make(segment)), &error, monotonic_millis());
                        continue;
                    }
                    made => Done::Made(made),
                },
                Job::Open(segment) => match files.open_to_write(segment, self.directory.direct) {
                    Err(error) if is_passing(&error) => {
                        self.again.put((core, Job::Open(segment)), &error, monotonic_millis());
                        continue;
                    }
                    opened => Done::Opened(segment, opened),
                },
                Job::Remove(segment) => {
                    let path = files.segment(segment.number);
                    if let Err(error) = std::fs::remove_file(&path) {
                        warn!(path = %path.display(), %error, "a segment that is not needed cannot be removed");
                    }
                    continue;
                }
                Job::Write(from, write) => {
                    let result = self.write(core, from, &write);
                    Done::Wrote(write, result)
                }
                Job::Publish(from) => Done::Published(self.publish(core, from)),
                Job::GiveUp(from) => {
                    self.give_up(core, from);
                    continue;
                }
                Job::Cold(job) => {
                    if let ColdJob::Release(over) = &job {
                        self.forget_loads(over);
                    }
                    let load = match &job {
                        &ColdJob::Load(ticket, chunk) => Some(ColdJob::Load(ticket, chunk)),
                        _ => None,
                    };
                    let done = self.cold.handle(job, monotonic_millis());
                    self.tell_sparse();
                    match done {
                        Ok(Some(done)) => Done::Cold(done),
                        Ok(None) => continue,
                        Err(error) => {
                            let load = Job::Cold(load.expect("nothing else fails so"));
                            self.again.put((core, load), &error, monotonic_millis());
                            continue;
                        }
                    }
                }
            };
            self.again.done();
            self.shared.core(core).command(Command::Store(done));
        }
    }

    /// Who waits for one of these chunks, which could not be read, is told that it is over: its file may go.
    fn forget_loads(&mut self, over: &[Chunk]) {
        let is_over = |(_, job): &(CoreId, Job)| matches!(job, Job::Cold(ColdJob::Load(_, chunk)) if over.contains(chunk));
        for (core, job) in self.again.extract(is_over) {
            if let Job::Cold(ColdJob::Load(ticket, _)) = job {
                let done = Done::Cold(ColdDone::Loaded(ticket, Loaded::Lost));
                self.shared.core(core).command(Command::Store(done));
            }
        }
    }

    /// What is to be done next, once there is something; nothing: all cores have ended.
    fn next(&mut self, jobs: &Receiver<(CoreId, Job)>) -> Option<(CoreId, Job)> {
        loop {
            let now = monotonic_millis();
            if let Some(next) = self.again.poll(now) {
                return Some(next);
            }
            let pause = self.again.pause(now).into_iter().chain(self.cold.pause(now)).min();
            let next = match (self.later.is_empty(), pause) {
                (true, None) => Ok(jobs.recv().ok()?),
                (true, Some(pause)) => match jobs.recv_timeout(pause) {
                    Err(RecvTimeoutError::Timeout) => {
                        self.tell_sparse();
                        continue;
                    }
                    next => Ok(next.ok()?),
                },
                (false, _) => jobs.try_recv(),
            };
            match next {
                Ok((core, Job::Cold(job @ ColdJob::Move(_)))) => self.later.push_back((core, job)),
                Ok(next) => return Some(next),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => {
                    return self.later.pop_front().map(|(core, job)| (core, Job::Cold(job)));
                }
            }
        }
    }

    /// Tells all cores of files that are to be emptied: none knows whose chunks are in them.
    fn tell_sparse(&mut self) {
        let Some(sparse) = self.cold.poll_sparse(monotonic_millis()) else { return };
        for core in &self.shared.cores {
            core.command(Command::Store(Done::Cold(ColdDone::Sparse(sparse.clone()))));
        }
    }

    fn write(&mut self, core: CoreId, from: u64, write: &SnapshotWrite) -> io::Result<()> {
        if write.offset == 0 {
            let path = self.directory.core(core.0).snapshot(from);
            self.snapshots.insert(core, files::create(&files::unfinished(&path), self.directory.direct)?);
        }
        let file = self.snapshots.get(&core).expect("the first write made it");
        let mut written = file.write_all_at(&write.pages, write.offset);
        let (sync, end) = (files::SYNC_BYTES as u64, write.offset + write.pages.len() as u64);
        if written.is_ok() && write.offset / sync != end / sync {
            written = file.sync_data();
        }
        if written.is_err() {
            self.give_up(core, from);
        }
        written
    }

    fn publish(&mut self, core: CoreId, from: u64) -> io::Result<u64> {
        let file = self.snapshots.remove(&core).expect("it was written");
        let files = self.directory.core(core.0);
        let named = files::name(&file, &files.snapshot(from));
        if named.is_err() {
            self.give_up(core, from);
        }
        named?;
        files.remove_snapshots_but(from)?;
        Ok(file.metadata()?.len())
    }

    /// What was written of a snapshot takes room and is of no use.
    fn give_up(&mut self, core: CoreId, from: u64) {
        self.snapshots.remove(&core);
        let path = self.directory.core(core.0).snapshot(from);
        let _ = std::fs::remove_file(files::unfinished(&path));
    }
}

#[cfg(test)]
mod tests;
