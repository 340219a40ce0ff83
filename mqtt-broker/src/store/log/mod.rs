//! The append log of one core, and snapshots that stand for its beginning.
//!
//! A log is a row of segments, files of fixed size that are used over and over. The shard appends records, which the log
//! knows only as a kind and a body; [`Log`] gathers them into commits, of which one is written at a time, and says up to
//! which record all is durable. After a start a [`Reader`] gives out every record that was, and refuses a log from which
//! something is missing. [`SnapshotWriter`] and [`SnapshotReader`] do the same for a file that stands for all records up
//! to some point, so that their segments can be released.
//!
//! Nothing here does I/O: the log asks for writes and is told when they are done; readers read through [`Media`] and
//! [`Source`]. `docs/store-format.md` describes the files.

mod buffer;
mod damage;
mod format;
mod media;
mod pending;
mod reader;
mod snapshot;
mod space;
mod survey;
mod writer;

pub use buffer::Buffer;
pub use damage::{Damage, Fault, Place, ReadError};
pub use format::{COMMIT_BYTES_MAX, Identity, PAGE, SEGMENT_STEP, VERSION};
pub(super) use format::{Parsed, parse_record, put_record};
pub use media::{Media, Source};
pub use reader::{ReadConfig, Reader, Record, Recovered, Torn};
pub use snapshot::{SnapshotFailed, SnapshotHeader, SnapshotReader, SnapshotWrite, SnapshotWriter};
pub use space::{Live, Purpose, Room, Segment};
pub use writer::{Log, LogConfig, LogFailed, Write};
