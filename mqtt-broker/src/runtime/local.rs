//! The connection of a client inside the process: two queues instead of a socket.
//!
//! The broker's side gives the client one buffer at a time, as it does with a socket, and gets it back when the client
//! has taken it; the client's side stops when its queue is full. So both directions are bounded and nobody waits for
//! a lock. Lives on: the thread of the client and the core of its connection, which may change once.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;
use crossbeam::sync::Unparker;

use super::lane::Lane;
use crate::config::CoreId;
use crate::shard::ConnectionId;

/// Pieces of input that the client may be ahead of its core.
const INPUT_PIECES: usize = 64;

/// Pieces under way to the client: the one outstanding, and the last one.
const OUTPUT_PIECES: usize = 2;

/// No connection.
const NONE: u64 = u64::MAX;

/// The broker's end. Wherever it is dropped, the client learns that the connection has ended.
#[derive(Debug)]
pub(super) struct PipeEnd(Arc<Pipe>);

impl PipeEnd {
    pub(super) fn new(pipe: Arc<Pipe>) -> PipeEnd {
        PipeEnd(pipe)
    }
}

impl Deref for PipeEnd {
    type Target = Arc<Pipe>;

    fn deref(&self) -> &Arc<Pipe> {
        &self.0
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        self.0.close(Vec::new());
    }
}

/// Both ends hold it.
#[derive(Debug)]
pub(super) struct Pipe {
    input: Lane<Vec<u8>>,
    output: ArrayQueue<Vec<u8>>,
    taken: ArrayQueue<Vec<u8>>,
    /// The core that has the connection, or is about to get it.
    core: AtomicU16,
    /// The connection on that core.
    connection: AtomicU64,
    /// The core was told to look and has not begun to.
    announced: AtomicBool,
    /// The client has gone; nothing follows in `input`.
    client_gone: AtomicBool,
    /// The broker has closed; nothing follows in `output`.
    broker_gone: AtomicBool,
    client: Unparker,
}

impl Pipe {
    /// A pipe from the client that `client` wakes to core `core`.
    pub(super) fn new(core: CoreId, client: Unparker) -> Pipe {
        Pipe {
            input: Lane::new(INPUT_PIECES),
            output: ArrayQueue::new(OUTPUT_PIECES),
            taken: ArrayQueue::new(OUTPUT_PIECES),
            core: AtomicU16::new(core.0),
            connection: AtomicU64::new(NONE),
            announced: AtomicBool::new(false),
            client_gone: AtomicBool::new(false),
            broker_gone: AtomicBool::new(false),
            client,
        }
    }

    /// The core to be told to look.
    pub(super) fn core(&self) -> CoreId {
        CoreId(self.core.load(Ordering::Acquire))
    }

    // The client's end.

    /// Gives the broker a piece of input, or gives it back when the broker is too far behind: then the client is woken
    /// once there is room.
    pub(super) fn write(&self, piece: Vec<u8>) -> Result<(), Vec<u8>> {
        if self.input.has_room() { self.input.push(piece) } else { Err(piece) }
    }

    /// Takes a piece of output; give it back with [`Pipe::give_back`].
    pub(super) fn read(&self) -> Option<Vec<u8>> {
        self.output.pop()
    }

    pub(super) fn give_back(&self, piece: Vec<u8>) {
        // There is room: the broker sends no more than that before it gets one back.
        let _ = self.taken.push(piece);
    }

    pub(super) fn leave(&self) {
        self.client_gone.store(true, Ordering::Release);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.broker_gone.load(Ordering::Acquire)
    }

    /// After a change: whether the core has to be told. Otherwise it was told before and has not looked yet.
    pub(super) fn announce(&self) -> bool {
        !self.announced.swap(true, Ordering::AcqRel)
    }

    // The core's end.

    /// The core begins to look: changes from now on are announced again.
    pub(super) fn begin_look(&self) {
        self.announced.swap(false, Ordering::AcqRel);
    }

    /// The connection, on the core that has it.
    pub(super) fn connection(&self) -> Option<ConnectionId> {
        let packed = self.connection.load(Ordering::Relaxed);
        (packed != NONE).then_some(ConnectionId { index: packed as u32, generation: (packed >> 32) as u32 })
    }

    /// This core has the connection.
    pub(super) fn attach(&self, id: ConnectionId) {
        self.connection.store(u64::from(id.generation) << 32 | u64::from(id.index), Ordering::Relaxed);
    }

    /// This core no longer has the connection; `to` gets it.
    pub(super) fn move_to(&self, to: CoreId) {
        self.connection.store(NONE, Ordering::Relaxed);
        self.core.store(to.0, Ordering::Release);
    }

    pub(super) fn client_has_left(&self) -> bool {
        self.client_gone.load(Ordering::Acquire)
    }

    /// The next piece of input. The client may write again.
    pub(super) fn take_input(&self) -> Option<Vec<u8>> {
        let piece = self.input.pop();
        if self.input.room_was_wanted() {
            self.client.unpark();
        }
        piece
    }

    /// A buffer that the client has taken.
    pub(super) fn take_back(&self) -> Option<Vec<u8>> {
        self.taken.pop()
    }

    pub(super) fn transmit(&self, buffer: Vec<u8>) {
        let pushed = self.output.push(buffer);
        debug_assert!(pushed.is_ok(), "one buffer outstanding at most, and the last");
        self.client.unpark();
    }

    pub(super) fn close(&self, last: Vec<u8>) {
        if !last.is_empty() {
            self.transmit(last);
        }
        self.connection.store(NONE, Ordering::Relaxed);
        self.broker_gone.store(true, Ordering::Release);
        self.client.unpark();
    }
}
