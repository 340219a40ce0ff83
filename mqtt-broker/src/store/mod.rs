//! What outlives the process: the log of a core, what it says, the state it adds up to, and chunks of messages that wait.
//!
//! Machines without I/O, like the shard: files are read and written by whoever drives them.

pub mod cold;
pub mod image;
pub mod log;
pub mod record;
