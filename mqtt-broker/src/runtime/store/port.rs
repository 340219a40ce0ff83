//! The port through which a shard reaches its log.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::cold::ColdPort;
use crate::ports::{Cold, Commit, Store, StoreStatus};
use crate::store::log::{Log, Purpose, Room};
use crate::store::record::Record;

/// Appends a shard's records to its log; what is appended in a turn is written behind it, unless nobody waits for it.
pub(in crate::runtime) struct LogStore {
    pub(super) log: Rc<RefCell<Log>>,
    /// The last record that somebody waits for.
    pub(super) awaited: Rc<Cell<u64>>,
    /// What there is to say of snapshots.
    pub(super) snapshots: Rc<Cell<StoreStatus>>,
    pub(super) cold: ColdPort,
}

impl LogStore {
    fn put(&self, record: &Record<'_>) -> u64 {
        self.log.borrow_mut().append(record.kind(), |out| record.encode(out))
    }
}

impl Store for LogStore {
    fn append(&mut self, record: &Record<'_>) -> Commit {
        let position = self.put(record);
        self.awaited.set(position);
        Commit::At(position)
    }

    fn append_later(&mut self, record: &Record<'_>) {
        self.put(record);
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.log.borrow_mut().room_for(bytes, Purpose::Keep) != Room::Full
    }

    fn has_reserve(&self) -> bool {
        self.log.borrow_mut().room_for(1, Purpose::CleanUp) != Room::Full
    }

    fn waiting_bytes(&self) -> u64 {
        self.log.borrow().waiting_bytes()
    }

    fn is_short(&self) -> bool {
        self.log.borrow().is_short()
    }

    fn status(&self) -> StoreStatus {
        let log = self.log.borrow();
        let (segments, log_bytes) = log.files();
        StoreStatus {
            log_bytes,
            segments,
            records: log.appended(),
            commits: log.commits(),
            ..self.snapshots.get()
        }
    }

    fn cold(&mut self) -> Option<&mut dyn Cold> {
        Some(&mut self.cold)
    }
}
