//! The only place that reads a clock.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::ring::monotonic_millis;
use crate::shard::Now;

/// The time of a turn.
#[expect(clippy::disallowed_methods, reason = "the runtime reads the clock for everything below it")]
pub(super) fn now() -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { millis: monotonic_millis(), wall_millis: wall.as_millis() as u64 }
}
