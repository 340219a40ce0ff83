//! What the log says, and the state it adds up to: every record comes back from its bytes, any bytes are a record or an
//! error, and images are what a small model says, whether they are read from a log, from a snapshot and the rest of the
//! log, or dealt to other cores.

mod any;
mod deal;
mod expire;
mod gap;
mod handover;
mod history;
mod model;
mod records;
mod snapshot;
