//! A thread-per-core MQTT broker, as a library.

#![deny(unsafe_code)]

#[cfg(feature = "runtime")]
#[allow(unsafe_code, reason = "the only module that talks to the kernel by itself")]
mod ring;
pub mod router;
