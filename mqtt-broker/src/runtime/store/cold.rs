//! What the cores want done with chunks, and what was done: between a shard and the thread that has the files.
//!
//! Invariant: a chunk is given up only once the log is durable up to the record that tells of its end.

use std::cell::RefCell;
use std::rc::Rc;

use crate::ports::{Cold, Commit};
use crate::shard::{Now, Shard};
use crate::store::cold::{Chunk, Loaded};

/// What a shard has asked for and is not done yet.
#[derive(Default)]
pub(super) struct Asks {
    parks: Vec<Park>,
    loads: Vec<(u64, Chunk)>,
    moves: Vec<(u64, Chunk)>,
    /// With the record up to which the log has to be durable before they go.
    released: Vec<(Chunk, u64)>,
}

/// A chunk that is to be written.
pub(super) struct Park {
    pub(super) ticket: u64,
    pub(super) messages: u32,
    pub(super) records: Vec<u8>,
}

/// What the thread is to do.
pub(super) enum ColdJob {
    Park(Vec<Park>),
    Load(u64, Chunk),
    /// Copies of these are to be made, when there is nothing else to be done.
    Move(Vec<(u64, Chunk)>),
    /// Nobody needs these any more.
    Release(Vec<Chunk>),
}

/// What was done, under the tickets that it was asked for with.
pub(in crate::runtime) enum ColdDone {
    Parked(Vec<(u64, Option<Chunk>)>),
    Loaded(u64, Loaded),
    Moved(Vec<(u64, Option<Chunk>)>),
    /// Nobody has asked: little is needed of these files.
    Sparse(Vec<u64>),
}

impl ColdDone {
    /// Tells the shard.
    pub(in crate::runtime) fn tell(self, shard: &mut Shard, now: Now) {
        match self {
            ColdDone::Parked(all) => {
                all.into_iter().for_each(|(ticket, chunk)| shard.chunk_parked(ticket, chunk, now));
            }
            ColdDone::Loaded(ticket, loaded) => shard.chunk_loaded(ticket, loaded, now),
            ColdDone::Moved(all) => {
                all.into_iter().for_each(|(ticket, chunk)| shard.chunk_moved(ticket, chunk, now));
            }
            ColdDone::Sparse(files) => shard.vacate(&files, now),
        }
    }
}

impl Asks {
    /// Chunks that nobody needs any more once the log is durable up to the record `position`.
    pub(super) fn begin(over: Vec<Chunk>, position: u64) -> Asks {
        let released = over.into_iter().map(|chunk| (chunk, position)).collect();
        Asks { released, ..Asks::default() }
    }

    /// What is to be done now that the log is durable up to the record `committed`.
    pub(super) fn take(&mut self, committed: u64) -> impl Iterator<Item = ColdJob> {
        let (parks, moves) = (std::mem::take(&mut self.parks), std::mem::take(&mut self.moves));
        let over: Vec<Chunk> = self
            .released
            .extract_if(.., |(_, position)| *position <= committed)
            .map(|(chunk, _)| chunk)
            .collect();
        let parks = (!parks.is_empty()).then_some(ColdJob::Park(parks));
        let moves = (!moves.is_empty()).then_some(ColdJob::Move(moves));
        let over = (!over.is_empty()).then_some(ColdJob::Release(over));
        let loads = std::mem::take(&mut self.loads).into_iter();
        let loads = loads.map(|(ticket, chunk)| ColdJob::Load(ticket, chunk));
        parks.into_iter().chain(loads).chain(moves).chain(over)
    }
}

/// The port for a shard.
pub(super) struct ColdPort(pub(super) Rc<RefCell<Asks>>);

impl Cold for ColdPort {
    fn park(&mut self, ticket: u64, messages: u32, records: Vec<u8>) {
        self.0.borrow_mut().parks.push(Park { ticket, messages, records });
    }

    fn load(&mut self, ticket: u64, chunk: Chunk) {
        self.0.borrow_mut().loads.push((ticket, chunk));
    }

    fn relocate(&mut self, ticket: u64, chunk: Chunk) {
        self.0.borrow_mut().moves.push((ticket, chunk));
    }

    fn release(&mut self, chunk: Chunk, commit: Commit) {
        let position = match commit {
            Commit::Now => 0,
            Commit::At(position) => position,
        };
        self.0.borrow_mut().released.push((chunk, position));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_that_is_over_goes_once_the_log_says_so() {
        let asks = Rc::new(RefCell::new(Asks::default()));
        let mut port = ColdPort(Rc::clone(&asks));
        let chunk = |offset| Chunk { file: 1, offset, bytes: 100, messages: 1 };
        port.release(chunk(0), Commit::At(5));
        port.release(chunk(1), Commit::Now);
        let taken = |committed| -> Vec<Chunk> {
            let mut asks = asks.borrow_mut();
            let chunks = asks.take(committed).flat_map(|job| match job {
                ColdJob::Release(chunks) => chunks,
                _ => panic!("nothing else was asked for"),
            });
            chunks.collect()
        };
        assert_eq!(taken(0), [chunk(1)], "one that the log never told of");
        assert_eq!(taken(4), []);
        assert_eq!(taken(5), [chunk(0)]);
    }
}
