//! Chunks that lie in files of which little is needed are moved, so that the files can go.
//!
//! The store says which files these are. A hand goes round the sessions once and has what it finds in them copied, little
//! at a time; when a copy is there, a record tells of it, and the old chunk goes once that is committed. It makes no
//! difference whether the Client is there: what was read of a chunk is a copy as well.
//!
//! Invariant: the old chunk is needed until the record of the new one is committed. Lives on: the session's home core.

use std::collections::BTreeSet;

use ahash::RandomState;
use hashbrown::HashMap;

use super::Shard;
use super::cold::SLICE_SESSIONS;
use super::contract::Now;
use super::session::Session;
use super::table::Key;
use crate::ports::Commit;
use crate::store::cold::{Chunk, Place};
use crate::store::record::Record;

/// Bytes of chunks that are copied at one time, or one chunk: nothing that a Client waits for stands behind more.
const COPIED_AT_ONCE: u64 = 256 * 1024;

/// What of this core's is to be moved, and is on its way.
pub(super) struct Moves {
    /// The files that the hand looks for on this round.
    files: BTreeSet<u64>,
    /// Those of the next round.
    next: BTreeSet<u64>,
    /// The place of the session that is looked at next.
    hand: u32,
    /// Whose chunk is being copied, by ticket.
    asked: HashMap<u64, (Key, Chunk), RandomState>,
    /// Those of this round that could not be: they stay where they are, or it would be tried for ever.
    failed: BTreeSet<Place>,
    /// Whether the hand has more to look at.
    pub(super) goes_on: bool,
}

impl Moves {
    pub(super) fn new(hasher: RandomState) -> Moves {
        Moves {
            files: BTreeSet::new(),
            next: BTreeSet::new(),
            hand: 0,
            asked: HashMap::with_hasher(hasher),
            failed: BTreeSet::new(),
            goes_on: false,
        }
    }
}

impl Shard {
    /// Little is needed of these files: what this core's sessions have in them is to be moved.
    pub fn vacate(&mut self, files: &[u64], now: Now) {
        self.now = now;
        self.moves.next.extend(files);
        self.move_some();
        self.settle();
    }

    /// The copy that was asked for under `ticket` is durable, or could not be made.
    pub fn chunk_moved(&mut self, ticket: u64, copy: Option<Chunk>, now: Now) {
        self.now = now;
        if let Some((session, chunk)) = self.moves.asked.remove(&ticket) {
            match copy {
                Some(copy) => self.finish_move(session, chunk, copy),
                None => _ = self.moves.failed.insert(chunk.place()),
            }
        }
        self.move_some();
        self.settle();
    }

    fn finish_move(&mut self, key: Key, old: Chunk, copy: Chunk) {
        let (from, to) = (old.place(), copy.place());
        let session = self.sessions.get_mut(key);
        let cold = session.and_then(Session::known_cold_mut);
        if cold.is_none_or(|cold| cold.parked.relocate(from, to).is_none()) {
            // It is over meanwhile, or its session.
            return self.records.release(copy, Commit::Now);
        }
        self.review_unreadable(key);
        let Some(session) = self.sessions.get(key) else { return };
        let client_id = &*session.client_id;
        let commit = self.records.append(self.now, &Record::Moved { client_id, from, to });
        self.records.release(old, commit);
    }

    /// Has some of what is to be moved copied: no more before that is done.
    pub(super) fn move_some(&mut self) {
        self.moves.goes_on = false;
        if !self.moves.asked.is_empty() || self.records.are_full() {
            return;
        }
        if self.moves.files.is_empty() {
            self.moves.files = core::mem::take(&mut self.moves.next);
            self.moves.failed.clear();
            self.moves.hand = 0;
        }
        if self.moves.files.is_empty() {
            return;
        }
        let mut bytes = 0;
        for _ in 0..SLICE_SESSIONS {
            if self.moves.hand >= self.sessions.end() {
                self.moves.files.clear();
                break;
            }
            if let Some(key) = self.sessions.at(self.moves.hand) {
                bytes += self.copy_chunks(key, COPIED_AT_ONCE.saturating_sub(bytes));
            }
            if bytes >= COPIED_AT_ONCE {
                // The hand stays: it may have more.
                return;
            }
            self.moves.hand += 1;
        }
        // What is copied now goes on when it is.
        let is_over = self.moves.files.is_empty() && self.moves.next.is_empty();
        self.moves.goes_on = bytes == 0 && !is_over;
    }

    /// Asks for copies of about so many bytes of a session's chunks that are to be moved; how many bytes.
    fn copy_chunks(&mut self, key: Key, bytes_max: u64) -> u64 {
        let Some(cold) = self.sessions.get(key).and_then(Session::cold) else { return 0 };
        let Some(port) = self.records.cold() else { return 0 };
        let mut bytes = 0;
        let is_to_go = |chunk: &Chunk| {
            self.moves.files.contains(&chunk.file) && !self.moves.failed.contains(&chunk.place())
        };
        for chunk in cold.parked.chunks().filter(is_to_go) {
            if bytes >= bytes_max {
                break;
            }
            bytes += u64::from(chunk.bytes);
            self.next_token += 1;
            self.moves.asked.insert(self.next_token, (key, chunk));
            port.relocate(self.next_token, chunk);
        }
        bytes
    }
}
