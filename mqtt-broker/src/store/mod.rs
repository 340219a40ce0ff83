//! What outlives the process: what the log says, and the state it adds up to.

pub mod image;
pub mod record;
