//! Where chunks of queues are kept, for all cores: each is a file of its own. What is asked for is done later, in any order,
//! and lost in a crash if it is not done by then; what was answered stays until the log has told that it is over.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use mqtt_broker::ports::{Cold, Commit};
use mqtt_broker::shard::{Now, Shard};
use mqtt_broker::store::cold::{Chunk, put_chunk, read_chunk};
use mqtt_broker::store::image::Image;

use super::{Check, Cluster, violation};
use crate::engine::random::Random;

const KEY: [u64; 2] = [17, 19];

/// One in so many chunks cannot be written.
const FAILS_ONCE_IN: u64 = 30;

enum Asked {
    Park { ticket: u64, messages: u32, records: Vec<u8> },
    Load { ticket: u64, chunk: Chunk },
}

/// A chunk that was written.
struct Kept {
    chunk: Chunk,
    bytes: Vec<u8>,
    /// Its session had ended when the broker started, which the next start makes use of.
    is_over: bool,
}

/// The files, and what each core has asked for.
#[derive(Default)]
pub(super) struct Chunks {
    files: BTreeMap<u64, Kept>,
    next: u64,
    asked: Vec<(usize, Asked)>,
    /// What nobody needs any more once that record of its core is committed.
    released: Vec<(usize, Chunk, u64)>,
}

/// All chunks, as one core sees them.
#[derive(Clone)]
pub(super) struct OfCore(pub(super) usize, pub(super) Rc<RefCell<Chunks>>);

impl Cold for OfCore {
    fn park(&mut self, ticket: u64, messages: u32, records: Vec<u8>) {
        self.1.borrow_mut().asked.push((self.0, Asked::Park { ticket, messages, records }));
    }

    fn load(&mut self, ticket: u64, chunk: Chunk) {
        self.1.borrow_mut().asked.push((self.0, Asked::Load { ticket, chunk }));
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

impl Chunks {
    /// Something that this core has asked for is done, and what is to be said of it; an error: a chunk is gone.
    fn serve(&mut self, core: usize, random: &mut Random) -> Result<Option<Tell>, Chunk> {
        let of_core = |(_, (by, _)): &(usize, &(usize, Asked))| *by == core;
        let places: Vec<usize> = self.asked.iter().enumerate().filter(of_core).map(|(at, _)| at).collect();
        if places.is_empty() {
            return Ok(None);
        }
        Ok(Some(match self.asked.remove(random.pick(&places)).1 {
            Asked::Park { ticket, messages, records } => {
                let chunk = (!random.once_in(FAILS_ONCE_IN)).then(|| self.write(messages, &records));
                Box::new(move |shard, now| shard.chunk_parked(ticket, chunk, now))
            }
            Asked::Load { ticket, chunk } => {
                let kept = self.files.get(&chunk.file).ok_or(chunk)?;
                let messages = read_chunk(&kept.bytes, KEY, chunk).map_err(|_| chunk)?;
                Box::new(move |shard, now| shard.chunk_loaded(ticket, Some(messages), now))
            }
        }))
    }

    fn write(&mut self, messages: u32, records: &[u8]) -> Chunk {
        self.next += 1;
        let mut bytes = Vec::new();
        let chunk = put_chunk(&mut bytes, KEY, (self.next, 0), messages, records);
        self.files.insert(self.next, Kept { chunk, bytes, is_over: false });
        chunk
    }

    /// This core has committed so far: what it released before that goes, behind what it had asked to read.
    fn remove(&mut self, core: usize, committed: u64) {
        let (asked, files) = (&self.asked, &mut self.files);
        self.released.retain(|&(by, chunk, position)| {
            let is_read = asked
                .iter()
                .any(|(_, asked)| matches!(asked, Asked::Load { chunk: other, .. } if *other == chunk));
            let stays = by != core || position > committed || is_read;
            if !stays {
                files.remove(&chunk.file);
            }
            stays
        });
    }

    /// A broker starts on what these images refer to, which has to be there.
    pub(super) fn start(&mut self, images: &[Image]) -> Check {
        self.asked.clear();
        self.released.clear();
        let mut needed = BTreeMap::new();
        for chunk in referred(images) {
            if needed.insert(chunk.file, chunk).is_some() {
                return violation("chunk", format!("two sessions have {chunk:?}"));
            }
            if self.files.get(&chunk.file).is_none_or(|kept| kept.chunk != chunk) {
                return violation("chunk", format!("{chunk:?} is needed, and is not there"));
            }
        }
        self.files.retain(|number, _| needed.contains_key(number));
        Ok(())
    }

    /// Some sessions that had chunks have ended before the broker started with these images.
    pub(super) fn started(&mut self, images: &[Image]) {
        self.files.values_mut().for_each(|kept| kept.is_over = true);
        for chunk in referred(images) {
            if let Some(kept) = self.files.get_mut(&chunk.file) {
                kept.is_over = false;
            }
        }
    }
}

fn referred(images: &[Image]) -> impl Iterator<Item = Chunk> {
    let sessions = images.iter().flat_map(Image::sessions);
    sessions.filter_map(|session| session.parked()).flat_map(|parked| parked.chunks())
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
        self.chunks.borrow_mut().remove(core, committed);
    }

    /// All messages were taken: no chunk is left.
    pub(crate) fn check_chunks(&self) -> Check {
        let chunks = self.chunks.borrow();
        match chunks.files.values().find(|kept| !kept.is_over) {
            Some(kept) => violation("chunk", format!("{:?} is left when all is drained", kept.chunk)),
            None => Ok(()),
        }
    }
}
