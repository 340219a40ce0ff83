//! The port through which a shard reaches its log.

use std::cell::RefCell;
use std::rc::Rc;

use super::cold::ColdPort;
use crate::ports::{Cold, Commit, Store};
use crate::store::log::{Log, Purpose, Room};
use crate::store::record::Record;

/// Appends a shard's records to its log; what is appended in a turn is written behind it.
pub(in crate::runtime) struct LogStore {
    pub(super) log: Rc<RefCell<Log>>,
    pub(super) cold: ColdPort,
}

impl Store for LogStore {
    fn append(&mut self, record: &Record<'_>) -> Commit {
        Commit::At(self.log.borrow_mut().append(record.kind(), |out| record.encode(out)))
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.log.borrow_mut().room_for(bytes, Purpose::Keep) != Room::Full
    }

    fn cold(&mut self) -> Option<&mut dyn Cold> {
        Some(&mut self.cold)
    }
}
