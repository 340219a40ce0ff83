//! A thread-per-core MQTT broker, as a library.

pub mod config;
pub mod message;
pub mod ports;
pub mod router;
pub mod shard;
