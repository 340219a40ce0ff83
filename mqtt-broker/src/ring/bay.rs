//! Bays: the io_urings of a core.
//!
//! One bay is an io_uring with its receive buffers and, once it is needed, a table of sockets. The first has the
//! listeners, the wake-ups and all sockets that are open files of the process. A table has its own limit, which is as
//! high as that of open files, so that more bays make room for more sockets than the process may have open files.

use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use io_uring::types;
use tracing::{info, warn};

use super::buffers::{BUFFERS, BUFFERS_FEW, Buffers};
use super::error::RingError;
use super::queue::{ENTERS_MAX, ENTERS_MAX_FEW, Queue, SUBMISSIONS, SUBMISSIONS_FEW, Wait};
use super::slot::{Phase, Place, Slot};
use super::{EventFd, Ring, SocketId};

/// Bays of a core: their number fits in a byte.
const BAYS_MAX: u64 = 255;

/// Sockets of a table at most. An armed operation is found by a hash of 256 places when it is cancelled, so the cost
/// of that grows with the sockets of a bay.
const TABLE_MAX: u64 = 65_536;

/// Completions of the further bays after which the rest of them waits for the next turn: whatever happens there, those
/// of the first are not kept waiting for long.
const COMPLETIONS_A_TURN: usize = 256;

/// Sockets taken out of a table at once when the ring ends.
const CLEARED_AT_ONCE: u32 = 1024;

/// How many sockets a ring keeps, and where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Sockets that are open files of the process, from which on those that stay go into tables.
    pub(super) plain: usize,
    /// Sockets of one table.
    pub(super) table: u32,
    pub(super) bays: usize,
}

impl Room {
    /// Room for open files alone.
    pub(crate) fn plain() -> Room {
        Room { plain: usize::MAX, table: 0, bays: 1 }
    }

    /// What `files` open files are enough for, in a process that may have `limit` of them: half for new sockets and
    /// those being closed, half for those that stay; a quarter of what is left for bays. The kernel has to have tables.
    pub(crate) fn with_tables(files: u64, limit: u64) -> Room {
        let plain = files / 2;
        Room {
            plain: plain as usize,
            table: limit.min(TABLE_MAX) as u32,
            bays: (1 + plain / 4).min(BAYS_MAX) as usize,
        }
    }

    /// Sockets that are open files, from which on others go into tables; `None` if none does.
    pub(crate) fn before_tables(&self) -> Option<u64> {
        (self.table > 0).then_some(self.plain as u64)
    }

    /// Sockets that stay, beyond those that are open files.
    pub(crate) fn in_tables(&self) -> u64 {
        self.bays as u64 * u64::from(self.table)
    }
}

/// The sockets of a bay's table.
struct Table {
    len: u32,
    /// Places below it were used.
    used: u32,
    free: Vec<u32>,
}

/// One io_uring.
pub(super) struct Bay {
    /// First: dropped, and with it its file closed, before the memory that the kernel writes to.
    pub(super) queue: Queue,
    pub(super) buffers: Buffers,
    table: Option<Table>,
    /// Sockets whose receive found no buffer.
    pub(super) starved: VecDeque<SocketId>,
    /// Operations whose last completion has not been reaped, of sockets and listeners.
    pub(super) in_flight: usize,
}

impl Bay {
    pub(super) fn first() -> Result<Bay, RingError> {
        Bay::new(Queue::new(SUBMISSIONS, ENTERS_MAX)?, BUFFERS)
    }

    /// A bay beside the first: `wake` is signalled when there is work in it.
    fn further(wake: &EventFd) -> Result<Bay, RingError> {
        let bay = Bay::new(Queue::new(SUBMISSIONS_FEW, ENTERS_MAX_FEW)?, BUFFERS_FEW)?;
        let submitter = bay.queue.io().submitter();
        submitter
            .register_eventfd(wake.as_raw_fd())
            .map_err(|error| RingError::Other { call: "io_uring_register (eventfd)", error })?;
        Ok(bay)
    }

    fn new(queue: Queue, buffers: u16) -> Result<Bay, RingError> {
        let buffers = Buffers::new(&queue, buffers)?;
        Ok(Bay { queue, buffers, table: None, starved: VecDeque::new(), in_flight: 0 })
    }

    fn make_table(&mut self, len: u32) -> Result<(), RingError> {
        let submitter = self.queue.io().submitter();
        let failed = |error| RingError::Other { call: "io_uring_register (files)", error };
        submitter.register_files_sparse(len).map_err(failed)?;
        // Shutting a socket's end takes a thread of the kernel: one is enough.
        submitter.register_iowq_max_workers(&mut [1, 1]).map_err(failed)?;
        self.table = Some(Table { len, used: 0, free: Vec::new() });
        Ok(())
    }

    fn has_place(&self) -> bool {
        self.table.as_ref().is_some_and(|table| !table.free.is_empty() || table.used < table.len)
    }

    /// Puts a socket into the table, which has a place, and takes it out of the process's open files.
    fn put(&mut self, socket: OwnedFd) -> Result<u32, OwnedFd> {
        let Some(table) = &mut self.table else { return Err(socket) };
        let file = table.free.last().copied().unwrap_or(table.used);
        if self.queue.io().submitter().register_files_update(file, &[socket.as_raw_fd()]).is_err() {
            return Err(socket);
        }
        if table.free.pop().is_none() {
            table.used += 1;
        }
        Ok(file)
    }

    /// Closes a socket of the table, on which nothing is armed.
    pub(super) fn close(&mut self, file: u32) {
        // Taking out what is there needs no memory: it cannot fail.
        let closed = self.queue.io().submitter().register_files_update(file, &[-1]);
        debug_assert!(closed.is_ok(), "{closed:?}");
        if let Some(table) = &mut self.table {
            table.free.push(file);
        }
    }

    /// Takes all sockets out of the table: what was queued for them and not submitted fails.
    fn clear_table(&mut self) {
        let used = self.table.as_ref().map_or(0, |table| table.used);
        for first in (0..used).step_by(CLEARED_AT_ONCE as usize) {
            let gone = [-1; CLEARED_AT_ONCE as usize];
            let count = CLEARED_AT_ONCE.min(used - first) as usize;
            let _ = self.queue.io().submitter().register_files_update(first, &gone[..count]);
        }
    }

    /// Ends every operation, before the memory goes that the kernel may still use; whether that was possible.
    pub(super) fn come_to_rest(&mut self) -> bool {
        self.clear_table();
        let mut wait = Wait::No;
        for _ in 0..64 {
            // What is queued has to be submitted before it can be cancelled.
            if self.queue.enter(wait, Duration::ZERO).is_err() {
                break;
            }
            while let Some(completion) = self.queue.pop() {
                if !io_uring::cqueue::more(completion.flags) {
                    self.in_flight -= 1;
                }
            }
            if self.in_flight == 0 {
                break;
            }
            let timeout = types::Timespec::from(Duration::from_millis(100));
            // What cannot be cancelled is about to complete: both end in a completion.
            let _ =
                self.queue.io().submitter().register_sync_cancel(Some(timeout), types::CancelBuilder::any());
            wait = Wait::For(Duration::from_millis(10));
        }
        self.in_flight == 0
    }
}

impl Ring {
    /// The socket stays on this core: [`Ring::release`] is not asked for any more. When open files become scarce it
    /// moves into a table, now or once nothing is armed on it.
    pub(crate) fn settle(&mut self, socket: SocketId) {
        if let Some(Slot { place: Place::Plain { stays, .. }, .. }) = self.slot_mut(socket) {
            *stays = true;
            self.proceed_settle(socket.index);
        }
    }

    /// Moves a socket that stays into a table if open files are scarce.
    pub(super) fn proceed_settle(&mut self, index: u32) {
        if self.plain <= self.room.plain {
            return;
        }
        let slot = &self.slots[index as usize];
        let free = slot.in_flight == 0 && !slot.starved && slot.phase == Phase::Open;
        if !free || !matches!(slot.place, Place::Plain { stays: true, .. }) {
            return;
        }
        let Some(bay) = self.bay_with_place() else { return };
        let slot = &mut self.slots[index as usize];
        let Place::Plain { descriptor, stays } = std::mem::take(&mut slot.place) else { return };
        slot.place = match self.bays[usize::from(bay)].put(descriptor) {
            Ok(file) => {
                self.plain -= 1;
                Place::Table { bay, file }
            }
            Err(descriptor) => Place::Plain { descriptor, stays },
        };
    }

    /// A bay with a free place in its table; makes it if need be. After one that could not be made none is tried any
    /// more: sockets stay open files.
    fn bay_with_place(&mut self) -> Option<u8> {
        while self.filling < self.bays.len() && !self.bays[self.filling].has_place() {
            if self.bays[self.filling].table.is_none()
                && !self.tables_refused
                && self.make_table(self.filling)
            {
                break;
            }
            self.filling += 1;
        }
        if self.filling == self.bays.len() {
            if self.bays.len() >= self.room.bays || self.tables_refused {
                return None;
            }
            match Bay::further(&self.wake) {
                Ok(bay) => self.bays.push(ManuallyDrop::new(bay)),
                Err(error) => {
                    self.refuse_tables(&error);
                    return None;
                }
            }
            if !self.make_table(self.filling) {
                return None;
            }
        }
        Some(self.filling as u8)
    }

    fn make_table(&mut self, bay: usize) -> bool {
        match self.bays[bay].make_table(self.room.table) {
            Ok(()) => {
                info!(bay, sockets = self.room.table, "open files are scarce: connections move into a table");
                true
            }
            Err(error) => {
                self.refuse_tables(&error);
                false
            }
        }
    }

    fn refuse_tables(&mut self, error: &RingError) {
        warn!(%error, "no further table for connections can be made: they need open files, raise LimitNOFILE");
        self.tables_refused = true;
    }

    /// Whether another bay than the first is there to be looked at.
    pub(super) fn has_further_bays(&self) -> bool {
        self.bays.len() > 1
    }

    /// Whether a further bay has completions or would make some.
    pub(super) fn further_has_work(&mut self) -> bool {
        self.bays[1..].iter_mut().any(|bay| bay.queue.has_completions() || bay.queue.has_work())
    }

    /// Submits what is queued in the further bays and runs their deferred work, where there is any, until there are
    /// enough completions. Goes on next time where it has stopped.
    pub(super) fn enter_further(&mut self) -> std::io::Result<()> {
        let mut completions = 0;
        for _ in 1..self.bays.len() {
            self.last_further =
                if self.last_further + 1 < self.bays.len() { self.last_further + 1 } else { 1 };
            let queue = &mut self.bays[self.last_further].queue;
            if queue.has_work() {
                queue.enter(Wait::No, Duration::ZERO)?;
                completions += queue.completions();
                if completions >= COMPLETIONS_A_TURN {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Whether new work in the further bays wakes the first.
    pub(super) fn set_signals(&mut self, signals: bool) {
        for bay in &mut self.bays[1..] {
            bay.queue.set_signals(signals);
        }
    }
}
