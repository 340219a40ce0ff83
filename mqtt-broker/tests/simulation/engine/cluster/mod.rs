//! A broker of many cores with its disks, for runs in which it is killed and started again.
//!
//! [`Cluster`] is what there is of it, [`Drive`] moves it and its Clients on, and a [`Peer`] is a Client's side of a session:
//! what it has to send again, and what it takes once. What Clients want, and what they are owed, is told by each kind of run.

mod cold;
mod disk;
mod drive;
mod peer;
mod start;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use mqtt_broker::config::Limits;
use mqtt_broker::shard::{EnvelopeBatch, Handed, Now, Shard};

use super::Violation;
use super::random::Random;

pub(crate) use disk::{Handle, Left};
pub(crate) use drive::{Drive, Rest};
pub(crate) use peer::{Flow, Link, Message, Peer, Phase};
pub(crate) use start::{HASH_KEY, begin, home, start};

pub(crate) type Check<T = ()> = Result<T, Violation>;

/// Bytes of a chunk, where nothing else is said.
const CHUNK_BYTES: usize = 64 << 10;

pub(crate) fn violation<T>(rule: &'static str, text: String) -> Check<T> {
    Err(Violation { rule, text })
}

/// The broker: its cores, the lanes between them, their disks and time.
pub(crate) struct Cluster {
    /// Chance within whatever is done at the moment.
    pub(crate) random: Random,
    pub(crate) prints: bool,
    pub(crate) now: Now,
    pub(crate) limits: Arc<Limits>,
    pub(crate) shards: Vec<Shard>,
    pub(crate) disks: Vec<Handle>,
    chunks: Rc<RefCell<cold::Chunks>>,
    /// By sender and receiver.
    pub(crate) lanes: Vec<VecDeque<EnvelopeBatch>>,
    /// Connections on their way to another core, with the number of the hand-over.
    moving: Vec<(u64, usize, usize, Box<Handed>)>,
    handovers: u64,
    /// A core whose writes are not done, or which is dead.
    pub(crate) held: Option<usize>,
    pub(crate) is_dying: bool,
    /// How often it was killed.
    pub(crate) crashes: u64,
    /// Segments that the log of a core may have.
    segments_max: u32,
    /// Counts the starts that began on files of their own.
    stores: u8,
}

impl Cluster {
    /// One that is yet to be started.
    pub(crate) fn new(random: Random, limits: Limits, segments_max: u32, prints: bool) -> Cluster {
        limits.check().expect("limits in their ranges");
        Cluster {
            random,
            prints,
            now: Now { millis: 1_000, wall_millis: 1_700_000_000_000 },
            limits: Arc::new(limits),
            shards: Vec::new(),
            disks: Vec::new(),
            chunks: Rc::new(RefCell::new(cold::Chunks::new(CHUNK_BYTES))),
            lanes: Vec::new(),
            moving: Vec::new(),
            handovers: 0,
            held: None,
            is_dying: false,
            crashes: 0,
            segments_max,
            stores: 0,
        }
    }

    /// The same, with chunks of so many bytes.
    pub(crate) fn with_chunks(self, chunk_bytes: usize) -> Cluster {
        Cluster { chunks: Rc::new(RefCell::new(cold::Chunks::new(chunk_bytes))), ..self }
    }

    pub(crate) fn say(&self, what: impl FnOnce() -> String) {
        if self.prints {
            println!("{:>8}  {}", self.now.millis, what());
        }
    }

    pub(crate) fn cores(&self) -> u16 {
        self.shards.len() as u16
    }

    /// Whether it is time for this core to do something of its own accord.
    fn is_due(&self, core: usize) -> bool {
        self.shards[core].poll_timeout().is_some_and(|at| at <= self.now.millis)
    }

    /// Whether this core does nothing any more.
    fn is_dead(&self, core: usize) -> bool {
        self.is_dying && self.held == Some(core)
    }
}
