//! Shared groups and crashes: members come and go, power fails, and the broker starts on as many cores or on others.
//!
//! Every message that was acknowledged for a group reaches a member, at QoS 2 once.

mod client;
mod judge;
mod world;

use super::{Violation, guarded};
use world::World;

/// Runs a seed; how often the broker was killed. `prints`: all that happens.
pub(crate) fn crash_groups(seed: u64, prints: bool) -> Result<u64, Violation> {
    guarded(|| World::new(seed, prints).run())
}
