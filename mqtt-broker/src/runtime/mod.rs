//! The shell around the shards: threads, sockets, lanes, clocks. Everything that does I/O.
//!
//! One thread a core, in it a glommio executor, in it one task that runs the turn. Cores share nothing but bounded
//! lanes and an inbox each; other threads reach a core only through its inbox. With a store one more thread does what takes
//! long with its files.

mod builder;
mod client;
mod clock;
mod connections;
mod core;
mod gather;
mod handle;
mod lane;
mod listen;
mod local;
mod shared;
mod start;
mod store;

pub use crate::ring::RingError;
pub use builder::{Broker, BrokerBuilder, StartError};
pub use client::{ClientError, LocalClient, Received};
pub use handle::{BrokerStats, Handle};
pub use listen::ListenError;
pub use shared::BrokerError;
pub use store::{LogRead, OfflineStore, OnDamage, StoreConfig, StoreConfigError, StoreError, StoredCore};
