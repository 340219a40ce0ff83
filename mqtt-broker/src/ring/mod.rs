//! Sockets on an io_uring of our own: the only unsafe code of the broker.
//!
//! A [`Ring`] belongs to one core and stays on its thread. It accepts, receives into buffers that all its sockets
//! share, sends, hands sockets over and closes them so that the peer gets the last bytes. It never blocks but in
//! [`Ring::enter`], knows nothing of MQTT, and reads no clock: deadlines are told by [`Ring::poll_timeout`] and
//! kept by [`Ring::handle_timeout`].
//!
//! ```text
//! loop {
//!     ring.enter(wait)
//!     ring.handle_timeout(now)
//!     while let Some(event) = ring.poll_event() { .. }
//! }
//! ```
//!
//! It also writes to files, one write at a time, of pages that are its own until they are given back.
//!
//! Invariants: a slot is reused only after the last completion of all its operations; bytes being sent stay where
//! they are until their completion; a socket leaves or closes only with nothing armed on it, because an armed
//! operation keeps the socket open and no FIN would leave. All operations of a socket are in one bay.

mod accept;
mod bay;
mod buffers;
mod close;
mod error;
mod park;
mod probe;
mod queue;
mod receive;
mod send;
mod slot;
mod sys;
#[cfg(test)]
mod tests;
mod write;

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use io_uring::{opcode, types};
use socket2::SockRef;

use self::accept::Listener;
use self::bay::Bay;
use self::park::Watch;
use self::queue::Completion;
use self::slot::{Operation, Outgoing, Phase, Place, Slot, Token};
use self::write::Writing;
use crate::chunks::Chunks;
use crate::store::log::Buffer;

pub(crate) use self::bay::Room;
pub use self::error::RingError;
pub(crate) use self::probe::has_tables;
pub(crate) use self::queue::Wait;
pub(crate) use self::slot::SocketId;
pub(crate) use self::sys::{
    EventFd, allowed_cpus, monotonic_millis, raise_file_limit, raise_locked_memory_limit, random_words,
};

/// Spare places for what is being sent.
const SPARES_MAX: usize = 1024;

/// What has happened on a socket. Bytes are lent until the next call of [`Ring::poll_event`].
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// A peer has connected through the listener with this index.
    Accepted {
        /// In the order of [`Ring::listen`].
        listener: usize,
        /// The new socket; nothing is armed on it.
        socket: SocketId,
    },
    /// Bytes have arrived.
    Received {
        /// Where.
        socket: SocketId,
        /// What, at least one byte.
        bytes: &'a [u8],
    },
    /// The peer has ended its side, or the connection is broken. Comes once; the socket is still to be closed.
    Ended {
        /// Which.
        socket: SocketId,
        /// `None`: the peer's orderly end.
        error: Option<io::ErrorKind>,
    },
    /// A buffer given to [`Ring::send`] or [`Ring::close`] has left whole, or never will.
    Sent {
        /// Where; maybe closed meanwhile.
        socket: SocketId,
        /// The buffer, for its owner to use again.
        buffer: Vec<u8>,
    },
    /// A socket given to [`Ring::release`] is free of the ring; `None` if it could not be freed in time.
    Released {
        /// Which.
        socket: SocketId,
        /// The socket.
        descriptor: Option<OwnedFd>,
    },
    /// The write that [`Ring::write`] began is over.
    Written {
        /// What was to be written.
        pages: Buffer,
        /// Bytes of it that were, or why none was.
        result: io::Result<usize>,
    },
}

/// An event that lends nothing.
#[derive(Debug)]
enum Step {
    Accepted { listener: usize, socket: SocketId },
    Received { socket: SocketId, bay: u8, buffer: u16, len: usize },
    Ended { socket: SocketId, error: Option<io::ErrorKind> },
    Sent { socket: SocketId, buffer: Vec<u8> },
    Released { socket: SocketId, descriptor: Option<OwnedFd> },
    Written { pages: Buffer, result: io::Result<usize> },
}

/// The sockets of one core.
pub(crate) struct Ring {
    /// The first has the listeners, the wake-ups and the sockets that are open files.
    bays: Vec<ManuallyDrop<Bay>>,
    /// The bay whose completions are being reaped.
    reaping: usize,
    /// The further bay that was entered last.
    last_further: usize,
    room: Room,
    /// Sockets that are open files.
    plain: usize,
    /// No bay before it has a free place in its table.
    filling: usize,
    /// No further table could be made.
    tables_refused: bool,
    /// Where the kernel puts the counter of the eventfd.
    wake_word: ManuallyDrop<Box<UnsafeCell<u64>>>,
    wake: Arc<EventFd>,
    slots: Chunks<Slot>,
    free: Vec<u32>,
    listeners: Vec<Listener>,
    accepting: bool,
    watch: Watch,
    /// When closing and releasing sockets are given up: all have the same time, so the front is the next one.
    deadlines: VecDeque<(u64, SocketId)>,
    /// Milliseconds that a closing or leaving socket has.
    patience: u64,
    /// Events found while doing something else.
    steps: VecDeque<Step>,
    /// The buffer whose bytes the last event lent, and its bay.
    lent: Option<(u8, u16)>,
    /// Kept for sends to come; at most [`SPARES_MAX`].
    #[expect(clippy::vec_box, reason = "they move between here and the slots, as they are")]
    spares: Vec<Box<Outgoing>>,
    /// The write to a file that is under way.
    writing: Option<Writing>,
    /// Why the ring cannot go on.
    failed: Option<io::Error>,
}

impl Ring {
    /// A ring that `wake` wakes from any thread, whose closing sockets have `patience` milliseconds, with `room` for
    /// sockets.
    ///
    /// # Errors
    /// One sentence with the remedy: see [`RingError`].
    pub(crate) fn new(wake: Arc<EventFd>, patience: u64, room: Room) -> Result<Ring, RingError> {
        let mut ring = Ring {
            bays: vec![ManuallyDrop::new(Bay::first()?)],
            reaping: 0,
            last_further: 0,
            room,
            plain: 0,
            filling: 0,
            tables_refused: false,
            wake_word: ManuallyDrop::new(Box::new(UnsafeCell::new(0))),
            wake,
            slots: Chunks::default(),
            free: Vec::new(),
            listeners: Vec::new(),
            accepting: true,
            watch: Watch::new(),
            deadlines: VecDeque::new(),
            patience,
            steps: VecDeque::new(),
            lent: None,
            spares: Vec::new(),
            writing: None,
            failed: None,
        };
        ring.arm_wake();
        Ok(ring)
    }

    /// Submits what was asked for, waits as told and collects completions; where it waits, for several of them if they
    /// come within `gather`.
    ///
    /// # Errors
    /// The ring is broken and the core cannot go on.
    pub(crate) fn enter(&mut self, wait: Wait, gather: Duration) -> io::Result<()> {
        let wait = if self.has_events() { Wait::No } else { wait };
        self.take_back();
        self.serve_starved();
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.reaping = 0;
        if !self.has_further_bays() {
            return self.bays[0].queue.enter(wait, gather);
        }
        // New work in a further bay ends the wait in the first one by the eventfd; what came before is seen here.
        let mut wait = wait;
        if wait != Wait::No {
            self.set_signals(true);
            fence(Ordering::SeqCst);
            if self.further_has_work() {
                wait = Wait::No;
            }
        }
        self.bays[0].queue.enter(wait, gather)?;
        self.set_signals(false);
        self.enter_further()
    }

    /// Whether [`Ring::poll_event`] may have something without another [`Ring::enter`].
    pub(crate) fn has_events(&mut self) -> bool {
        !self.steps.is_empty() || self.bays.iter_mut().any(|bay| bay.queue.has_completions())
    }

    /// The next event.
    pub(crate) fn poll_event(&mut self) -> Option<Event<'_>> {
        self.take_back();
        let step = loop {
            if let Some(step) = self.steps.pop_front() {
                break step;
            }
            let Some(completion) = self.bays.get_mut(self.reaping)?.queue.pop() else {
                self.reaping += 1;
                continue;
            };
            if let Some(step) = self.handle_completion(self.reaping as u8, completion) {
                break step;
            }
        };
        Some(match step {
            Step::Accepted { listener, socket } => Event::Accepted { listener, socket },
            Step::Received { socket, bay, buffer, len } => {
                self.lent = Some((bay, buffer));
                Event::Received { socket, bytes: self.bays[usize::from(bay)].buffers.bytes(buffer, len) }
            }
            Step::Ended { socket, error } => Event::Ended { socket, error },
            Step::Sent { socket, buffer } => Event::Sent { socket, buffer },
            Step::Released { socket, descriptor } => Event::Released { socket, descriptor },
            Step::Written { pages, result } => Event::Written { pages, result },
        })
    }

    /// When [`Ring::handle_timeout`] is due, in monotonic milliseconds.
    pub(crate) fn poll_timeout(&mut self) -> Option<u64> {
        while let Some(&(_, socket)) = self.deadlines.front() {
            if self.slot(socket).is_some() {
                break;
            }
            self.deadlines.pop_front();
        }
        let closing = self.deadlines.front().map(|&(at, _)| at);
        self.accept_timeout().into_iter().chain(closing).chain(self.watch.timeout()).min()
    }

    /// Gives up closing sockets that are due, accepts again after a pause, parks sockets that are silent. Also how the
    /// ring learns the time: to be called before the events of an enter are polled.
    pub(crate) fn handle_timeout(&mut self, now: u64) {
        self.resume_accept(now);
        self.park_silent(now);
        while let Some(&(at, socket)) = self.deadlines.front() {
            if at > now {
                break;
            }
            self.deadlines.pop_front();
            self.give_up(socket);
        }
    }

    /// Takes a socket on. Nothing is armed on it.
    pub(crate) fn adopt(&mut self, socket: OwnedFd) -> SocketId {
        let heat = self.watch.heat_of_new(self.sockets());
        let index = self.free.pop().unwrap_or_else(|| self.slots.push(Slot::default()) as u32);
        let slot = &mut self.slots[index as usize];
        debug_assert!(slot.phase == Phase::Free && slot.in_flight == 0);
        let generation = slot.generation.wrapping_add(1);
        let place = Place::Plain { descriptor: socket, stays: false };
        *slot = Slot { place, generation, phase: Phase::Open, heat, ..Slot::default() };
        self.plain += 1;
        SocketId { index, generation }
    }

    /// Sockets that are not closed yet.
    pub(crate) fn sockets(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The address of the peer and our own, of a socket that this listener has accepted.
    pub(crate) fn addresses(
        &self,
        listener: usize,
        socket: SocketId,
    ) -> (Option<SocketAddr>, Option<SocketAddr>) {
        let Some(descriptor) = self.slot(socket).and_then(Slot::descriptor) else {
            return (None, None);
        };
        let socket = SockRef::from(descriptor);
        let address = |found: io::Result<socket2::SockAddr>| found.ok().and_then(|found| found.as_socket());
        let local = self.listeners[listener].address.or_else(|| address(socket.local_addr()));
        (address(socket.peer_addr()), local)
    }

    fn slot(&self, socket: SocketId) -> Option<&Slot> {
        let slot = self.slots.get(socket.index as usize)?;
        (slot.generation == socket.generation && slot.phase != Phase::Free).then_some(slot)
    }

    fn slot_mut(&mut self, socket: SocketId) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(socket.index as usize)?;
        (slot.generation == socket.generation && slot.phase != Phase::Free).then_some(slot)
    }

    /// Makes a slot ready for the next socket. What its last use kept armed is over. A socket of a table is closed.
    fn free(&mut self, index: u32) -> Option<OwnedFd> {
        let slot = &mut self.slots[index as usize];
        debug_assert_eq!(slot.in_flight, 0, "reused only after the last completion");
        debug_assert!(!slot.sending && slot.armed == slot::Armed::Nothing);
        let Slot { place, .. } =
            std::mem::replace(slot, Slot { generation: slot.generation, ..Slot::default() });
        self.free.push(index);
        match place {
            Place::Nowhere => None,
            Place::Plain { descriptor, .. } => {
                self.plain -= 1;
                Some(descriptor)
            }
            Place::Table { bay, file } => {
                self.bays[usize::from(bay)].close(file);
                self.filling = self.filling.min(usize::from(bay));
                None
            }
        }
    }

    /// Gives the buffer of the last event back to the kernel.
    fn take_back(&mut self) {
        if let Some((bay, buffer)) = self.lent.take() {
            self.bays[usize::from(bay)].buffers.give_back(buffer);
        }
    }

    /// Arms the read of the eventfd that wakes this ring.
    fn arm_wake(&mut self) {
        let word = self.wake_word.get().cast::<u8>();
        let read = opcode::Read::new(types::Fd(self.wake.as_raw_fd()), word, size_of::<u64>() as u32).build();
        let token = Token::new(Operation::Wake, 0, 0);
        // The word is ours until `Ring::drop` has cancelled the read, or is leaked; nobody else touches it.
        self.submit(0, read, token);
    }

    /// Queues an operation. A ring that cannot take it is broken, which the next [`Ring::enter`] reports.
    ///
    /// Callers give only entries whose memory is a slot's `outgoing` (untouched while `sending`), the pages of `writing`,
    /// the buffer ring, the wake word or a static: all live until the last completion, see [`Ring::drop`].
    fn submit(&mut self, bay: u8, entry: io_uring::squeue::Entry, token: Token) -> bool {
        let entry = entry.user_data(token.encode());
        let bay = &mut self.bays[usize::from(bay)];
        // SAFETY: by the rule above, which the callers in this module keep; `drop` waits for what is in flight or
        // leaks all of it.
        match unsafe { bay.queue.push(&entry) } {
            Ok(()) => {
                bay.in_flight += 1;
                true
            }
            Err(error) => {
                self.failed.get_or_insert(error);
                false
            }
        }
    }

    fn handle_completion(&mut self, bay: u8, completion: Completion) -> Option<Step> {
        let token = Token::decode(completion.user_data).expect("user data are made from tokens only");
        if !io_uring::cqueue::more(completion.flags) {
            self.bays[usize::from(bay)].in_flight -= 1;
        }
        match token.operation {
            Operation::Wake => {
                if completion.result < 0 && !retry(completion.result) {
                    self.failed = Some(io::Error::from_raw_os_error(-completion.result));
                } else {
                    self.arm_wake();
                }
                None
            }
            Operation::Accept => self.handle_accept(token.index as usize, completion),
            Operation::CancelAccept => {
                self.handle_cancel_accept(token.index as usize, completion.result);
                None
            }
            Operation::Receive => self.handle_receive(bay, token, completion),
            Operation::Poll => {
                self.handle_poll(token, completion.result);
                None
            }
            Operation::Send => self.handle_send(token, completion.result),
            Operation::Write => Some(self.handle_write(completion.result)),
            Operation::CancelReceive | Operation::CancelSend => {
                self.handle_cancel(token, completion.result);
                None
            }
            // Whether it worked, the receives say.
            Operation::Shut | Operation::Linger => {
                self.slots[token.index as usize].in_flight -= 1;
                self.proceed(token.index);
                None
            }
        }
    }

    /// Does what the phase of a socket asks for now that something about it has changed.
    fn proceed(&mut self, index: u32) {
        match self.slots[index as usize].phase {
            Phase::Free => {}
            Phase::Open => self.rearm(index),
            Phase::Releasing => self.proceed_release(index),
            Phase::Closing | Phase::Shut => self.proceed_close(index),
            Phase::Aborting => self.proceed_abort(index),
        }
    }
}

/// Whether an operation that ended so is simply done again.
fn retry(result: i32) -> bool {
    matches!(-result, libc::EINTR | libc::EAGAIN)
}

impl Drop for Ring {
    /// Cuts every connection, so that nothing that was only queued leaves any more, and ends every operation before
    /// the memory goes that the kernel may still use.
    fn drop(&mut self) {
        for descriptor in self.slots.iter().filter_map(Slot::descriptor) {
            let _ = SockRef::from(descriptor).shutdown(std::net::Shutdown::Both);
        }
        let mut rests = true;
        for bay in &mut self.bays {
            rests &= bay.come_to_rest();
        }
        if !rests {
            // Better leaked than written to after it was freed.
            let operations: usize = self.bays.iter().map(|bay| bay.in_flight).sum();
            tracing::error!(operations, "the ring did not come to rest; its memory is kept");
            std::mem::forget(std::mem::take(&mut self.slots));
            std::mem::forget(self.writing.take());
            return;
        }
        // SAFETY: dropped once, here, and not used afterwards.
        unsafe {
            self.bays.iter_mut().for_each(|bay| ManuallyDrop::drop(bay));
            ManuallyDrop::drop(&mut self.wake_word);
        }
    }
}
