//! Shared groups and crashes: members come and go, power fails, and the broker starts on as many cores or on others.
//!
//! Every message that was acknowledged for a group reaches a member, at QoS 2 once. The disks here keep records, and lose the
//! end of them; what becomes of the bytes of a log is for others to show.

mod client;
mod disk;
mod judge;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Violation;
use world::World;

/// Runs a seed; how often the broker was killed. `prints`: all that happens.
pub(crate) fn crash_groups(seed: u64, prints: bool) -> Result<u64, Violation> {
    catch_unwind(AssertUnwindSafe(|| World::new(seed, prints).run())).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|&said| said.to_owned()));
        Err(Violation { rule: "panic", text: said.unwrap_or_else(|| "a panic without words".to_owned()) })
    })
}
