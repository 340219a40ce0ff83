//! A thread-per-core MQTT broker, as a library.

#![deny(unsafe_code)]

pub mod config;
pub mod message;
pub mod ports;
#[cfg(feature = "runtime")]
#[allow(unsafe_code, reason = "the only module that talks to the kernel by itself")]
mod ring;
pub mod router;
#[cfg(feature = "runtime")]
pub mod runtime;
pub mod shard;
#[cfg(feature = "runtime")]
pub mod transport;
