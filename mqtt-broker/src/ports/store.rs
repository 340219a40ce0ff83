//! The port that keeps what must outlive the process.
//!
//! The shard appends records as its state changes and holds back what a record stands behind, an acknowledgement or a
//! QoS 2 packet, until [`Shard::store_committed`](crate::shard::Shard::store_committed) says that the record is safe.

use crate::store::cold::Chunk;
use crate::store::record::Record;

/// When a record is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// Nothing to wait for.
    Now,
    /// When the store has committed up to this sequence number; numbers only grow.
    At(u64),
}

/// What there is to say of a store, of one core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStatus {
    /// Bytes of the files of the log, those included that are kept for what comes.
    pub log_bytes: u64,
    /// How many there are.
    pub segments: u64,
    /// Records appended since the start.
    pub records: u64,
    /// Commits written since the start.
    pub commits: u64,
    /// Snapshots written since the start.
    pub snapshots: u64,
    /// When the last of them was complete, in monotonic milliseconds; 0 if there is none.
    pub snapshot_at: u64,
    /// Milliseconds that it took.
    pub snapshot_millis: u64,
}

/// Keeps what must outlive the process.
pub trait Store {
    /// Appends a record. The answer says what waits for it.
    ///
    /// What one call of the shard appends belongs together: it is committed as a whole, or the end of it is lost.
    fn append(&mut self, record: &Record<'_>) -> Commit;

    /// Appends a record in the same row that nobody waits for: that a message of QoS 1 was sent or acknowledged. A store
    /// may commit it with the next that somebody does wait for, if it does so soon: what is lost in a crash is sent
    /// again.
    fn append_later(&mut self, record: &Record<'_>) {
        self.append(record);
    }

    /// Whether there is room for ordinary records of so many bytes. While there is none, the shard refuses what would
    /// need one; records of what is over it appends at any time.
    fn has_room(&self, bytes: usize) -> bool {
        let _ = bytes;
        true
    }

    /// Whether there is room for records of what is over. While there is none either, whoever would wait for any record is
    /// refused: nothing tells when that could be written.
    fn has_reserve(&self) -> bool {
        true
    }

    /// Bytes of what was appended and is not on its way to the disk yet.
    fn waiting_bytes(&self) -> u64 {
        0
    }

    /// Whether what was appended needs room that is still to be made, and more than is being made. Publishers of what has to
    /// be kept wait meanwhile.
    fn is_short(&self) -> bool {
        false
    }

    /// Whether anything that is appended outlives the process. If not, what is told for that alone need not be.
    fn keeps(&self) -> bool {
        true
    }

    /// What there is to say of it, for the `$SYS` tree.
    fn status(&self) -> StoreStatus {
        StoreStatus::default()
    }

    /// Where queues of Clients that are away are kept outside memory, if there is such a place.
    fn cold(&mut self) -> Option<&mut dyn Cold> {
        None
    }
}

/// Keeps messages outside memory, in chunks. What is asked for is answered later, in any order.
pub trait Cold {
    /// Bytes of records that a chunk has, and so about what a session's Client gets into memory at once; a larger message is
    /// a chunk of its own.
    fn chunk_bytes(&self) -> usize {
        64 * 1024
    }

    /// Asks for a chunk of so many messages, whose records are these, to be made durable. The answer goes to
    /// [`Shard::chunk_parked`](crate::shard::Shard::chunk_parked).
    fn park(&mut self, ticket: u64, messages: u32, records: Vec<u8>);

    /// Asks for the messages of a chunk. The answer goes to
    /// [`Shard::chunk_loaded`](crate::shard::Shard::chunk_loaded). A chunk that cannot be read stays as it is until it is
    /// released.
    fn load(&mut self, ticket: u64, chunk: Chunk);

    /// Asks for a copy of a chunk in a place that is better for it. The answer goes to
    /// [`Shard::chunk_moved`](crate::shard::Shard::chunk_moved); nobody waits for it.
    fn relocate(&mut self, ticket: u64, chunk: Chunk);

    /// Nobody needs the chunk any more once `commit` is there: until then a start may find that it is.
    fn release(&mut self, chunk: Chunk, commit: Commit);
}

/// Keeps nothing beyond the process: every record is as safe as it will ever be.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryStore;

impl Store for MemoryStore {
    fn append(&mut self, _: &Record<'_>) -> Commit {
        Commit::Now
    }

    fn keeps(&self) -> bool {
        false
    }
}
