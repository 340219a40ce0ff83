//! Where chunks of queues are kept, for all cores, in files of a few chunks. What is asked for is done later, in any order, and
//! lost in a crash if it is not done by then; what was answered stays until the log has told that it is over.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use mqtt_broker::ports::{Cold, Commit};
use mqtt_broker::shard::{Now, Shard};
use mqtt_broker::store::cold::{Chunk, Loaded, chunk_records, put_chunk, read_chunk};
use mqtt_broker::store::image::Image;

use super::disk::Handle;
use super::{Check, Cluster, violation};
use crate::engine::random::Random;

const KEY: [u64; 2] = [17, 19];

/// Bytes from which on a file is not appended to any more.
const FILE_BYTES: usize = 600;

/// One in so many chunks cannot be written, or read where that may fail.
const FAILS_ONCE_IN: u64 = 30;

enum Asked {
    Park {
        ticket: u64,
        messages: u32,
        records: Vec<u8>,
    },
    Load {
        ticket: u64,
        chunk: Chunk,
    },
    Move {
        ticket: u64,
        chunk: Chunk,
    },
    /// The core is to be told of a file of which little is needed.
    Tell {
        file: u64,
    },
}

#[derive(Default)]
struct File {
    bytes: Vec<u8>,
    /// The chunks that are needed.
    needed: BTreeSet<Chunk>,
    is_told: bool,
}

/// The files, and what each core has asked for.
pub(super) struct Chunks {
    files: BTreeMap<u64, File>,
    /// The file that is appended to, if there is one of this number, else that of the next one.
    current: u64,
    /// Bytes of a chunk.
    chunk_bytes: usize,
    asked: Vec<(usize, Asked)>,
    /// What nobody needs any more once that record of its core is committed.
    released: Vec<(usize, Chunk, u64)>,
    /// Chunks cannot be read at times.
    reads_fail: bool,
    /// One could not since the Clients were told last that all can.
    has_failed: bool,
}

/// All chunks, as one core sees them.
#[derive(Clone)]
pub(super) struct OfCore(pub(super) usize, pub(super) Rc<RefCell<Chunks>>);

impl Cold for OfCore {
    fn chunk_bytes(&self) -> usize {
        self.1.borrow().chunk_bytes
    }

    fn park(&mut self, ticket: u64, messages: u32, records: Vec<u8>) {
        self.1.borrow_mut().asked.push((self.0, Asked::Park { ticket, messages, records }));
    }

    fn load(&mut self, ticket: u64, chunk: Chunk) {
        self.1.borrow_mut().asked.push((self.0, Asked::Load { ticket, chunk }));
    }

    fn relocate(&mut self, ticket: u64, chunk: Chunk) {
        self.1.borrow_mut().asked.push((self.0, Asked::Move { ticket, chunk }));
    }

    fn release(&mut self, chunk: Chunk, commit: Commit) {
        let position = match commit {
            Commit::Now => 0,
            Commit::At(position) => position,
        };
        self.1.borrow_mut().released.push((self.0, chunk, position));
    }
}

/// What a shard is to be told.
pub(super) type Tell = Box<dyn FnOnce(&mut Shard, Now)>;

impl File {
    fn bytes_of(&self, chunk: Chunk) -> Option<&[u8]> {
        self.bytes.get(chunk.offset as usize..)?.get(..chunk.bytes as usize)
    }

    fn is_sparse(&self) -> bool {
        let needed: u64 = self.needed.iter().map(|chunk| u64::from(chunk.bytes)).sum();
        2 * needed < self.bytes.len() as u64
    }
}

impl Chunks {
    pub(super) fn new(chunk_bytes: usize) -> Chunks {
        let (asked, released) = (Vec::new(), Vec::new());
        let (reads_fail, has_failed) = (false, false);
        Chunks { files: BTreeMap::new(), current: 0, chunk_bytes, asked, released, reads_fail, has_failed }
    }

    /// Something that this core has asked for is done, and what is to be said of it; an error: a chunk is gone.
    fn serve(&mut self, core: usize, random: &mut Random) -> Result<Option<Tell>, Chunk> {
        let of_core = |(_, (by, _)): &(usize, &(usize, Asked))| *by == core;
        let places: Vec<usize> = self.asked.iter().enumerate().filter(of_core).map(|(at, _)| at).collect();
        if places.is_empty() {
            return Ok(None);
        }
        let fails = random.once_in(FAILS_ONCE_IN);
        Ok(Some(match self.asked.remove(random.pick(&places)).1 {
            Asked::Park { ticket, messages, records } => {
                let chunk = (!fails).then(|| self.write(messages, &records));
                Box::new(move |shard, now| shard.chunk_parked(ticket, chunk, now))
            }
            Asked::Load { ticket, .. } if fails && self.reads_fail => {
                self.has_failed = true;
                let loaded = Loaded::Unreadable("it fails for now".to_owned());
                Box::new(move |shard, now| shard.chunk_loaded(ticket, loaded, now))
            }
            Asked::Load { ticket, chunk } => {
                let kept = self.files.get(&chunk.file).and_then(|file| file.bytes_of(chunk)).ok_or(chunk)?;
                let messages = read_chunk(kept, KEY, chunk).map_err(|_| chunk)?;
                Box::new(move |shard, now| shard.chunk_loaded(ticket, Loaded::Messages(messages), now))
            }
            Asked::Move { ticket, chunk } => {
                let copy = if fails { None } else { self.copy(chunk)? };
                if copy.is_none()
                    && let Some(file) = self.files.get_mut(&chunk.file)
                {
                    file.is_told = false;
                }
                Box::new(move |shard, now| shard.chunk_moved(ticket, copy, now))
            }
            Asked::Tell { file } => Box::new(move |shard, now| shard.vacate(&[file], now)),
        }))
    }

    fn write(&mut self, messages: u32, records: &[u8]) -> Chunk {
        if self.files.get(&self.current).is_some_and(|file| file.bytes.len() >= FILE_BYTES) {
            self.finish_current();
        }
        let file = self.files.entry(self.current).or_default();
        let place = (self.current, file.bytes.len() as u64);
        let chunk = put_chunk(&mut file.bytes, KEY, place, messages, records);
        file.needed.insert(chunk);
        chunk
    }

    /// A copy of the chunk; none of one that is gone, as it was over before its turn came.
    fn copy(&mut self, chunk: Chunk) -> Result<Option<Chunk>, Chunk> {
        let Some(file) = self.files.get(&chunk.file) else { return Ok(None) };
        let bytes = file.bytes_of(chunk).ok_or(chunk)?;
        let records = chunk_records(bytes, KEY, chunk).map_err(|_| chunk)?.to_vec();
        Ok(Some(self.write(chunk.messages, &records)))
    }

    fn finish_current(&mut self) {
        self.current += 1;
    }

    /// This core has committed so far: what it released before that goes, behind what it had asked to read.
    fn remove(&mut self, core: usize, committed: u64, cores: usize) {
        let (asked, files) = (&self.asked, &mut self.files);
        self.released.retain(|&(by, chunk, position)| {
            let is_read = asked
                .iter()
                .any(|(_, asked)| matches!(asked, Asked::Load { chunk: other, .. } if *other == chunk));
            let stays = by != core || position > committed || is_read;
            if !stays && let Some(file) = files.get_mut(&chunk.file) {
                file.needed.remove(&chunk);
            }
            stays
        });
        self.tidy(cores);
    }

    /// Files that nobody needs go, and of those that are hardly needed all cores are told.
    fn tidy(&mut self, cores: usize) {
        let (current, asked) = (self.current, &mut self.asked);
        self.files.retain(|&number, file| number == current || !file.needed.is_empty());
        for (&file, kept) in self.files.iter_mut().filter(|(number, _)| **number != current) {
            if kept.is_sparse() && !std::mem::replace(&mut kept.is_told, true) {
                asked.extend((0..cores).map(|core| (core, Asked::Tell { file })));
            }
        }
    }

    /// A broker starts on what these images refer to, which has to be there.
    pub(super) fn start(&mut self, images: &[Image]) -> Check {
        self.asked.clear();
        self.released.clear();
        self.finish_current();
        for file in self.files.values_mut() {
            (file.needed, file.is_told) = (BTreeSet::new(), false);
        }
        let mut places = BTreeSet::new();
        for chunk in images.iter().flat_map(Image::chunks) {
            if !places.insert(chunk.place()) {
                return violation("chunk", format!("two sessions have {chunk:?}"));
            }
            let file = self.files.get_mut(&chunk.file);
            let file = file.filter(|file| {
                file.bytes_of(chunk).is_some_and(|bytes| chunk_records(bytes, KEY, chunk).is_ok())
            });
            let Some(file) = file else {
                return violation("chunk", format!("{chunk:?} is needed, and is not there"));
            };
            file.needed.insert(chunk);
        }
        Ok(())
    }

    /// Time has ended sessions of this core before the broker started: what they had goes behind that record.
    pub(super) fn expired(&mut self, core: usize, over: BTreeSet<Chunk>, position: u64) {
        self.released.extend(over.into_iter().map(|chunk| (core, chunk, position)));
    }
}

impl Cluster {
    /// A chunk is written or read; what its core is to be told, if there was something to do.
    pub(super) fn serve_chunk(&mut self, core: usize) -> Check<Option<Tell>> {
        if self.is_dead(core) {
            return Ok(None);
        }
        let done = self.chunks.borrow_mut().serve(core, &mut self.random);
        match done {
            Ok(Some(tell)) => {
                self.say(|| format!("** a chunk of core {core} is done"));
                Ok(Some(tell))
            }
            Ok(None) => Ok(None),
            Err(chunk) => violation("chunk", format!("{chunk:?} is read, and is gone")),
        }
    }

    /// Chunks go of which the log has told that they are over.
    pub(super) fn remove_chunks(&self, core: usize) {
        let committed = self.disks[core].committed();
        self.chunks.borrow_mut().remove(core, committed, self.shards.len());
    }

    /// Whether chunks cannot be read at times.
    pub(crate) fn set_reads_fail(&self, reads_fail: bool) {
        self.chunks.borrow_mut().reads_fail = reads_fail;
    }

    /// Whether a chunk could not be read since all was quiet.
    pub(crate) fn has_unreadable(&self) -> bool {
        self.chunks.borrow().has_failed
    }

    /// All is quiet, and nobody is refused any more.
    pub(crate) fn forget_unreadable(&self) {
        self.chunks.borrow_mut().has_failed = false;
    }

    /// All messages were taken: no chunk is left.
    pub(crate) fn check_chunks(&self) -> Check {
        let chunks = self.chunks.borrow();
        match chunks.files.values().find_map(|file| file.needed.first()) {
            Some(chunk) => violation("chunk", format!("{chunk:?} is left when all is drained")),
            None => Ok(()),
        }
    }

    /// Nothing moves, so what could be moved was: half of each file is needed, but for the one that is appended to.
    pub(crate) fn check_files(&self) -> Check {
        if self.disks.iter().any(Handle::is_full) {
            return Ok(());
        }
        let chunks = self.chunks.borrow();
        let files = chunks.files.iter().filter(|(number, _)| **number != chunks.current);
        match files.clone().find(|(_, file)| file.is_sparse()) {
            Some((number, file)) => {
                let (bytes, needed) = (file.bytes.len(), &file.needed);
                violation(
                    "files",
                    format!("of the {bytes} bytes of file {number} no more is needed than {needed:?}"),
                )
            }
            None => Ok(()),
        }
    }
}
