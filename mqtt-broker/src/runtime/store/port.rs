//! The port through which a shard reaches its log.

use std::cell::RefCell;
use std::rc::Rc;

use crate::ports::{Commit, Store};
use crate::store::log::{Log, Purpose, Room};
use crate::store::record::Record;

/// Appends a shard's records to its log; what is appended in a turn is written behind it.
pub(in crate::runtime) struct LogStore(pub(super) Rc<RefCell<Log>>);

impl Store for LogStore {
    fn append(&mut self, record: &Record<'_>) -> Commit {
        Commit::At(self.0.borrow_mut().append(record.kind(), |out| record.encode(out)))
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.0.borrow_mut().room_for(bytes, Purpose::Keep) != Room::Full
    }
}
