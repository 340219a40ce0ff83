//! What all cores of a broker and its handle share: doorbells, lanes, inboxes, and whether the broker still lives.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crossbeam::queue::SegQueue;

use super::lane::{Doorbell, Ended, Lane, Wake};
use super::local::{Pipe, PipeEnd};
use super::store::Done;
use crate::config::CoreId;
use crate::ports::Reply;
use crate::ring::EventFd;
use crate::shard::{EnvelopeBatch, Handed, Stats};
use crate::transport::Transport;

/// Items that a lane holds, no more than a core takes from it in a turn; the shard bounds their bytes (`lane_bytes_max`).
const LANE_SLOTS: usize = super::core::ITEMS_A_TURN;

/// What travels from core to core.
pub(super) enum LaneItem {
    /// The envelopes of one turn.
    Envelopes(EnvelopeBatch),
    /// A connection whose session is at home at the receiver.
    Moved(Box<Moved>),
}

/// A connection between two cores: nothing is armed on it.
pub(super) struct Moved {
    pub(super) handed: Box<Handed>,
    pub(super) peer: MovedPeer,
}

/// The far end of a moved connection.
pub(super) enum MovedPeer {
    Socket(OwnedFd, Transport),
    Local(PipeEnd),
}

/// What other threads ask of a core. Their number is bounded by those who ask: one question a ticket, one command at
/// a time a handle or in-process client.
pub(super) enum Command {
    /// Accept connections from these sockets, one a listener, in order.
    Listen(Vec<(TcpListener, usize)>),
    /// End gracefully.
    Shutdown,
    /// Tell the counters.
    Stats(Sender<(CoreId, Stats)>),
    /// What a port says after it was asked.
    Reply(Reply),
    /// A new client inside the process.
    Open(PipeEnd),
    /// A client inside the process has written, taken or closed.
    Look(Arc<Pipe>),
    /// The thread of the store has done what this core asked for.
    Store(Done),
}

/// The outside of one core.
pub(super) struct CorePort {
    pub(super) bell: Doorbell<Arc<EventFd>>,
    pub(super) inbox: SegQueue<Command>,
    /// Lanes to this core, by the index of the sender.
    pub(super) lanes: Vec<Lane<LaneItem>>,
    /// Whether it takes no more items and commands.
    ended: Ended,
}

impl Wake for Arc<EventFd> {
    fn wake(&self) {
        self.signal();
    }
}

impl CorePort {
    /// Puts an item into the lane from core `from`, its only sender, which has looked for room. A core that has ended
    /// takes nothing.
    pub(super) fn send(&self, from: CoreId, item: LaneItem) {
        let lane = &self.lanes[from.index()];
        let pushed = lane.push(item).is_ok();
        debug_assert!(pushed, "one sender a lane, and it looked for room");
        self.ended.check(|| {
            lane.clear();
        });
    }

    /// Gives the core a command. One that comes too late is dropped, and whoever waits for its answer learns that.
    pub(super) fn command(&self, command: Command) {
        self.inbox.push(command);
        self.bell.ring();
        self.ended.check(|| while self.inbox.pop().is_some() {});
    }
}

/// Why a broker that had started has ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// A core panicked: a bug, of the broker or of a port.
    #[error("core {core} panicked: {message}")]
    Panicked {
        /// Which.
        core: CoreId,
        /// What the panic said.
        message: String,
    },
    /// A core's log could not be written: what the disk holds is not known, so nothing can be acknowledged any more.
    #[error("the store of core {core} failed: {message}")]
    Store {
        /// Which.
        core: CoreId,
        /// What the system said, of which file.
        message: String,
    },
    /// A core's io_uring failed.
    #[error("the io_uring of core {core} failed: {message}")]
    Ring {
        /// Which.
        core: CoreId,
        /// What the kernel said.
        message: String,
    },
}

#[derive(Default)]
struct Life {
    running: usize,
    failure: Option<BrokerError>,
    /// Cores of which all others know what they were restored with, and that know it of all others.
    settled: usize,
}

/// The outside of all cores.
pub(super) struct Shared {
    pub(super) cores: Vec<CorePort>,
    /// Counts the clients inside the process.
    pub(super) locals: AtomicUsize,
    /// A core has failed: all stop at once.
    failed: AtomicBool,
    life: Mutex<Life>,
    changed: Condvar,
}

impl Shared {
    pub(super) fn new(cores: usize) -> std::io::Result<Arc<Shared>> {
        let port = || {
            Ok(CorePort {
                bell: Doorbell::new(Arc::new(EventFd::new()?)),
                inbox: SegQueue::new(),
                lanes: (0..cores).map(|_| Lane::new(LANE_SLOTS)).collect(),
                ended: Ended::new(),
            })
        };
        let cores = (0..cores).map(|_| port()).collect::<std::io::Result<Vec<_>>>()?;
        let life = Mutex::new(Life { running: cores.len(), ..Life::default() });
        Ok(Arc::new(Shared {
            cores,
            locals: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            life,
            changed: Condvar::new(),
        }))
    }

    pub(super) fn core(&self, core: CoreId) -> &CorePort {
        &self.cores[core.index()]
    }

    /// Asks every core to end gracefully.
    pub(super) fn shut_down(&self) {
        for core in &self.cores {
            core.command(Command::Shutdown);
        }
    }

    /// Whether a core has failed, so that no other may send anything any more.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Stops all cores at once.
    pub(super) fn fail(&self, error: Option<BrokerError>) {
        if let Some(error) = error {
            self.life().failure.get_or_insert(error);
        }
        self.failed.store(true, Ordering::Release);
        for core in &self.cores {
            core.bell.ring();
        }
    }

    /// A core and all others know of each other what they were restored with.
    pub(super) fn core_settled(&self) {
        self.life().settled += 1;
        self.changed.notify_all();
    }

    /// Waits until every core knows what all others were restored with, or one has failed: then false.
    pub(super) fn wait_settled(&self) -> bool {
        let mut life = self.life();
        while life.settled < self.cores.len() && life.running == self.cores.len() {
            life = self.changed.wait(life).unwrap_or_else(PoisonError::into_inner);
        }
        life.settled == self.cores.len()
    }

    /// A core has ended: commands to it are dropped from now on.
    pub(super) fn core_ended(&self, core: CoreId) {
        let port = self.core(core);
        port.ended.end(|| {
            while port.inbox.pop().is_some() {}
            for (lane, from) in port.lanes.iter().zip(&self.cores) {
                if lane.clear() {
                    from.bell.ring();
                }
            }
        });
        self.life().running -= 1;
        self.changed.notify_all();
    }

    /// Waits until every core has ended.
    pub(super) fn wait(&self) -> Result<(), BrokerError> {
        let mut life = self.life();
        while life.running > 0 {
            life = self.changed.wait(life).unwrap_or_else(PoisonError::into_inner);
        }
        life.failure.clone().map_or(Ok(()), Err)
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
