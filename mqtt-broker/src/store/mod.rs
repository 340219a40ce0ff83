//! What outlives the process: the log of a core, what it says, and the state it adds up to.
//!
//! Machines without I/O, like the shard: files are read and written by whoever drives them.

pub mod image;
pub mod log;
pub mod record;
