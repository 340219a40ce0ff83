//! The port through which a shard reaches its log.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::ports::{Commit, Store};
use crate::store::log::{Log, Purpose, Room};
use crate::store::record::Record;

/// Appends a shard's records to its log; what is appended in a turn is written behind it.
#[derive(Clone)]
pub(in crate::runtime) struct LogStore {
    pub(super) log: Rc<RefCell<Log>>,
    /// The last record that something may wait for.
    pub(super) wanted: Rc<Cell<u64>>,
}

impl Store for LogStore {
    fn append(&mut self, record: &Record<'_>) -> Commit {
        let position = self.log.borrow_mut().append(record.kind(), |out| record.encode(out));
        self.wanted.set(position);
        Commit::At(position)
    }

    fn append_lazily(&mut self, record: &Record<'_>) {
        self.log.borrow_mut().append(record.kind(), |out| record.encode(out));
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.log.borrow_mut().room_for(bytes, Purpose::Keep) != Room::Full
    }
}
