//! Crashes: a whole broker with its disks in memory, killed at any instant and started again, on as many cores or on others.
//!
//! Clients keep their sessions for ever and come back. What the broker has acknowledged has to reach every subscriber that
//! was there, QoS 2 once, in order. A run is a row of events drawn from its seed; between two of them anything may wait.

mod client;
mod disk;
mod judge;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Violation;
use world::World;

/// Runs a seed; how often the broker was killed. `prints`: all that happens.
pub(crate) fn crash(seed: u64, prints: bool) -> Result<u64, Violation> {
    catch_unwind(AssertUnwindSafe(|| World::new(seed, prints).run())).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|&said| said.to_owned()));
        Err(Violation { rule: "panic", text: said.unwrap_or_else(|| "a panic without words".to_owned()) })
    })
}
