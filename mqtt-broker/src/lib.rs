//! A thread-per-core MQTT broker, as a library.
//!
//! It serves MQTT 3.1, 3.1.1 and 5.0 from inside a process. [`Broker::builder`] says where it listens and how far it
//! goes; the [`Handle`] of a running broker tells its addresses and counters and ends it. Two brokers in one process
//! are fine. It needs Linux 6.1 or newer with io_uring; what is missing is said by [`StartError`], with the remedy.
//!
//! ```no_run
//! # #[cfg(feature = "runtime")] {
//! let broker = mqtt_broker::Broker::builder().listen("localhost:1883").start()?;
//! println!("listening on {:?}", broker.addresses());
//! broker.wait()?;
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Everything that decides is a machine without I/O, the [`shard`]: one a core, driven by bytes and time. The
//! [`runtime`] moves bytes between shards and sockets on an io_uring of its own. Without the feature `runtime` the
//! rest builds and runs on any machine: drive a [`shard::Shard`] yourself.

#![deny(unsafe_code)]

#[cfg(feature = "runtime")]
mod chunks;
pub mod config;
pub mod message;
mod pieces;
pub mod ports;
#[cfg(feature = "runtime")]
#[allow(unsafe_code, reason = "the only module that talks to the kernel by itself")]
mod ring;
pub mod router;
#[cfg(feature = "runtime")]
pub mod runtime;
pub mod shard;
pub mod store;
#[cfg(feature = "runtime")]
pub mod transport;

pub use config::{CoreId, Limits};
#[cfg(feature = "runtime")]
pub use runtime::{Broker, BrokerBuilder, BrokerError, Handle, StartError};

/// Compiles and runs the examples of the README.
#[cfg(all(doctest, feature = "runtime"))]
#[doc = include_str!("../../README.md")]
struct Readme;
