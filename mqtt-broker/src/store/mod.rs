//! What outlives the process: the log of a core, and what it says.
//!
//! Machines without I/O, like the shard: files are read and written by whoever drives them.

pub mod log;
